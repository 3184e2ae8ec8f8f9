"""The figures."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from scaling.crossings import Metric
from scaling.paired import mean_and_deviation
from scaling.report.charts import (
    COLORS,
    GREY,
    MARKERS,
    Axis,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Span,
    batches,
    of_metric,
    shades,
    shown,
)
from scaling.report.wording import batch_label, count, decimal_label, number
from scaling.studies.accuracy.judging import Point, Study
from scaling.studies.accuracy.texts import (
    point_text,
    spread_text,
    tolerance_text,
    value_text,
)
from scaling.studies.recipe_records import Trial

FAR = 6.0  # what adds more than this multiple of the median added error is off the scale
WITHIN = "#dcebe3"
OWN = "the recipe of the panel"
FAILED, OFF_AXIS = "diverged under some seed", "too much worse for the axis"
GAPS = 3  # recipes besides the baseline
BEYOND = 0.2  # of the worst value: how far beyond it trials stand that have none


def _axis(study: Study, split: str, metric: Metric | None = None, **options: Any) -> Axis:
    """Of the study's metric, or of another, on a split: 11.5% on its ticks."""
    metric = metric or study.measure
    percent = metric.form == "percent"
    tick = lambda value: f"{100 * value:.4g}%" if percent else f"{value:.4g}"
    return of_metric(metric, f"{split} {metric.words}".strip(), tick=tick, **options)


def _validated(metric: Metric, value: float) -> str:
    """11.30% validation error"""
    return f"{value_text(metric, value)} validation {metric.words}"


def tested(studies: Sequence[Study]) -> list[Panel]:
    """The metric on the test split against the batch; a panel per study and recipe."""
    panels = []
    for study in studies:
        best, ceiling = _scale(study)
        top = ceiling + 0.1 * (ceiling - best)
        ends = sorted(study.sign * end for end in (best, top))
        y = _axis(study, "test", scale="near", include=tuple(ends))
        others = [recipe for recipe in study.recipes if recipe != study.baseline]
        for recipe in others or [study.baseline]:
            marks = _level(study) + _recipe(study, study.baseline, GREY, ceiling, top)
            if others:
                marks += _recipe(study, recipe, COLORS[0], ceiling, top)
            panels.append(Panel(batches(study.rows), y, marks, study.named(recipe)))
    return shown(panels)


def _scale(study: Study) -> tuple[float, float]:
    """The best and the worst end, by `sign`, of an axis for all but what is far worse than the
    rest."""
    sign = study.sign
    spreads = [spread for p in study.points if not p.failure and (spread := p.spread("test"))]
    if not spreads:
        return 0.0, 1.0
    means = [sign * spread.mean for spread in spreads]
    least = min(means)
    added = [mean - least for mean in means if mean > least]
    cap = least + FAR * max(statistics.median(added or [0.0]), study.tolerance)
    ends = [sign * end for spread in spreads if sign * spread.mean <= cap for end in spread.ends]
    level = study.reference.mean("test") if study.reference else None
    if level is not None and sign * level <= cap:
        ends += [sign * level - study.tolerance, sign * level + study.tolerance]
    return max(min(ends), 0.0) if sign > 0 else min(ends), max(ends)


def _level(study: Study) -> list[Mark]:
    """The reference and its tolerance."""
    level = study.reference.mean("test") if study.reference else None
    if level is None:
        return []
    name = f"reference ± {tolerance_text(study)}"
    low = level - study.tolerance
    low = max(low, 0.0) if study.sign > 0 else low
    span = Span(low, level + study.tolerance, WITHIN, name, axis="y")
    return [span, Rule(GREY, y=level, dash="dot", series=name)]


def _recipe(study: Study, recipe: str, color: str, ceiling: float, top: float) -> list[Mark]:
    """Its points, and at the worst end of the scale those that it has no place for."""
    label, points = recipe if color == GREY else OWN, study.points_of(recipe)
    known = [p for p in points if not p.failure and p.mean("test") is not None]
    x, y = [p.global_batch for p in known], [p.mean("test") for p in known]
    on_scale = [point for point in known if study.sign * point.mean("test") <= ceiling]
    marks = [
        Line(x, y, color, width=1.1, guide=True, series=label),
        _means(study, on_scale, "test", color, label),
    ]
    for others, what, marker in (
        ([point for point in points if point.failure], FAILED, "o"),
        ([point for point in known if point not in on_scale], OFF_AXIS, "^"),
    ):
        if others:
            x, texts = [p.global_batch for p in others], _texts(study, others)
            look = {"marker": marker, "size": 6, "hollow": True, "texts": texts}
            y = [study.sign * top] * len(x)
            marks.append(Points(x, y, color, what, series=label, **look))
    return marks


def _means(study, points, split, color, label, **look) -> Points:
    """Means with standard deviations."""
    low, high = ([point.spread(split).ends[end] for point in points] for end in (0, 1))
    x, y = [p.global_batch for p in points], [p.mean(split) for p in points]
    return Points(x, y, color, label, low=low, high=high, texts=_texts(study, points), **look)


def _texts(study: Study, points: Sequence[Point]) -> list[str]:
    """For hovering."""
    words, texts = study.measure.words, []
    for point in points:
        title = f"{', '.join(point.recipes)}, batch {count(point.global_batch)}"
        lines = [title, f"test {words}: {point_text(study, point)}"]
        if spread := point.spread("train"):
            lines.append(f"training {words}: {spread_text(study.measure, spread)}")
        texts.append("\n".join(lines))
    return texts


def gaps(studies: Sequence[Study]) -> list[Panel]:
    """On training and test data, of the baseline and the recommended recipes; a panel per study."""
    return shown(_gap(study) for study in studies)


def _gap(study: Study) -> Panel:
    marks: list[Mark] = [
        Line([], [], GREY, f"test {study.measure.words}"),
        Line([], [], GREY, f"training {study.measure.words}", "dash"),
    ]
    largest_first = [study.choices(batch) for batch in reversed(study.larger_batches)]
    best = (point.recipe for points in largest_first for point in points)
    names = list(dict.fromkeys([study.baseline, *best]))[: GAPS + 1]
    for recipe, color, marker in zip(names, (GREY, *COLORS), MARKERS, strict=False):
        for split, dash in (("train", "dash"), ("test", "solid")):
            points = [p for p in study.points_of(recipe) if not p.failure and p.spread(split)]
            x, y = [p.global_batch for p in points], [p.mean(split) for p in points]
            marks.append(Line(x, y, color, dash=dash, series=recipe))
            look = {"marker": marker, "hollow": split == "train", "series": recipe}
            label = recipe if split == "test" else ""
            marks.append(_means(study, points, split, color, label, **look))
    near_0 = study.measure.form == "percent" and study.sign > 0
    y = _axis(study, "", scale="near", include=(0.0,) * near_0)
    return Panel(batches(study.rows), y, marks, study.label)


EPOCHS = Axis("epoch", "near", decimal_label, include=(0.0,))
STEPS = Axis("optimizer step", tick=decimal_label)


def curve(point: Point, metric: str = "") -> list[tuple[int, float]]:
    """(step, its metric or another on validation), the mean over the seeds that did not diverge,
    where all have one.

    Empty where some seed has no curve after its first step.
    """
    curves = point.curves.get(metric or point.metric, {})
    runs = [curves.get(i, {}) for i, run in enumerate(point.runs) if not run.diverged]
    steps = set.intersection(*map(set, runs)) if runs else set()
    if not any(steps):
        return []
    return [(step, mean_and_deviation([run[step] for run in runs])[0]) for step in sorted(steps)]


def curves(studies: Sequence[Study]) -> list[Panel]:
    """The baseline recipe by batch (Hoffer 2017, Figure 1), and what is recommended at the
    largest; of one batch size, all recipes. Panels by study."""
    panels = []
    sizes = sorted({batch for study in studies for batch in study.batches})
    colors = dict(zip(sizes, shades(len(sizes)), strict=True))
    for study in studies:
        if len(study.batches) == 1:
            panels += _recipes(study)
            continue
        marks = []
        for point in study.points_of(study.baseline):
            label = f"batch {batch_label(point.global_batch)}"
            marks += _curve(study, point, label, colors[point.global_batch])
        y = _axis(study, "validation")
        panels.append(Panel(EPOCHS, y, marks, study.named(f"{study.baseline} recipe")))
        panels += _largest(study)
    return shown(panels)


def _recipes(study: Study) -> Iterator[Panel]:
    """Every recipe of one batch size: the loss, and the metric."""
    points, title = study.points_at(study.batches[0]), f"batch {batch_label(study.batches[0])}"
    for name, metric in {"loss": study.loss, study.metric: study.measure}.items():
        marks = []
        for point, color in zip(points, shades(len(points)), strict=True):
            marks += _curve(study, point, point.recipe, color, metric=(name, metric))
        yield Panel(EPOCHS, _axis(study, "validation", metric), marks, study.named(title))


def _largest(study: Study) -> Iterator[Panel]:
    """The recommended recipe beside the baseline and the reference: by epochs, or by steps where it
    takes more epochs."""
    batch = study.batches[-1]
    baseline, reference = study.point(batch, study.baseline), study.reference
    for best in reversed(study.choices(batch)):
        if best in (baseline, reference) or not curve(best):
            continue
        epochs, marks = not study.times_longer(best), []
        compared = (baseline, COLORS[1]), (best, COLORS[0 if epochs else 2]), (reference, GREY)
        for point, color in compared:
            if point:
                label = f"{point.recipe}, batch {batch_label(point.global_batch)}"
                marks += _curve(study, point, label, color, epochs)
        title = f"batch {batch_label(batch)}, {'as many epochs' if epochs else 'step by step'}"
        x, y = EPOCHS if epochs else STEPS, _axis(study, "validation")
        yield Panel(x, y, marks, study.named(title))


def _curve(study, point: Point, label: str, color: str, epochs=True, metric=None) -> list[Mark]:
    """A line, and a mark at its end; nothing where there is no curve."""
    name, metric = metric or (study.metric, study.measure)
    # The axis of steps is one of logs, and has no place for the evaluation before the first.
    pairs = [(step, value) for step, value in curve(point, name) if step > 0 or epochs]
    if not pairs:
        return []
    steps, values = zip(*pairs, strict=True)
    x = [step * (point.epochs / point.steps if epochs else 1) for step in steps]
    text = f"{label}\n{_validated(metric, values[-1])} after {count(steps[-1])} steps"
    end = Points(x[-1:], values[-1:], color, size=4, texts=[text], series=label)
    return [Line(x, values, color, label), end]


def tuning(studies: Sequence[Study]) -> list[Panel]:
    """The metric on validation by learning rate tried at the largest batch, a panel per recipe."""
    panels = []
    for study in studies:
        points = [point for point in study.points_at(study.batches[-1]) if point.tuning]
        trials = [trial for p in points for trial in p.tuning.trials if _done(trial)]
        values = [study.sign * trial.validation_error for trial in trials] or [0.1, 1.0]
        # Diverged trials stand beyond the worst, and all panels share their axis.
        worst = max(values) + BEYOND * abs(max(values))
        ends = study.sign * min(values), study.sign * worst
        panels += [_tuning(study, point, ends) for point in points]
    return shown(panels)


def _done(trial: Trial) -> bool:
    return trial.status != "diverged" and trial.validation_error is not None


def _tuning(study: Study, point: Point, ends: tuple[float, float]) -> Panel:
    tuning = point.tuning
    end = "end of the range searched"
    marks: list[Mark] = [Rule(GREY, end, x=rate) for rate in tuning.range]
    best = [tuning.chosen] if tuning.chosen else []
    for trials, label, color, marker, size in (
        ([t for t in tuning.trials if not _done(t)], "diverged", COLORS[1], "x", 5),
        ([t for t in tuning.trials if _done(t)], "a learning rate tried", COLORS[0], "o", 5),
        (best, "the best, used for the runs", "#000000", "*", 9),
    ):
        x = [trial.learning_rate for trial in trials]
        y = [trial.validation_error if _done(trial) else ends[1] for trial in trials]
        texts = [
            f"learning rate {number(t.learning_rate)}\n"
            + (_validated(study.measure, t.validation_error) if _done(t) else "diverged")
            for t in trials
        ]
        marks.append(Points(x, y, color, label, marker, size, texts=texts))
    rate = f"learning rate at batch {batch_label(point.global_batch)}"
    y = _axis(study, "validation", include=tuple(sorted(ends)))
    return Panel(Axis(rate, tick=decimal_label), y, marks, study.named(point.recipe))
