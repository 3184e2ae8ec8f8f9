"""Raw and invariant measures of sharpness by batch: Keskar 2016, Andriushchenko 2023."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from functools import partial

import numpy as np

from scaling.report.blocks import Note, Picture, Section
from scaling.report.charts import (
    MARKERS,
    Axis,
    Line,
    Panel,
    Points,
    batches,
    of_metric,
    shades,
    shown,
    style_of,
)
from scaling.report.kind import Kind, about_all
from scaling.report.records import Workdir
from scaling.report.tables import Column, Table, csv_only, of_points, within
from scaling.report.wording import count, listed, metric_value, number, subject
from scaling.spectra import density
from scaling.studies.measure_records import ADAPTIVE_TOP, TOP
from scaling.studies.recipe_records import AT_EDGE, Spread, compared_by, read_points
from scaling.studies.sharpness.analysis import (
    SEEDS,
    Point,
    Ratio,
    Row,
    Study,
    range_text,
    ratio,
    verdict,
)
from scaling.studies.sharpness.record import END

KINDS = {False: "raw", True: "invariant"}
WIDTH, POINTS = 0.005, 1000  # of a density: its kernel as a share of the axis; on its grid


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, or points that do not belong together.
    """
    alike = "split", "places", "examples", "statistics", "batch", "metric"
    return Study(workdir.path, read_points(workdir, Point, *alike), workdir.unfinished)


def place_text(place: str) -> str:
    """at a training loss of 0.01; after the last update"""
    return (
        "after the last update" if place == END else f"at a training {place.replace(' ', ' of ')}"
    )


def score_words(study: Study) -> str:
    """test error"""
    return f"{study.points[0].split} {study.measure.words}"


def answer(study: Study) -> str:
    """What raw and invariant measures say of the large batch, at one loss and at one budget, and
    which rank nets by test error."""
    recipe, place, small = study.baseline, study.main, study.small
    rows, large = study.rows(place), study.large(recipe)
    kinds = {invariant: [row for row in rows if row.invariant == invariant] for invariant in KINDS}
    said = {invariant: verdict(kinds[invariant], recipe) for invariant in KINDS}
    spans = {invariant: range_text(kinds[invariant], recipe) for invariant in KINDS}
    text = f"{subject(study)}, {place_text(place)},"
    if large is None or not all(spans.values()):
        return f"{text} no larger batch has measures to compare."
    larger, smaller = f"batch {count(large.global_batch)} ({recipe})", count(small.global_batch)
    which = "which change where a layer is rescaled and the net stays the same function"
    if all(said.values()):
        agree = "agree" if said[False] == said[True] else "disagree"
        text += (
            f" {larger} is {said[False]} than batch {smaller} by raw measures ({spans[False]}), "
            f"{which}, and {said[True]} by invariant ones ({spans[True]}), which do not: they "
            f"{agree}."
        )
    else:
        text += (
            f" {larger} has {spans[False]} the sharpness of batch {smaller} by raw measures, "
            f"{which}, and {spans[True]} by invariant ones, which do not; fewer than {SEEDS} seeds "
            "are too few to test that."
        )
    end = ratio(large, small, END, TOP)
    if place != END and end:
        text += (
            f" After the last update, at training losses that differ, its {TOP} is "
            f"{number(end.value)} times that of the small batch."
        )
    taus = {
        KINDS[k]: [row.agreement.every for row in kinds[k] if row.agreement.every is not None]
        for k in KINDS
    }
    if not all(taus.values()):
        return text
    named = [f"{signed(min(of))} to {signed(max(of))} for {kind} ones" for kind, of in taus.items()]
    return (
        f"{text} Kendall's τ between a measure and the {score_words(study)} of all nets is "
        f"{listed(named)}."
    )


def signed(value: float) -> str:
    """−0.33"""
    return f"{value:.2f}".replace("-", "−")


def ratio_text(found: Ratio) -> str:
    """3.4 (2.9 to 4.1), the range over seeds"""
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"


def spread_text(text: Callable[[float], str], spread: Spread) -> str:
    """1.23 ± 0.04, the latter to two digits."""
    deviation = "" if spread.sd is None else f" ± {text(float(f'{spread.sd:.2g}'))}"
    return text(spread.mean) + deviation


values = partial(spread_text, number)


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    first, several = study.points[0], len(study.batches) > 1
    texts = about_all(
        study.points,
        (
            "some seeds diverged; the numbers are of the others.",
            lambda p: any(not run.nets for run in p.runs),
        ),
        AT_EDGE,
        (
            "the loss is not finite near some nets, which have no measures.",
            lambda p: any(not net.measures for run in p.runs for net in run.nets),
        ),
        *(
            (
                f"some seeds did not come to a training {place.replace(' ', ' of ')}; train longer "
                "to compare them there.",
                lambda p, place=place: len(p.nets(place)) < len(p.nets(END)),
            )
            for place in first.places
            if place != END
        ),
    )
    if several and len(first.places) == 1:
        texts.append(
            "After one budget batch sizes end at different losses, on which every measure depends; "
            "set sharpness.losses."
        )
    if first.statistics == "frozen":
        texts.append(
            "Batch statistics are frozen: the loss that is measured is steeper than that in "
            "training."
        )
    return texts


def table(studies: Sequence[Study]) -> Table:
    """A row per point."""
    study = studies[0]
    place, score = study.main, partial(metric_value, study.measure)
    of = lambda value: lambda s, p: p.spread(place, value)
    columns = [
        Column("batch", "global_batch", count),
        Column("recipe", "recipes", ", ".join),
        Column("learning rate", "learning_rate"),
        Column("measured", lambda s, p: place_text(place), str),
        Column("nets", lambda s, p: f"{len(p.nets(place))} of {len(p.runs)}", str),
        Column("training loss", of(lambda net: net.loss), values),
        Column(score_words(study), of(lambda net: net.score), partial(spread_text, score)),
        *(Column(name, lambda s, p, name=name: p.measured(place, name), values) for name in SHOWN),
    ]
    return Table(columns, of_points(studies))


SHOWN = (TOP, ADAPTIVE_TOP)


def _comparison(studies: Sequence[Study], place: str) -> Table:
    """A row per measure: raw and invariant ones side by side."""
    tau = lambda key: lambda s, row: getattr(row.agreement, key)
    recipes = dict.fromkeys(recipe for study in studies for recipe in study.recipes)
    columns = [
        Column("measure", "name", str),
        Column("kind", lambda s, row: KINDS[row.invariant], str, "kind"),
        Column("small batch", "small", values),
        *(
            Column(
                f"{recipe}, large / small",
                lambda s, row, recipe=recipe: row.ratios.get(recipe),
                ratio_text,
                f"ratio_{recipe}",
            )
            for recipe in recipes
        ),
        Column(f"τ with {score_words(studies[0])}", tau("every"), signed, "tau"),
        Column("τ between batches", tau("between"), signed, "tau_between"),
        Column("τ within", tau("within"), signed, "tau_within"),
    ]
    rows: list[tuple[Study, Row]] = [(s, row) for s in studies for row in s.rows(place)]
    return Table(columns, rows, f"sharpness_{place.replace(' ', '_')}.csv")


def _chosen(study: Study) -> list[str]:
    """Measures that are drawn: two raw ones, two invariant ones."""
    names = study.names()
    of = lambda invariant: [name for name, kind in names.items() if kind == invariant]
    raw, invariant = of(False), of(True)
    keskar = [name for name in raw if name.startswith("φ")]
    rises = [name for name in invariant if name.startswith(("average", "worst"))]
    return [*raw[:1], *keskar[:1], *invariant[:1], *rises[:1]]


def _title(study, name):
    return study.named(f"{name} ({KINDS[study.names()[name]]})")


def by_batch(study: Study, place: str) -> list[Panel]:
    """Measures against the batch, a line per recipe."""
    return shown(_by_batch(study, place, name) for name in _chosen(study))


def _by_batch(study, place, name):
    marks = []
    for index, recipe in enumerate(study.recipes):
        color, marker = style_of(index)
        found = [(p, p.measured(place, name)) for p in study.points_of(recipe)]
        found = [(p, spread) for p, spread in found if spread and spread.mean > 0]
        each = [[net.value(name) for net in p.nets(place).values()] for p, _ in found]
        each = [[value for value in seeds if value is not None] for seeds in each]
        x, y = [p.global_batch for p, _ in found], [spread.mean for _, spread in found]
        texts = [
            f"{p.directory.name}\n{name}: {values(spread)}\n{len(p.nets(place))} seeds"
            for p, spread in found
        ]
        look = {"low": list(map(min, each)), "high": list(map(max, each)), "texts": texts}
        marks.append(Line(x, y, color, dash="dash" if index % 2 else "solid", series=recipe))
        look |= {"size": 5 + 1.5 * index, "hollow": index > 0}  # some lie on each other
        marks.append(Points(x, y, color, recipe, marker, **look))
    return Panel(batches(), Axis("", "decimal"), marks, _title(study, name))


def by_score(study: Study, place: str) -> list[Panel]:
    """The test error against measures, a mark per net."""
    return shown(_by_score(study, place, name) for name in _chosen(study))


def _looks(study: Study) -> Iterator[tuple[Point, tuple[str, str, str]]]:
    """(point, (color of its batch, label, marker of its recipe))"""
    colors = dict(zip(study.batches, shades(len(study.batches)), strict=True))
    shapes = {recipe: MARKERS[i % len(MARKERS)] for i, recipe in enumerate(study.recipes)}
    for point in study.points:
        label = f"batch {count(point.global_batch)}, {', '.join(point.recipes)}"
        yield point, (colors[point.global_batch], label, shapes[point.recipes[0]])


def _by_score(study, place, name):
    text, marks = partial(metric_value, study.measure), []
    for point, look in _looks(study):
        nets = [(net.value(name), net.score) for net in point.nets(place).values()]
        nets = [(value, score) for value, score in nets if (value or 0) > 0 and score is not None]
        texts = [f"{look[1]}\n{name}: {number(v)}\n{text(score)}" for v, score in nets]
        x, y = [value for value, _ in nets], [score for _, score in nets]
        marks.append(Points(x, y, *look, texts=texts))
    axis = of_metric(study.measure, score_words(study), scale="near")
    title = study.named(KINDS[study.names()[name]])
    return Panel(Axis(name, "decimal"), axis, marks, title)


def along(study: Study) -> list[Panel]:
    """Measures against the training loss (Keskar 2016, Fig. 6), a line per point."""
    return shown(_along(study, name) for name in _chosen(study))


def _along(study, name):
    marks = []
    for point, (color, label, marker) in _looks(study):
        found = [(point.spread(p, lambda n: n.loss), point.measured(p, name)) for p in point.places]
        found = [(loss, value) for loss, value in found if loss and value and value.mean > 0]
        x, y = [loss.mean for loss, _ in found], [value.mean for _, value in found]
        texts = [f"{label}\nloss {values(a)}\n{name}: {values(b)}" for a, b in found]
        marks.append(Line(x, y, color, series=label))
        marks.append(Points(x, y, color, label, marker, texts=texts))
    return Panel(Axis("training loss", "decimal"), Axis("", "decimal"), marks, _title(study, name))


def densities(study: Study, place: str) -> list[Panel]:
    """The density of eigenvalues of the first seed's nets, a panel per recipe."""
    found = [
        (look, point, net.spectrum)
        for point, look in _looks(study)
        for net in point.nets(place).values()
        if net.spectrum
    ]
    if not found:
        return []
    nodes = np.concatenate([np.ravel(spectrum.nodes) for *_, spectrum in found])
    margin = 0.1 * (nodes.max() - nodes.min())
    grid = np.linspace(nodes.min() - margin, nodes.max() + margin, POINTS)
    return shown(
        _density(study, recipe, [each for each in found if recipe in each[1].recipes], grid)
        for recipe in study.recipes
    )


def _density(study, recipe, found, grid):
    marks = []
    for (color, _, _), point, spectrum in found:
        label, y = f"batch {count(point.global_batch)}", density(*astuple(spectrum), grid, WIDTH)
        top = np.max(spectrum.nodes)
        ends = [top], [float(np.interp(top, grid, y))]
        text = f"{label}\nlargest eigenvalue seen {number(top)}"
        marks.append(Points(*ends, color, size=4, texts=[text], series=label))
        # A tenth of what one eigenvalue adds at its place: below there is nothing to see.
        one = 1 / (point.parameters * WIDTH * (grid[-1] - grid[0]) * math.sqrt(2 * math.pi))
        y = np.where(y < 0.1 * one, math.nan, y)
        marks.append(Line(grid.tolist(), y.tolist(), color, label, width=1))
    axes = Axis("eigenvalue", "near", number), Axis("density of eigenvalues", "decimal")
    return Panel(*axes, marks, study.named(recipe))


def sections(studies: Sequence[Study]) -> Iterator[Section]:
    """The page from top to bottom."""
    for place in dict.fromkeys(place for study in studies for place in (study.main, END)):
        those = [study for study in studies if place in study.places]
        yield Section(f"Measures {place_text(place)}", list(_place(those, place)))
    several = [study for study in studies if len(study.places) > 2]
    if several:
        caption = "Measures along training; means over the seeds that came to a loss."
        panels = [panel for study in several for panel in along(study)]
        picture = Picture("sharpness_along", caption, panels, "no net has a positive measure")
        yield Section("Along training", [picture])
    note = (
        "Means ± standard deviations over the seeds. The training loss is that of the examples "
        "that are measured on. Every net with every measure, its interval or bounds is in "
        "tables/sharpness.csv."
    )
    nets = [(*row, net) for row in within(studies, lambda p: p.runs) for net in row[-1].nets]
    rows = [(*row, measure) for row in nets for measure in row[-1].measures]
    columns = [
        *csv_only(1, "global_batch", "recipe", "recipes", "learning_rate"),
        *csv_only(2, "seed"),
        *csv_only(3, "place", "step", "train_loss", "loss", "score"),
        *csv_only(4, "name", "invariant", "value", "low", "high"),
    ]
    every = Table(columns, rows, "sharpness.csv", shown=False)
    yield Section("Point by point", [table(studies), Note(note), every])


def _place(studies, place):
    """What is shown of the nets at a place."""
    first = studies[0].points[0]
    norm = "" if first.statistics == "none" else f" with {first.statistics} batch statistics"
    spot, settings = place.replace(" ", "_"), first.directory.config["sharpness"]
    yield _comparison(studies, place)
    for study in studies:
        small = study.small and count(study.small.global_batch)
        yield Note(study.noted(f"Small batch {small}, large {count(study.batches[-1])}."))
    yield Note(
        "Ratios: of the means over seeds, and in brackets the range over paired seeds. τ: "
        f"Kendall's rank correlation with the {score_words(studies[0])}, 1 where the sharper of "
        "any two nets is the worse; of all nets, of the means of the batch sizes, and within a "
        f"batch size, the mean over those. Measured on the first {count(first.examples)} training "
        f"examples{norm}, worst rises on batches of {count(first.batch)} of them; "
        f"{count(first.parameters)} weights. Eigenvalues: {settings['steps']} steps of Lanczos; "
        f"traces: {settings['products']} products with the Hessian. φ: Keskar 2016, Metric 2.1. "
        f"Average rises: each weight w moves by N(0, (ρ w)²), {settings['draws']} draws. Worst "
        "rises: the moves over the weights have the Euclidean norm ρ. Relative flatness: Petzka "
        "2021, summed over layers."
    )
    nothing = "no net has a positive measure"
    caption = f"Measures {place_text(place)} against the batch; bars are the range over seeds."
    panels = [panel for study in studies for panel in by_batch(study, place)]
    yield Picture(f"sharpness_batch_{spot}", caption, panels, nothing)
    caption = f"The {score_words(studies[0])} against measures {place_text(place)}; a mark per net."
    panels = [panel for study in studies for panel in by_score(study, place)]
    yield Picture(f"sharpness_error_{spot}", caption, panels, nothing)
    if panels := [panel for study in studies for panel in densities(study, place)]:
        caption = (
            f"The density of the Hessian's eigenvalues {place_text(place)}, of the first seed, by "
            f"stochastic Lanczos quadrature ({settings['probes']} probes of {settings['steps']} "
            f"steps), smoothed over {WIDTH:.1%} of the axis. One of {count(first.parameters)} "
            "eigenvalues has a peak of its own where no others are; dots: the largest."
        )
        yield Picture(f"sharpness_density_{spot}", caption, panels, nothing)


def details(study: Study) -> dict[str, list[str]]:
    """The small batch and the seeds."""
    return {
        "goal": [f"ratios relative to batch {count(study.base_batch)}"],
        "seeds": [study.seeds],
    }


KIND = Kind("Sharpness", read, answer, table, sections, cautions, details, compared_by)
