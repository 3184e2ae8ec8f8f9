"""What large batches cost in test accuracy, and which recipe wins it back.

Goyal et al. 2017, Figure 1 and Tables 1 and 2; Hoffer et al. 2017, Figure 1 and Table 1; You et al.
2017, Tables 1 to 4.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from scaling.report.blocks import Note, Picture, Section
from scaling.report.kind import Kind, about_all
from scaling.report.reading import jsonl
from scaling.report.records import Directory, Workdir
from scaling.report.tables import Column, Table, csv_only, within
from scaling.report.wording import axis_text, capital, count, number, subject
from scaling.studies.accuracy import charts
from scaling.studies.accuracy.judging import Point, Study
from scaling.studies.accuracy.papers import papers
from scaling.studies.accuracy.texts import (
    added_text,
    flags,
    point_text,
    points_text,
    seeds_text,
    spread_text,
    tolerance_text,
    unit_of,
)
from scaling.studies.recipe_records import AT_EDGE, compared_by, read_points

NAMED = 3  # recipes that are named in a sentence
SPLITS = ("train", "validation", "test")


def read(workdir: Workdir) -> Study:
    """The study in one work directory.

    Raises:
      UserError: records that cannot be read, two of the same point, or of different questions.
    """
    points = read_points(workdir, Point, "tolerance", "metric", curves=_curves)
    return Study(workdir.path, points, workdir.unfinished)


def _curves(directory: Directory) -> dict[str, dict[int, dict[int, float]]]:
    """Metric -> trial -> step -> its value on validation, from metrics.jsonl."""
    names = dict.fromkeys((directory.result.get("metric", "error"), "loss"))
    curves: dict[str, dict[int, dict[int, float]]] = {name: {} for name in names}
    rows = [row for row in jsonl(directory.path / "metrics.jsonl") if row["split"] == "validation"]
    for row in sorted(rows, key=lambda row: row["step"]):
        for name in names:
            if row.get(name) is not None:
                curves[name].setdefault(row.get("trial", 0), {})[row["step"]] = row[name]
    return curves


def answer(study: Study) -> str:
    """What the largest batch costs, what wins it back, and up to where something does."""
    reference, largest = study.reference, study.batches[-1]
    base = f"batch {count(study.base_batch)}"
    text = f"{subject(study)}, {base}, the reference, was not measured."
    if reference:
        what = axis_text(study.measure, f"test {study.measure.words}")
        text = f"{subject(study)}, {what} at {base}: "
        text += f"{point_text(study, reference)}."
    if largest <= study.base_batch:
        return f"{text} No larger batch was measured."
    baseline, picks = study.point(largest, study.baseline), study.choices(largest)
    facts = [point_text(study, baseline)] if baseline else []
    for point, how in zip(picks, ("validation picks", "at equal epochs"), strict=False):
        facts.append(f"{how} {point.recipe if point is baseline else point_text(study, point)}")
    if not picks:
        facts.append("no recipe finished without diverging")
    text += f" At batch {count(largest)}: {'; '.join(facts)}."
    if not reference:
        return text
    any_epochs, equal = (_largest_within(study, longer) for longer in (True, False))
    if any_epochs is None:
        return f"{text} No recipe is within {tolerance_text(study)} at a larger batch."
    text += f" Largest batch with a recipe within {tolerance_text(study)}: {any_epochs}"
    return text + (f"; at equal epochs: {equal or 'none'}." if equal != any_epochs else ".")


def _largest_within(study: Study, longer: bool) -> str | None:
    """1,024 (sqrt, linear, gbn, ...): the batch and the first `NAMED` recipes by validation."""
    for batch in reversed(study.larger_batches):
        names = [point.recipe for point in study.ranked(study.within(batch), longer)]
        if names:
            names[NAMED:] = ["..."] * (len(names) > NAMED)
            return f"{count(batch)} ({', '.join(names)})"
    return None


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    texts = about_all(
        study.points,
        (
            "more epochs than the reference; what they gain is not at equal cost.",
            lambda p: study.times_longer(p) is not None,
        ),
        (
            "some seeds diverged; the means are of the others, and the recipe is not recommended.",
            lambda p: p.failure,
        ),
        AT_EDGE,
    )
    if not any(point.scores("test") for point in study.points):
        texts.append("The test set was not evaluated (eval.test), so nothing can be compared.")
    return texts


def _of(thing: Callable) -> Callable:
    """A column's value from the study and the point, where there is a point."""
    return lambda study, _, point: thing(study, point) if point else None


def _baseline(place: int) -> Callable:
    """Difference to the baseline recipe, or its p value."""
    return _of(lambda s, p: s.changes.get(p, (None, None))[place])


def _spread(study: Study, split: str, shown: bool = True) -> Column:
    """Of the metric on a split."""
    name, metric = study.metric, study.measure
    text, title = partial(spread_text, metric), f"{split} {metric.words}" * shown
    return Column(title, _of(lambda s, p: p.spread(split)), text, f"{split}_{name}")


def _judged(studies: Sequence[Study]) -> list[Column]:
    """The metric on validation and test, against the reference."""
    study = studies[0]
    side = "over" if study.sign > 0 else "below"
    title = f"{unit_of(study.measure)} {side} reference (95%)".lstrip()
    over = Column(title, _of(Study.added), partial(added_text, study.measure), "over_reference")
    seeds = Column("seeds", _of(lambda s, p: seeds_text(p)), str)
    return [_spread(study, "validation"), _spread(study, "test"), seeds, over, VERDICT]


VERDICT = Column("verdict", _of(Study.verdict), str, "verdict")
# Rows (study, recipe, point): a point of several recipes has a row under each.
RECIPE = [
    Column("batch", "global_batch", count),
    Column("recipe", lambda study, recipe, point: recipe, str, "recipe"),
    Column("steps", "steps", count),
    Column("", "epochs"),
    Column("learning rate", "learning_rate"),
]


def _every_column(studies: Sequence[Study]) -> list[Column]:
    metric = studies[0].measure
    side = "over" if studies[0].sign > 0 else "below"
    added, gap = partial(added_text, metric), partial(points_text, metric)
    return [
        *RECIPE,
        *_judged(studies),
        Column("gap", "gap", lambda value: gap(value).lstrip("+")),
        Column(f"{side} baseline (95%)", _baseline(0), added, "over_baseline"),
        Column("p", _baseline(1), "{:.2g}".format, "over_baseline_p_adjusted"),
        _spread(studies[0], "train", shown=False),
        Column("", _of(lambda s, p: len(p.runs)), key="seeds"),
        *csv_only(2, "diverged"),
        Column("", _of(lambda s, p: p in s.choices(p.global_batch)[:1]), key="recommended"),
        *csv_only(0, "baseline"),
    ]


# Rows (study, batch, point or None).
BATCH = [
    Column("batch", lambda study, batch, point: batch, count),
    Column(
        "recommended recipe",
        lambda study, batch, point: point.recipe if point else "none without diverging",
        str,
    ),
    Column("epochs", _of(lambda s, p: p.epochs)),
]
HOLDING = Column(
    "within tolerance",
    lambda s, batch, point: f"{len(s.within(batch))} of {len(s.points_at(batch))}",
    str,
)
SEEDS = [
    *csv_only(1, "global_batch", "recipe", "recipes"),
    *csv_only(2, "seed", "status", "diverged_at", *SPLITS),
]
TUNED = [
    Column("batch", "global_batch", count),
    Column("recipes", "recipes", ", ".join),
    Column("learning rate", "learning_rate"),
    Column("range tried", _of(lambda s, p: " to ".join(map(number, p.tuning.range))), str),
    Column("trials", _of(lambda s, p: len(p.tuning.trials)), count),
    Column(
        "diverged", _of(lambda s, p: sum(t.status == "diverged" for t in p.tuning.trials)), count
    ),
    Column("at the edge", _of(lambda s, p: p.tuning.at_edge or "no"), str),
]


def _trial_columns(metric: str) -> list[Column]:
    """Of rows (study, point, tuning, trial)."""
    return [
        *csv_only(1, "global_batch", "recipe"),
        *csv_only(3, "learning_rate"),
        Column("", "validation_error", key=f"validation_{metric}"),
        *csv_only(3, "status"),
        Column("", lambda study, point, tuning, trial: trial is tuning.chosen, key="best"),
        *csv_only(2, "at_edge", "range"),
    ]


def table(studies: Sequence[Study]) -> Table:
    """A row per point."""
    rows = [(study, point.recipe, point) for study in studies for point in study.points]
    return Table([*RECIPE, *_judged(studies)], rows)


def sections(studies: Sequence[Study]) -> Iterator[Section]:
    """The page from top to bottom."""
    words = studies[0].measure.words
    caption = (
        f"Test {words} after the last step, mean and standard deviation over seeds: in every panel "
        "one recipe, and in grey the one that others are compared with. Dotted: the reference, the "
        "first recipe at the base batch; shaded: within the tolerance. Hollow marks at the end: "
        "recipes that diverged under some seed, and what is too far from the others for the axis."
    )
    panels = charts.tested(studies)
    nothing = "no run finished"
    picture = Picture("accuracy", caption, panels, nothing)
    yield Section(f"Test {words} against batch size", [picture])
    yield from _recommended(studies)
    yield _every(studies)
    yield from papers(studies)
    caption = (
        f"{capital(words)} on training examples, without augmentation and dropout, and on the "
        "test set. Grey: the recipe that others are compared with; beside it the recommended ones, "
        "those of the largest batch first."
    )
    nothing = "no run was evaluated on training and test examples"
    picture = Picture("accuracy_gap", caption, charts.gaps(studies), nothing)
    yield Section(f"Training and test {words}", [picture])
    panels = charts.curves(studies)
    if panels:
        caption = (
            f"Validation {words} along training, mean over the seeds that did not diverge: the "
            "recipe that others are compared with at each batch, and the recommended ones at the "
            "largest; where there is one batch size, every recipe, and its loss beside it, which "
            "is comparable where the loss is the same. A recipe of more epochs is compared step by "
            "step."
        )
        picture = Picture("accuracy_curves", caption, panels, "")
        yield Section(f"Validation {words} over training", [picture])
    if any(point.tuning for study in studies for point in study.points):
        yield _tuning(studies)


def _recommended(studies):
    rows = [
        (study, batch, point)
        for study in studies
        for batch in study.batches
        for point in study.choices(batch) or [None]
    ]
    words = studies[0].measure.words
    tolerances = " or ".join(dict.fromkeys(tolerance_text(study) for study in studies))
    note = (
        f"Recommended: the best validation {words} among recipes without a diverged seed; the test "
        "set has no part in it. Within tolerance: the 95% interval of how much worse than the "
        f"reference a recipe is on the test set, paired by seed, ends within {tolerances}. Worse: "
        "the interval lies above 0 and its middle above that. Unclear: more seeds are needed. Of "
        "many recipes, one may be within tolerance by chance. Where the recommended recipe takes "
        "more epochs than the reference, the second line is the best of the others."
    )
    commands = [
        Note(study.named(f"batch {count(batch)}, {p.recipe}: {flags(p)}"))
        for study, batch, p in rows
        if p
    ]
    yield Section(
        "Which recipe to use", [Table([*BATCH, *_judged(studies), HOLDING], rows), Note(note)]
    )
    yield Section("Flags of the recommended recipes", commands)


def _every(studies):
    rows = [
        (study, recipe, point)
        for study in studies
        for batch in study.batches
        for recipe in study.recipes
        if (point := study.point(batch, recipe))
    ]
    words = studies[0].measure.words
    baselines = " or ".join(dict.fromkeys(study.baseline for study in studies))
    note = (
        "Mean ± standard deviation over the seeds that did not diverge, and how many did not. "
        f"Paired by seed, with Student's 95% interval: how much worse the test {words} is than "
        f"that of the reference, and that of the baseline, {baselines} at the same batch. The gap "
        f"is test minus training {words}. The p values are adjusted for all recipes of a batch "
        "(Holm), the intervals are not. Recipes that give the same config at a batch are one "
        "measurement under several names."
    )
    seeds = Table(SEEDS, within(studies, lambda p: p.runs), "accuracy.csv", shown=False)
    blocks = [Table(_every_column(studies), rows, "accuracy_summary.csv"), Note(note), seeds]
    return Section("Every recipe at every batch", blocks)


def _tuning(studies):
    points = [(study, p) for study in studies for p in study.points if p.tuning]
    caption = (
        "The learning rates tried for each recipe at the largest batch. The best should lie well "
        "inside the range."
    )
    nothing = "nothing was tuned at the largest batch"
    picture = Picture("accuracy_tuning", caption, charts.tuning(studies), nothing)
    tuned = Table(TUNED, [(study, point.recipe, point) for study, point in points])
    trials = [(study, p, p.tuning, trial) for study, p in points for trial in p.tuning.trials]
    columns = _trial_columns(studies[0].metric)
    tried = Table(columns, trials, "accuracy_tuning.csv", shown=False)
    return Section("Learning rates", [picture, tuned, tried])


def details(study: Study) -> dict[str, list[str]]:
    """The reference and the seeds."""
    reference = f"batch {count(study.base_batch)}, {study.recipes[0]}"
    return {"goal": [f"within {tolerance_text(study)} of {reference}"], "seeds": [study.seeds]}


KIND = Kind("Accuracy", read, answer, table, sections, cautions, details, compared_by)
