"""Keskar 2016 in docs/reproduction.md."""

from quoted.quotes import Section, Table, say
from quoted.records import count, number, percent, study
from scaling.studies.measure_records import TOP
from scaling.studies.sharpness.report import spread_text, values
from scaling.studies.warm_start.report import measure, score


def quotes():
    """Figure 5."""
    yield from _warm()


def _warm():
    """Large-batch training from the weights of a small batch's run."""
    (point,) = study("warm_start_fashion_mlp").points
    columns = (score, errors), (measure(point.keskar), values), (measure(TOP), values)
    head = ["validation error, %", point.keskar, TOP]
    rows = [["epochs before", *(f"{words}: 128, 8,192 from there" for words in head)]]
    for place in point.places:
        if place.epochs > 4 and round(place.epochs) not in (10, 20):
            continue
        cells = [
            ", ".join(text(place.spread(side, of)) for side in ("small", "warm"))
            for of, text in columns
        ]
        rows.append([number(round(place.epochs)), *cells])
    yield Table("keskar_figure5", rows)
    sharp = [place.spread("warm", measure(point.keskar)).mean for place in point.places]
    yield say("before it bring its φ from {} to {}", *map(number, sharp[:2]))
    over = [
        place.spread("warm", measure(TOP)).mean / place.spread("small", measure(TOP)).mean
        for place in point.places
    ]
    yield say("remains {} to {} times as large", f"{min(over):.1f}", f"{max(over):.1f}")
    yield say(
        "{} updates of batch 8,192 end at {}% error; batch 128 itself ends at {}%",
        count(point.large_steps),
        errors(point.places[1].spread("warm", score)),
        errors(point.places[-1].spread("small", score)),
    )


def errors(spread):
    """11.20 ± 0.07"""
    return spread_text(lambda share: percent(share), spread)


SECTIONS = [
    Section(
        "docs/reproduction.md",
        "Keskar 2016, On large-batch training: generalization gap and sharp minima",
        quotes,
        said=(
            "five layers of 128",
            "at a rate of 0.1: 20 epochs of batch 128",
            "two epochs 20 epochs of batch 8,192 at the same rate, 134 updates",
            "φ is Metric 2.1 with ε = 0.001",
            "the first 2,000 training images",
            "From initial weights batch 8,192 ends sharper",
            "at a higher error than batch 128 does",
            "Two epochs of batch 128 before it",
            "as low as batch 128's own",
        ),
    )
]
