"""Language models on the King James Bible in docs/reproduction.md."""

import numpy as np

from quoted.quotes import Section, Table, say
from quoted.records import number, study
from scaling.fits import rounded

HEAD = ["study", "perfect scaling to", "largest useful batch", "B_crit", "bend", "scatter"]
STUDIES = {"Transformer, Adam": "kjv_lm/adam"}
LENGTH = 32  # tokens of a row


def quotes():
    """The curves of the studies; and Adam's points and learning rates."""
    rows = [HEAD]
    for title, name in STUDIES.items():
        fit = study(name).fit
        ends = (fit.perfect_scaling_end, fit.max_useful_batch)
        texts = [f"{rounded(e.batch)} ({e.interval_text.removeprefix('95%: ')})" for e in ends]
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
            "80 minutes",
        ),
    )
]
