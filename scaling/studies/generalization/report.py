"""Distance from initialisation, curves and norms by batch: Hoffer 2017, You 2017."""

import statistics
from collections.abc import Sequence

from scaling.report.pictures import picture

from scaling.report import provenance
from scaling.report.blocks import Block, Note, Section, Table
from scaling.report.wording import (
    NOTHING,
    count,
    headline,
    listed,
    metric_value,
    number,
    study_label,
)
from scaling.studies.generalization import charts, layers
from scaling.studies.generalization.analysis import batch_power
from scaling.studies.generalization.records import (
    LAWS,
    Point,
    Study,
    check_together,
    read,
)
from scaling.studies.generalization.tables import tables
from scaling.studies.generalization.words import answer, cautions, r2_text

__all__ = [
    "FIGURES",
    "NAME",
    "answer",
    "cautions",
    "check_together",
    "headline",
    "origins",
    "read",
    "sections",
    "study_label",
    "tables",
]

NAME = "Generalization"
FIGURES = (
    "generalization_distance",
    "generalization_slope",
    "generalization_validation",
    "generalization_validation_steps",
    "generalization_training",
    "generalization_gradients",
    "generalization_kernels",
    "generalization_biases",
)
DISTANCE, SLOPE, VALIDATION, VALIDATION_STEPS, TRAINING, GRADIENTS, KERNELS, BIASES = FIGURES
PLUS_MINUS = "\u00a0±\u00a0"  # no line breaks there
NO_CURVE = "no seed that did not diverge has this curve in its record"


def sections(studies: Sequence[Study]) -> list[Section]:
    """The page from top to bottom: the walk and its slope, then the rest of each study."""
    places = range(len(studies))
    others = [part for place in places for part in _of_study(place, studies)]
    return [*(_distance(p, studies) for p in places), _slope(studies), *others, _points(studies)]


def _named(place: int, studies: Sequence[Study]) -> tuple[str, str]:
    """What tells the sections and the figures of a study from those of the others."""
    if len(studies) == 1:
        return "", ""
    return f" of {study_label(studies[place], studies)}", f"-{place + 1}"


def _distance(place: int, studies: Sequence[Study]) -> Section:
    of, suffix = _named(place, studies)
    caption = (
        "How far the weights are from where they began, against log t (Hoffer 2017, Figure 2). "
        "Marks: mean over the seeds that did not diverge; faint: single seeds. A straight line is "
        "ultra-slow diffusion, distance as log t. It is fitted in the phase of the initial "
        "learning rate; the slope of the paper falls with the batch, until the learning rate is "
        "corrected."
    )
    panels = charts.distance(studies[place])
    shown = picture(DISTANCE + suffix, caption, panels, NO_CURVE)
    return Section(f"Distance from initialisation{of}", [shown])


def _of_study(place: int, studies: Sequence[Study]) -> list[Section]:
    study = studies[place]
    of, suffix = _named(place, studies)
    show = lambda name, caption, panels: picture(name + suffix, caption, panels, NO_CURVE)
    seeds = "Means over the seeds that did not diverge, single seeds faint. "
    epochs = (
        f"{seeds}Against epochs a large batch has taken fewer steps at the same place (Hoffer "
        "2017, Figure 1)."
    )
    steps = "The same against steps, where a large batch has seen more examples at the same place."
    training = f"{seeds}The loss is the mean over the updates since the evaluation before."
    gradients = (
        f"{seeds}The root mean square, over the updates since the evaluation before, of the norm "
        "of the batch's mean gradient. A small batch's holds more noise, whose part of the square "
        "goes as 1 / batch."
    )
    parts = [
        (
            "Validation error",
            [
                show(VALIDATION, epochs, charts.validation(study)),
                show(VALIDATION_STEPS, steps, charts.validation_steps(study)),
                *_gap(study),
            ],
        ),
        ("Training loss", [show(TRAINING, training, charts.training(study))]),
        ("Gradient norms", [show(GRADIENTS, gradients, charts.gradients(study))]),
        ("Weights over gradients by layer", _layers(study, suffix)),
    ]
    return [Section(title + of, blocks) for title, blocks in parts]


def _layers(study: Study, suffix: str) -> list[Block]:
    kernels = (
        "‖w‖ / ‖g‖ of every matrix of weights or of filters; g is the gradient of a training batch "
        "of this size. Where it differs between layers, one learning rate makes steps of different "
        "relative size, which is what LARS evens out (You 2017, Table 2: 5.76 to 1345 in "
        "AlexNet-BN)."
    )
    biases = (
        "The same of biases, and of the scales of normalisation. Biases start from zero; one that "
        "is still zero has no place."
    )
    return [
        layers.picture(KERNELS + suffix, kernels, study, kernels=True),
        layers.picture(BIASES + suffix, biases, study, kernels=False),
        *layers.notes(study),
        *layers.tables(study),
    ]


def _slope(studies):
    caption = (
        "Slope of the distance against ln t by batch; bars are the range over seeds. Dotted: that "
        "of the small batch, which a correction of the learning rate should give back. Each is of "
        "the steps that its own batch was trained for, which are fewer at a large batch."
    )
    shown = picture(SLOPE, caption, charts.slopes(studies), "no point has a fit of the distance")
    notes = []
    for study in studies:
        powers = {name: batch_power(study.of_recipe(name)) for name in study.recipes}
        told = [f"{_signed(v)} with {recipe}" for recipe, v in powers.items() if v is not None]
        label = study_label(study, studies)
        text = f"{label and label + ': '}Power of the batch nearest to the slopes: {listed(told)}."
        notes += [Note(text)] * bool(told)
    return Section("Slope against batch", [shown, *notes])


def _signed(power):
    return f"{power:.2f}".replace("-", "−")


def _gap(study: Study) -> list[Block]:
    """Final validation errors of the smallest and the largest batch, recipe by recipe."""
    told = []
    for recipe in study.recipes:
        points = [p for p in study.of_recipe(recipe) if p.finals("validation_error")]
        ends = [
            f"{_error(point)} at batch {count(point.global_batch)}"
            for point in points[:1] + points[1:][-1:]
        ]
        if ends:
            told.append(f"{recipe}: {', '.join(ends)}")
    return [Note(f"Validation error at the end. {'; '.join(told)}.")] * bool(told)


def _error(point):
    return _mean_sd(point.finals("validation_error"), lambda value: metric_value("error", value))


def _mean_sd(values, text=number):
    """1.23 ± 0.04, the latter over seeds, to two digits."""
    if not values:
        return NOTHING
    mean = text(statistics.mean(values))
    if len(values) == 1:
        return mean
    return f"{mean}{PLUS_MINUS}{text(float(f'{statistics.stdev(values):.2g}'))}"


def _points(studies):
    several = len(studies) > 1
    header = ["study"] * several + ["batch", "recipe", "seeds", "steps", "learning rate"]
    header += ["slope", "R², log t", "R², sqrt(t)", "R², power", "exponent"]
    header += ["distance", "validation error"]
    rows = [[study.label] * several + _row(point) for study in studies for point in study.points]
    note = (
        "Means ± standard deviations over the seeds that did not diverge. Slope: of the distance "
        "against ln t; distance and validation error: at the end. The three laws are fitted to the "
        "same evaluations, and every R² is of the distance itself. Every seed is in "
        "tables/generalization.csv, the curves and all layers in tables/generalization_curves.csv "
        "and tables/generalization_layers.csv."
    )
    return Section("Point by point", [Table(header, rows, wrap=True), Note(note)])


def _row(point: Point) -> list[str]:
    seeds = count(len(point.runs))
    seeds += f", {count(len(point.diverged))} diverged" if point.diverged else ""
    row = [count(point.global_batch), ", ".join(point.recipes), seeds, count(point.steps)]
    row += [number(point.learning_rate)]
    row.append(_mean_sd([fit.log.slope for fit in point.fits.values()]))
    row += [r2_text(point.mean_of(law, "r2")) for law in LAWS]
    exponent = point.mean_of("power", "slope")
    row.append(NOTHING if exponent is None else _signed(exponent))
    return [*row, _mean_sd(point.finals("weight_distance")), _error(point)]


def origins(study: Study) -> provenance.Rows:
    """What made the records, and from which batch the recipes start."""
    points = study.points
    seeds = dict.fromkeys(run.seed for point in points for run in point.runs)
    return provenance.origins(
        study,
        question=[
            ("small batch", [count(points[0].base_batch)]),
            ("recipes", study.recipes),
        ],
        seeds=[("seeds", [", ".join(map(str, seeds))])],
    )
