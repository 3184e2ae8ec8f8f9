"""Shallue 2018 in docs/reproduction.md, and what README.md says of it."""

import functools
import statistics

from quoted.comparisons import comparisons, in_words
from quoted.quotes import Section, Table, say
from quoted.records import count, percent, result, study
from scaling.fits import StepsFit, rounded
from scaling.report.wording import number

MLP, DIGITS = "fashion_mlp", "quickstart"
# What was changed, the study, and what the paper says; the first of each group is the reference.
GROUPS = [
    [
        (
            "SGD",
            "sgd",
            "Fig. 4: momentum goes on to larger batches, with as many steps at small ones",
        ),
        ("heavy-ball momentum", "momentum", "same"),
        ("Nesterov momentum", "nesterov", "same"),
    ],
    [
        (
            "one hidden layer of 64, SGD",
            "fc_64",
            "Fig. 3: models differ, depth and width among them",
        ),
        ("two", "fc_64x2", ""),
        ("three", "sgd", ""),
    ],
    [
        ("width 64, three layers, SGD", "sgd", "Sec. 4.2: narrower Transformers scale further"),
        ("width 32", "fc_32x3", ""),
        ("width 128", "fc_128x3", ""),
    ],
    [
        ("55,000 images, Nesterov", "size_55000", "Fig. 6: the data-set size hardly matters"),
        ("27,500", "size_27500", ""),
        ("13,750", "size_13750", ""),
        ("6,875", "size_6875", ""),
    ],
    [
        ("no label smoothing, Nesterov", "nesterov", "Sec. 4.6: helps ResNet-50 at large batches"),
        ("0.01", "smoothing_0.01", ""),
        ("0.1", "smoothing_0.1", ""),
    ],
]


@functools.cache
def _study(name):
    return study(name if name in (MLP, DIGITS) else f"comparisons_fashion_mlp/{name}")


def _fit(name) -> StepsFit:
    return _study(name).fit


def _of(value, interval, most=None):
    low, high = interval
    above = most is not None and high >= 0.99 * most
    return f"{rounded(value)} ({rounded(low)} to {rounded(high)}{' or more' * above})"


def _bend(fit):
    return _of(fit.curve.bend, fit.bend_interval, 5)


def quotes():
    """The curves of the two studies, what the search found, panel (b), comparisons."""
    yield _curves()
    yield from _findings()
    yield from _repeats()
    yield from _seeds()
    yield from _panel_b()
    yield comparisons("shallue_comparisons", GROUPS, _fit)
    yield from _compared()


def _curves():
    head = ["study", "perfect scaling to", "largest useful batch", "bend", "P, bend 1"]
    rows = [[*head, "B_crit, hyperbola", "scatter"]]
    for title, name in (("Fashion-MNIST, MLP", MLP), ("digits, MLP", DIGITS)):
        fit = _fit(name)
        row = [
            title,
            in_words(fit.perfect_scaling_end),
            in_words(fit.max_useful_batch),
            _bend(fit),
        ]
        row += [f"{fit.bend_p:.2g}", _of(fit.b_crit, fit.b_crit_interval), f"{fit.scatter:.0%}"]
        rows.append(row)
    return Table("shallue_curves", rows)


def _findings():
    points = {p.global_batch: p for p in _study(MLP).reached}
    rates = {b: p.best["effective_learning_rate"] for b, p in points.items()}
    large = [rates[b] for b in (2048, 4096, 8192)]
    yield say(
        "in proportion to the batch at first, {} at 8, {} at 64, {} at 1,024; no more beyond, {} "
        "to {} from 2,048 to 8,192",
        *(f"{rates[b]:.2g}" for b in (8, 64, 1024)),
        *(f"{rate:.2g}" for rate in (min(large), max(large))),
    )
    infeasible = [points[b].counts["infeasible"] for b in (8, 64, 8192)]
    yield say("{} of 64 at batch 8, {} at 64, {} at 8,192", *map(str, infeasible))
    errors = [p.test["error"] for p in points.values()]
    yield say(
        "test error at the crossing {} to {}%", percent(min(errors), 1), percent(max(errors), 1)
    )


def _seeds():
    """The quick start's answer under other seeds."""
    found = result("benchmarks/results/quickstart_seeds.json")
    together, searches = found["together"], found["searches"]
    ends = [together[name] for name in ("perfect_scaling_end", "max_useful_batch")]
    yield say(
        "with {} other seeds says {} to {} for the end of perfect scaling (median {}) and {} to {} "
        "for the largest useful batch ({})",
        count(len(searches)),
        *(
            rounded(value)
            for end in ends
            for value in (end["all"][0], end["all"][-1], end["median"])
        ),
    )
    yield say(
        "through the geometric means of their steps says {} and {}, in {} and {} of the {} "
        "intervals; its bend is {} (P = {})",
        *(rounded(end["curve"]) for end in ends),
        *(count(end["intervals_that_hold_it"]) for end in ends),
        count(len(searches)),
        rounded(together["bend"]),
        f"{together['bend_p']:.1g}",
    )


def _repeats():
    points = _study(MLP).reached
    steps = [(p.steps_to_target, p.repeat_steps) for p in points]
    later = sum(r > s for s, again in steps for r in again)
    ratios = [statistics.median(again) / s for s, again in steps]
    yield say(
        "Of {} repeats of the best trials on Fashion-MNIST with fresh seeds, {} reached the goal, "
        "and {} of them later than the point drawn; their median is {} to {} times it.",
        count(sum(len(p.repeats) for p in points)),
        count(sum(len(again) for _, again in steps)),
        count(later),
        f"{min(ratios):.1f}",
        f"{max(ratios):.1f}",
    )
    digits = _study(DIGITS).reached
    all_, missed = (
        sum(len(p.repeats) for p in digits),
        [p.global_batch for p in digits if len(p.repeat_steps) < len(p.repeats)],
    )
    reached = sum(len(p.repeat_steps) for p in digits)
    yield say(
        "On digits {} of {} did not reach it within four times its steps, all of them at batch {} "
        "and above",
        count(all_ - reached),
        count(all_),
        count(min(missed)),
    )


def _panel_b():
    gpu, cpu = study("shallue_fashion_cnn_h200"), study("shallue_fashion_cnn_cpu")
    steps = [p.steps_to_target for p in gpu.reached]
    yield say(
        "{} steps at batch 8, {} at 2,048, {} at 8,192, {} at 32,768 and {} at 55,000",
        *map(count, steps),
    )
    points = cpu.reached
    yield say("{} at batch 128, {} at 512", *(count(p.steps_to_target) for p in points))
    fit = gpu.fit
    low, high = fit.band([p.global_batch for p in points])
    yield say(
        "The curve fitted to the five says {} and {} there, its band {} to {} and {} to {}",
        *(number(float(s)) for s in fit.steps([p.global_batch for p in points])),
        *(number(float(end)) for pair in zip(low, high, strict=True) for end in pair),
    )


def _compared():
    names = [name for group in GROUPS for _, name, _ in group]
    doubted = [name for name in dict.fromkeys(names) if _fit(name).doubts]
    yield say("Of the {} studies {} reject the hyperbola", str(len(set(names))), str(len(doubted)))
    yield say(
        "E_min is {}, {} and {} examples",
        *(number(_fit(name).e_min) for name in ("sgd", "momentum", "nesterov")),
    )
    plain, smooth = (
        {p.global_batch: p.steps_to_target for p in _study(name).reached}
        for name in ("nesterov", "smoothing_0.1")
    )
    ratios = [smooth[b] / plain[b] for b in plain]
    yield say(
        "label smoothing of 0.1 takes {} to {} times as many steps",
        *(f"{ratio:.2f}" for ratio in (min(ratios), max(ratios))),
    )
    yield say(
        "the points scatter {} around the curve with SGD, {} with momentum and {} with Nesterov",
        *(f"{_fit(name).scatter:.0%}" for name in ("sgd", "momentum", "nesterov")),
    )
    points = [p for name in dict.fromkeys(names) for p in _study(name).reached]
    edges = [p.global_batch for p in points if ("learning_rate", "low") in p.at_edge]
    yield say(
        "{} of the {} best trials have their learning rate at the low edge of its range",
        str(len(edges)),
        str(len(points)),
    )


def caption():
    """Under the first figure of README.md."""
    fit = _fit(DIGITS)
    perfect, useful = fit.perfect_scaling_end, fit.max_useful_batch
    ends = [t.interval_text.removeprefix("95%: ") for t in (perfect, useful)]
    yield say(
        "Up to a batch of about {} (95%: {}) a doubling halves the steps; beyond about {} ({}) it "
        "saves less than a tenth of them.",
        rounded(perfect.batch),
        ends[0],
        rounded(useful.batch),
        ends[1],
    )
    found = result("benchmarks/results/quickstart_seeds.json")
    ends = [found["together"][name]["all"] for name in ("perfect_scaling_end", "max_useful_batch")]
    yield say(
        "{} with other seeds say {} to {} and {} to {}",
        count(len(found["searches"])),
        *(rounded(value) for end in ends for value in (end[0], end[-1])),
    )
    mlp = _fit(MLP)
    value, interval = _bend(mlp).rstrip(")").split(" (")
    yield say(
        "McCandlish 2018's hyperbola (exponent {}, 95%: {}, P = {})",
        value,
        interval,
        f"{mlp.bend_p:.1g}",
    )


SECTIONS = [
    Section(
        "docs/reproduction.md",
        "Shallue 2018, Measuring the effects of data parallelism",
        quotes,
        said=(
            "an MLP 784-64-64-64-10 on Fashion-MNIST (55,000 training images)",
            "goal 14% validation error (5,000 images), batch 8 to 8,192, 64 trials",
            "two CPU cores, 64 minutes while many other programs ran beside it",
            "digits, batch 1 to 1,197.",
            "slope -1, bending, flat",
            "for any bend from 0.4 to 5",
            "takes 20% more examples",
            "is that of the hyperbola, bend 1.",
            "one would leave out 1 by chance",
            "One search of 32 trials stands",
            "from about 2^9 to 2^16",
            "Digits has 300 validation images, so one image is 0.33% and the goal of 2.5%",
            "Simple CNN base on Fashion-MNIST to 10% validation error",
            "6 to 20 trials each for the paper's 100",
            "at 32,768 and 55,000 with momentum at the edge",
            "batch 4 to 4,096 in steps of 4, 32 trials at each, five repeats of the best; goal 14% "
            "validation error, for the data-set sizes 17%. Two CPU cores, 5 to 70 minutes",
        ),
    )
]
