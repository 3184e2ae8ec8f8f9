"""Keskar 2016 in docs/reproduction.md."""

import functools

from quoted.quotes import Section, Table, say
from quoted.records import count, number, percent, study
from scaling.studies.measure_records import ADAPTIVE_TOP, FLATNESS, TOP, average, keskar
from scaling.studies.sharpness.analysis import ratio
from scaling.studies.sharpness.record import END, at_loss
from scaling.studies.sharpness.report import ratio_text, signed, spread_text, values
from scaling.studies.warm_start.report import measure, score

# (Table, measure) -> F1 on MNIST in the paper, batch 256 and 6,000.
PAPER = {
    keskar(1e-3, None): ("3", "1.23 ± 0.83, 205.14 ± 69.52"),
    keskar(5e-4, None): ("3", "0.61 ± 0.27, 42.90 ± 17.14"),
    keskar(1e-3, 100): ("4", "0.11 ± 0.00, 9.22 ± 0.56"),
    keskar(5e-4, 100): ("4", "0.05 ± 0.00, 9.17 ± 0.14"),
}
MEASURES = (TOP, keskar(1e-3, None), ADAPTIVE_TOP, FLATNESS)
LOW = at_loss(0.1)
errors = functools.partial(spread_text, percent)  # 11.20 ± 0.07


def quotes():
    """Tables 2 to 4, Figures 4 to 6."""
    yield from _tables()
    yield from _between()
    yield from _batches()
    yield from _tuned()
    yield from _warm()
    yield from _along()


def _tables():
    """F1 with Adam."""
    found = study("sharpness_keskar")
    small, large = found.points_of("naive")
    nets = [[run.net(END) for run in point.runs] for point in (small, large)]
    error = lambda point: errors(point.spread(END, score))
    rows = [
        [
            "Table",
            "",
            *(f"batch {count(p.global_batch)}" for p in (small, large)),
            "ratio",
            "paper",
        ],
        ["2", "test error, %", error(small), error(large), "", "1.97 ± 0.07, 2.19 ± 0.07"],
    ]
    for name in (*PAPER, TOP, ADAPTIVE_TOP, FLATNESS):
        table, paper = PAPER.get(name, ("", ""))
        sides = [values(point.measured(END, name)) for point in (small, large)]
        rows.append([table, name, *sides, ratio_text(ratio(large, small, END, name)), paper])
    yield Table("keskar_tables", rows)
    losses = [sorted(net.train_loss for net in of) for of in nets]
    yield say(
        "training losses of {} and {} where the small batch has {} and {}",
        *(number(of[end]) for of in reversed(losses) for end in (0, -1)),
    )
    ratios = {name: ratio(large, small, END, name).value for name in found.names()}
    full, part = ([ratios[keskar(eps, n)] for eps in (1e-3, 5e-4)] for n in (None, 100))
    yield say(
        "it is {} and {} times as sharp in all directions, {} and {} times in 100",
        *map(number, (*full, *part)),
    )
    yield say("H \\|w\\|, {} times; by relative flatness", number(ratios[ADAPTIVE_TOP]))
    yield say("has a relative flatness {} times that of the small batch", number(ratios[FLATNESS]))


def _between():
    """The loss on the line through both nets."""
    (point,) = study("landscape_keskar").points
    rows = [["batch", "training loss", "test error, %", "half-width", "loss half-way beyond"]]
    for view in point.views:
        loss, error = view.centre("train", "loss"), view.centre("test", "error")
        width = f"{'' if view.width.reached else 'over '}{view.width.mean:.2f}"
        cells = count(view.net.global_batch), number(loss), percent(error), width
        rows.append([*cells, number(view.beyond)])
    yield Table("keskar_figure3", rows)
    yield say("between them it is up to {} above the worse net's", number(point.barrier))
    yield say("half-way beyond it the loss is {} and {}", *(number(v.beyond) for v in point.views))


def _batches():
    """Batch size and recipe: the error, raw and invariant measures, and their agreement."""
    found = study("sharpness_fashion_mlp")
    yield Table("keskar_figure4", _by_recipe(found))
    head = ["naive, at 0.01", "naive, after the last update", "τ with the test error"]
    rows = [["measure", "", *found.recipes, *head]]
    places = (LOW, at_loss(0.01), END)
    at = {place: {row.name: row for row in found.rows(place)} for place in places}
    for name, row in at[LOW].items():
        ratios = [row.ratios[recipe] for recipe in found.recipes]
        ratios += [at[place][name].ratios["naive"] for place in places[1:]]
        kind = "invariant" if row.invariant else "raw"
        rows.append([name, kind, *map(ratio_text, ratios), signed(row.agreement.every)])
    yield Table("keskar_ratios", rows)
    kinds = [[row for row in at[LOW].values() if row.invariant == kind] for kind in (False, True)]
    yield say(
        "Raw measures make batch 8,192 {} to {} times as sharp as batch 128, invariant ones {} to "
        "{} times",
        *(
            number(end(row.ratios["naive"].value for row in of))
            for of in kinds
            for end in (min, max)
        ),
    )
    yield say(
        "Kendall's τ with the test error of all {} nets is {} to {} for raw measures and {} to {} "
        "for invariant ones",
        count(sum(len(point.nets(LOW)) for point in found.points)),
        *(f"{end(row.agreement.every for row in of):.2f}" for of in kinds for end in (min, max)),
    )
    names = (TOP, ADAPTIVE_TOP)
    pairs = [
        [
            point
            for r in ("lars", "naive")
            for point in found.points_of(r)
            if point.global_batch == b
        ]
        for b in (512, 2048)
    ]
    over = [[f"{ratio(*pair, LOW, name).value:.2g}" for pair in pairs] for name in names]
    yield say(
        "LARS is {} and {} times as sharp as plain momentum by the largest eigenvalue, and {} and "
        "{} times by that of |w| H |w|",
        *over[0],
        *over[1],
    )
    lars = found.large("lars")
    yield say(
        "LARS at a constant rate ends sharpest, with a largest eigenvalue of {} at batch 8,192",
        number(lars.measured(END, TOP).mean),
    )


def _by_recipe(found, *more):
    """Rows of a table of sharpness where the training loss first is low; `more` are columns of
    points, (head, text)."""
    heads = [head for head, _ in more]
    rows = [["recipe, batch", *heads, "nets", "test error, %", *MEASURES, "error at the end, %"]]
    for recipe in found.recipes:
        for point in found.points_of(recipe):
            if point.recipe != recipe and point in found.points_of(found.baseline):
                continue  # the same runs as the baseline's
            cells = [point.measured(LOW, name) for name in MEASURES]
            batch = f"{recipe}, {count(point.global_batch)}"
            rows.append(
                [
                    batch,
                    *(text(point) for _, text in more),
                    f"{len(point.nets(LOW))} of {len(point.runs)}",
                    _or_dash(point.spread(LOW, score), errors),
                    *(_or_dash(cell, values) for cell in cells),
                    errors(point.spread(END, score)),
                ]
            )
    return rows


def _tuned():
    """Every recipe with its own best learning rate."""
    found = study("sharpness_tuned")
    rate = ("learning rate", lambda point: number(point.learning_rate))
    yield Table("keskar_tuned", _by_recipe(found, rate))
    at_low = {row.name: row for row in found.rows(LOW)}
    rows = [["measure", "", *found.recipes, "τ with the test error"]]
    for name in (*MEASURES, average(0.2, True)):
        row = at_low[name]
        cells = [_or_dash(row.ratios.get(recipe), ratio_text) for recipe in found.recipes]
        kind = "invariant" if row.invariant else "raw"
        rows.append([name, kind, *cells, signed(row.agreement.every)])
    yield Table("keskar_tuned_ratios", rows)
    assert not any(point.tuning.at_edge for point in found.points)
    before = study("sharpness_fashion_mlp")
    then = {row.name: row.ratios["naive"].value for row in before.rows(LOW)}
    of = lambda recipe, name: number(at_low[name].ratios[recipe].value)
    yield say(
        "batch 8,192 is {} times as sharp as batch 128 by the largest eigenvalue and {} times by "
        "that of |w| H |w|, where at one rate for both it was {} and {} times",
        *(of("naive", name) for name in (TOP, ADAPTIVE_TOP)),
        *(number(then[name]) for name in (TOP, ADAPTIVE_TOP)),
    )
    yield say(
        "by the largest eigenvalue, {} times batch 128 of `naive`, and the sharpest by that of "
        "|w| H |w|, {} times",
        *(of("muon", name) for name in (TOP, ADAPTIVE_TOP)),
    )
    yield say(
        "Kendall's τ with the test error of all {} nets is {} for the largest eigenvalue and {} "
        "for the average rise with normalised logits",
        count(sum(len(point.nets(LOW)) for point in found.points)),
        *(signed(at_low[name].agreement.every) for name in (TOP, average(0.2, True))),
    )


def _or_dash(spread, text):
    return "–" if spread is None else text(spread)


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


def _along():
    """Sharpness as the training loss falls."""
    found = study("sharpness_along")
    small, large = found.points_of("naive")
    names = (keskar(1e-3, None), TOP, ADAPTIVE_TOP)
    rows = [["training loss", *(f"{name}: 256, 5,500, ratio" for name in names)]]
    for place in found.places:
        if place == END:
            continue
        cells = []
        for name in names:
            sides = [point.measured(place, name) for point in (small, large)]
            texts = [_or_dash(side, values) for side in sides]
            over = ratio(large, small, place, name)
            cells.append(", ".join([*texts, ratio_text(over) if over else "–"]))
        rows.append([place.removeprefix("loss "), *cells])
    yield Table("keskar_figure6", rows)
    over = [
        [number(ratio(large, small, at_loss(loss), name).value) for loss in (0.5, 0.05)]
        for name in (names[0], names[-1])
    ]
    yield say(
        "at a loss of 0.5 the large batch is {} times as sharp, at 0.05 it is {} times", *over[0]
    )
    yield say("H \\|w\\|, {} and {} times |", *over[1])


SECTIONS = [
    Section(
        "docs/reproduction.md",
        "Keskar 2016, On large-batch training: generalization gap and sharp minima",
        quotes,
        said=(
            "five layers of 512",
            "Adam at a rate of 0.001, batch 256 and a tenth of the training set, 5,500,",
            "Tables 2 to 4",
            "φ is Metric 2.1, in all directions and in 100 random",
            "not tuned (LARS at 2.0), 100 epochs, three seeds",
            "At batch 512 and 2,048 LARS is",
            '--config.batch_sizes="(128, 8192)"',
            "the same net for 50 epochs, five seeds",
            "Six learning rates",
            "two factors of ten",
            "over batch 128 of",
            "Muon's batch 8,192",
            "the same nets after 30 epochs, one seed",
            "losses on 5,000 training and 10,000 test images",
            "beyond them (at -0.5 and 1.5)",
            "the training loss has risen by 0.5",
            "two seeds cannot tell",
            "first is 0.5, 0.3, 0.2, 0.1, 0.05 and 0.02 or less",
            "at a loss of 0.5 the large",
            "at 0.05 it is",
            "its training loss first is 0.1 or less",
            "Ghost batches are of 128",
            "both rise from batch 128 on",
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
