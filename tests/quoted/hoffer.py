"""Hoffer 2017 in docs/reproduction.md."""

import statistics

from quoted.quotes import Section, Table, say
from quoted.records import count, ends, interval, percent, points, study
from scaling.studies.accuracy.judging import difference
from scaling.studies.generalization.record import LAWS
from scaling.studies.generalization.report import r2_text
from scaling.studies.generalization.slopes import ratio

RECIPES = ("naive", "sqrt", "sqrt+gbn", "sqrt+gbn+adapt")


def quotes():
    """Table 1 and Figure 2."""
    yield from _table()
    yield from _distance()


def _table():
    f1 = study("accuracy_hoffer_f1")
    large = [f1.point(4096, recipe) for recipe in RECIPES]
    columns = [f1.reference, *large]
    tested = [(1 - p.mean("test"), p.spread("test").sd) for p in columns]
    # The table is of accuracies, the records are of errors.
    losses = [interval(difference(p, f1.reference)) for p in large]
    yield Table(
        "hoffer_table1",
        [
            ["test accuracy, %", "SB 128", "LB 4,096", "+LR", "+GBN", "+RA"],
            ["here, Fashion-MNIST", *(f"{percent(a)} ± {percent(b)}" for a, b in tested)],
            ["less SB, paired by seed (95%)", "", *losses],
            ["training accuracy", *(percent(1 - p.mean("train"), 1) for p in columns)],
            ["paper, MNIST, validation accuracy", "98.27", "97.05", "97.55", "97.60", "98.53"],
        ],
    )
    _, rate, ghost, adapted = large
    found = difference(ghost, rate)
    yield say(
        "ghost batch norm nearly nothing more here ({}, 95%: {}), and as many updates as the small "
        "batch win back all of it, at {} times the epochs",
        points(found.difference),
        ends(found),
        f"{adapted.epochs / f1.reference.epochs:.0f}",
    )


def _distance():
    measured = study("generalization_fashion_mlp")
    naive, corrected = ({p.global_batch: p for p in measured.points_of(r)} for r in RECIPES[::2])
    rows = [
        [
            "batch",
            "slope, naive",
            "slope, sqrt + GBN",
            "R^2, naive: log t / sqrt(t) / power of t (exponent)",
        ]
    ]
    for batch, point in naive.items():
        other = corrected[batch]
        laws = " / ".join(r2_text(point.mean_of(law, "r2")) for law in LAWS)
        slope = "" if other is point else _slope(other)
        exponent = f"{point.mean_of('power', 'slope'):.2f}"
        rows.append([count(batch), _slope(point), slope, f"{laws} ({exponent})"])
    yield Table("hoffer_figure2", rows)
    slopes = [f"{point.slope:.2f}" for point in naive.values()]
    yield say("falls with the batch | {} | same", ", ".join(slopes))
    largest = max(naive)
    yield say(
        "slope at 8,192 from {} to {} of the small batch's",
        *(f"{ratio(found[largest], measured.small).value:.2f}" for found in (naive, corrected)),
    )


def _slope(point):
    slopes = [fit.log.slope for fit in point.fits.values()]
    return f"{statistics.mean(slopes):.2f} ± {statistics.stdev(slopes):.2f}"


SECTIONS = [
    Section(
        "docs/reproduction.md",
        "Hoffer 2017, Train longer, generalize better",
        quotes,
        said=(
            "five layers of 512 with batch norm), the code's 50 epochs and its rates 0.1, 0.01, "
            "0.001, 0.0001 from epochs 0, 10, 20, 30, momentum 0.9, weight decay 1e-4",
            "constant rate 0.1 (and scaled by sqrt, with ghost batch norm), 20 epochs",
            "Fits from step 10 on",
            "at 128 and 512 it then grows faster",
        ),
    )
]
