"""Language models on the King James Bible in docs/reproduction.md."""

import functools

import numpy as np

from quoted.comparisons import comparisons, in_words
from quoted.quotes import Section, Table, say
from quoted.records import count, number, study
from scaling.fits import rounded
from scaling.report.wording import listed
from scaling.studies.steps_to_target.growth import growths

HEAD = ["study", "perfect scaling to", "largest useful batch", "B_crit", "bend", "scatter"]
STUDIES = {
    "Transformer, Adam": "kjv_lm/adam",
    "Transformer, Nesterov momentum": "comparisons_kjv/nesterov",
    "LSTM, Adam": "kjv_lm/lstm",
}
LENGTH = 32  # tokens of a row
GROUPS = [
    [
        ("Adam", "adam", ""),
        ("Muon", "muon", ""),
        ("Nesterov momentum", "nesterov", ""),
        ("SGD, at 2, 8 and 32 alone", "sgd", ""),
        ("Adam, averaged weights", "adam_average", ""),
    ],
    [
        ("Adam, 133,440 parameters", "adam", "Zhang 2024: the model's size hardly matters"),
        ("42,144 parameters", "narrow", ""),
        ("463,488 parameters", "wide", ""),
    ],
    [
        ("goal 3.9 nats per token, Adam", "adam", "Zhang 2024: it grows with the tokens"),
        ("4.5", "goal_4.5", "same"),
        ("4.2", "goal_4.2", ""),
        ("3.7", "goal_3.7", "same"),
    ],
]


def quotes():
    """The curves of the studies; and Adam's points and learning rates."""
    rows = [HEAD]
    for title, name in STUDIES.items():
        fit = study(name).fit
        texts = [in_words(fit.perfect_scaling_end), in_words(fit.max_useful_batch)]
        texts += [_of(fit.b_crit, fit.b_crit_interval), _of(fit.curve.bend, fit.bend_interval)]
        rows.append([title, *texts, f"{fit.scatter:.0%}"])
    yield Table("kjv", rows)
    adam = study("kjv_lm/adam")
    first, last = adam.reached[0], adam.reached[-1]
    yield say(
        "steps fall from {} at a batch of {} to {} at {}",
        number(first.steps_to_target),
        number(first.global_batch),
        number(last.steps_to_target),
        number(last.global_batch),
    )
    yield say(
        "B_crit is {} tokens (95%: {} to {})",
        *(rounded(LENGTH * value) for value in (adam.fit.b_crit, *adam.fit.b_crit_interval)),
    )
    yield say(
        "the best learning rate rises from {} to {}, the ratio of the batches to the power {}",
        *(f"{point.best['learning_rate']:.2g}" for point in (first, last)),
        f"{_slope(adam.reached):.2f}",
    )
    lstm = study("kjv_lm/lstm")
    ends = [number(lstm.reached[i].steps_to_target) for i in (0, -1)]
    yield say("The LSTM takes {} steps at a batch of 2 and {} at 256", *ends)
    assert not any(point.at_edge for point in lstm.reached)
    yield from _compare()


@functools.cache
def _compared(name):
    return study(f"comparisons_kjv/{name}")


def _compare():
    """What changes the largest useful batch."""
    yield comparisons("kjv_comparisons", GROUPS, lambda name: _compared(name).fit)
    adam, muon = ({p.global_batch: p for p in _compared(n).reached} for n in ("adam", "muon"))
    yield say(
        "takes {} steps at a batch of 2 where Adam takes {}, and {} at 128 where Adam takes {}",
        *(number(of[batch].steps_to_target) for batch in (2, 128) for of in (muon, adam)),
    )
    ends = [
        number(point.steps_to_target)
        for name in ("nesterov", "sgd")
        for point in (_compared(name).reached[0], _compared(name).reached[-1])
    ]
    yield say(
        "Nesterov momentum takes {} steps at 2 and {} at 256, SGD {} at 2 and {} at 32", *ends
    )
    edges = [count(p.global_batch) for p in _compared("nesterov").reached if p.at_edge]
    yield say("its best learning rate at {} lies at the low edge", listed(edges))
    wide = _compared("wide")
    low, high = wide.points[0].ranges["learning_rate"][1:]
    assert not any(point.at_edge for point in wide.reached)
    yield say("between {} and {}, at no batch size at an edge", number(low), number(high))
    yield say("takes {} steps at 2, and where", number(wide.reached[0].steps_to_target))
    yield from _averaged(_compared("adam"), _compared("adam_average"))
    goals = [_compared(name) for name in ("goal_4.5", "goal_4.2", "adam", "goal_3.7")]
    [growth] = growths(goals)
    yield say(
        "take {}, {}, {} and {} sequences at small batches",
        *(number(one.fit.e_min) for one in goals),
    )
    (name,) = growth.sizes
    law = growth.law
    yield say(
        "B_crit grows as E_min to the power {}", _of(law.exponents[name], law.intervals[name])
    )


def _averaged(last, averaged):
    """Of the last weights and of averaged ones, trained with the same learning rates."""
    ends = [number(averaged.reached[i].steps_to_target) for i in (0, -1)]
    yield say("take {} steps at 2 and {} at 128, as the last weights do", *ends)
    gains = []
    for points in zip(last.reached, averaged.reached, strict=True):
        one, other = ([trial.best_metric for trial in point.trials] for point in points)
        gains.append(np.median(np.subtract(one, other)))
    lower = [f"{gains[i]:.3f}" for i in (0, -1)]
    yield say("in the median by {} nats at 2 and {} at 128", *lower)


def _slope(points):
    """Of the best learning rate against the batch, both in logarithms."""
    rates = [point.best["learning_rate"] for point in points]
    return np.polyfit(np.log([p.global_batch for p in points]), np.log(rates), 1)[0]


def _of(value, interval):
    return f"{rounded(value)} ({rounded(interval[0])} to {rounded(interval[1])})"


SECTIONS = [
    Section(
        "docs/reproduction.md",
        "Language models on the King James Bible",
        quotes,
        said=(
            "a Transformer of 133,440 parameters",
            "rows of 32 tokens of a vocabulary of 512",
            "16 learning rates at each of eight batch sizes from 2 to 256",
            "goal 3.9 nats per token on 256 rows",
            "11 minutes",
            "an LSTM of 107,008 parameters",
            "at five batch sizes from 2 to 128, 16 learning rates at each",
            "Nesterov has 16 pairs of rate and momentum at eight batch sizes from 2 to 256,",
            "--config.search.trials=16",
            "five repeats",
            "SGD, at 2, 8 and 32 alone",
            "one CPU core a study",
            "Values above 128, for SGD above 32 and for Nesterov above 256, are extrapolated",
            "The model of 463,488 parameters searches",
            "a half-life of 4,096 tokens",
            "an evaluation earlier, except at 8",
            "The goals 4.5, 4.2, 3.9 and 3.7 take",
            "to the power 0.47 (below)",
        ),
    )
]
