"""Distance from initialisation, curves and norms by batch: Hoffer 2017, You 2017."""

import statistics
from collections.abc import Callable, Iterator, Sequence

from scaling.report.blocks import Note, Picture, Section
from scaling.report.kind import Kind, about_all
from scaling.report.records import Workdir
from scaling.report.tables import Column, Table, csv_only, of_points, within
from scaling.report.wording import capital, count, measure_text, metric_value, number, subject
from scaling.studies.generalization import charts
from scaling.studies.generalization.record import COLUMNS, LAWS
from scaling.studies.generalization.slopes import (
    Point,
    Ratio,
    Study,
    batch_power,
    ratio,
    unevenness,
)
from scaling.studies.recipe_records import Spread, compared_by, read_points, spread_of

NAMES = {"log": "log t", "root": "sqrt(t)", "power": "a power of t"}
ROUGH = 0.98  # an R^2 below this is of a rough law
DECADE = 10.0  # over less than this factor in steps the three laws look alike


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, or points that do not belong together.
    """
    return Study(workdir.path, read_points(workdir, Point), workdir.unfinished)


def medians(study: Study) -> dict[str, float]:
    """Law -> its R^2, the median over points; empty where no point has a fit."""
    points = [point for point in study.points if point.fits]
    if not points:
        return {}
    return {law: statistics.median(p.mean_of(law, "r2") for p in points) for law in LAWS}


def answer(study: Study) -> str:
    """How well each law fits the distance, and what the batch does to its slope."""
    laws = medians(study)
    if not laws:
        return f"{subject(study)}, the distance from initialisation has no fit at any batch."
    exponents = [p.mean_of("power", "slope") for p in study.points if p.fits]
    fits = ", ".join(f"{r2_text(value)} ({NAMES[law]})" for law, value in laws.items())
    text = (
        f"{subject(study)}, three laws fit the distance from initialisation with a median R² of "
        f"{fits}; the exponent is {_signed(min(exponents))} to {_signed(max(exponents))}."
    )
    reference, recipes = study.small, {}
    for recipe in study.recipes:  # the first of those that are one measurement
        point = study.large(recipe)
        if point and ratio(point, reference):
            recipes.setdefault(point, recipe)
    ratios = [
        f"{recipe} {ratio_text(ratio(point, reference))} at batch {count(point.global_batch)}"
        for point, recipe in recipes.items()
    ]
    if not ratios:
        return f"{text} No larger batch has a slope against log t to compare."
    base = count(reference.global_batch)
    return f"{text} Slope against log t, relative to batch {base}: {'; '.join(ratios)}."


def r2_text(value: float) -> str:
    """Three decimals: 0.998."""
    return f"{value:.3f}".replace("-", "−")


def ratio_text(found: Ratio) -> str:
    """0.45 (0.43 to 0.47), the range over seeds"""
    return f"{_signed(found.value)} ({_signed(found.low)} to {_signed(found.high)})"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    texts = about_all(
        study.points,
        (
            "some seeds diverged; the numbers are of the others.",
            lambda p: len(p.complete) < len(p.runs),
        ),
        (
            "too few evaluations of some seeds lie in the phase of the initial learning rate for "
            "a fit; evaluate more often or train longer.",
            lambda p: len(p.fits) < len(p.complete),
        ),
        (
            f"the fits cover less than a factor of {DECADE:g} in steps, over which the three laws "
            "look alike.",
            lambda p: p.fits and p.fit_steps[1] < DECADE * p.fit_steps[0],
        ),
    )
    if medians(study).get("log", 1.0) < ROUGH and len(study.batches) > 1:
        texts.append(
            "Log t is a rough law here, so its slope depends on the steps that it is fitted over, "
            "and those are fewer at larger batches."
        )
    return texts


def _plus_minus(text: Callable[[float], str]) -> Callable[[Spread], str]:
    """1.23 ± 0.04, the latter to two digits."""
    deviation = lambda sd: "" if sd is None else f" ± {text(float(f'{sd:.2g}'))}"
    return lambda spread: text(spread.mean) + deviation(spread.sd)


POINTS = [
    Column("batch", "global_batch", count),
    Column("recipe", "recipes", ", ".join),
    Column("steps", "steps", count),
    Column("learning rate", "learning_rate"),
    Column("seeds", lambda s, p: f"{len(p.complete)} of {len(p.runs)}", str),
    Column("slope", lambda s, p: spread_of(p.fitted("log", "slope")), _plus_minus(number)),
    Column("R² log t", lambda s, p: p.mean_of("log", "r2"), r2_text),
    Column("sqrt(t)", lambda s, p: p.mean_of("root", "r2"), r2_text),
    Column("power", lambda s, p: p.mean_of("power", "r2"), r2_text),
    Column("exponent", lambda s, p: p.mean_of("power", "slope"), _signed),
    Column("distance", lambda s, p: spread_of(p.finals("weight_distance")), _plus_minus(number)),
]
POINT = csv_only(1, "global_batch", "recipe", "recipes")


def _key(key: str, metric: str) -> str:
    """Of a column of the curves."""
    return f"validation_{metric}" if key == "validation_error" else key


def _seed_columns(metric: str) -> list[Column]:
    """Of rows (study, point, run)."""
    last = lambda key: lambda s, p, run: run.curve.last(key)
    return [
        *POINT,
        *csv_only(1, "steps", "epochs", "optimizer", "learning_rate", "fit_steps"),
        *csv_only(2, "seed", "status", "diverged_at", "diffusion"),
        *(Column("", last(key), key=f"final_{_key(key, metric)}") for key in COLUMNS),
    ]


def _curve_columns(metric: str) -> list[Column]:
    """Of rows (study, point, run, place)."""
    at = lambda key: lambda s, p, run, place: getattr(run.curve, key)[place]
    curves = (Column("", at(key), key=_key(key, metric)) for key in ("step", *COLUMNS))
    return [*POINT, *csv_only(2, "seed"), *curves]


LAYERS = [
    Column("batch", lambda study, point, layer: point.global_batch, count),
    *POINT,
    Column("layer", "name", str, "layer"),
    Column("parameters", "size", count),
    *(
        Column(
            f"{title}, {charts.WHEN[when]}",
            lambda s, p, layer, when=when, key=key: getattr(getattr(layer, when), key),
            key=f"{when}_{key}",
        )
        for when in charts.WHEN
        for key, title in (("weight_norm", "‖w‖"), ("grad_norm", "‖g‖"), ("ratio", "‖w‖ / ‖g‖"))
    ),
]
UNEVENNESS = [
    Column("batch", "global_batch", count),
    *(
        Column(text, lambda s, p, when=when: unevenness(p.kernels, when))
        for when, text in charts.WHEN.items()
    ),
]


def table(studies: Sequence[Study]) -> Table:
    """A row per point."""
    name, metric = studies[0].metric, studies[0].measure
    text = _plus_minus(lambda value: metric_value(metric, value))
    scores = lambda point: [run.score("test", name) for run in point.complete]
    held_out = [
        Column(f"{split} {metric.words}", of, text)
        for split, of in (
            ("validation", lambda s, p: spread_of(p.finals("validation_error"))),
            ("test", lambda s, p: spread_of(scores(p))),
        )
    ]
    return Table([*POINTS, *held_out], of_points(studies))


def sections(studies: Sequence[Study]) -> Iterator[Section]:
    """The page from top to bottom."""
    none = "no seed that did not diverge has this curve in its record"
    picture = lambda name: Picture(
        f"generalization_{name}", charts.FIGURES[name].caption, charts.curves(studies, name), none
    )
    yield Section("Distance from initialisation", [picture("distance")])
    yield _slope(studies)
    title = capital(measure_text(studies[0].measure))
    yield Section(title, [picture("validation"), picture("validation_steps")])
    yield Section("Training loss", [picture("training")])
    yield Section("Gradient norms", [picture("gradients")])
    yield _layers(studies)
    note = (
        "Means ± standard deviations over the seeds that did not diverge. Slope: of the distance "
        "against ln t; distance and metrics: at the end. The three laws are fitted to the same "
        "evaluations, and every R² is of the distance itself. Every seed is in "
        "tables/generalization.csv, the curves and all layers in tables/generalization_curves.csv "
        "and tables/generalization_layers.csv."
    )
    seeds, metric = within(studies, lambda p: p.runs), studies[0].metric
    places = [(*row, place) for row in seeds for place in range(len(row[-1].curve.step))]
    yield Section(
        "Point by point",
        [
            table(studies),
            Note(note),
            Table(_seed_columns(metric), seeds, "generalization.csv", shown=False),
            Table(_curve_columns(metric), places, "generalization_curves.csv", shown=False),
        ],
    )


def _slope(studies):
    caption = (
        "Slope of the distance against ln t by batch; bars are the range over seeds. Dotted: that "
        "of the small batch, which a correction of the learning rate should give back. Each is of "
        "the steps that its own batch was trained for, which are fewer at a large batch."
    )
    panels = charts.slopes(studies)
    blocks = [
        Picture("generalization_slope", caption, panels, "no point has a fit of the distance")
    ]
    for study in studies:
        powers = {recipe: batch_power(study.fitted(recipe)) for recipe in study.recipes}
        texts = [f"{recipe} {_signed(v)}" for recipe, v in powers.items() if v is not None]
        text = f"Slope as a power of the batch, least squares: {', '.join(texts)}."
        blocks += [Note(study.noted(text))] * bool(texts)
    return Section("Slope against batch", blocks)


def _layers(studies):
    caption = (
        "‖w‖ / ‖g‖ of every matrix of weights or of filters, g the gradient of a training batch of "
        "this size. Where it differs between layers, one learning rate makes steps of different "
        "relative size, which is what LARS evens out (You 2017, Table 2: 5.76 to 1345 in "
        "AlexNet-BN)."
    )
    nothing = "the record holds no norms of kernels, or all of them are zero"
    picture = Picture("generalization_kernels", caption, charts.layers(studies), nothing)
    points = [(s, [p for p in s.points_of(s.baseline) if p.layers]) for s in studies]
    ends = [(s, p) for s, found in points for p in (*found[:1], *found[1:][-1:])]
    rows = [(s, p, layer) for s, p in ends for layer in p.layers]
    note = (
        "Largest over smallest ‖w‖ / ‖g‖ of the kernels, and the norms of all layers, at the "
        "smallest and largest batch. Biases start from zero."
    )
    every = within(studies, lambda p: p.layers or ())
    tables = [
        *([Note(note), Table(UNEVENNESS, ends), Table(LAYERS, rows)] if rows else []),
        Table(LAYERS, every, "generalization_layers.csv", shown=False),
    ]
    return Section("Weights over gradients by layer", [picture, *tables])


def details(study: Study) -> dict[str, list[str]]:
    """The small batch and the seeds."""
    goal = f"slopes relative to batch {count(study.base_batch)}"
    return {"goal": [goal], "seeds": [study.seeds]}


KIND = Kind("Generalization", read, answer, table, sections, cautions, details, compared_by)
