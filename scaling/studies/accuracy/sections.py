"""The page from top to bottom."""

from collections.abc import Sequence

from scaling.report.blocks import Heading, Note, Section, Table
from scaling.report.pictures import picture
from scaling.report.wording import NOTHING, count, number, study_label
from scaling.studies.accuracy import charts, curves
from scaling.studies.accuracy.judging import (
    DIVERGED,
    changes,
    choices,
    holding,
    to_reference,
    verdict,
)
from scaling.studies.accuracy.papers import paper_tables
from scaling.studies.accuracy.records import Point, Study
from scaling.studies.accuracy.texts import (
    error_text,
    flags,
    interval,
    p_text,
    percent,
    points_text,
    seeds_text,
    tolerance_text,
)

FIGURES = ("accuracy", "accuracy_gap", "accuracy_curves", "accuracy_tuning")


def sections(studies: Sequence[Study]) -> list[Section]:
    """Those that the records have something for."""
    found = [_errors(studies), _recipes(studies), _all(studies), _papers(studies), _gap(studies)]
    found += [_curves(studies), _tuning(studies)]
    return [section for section in found if section]


def _errors(studies):
    caption = (
        "Test error after the last step, mean and standard deviation over seeds; recipes at one "
        "batch stand side by side. Dotted: the reference, the first recipe at the base batch, and "
        "shaded what lies within the tolerance. In the rows above: recipes that diverged under "
        "some seed, and those whose error is too far above the others for the axis."
    )
    shown = picture(FIGURES[0], caption, charts.error_by_batch(studies), "no run finished")
    return Section("Test error against batch size", [shown])


def _recipes(studies):
    """What holds, and how to use it."""
    several = len(studies) > 1
    rows, ways = [], []
    for study in studies:
        for batch in study.batches:
            prefix = [study.label] * several
            for best in choices(study, batch) or [None]:
                rows.append([*prefix, *_recommendation(study, batch, best)])
                if best:
                    name = ", ".join([*prefix, f"batch {count(batch)}", best.recipe])
                    ways.append(Note(f"{name}: {flags(best)}"))
    header = ["study"] * several + ["batch", "recommended recipe", "epochs"]
    header += ["validation error"]
    header += ["test error", "over the reference, points (95%)", "verdict", "recipes that hold"]
    tolerances = dict.fromkeys(tolerance_text(study) for study in studies)
    note = (
        "Recommended: the least validation error among recipes without a diverged seed; the test "
        "error has no say. A recipe holds where the 95% interval of what it adds to the "
        f"reference's test error, paired by seed, ends within {' or '.join(tolerances)}. It costs "
        "where the interval lies above 0 and its middle above that. Otherwise more seeds are "
        "needed. Of many recipes, one may hold by luck. Where the recommended recipe takes more "
        "epochs than the reference, the second line has the best of the others."
    )
    how = [Heading("Flags to train with them"), *ways] if ways else []
    return Section("What holds", [Table(header, rows), Note(note), *how])


def _recommendation(study: Study, batch: int, best: Point | None) -> list[str]:
    measured = [point for point in study.at(batch) if point is not study.reference]
    holds = (
        f"{count(len(holding(study, batch)))} of {count(len(measured))}" if measured else NOTHING
    )
    if best is None:
        return [count(batch), "none without diverging", *[NOTHING] * 5, holds]
    row = [count(batch), best.recipe, number(best.epochs), error_text(best, "validation")]
    row += [f"{error_text(best, 'test')} ({seeds_text(best)})", interval(to_reference(study, best))]
    return [*row, str(verdict(study, best)), holds]


def _all(studies):
    several = len(studies) > 1
    header = ["study"] * several + ["batch", "recipe", "steps", "learning rate", "test error"]
    header += ["seeds", "train error", "gap", "over the reference", "verdict"]
    baselines = " or ".join(dict.fromkeys(study.baseline for study in studies))
    header += [f"over {baselines} (95%)", "p"]
    rows = [
        [study.label] * several + _row(study, recipe, point)
        for study in studies
        for batch in study.batches
        for recipe in study.recipes
        if (point := study.of(batch, recipe))
    ]
    note = (
        "Mean ± standard deviation over the seeds that did not diverge, and how many did not. In "
        f"points: the gap, test minus training error; over the reference and over the {baselines} "
        "recipe at the same batch, test error minus theirs, paired by seed (Student's interval). "
        "The p values are adjusted for all recipes of a batch (Holm). Recipes that come to the "
        "same at a batch are one measurement under several names. Intervals over the reference "
        "are in tables/accuracy_summary.csv."
    )
    return Section("Every recipe at every batch", [Table(header, rows), Note(note)])


def _row(study: Study, recipe: str, point: Point) -> list[str]:
    row = [count(point.global_batch), recipe, count(point.steps), number(point.learning_rate)]
    row += [error_text(point, "test"), seeds_text(point, "")]
    row += [percent(point.mean("train")), points_text(point.gap).lstrip("+")]
    over, judged = to_reference(study, point), verdict(study, point)
    row += [points_text(over and over.difference)]
    row += [judged.word if judged.word == DIVERGED else str(judged)]
    change = changes(study, point.global_batch).get(point)
    return [*row, interval(change and change.difference), p_text(change and change.p)]


def _papers(studies):
    blocks = [
        block for study in studies for block in paper_tables(study, study_label(study, studies))
    ]
    return Section("In the form of the papers", blocks) if blocks else None


def _gap(studies):
    caption = (
        "Error on training examples, without augmentation and dropout, and on the test set. "
        "Grey: the recipe that others are compared with; beside it the recommended ones, those of "
        "the largest batch first."
    )
    panels = charts.gap(studies)
    shown = picture(FIGURES[1], caption, panels, "no run has training and test errors")
    return Section("Training and test error", [shown])


def _curves(studies):
    if not any(curves.curve(point) for study in studies for point in study.points):
        return None
    caption = (
        "Validation error along training, mean over the seeds that did not diverge: the recipe "
        "that others are compared with at each batch, and the recommended ones at the largest. A "
        "recipe of more epochs is compared step by step."
    )
    panels = curves.curves(studies)
    shown = picture(FIGURES[2], caption, panels, "no curve of these is recorded")
    return Section("Validation error over training", [shown])


def _tuning(studies):
    if not any(point.tuning for study in studies for point in study.points):
        return None
    panels, total = curves.tuning(studies), sum(len(curves.tuned(study)) for study in studies)
    caption = (
        "The learning rates tried for each recipe at the largest batch. The best should lie well "
        "inside the range."
    )
    if total > len(panels) > 0:
        caption += f" {len(panels)} of {total} are shown."
    shown = picture(FIGURES[3], caption, panels, "nothing was tuned at the largest batch")
    several = len(studies) > 1
    header = ["study"] * several + ["batch", "recipe", "learning rate", "validation error"]
    header += ["range", "trials", "diverged", "at the edge"]
    rows = [
        [study.label] * several + _tuned(point)
        for study in studies
        for point in study.points
        if point.tuning
    ]
    return Section("Learning rates", [shown, Table(header, rows)])


def _tuned(point: Point) -> list[str]:
    found = point.tuning
    best = found.trials[found.best] if found.best is not None else None
    low, high = found.range
    row = [count(point.global_batch), ", ".join(point.recipes), number(point.learning_rate)]
    row += [percent(best and best.validation_error), f"{number(low)} to {number(high)}"]
    diverged = sum(trial.status == "diverged" for trial in found.trials)
    widened = f", widened {found.widened}x" if found.widened else ""
    edge = (found.at_edge or "no") if best else NOTHING
    return [*row, count(len(found.trials)) + widened, count(diverged), edge]
