"""Kurth 2018 in docs/reproduction.md."""

import statistics

from quoted.quotes import Section, Table, say
from quoted.records import count, interval, number, percent, spread, study
from scaling.studies.accuracy.judging import difference

RECIPES = {
    "none": "none",
    "inverse frequencies": "inverse",
    "inverse square root": "inverse_sqrt",
    "inverse square root, lag 1": "inverse_sqrt+lag1",
}


def _mean(point, metric):
    """On the test split, over seeds."""
    return statistics.mean(run.test[metric] for run in point.runs)


NETS = {"Tiramisu": "kurth_weighting", "DeepLabv3+": "kurth_weighting_deeplab"}


def quotes():
    """The metrics of every recipe on the test split, and what the lag changes."""
    nets = {net: _points(name) for net, name in NETS.items()}
    heads = ["test mean IoU, %", "over none, points (95%)", "pixel error, %"]
    rows = [["weights of classes", *(f"{net}: {head}" for net in nets for head in heads)]]
    for title in RECIPES:
        cells = [cell for points in nets.values() for cell in _cells(points, title)]
        rows.append([title, *cells])
    yield Table("kurth", rows)
    first = nets["Tiramisu"]["none"]
    shape = count(first.steps), count(first.global_batch), str(len(first.runs))
    yield say("has {} updates of {} maps under {} seeds", *shape)
    for net, points in nets.items():
        now, late = points["inverse square root"], points["inverse square root, lag 1"]
        yield say(
            f"{net}: a weighted test loss of {{}} with a lag and {{}} without; with it mean "
            "IoU changes by {} points",
            number(_mean(late, "loss")),
            number(_mean(now, "loss")),
            interval(difference(now, late)),
        )


def _points(name):
    found = study(name)
    return {title: found.point(found.base_batch, recipe) for title, recipe in RECIPES.items()}


def _cells(points, title):
    plain, point = points["none"], points[title]
    over = "" if point is plain else interval(difference(plain, point))
    return [spread(point), over, percent(_mean(point, "error"))]


SECTIONS = [
    Section(
        "docs/reproduction.md",
        "Kurth 2018, Exascale deep learning for climate analytics",
        quotes,
        said=(
            "47,635 parameters (growth 8, blocks of 2, 3 x 3 kernels)",
            "a DeepLabv3+ of 697,359",
            "maps of 96 x 144 with 16 channels",
            "of 768 x 1152 in training, in 10^12",
            "16 channels | 7,801,315 | 4.188 | 4.188 |",
            "4 channels | 7,413,523 | 3.703 | 3.703 |",
            "43,718,883 and 43,669,251 | 13.02 | 14.41 |",
            "56,454,720 | 1.966 |",
            "takes 13.02, not 14.41",
            "10.6% too high by that",
            "999 PF/s in half precision are 903, and 325.8 in single precision 294.5",
        ),
    )
]
