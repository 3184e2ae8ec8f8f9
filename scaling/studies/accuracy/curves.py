"""The figures of training and of tuning, each described once for paper and screen."""

from collections.abc import Sequence
from dataclasses import replace

from scaling.paired import mean_and_deviation
from scaling.report.charts import Axis, Line, Mark, Panel, Points, Rule, shown
from scaling.report.drawing import BEST, COLORS, GREY, OUTCOMES, shades
from scaling.report.plots import plain
from scaling.report.wording import batch_label, count, decimal_label, number, study_label
from scaling.studies.accuracy.judging import choices, times_longer
from scaling.studies.accuracy.records import Point, Study, Trial
from scaling.studies.accuracy.texts import percent, percent_tick

PANELS = 18
ABOVE = 1.2  # times the largest error: where what has none stands
ERROR = Axis("validation error", tick=percent_tick)
EPOCHS = Axis("epoch", "linear", decimal_label)
STEPS = Axis("optimizer step", tick=decimal_label)


def curve(point: Point) -> list[tuple[int, float]]:
    """(step, validation error), the mean over the seeds that did not diverge, where all have one.

    Empty where some seed has no curve after its first step.
    """
    found = [point.curves.get(i, {}) for i, run in enumerate(point.runs) if not run.diverged]
    steps = set.intersection(*map(set, found)) if found else set()
    if not any(steps):
        return []
    return [(step, mean_and_deviation([one[step] for one in found])[0]) for step in sorted(steps)]


def curves(studies: Sequence[Study]) -> list[Panel]:
    """The baseline recipe by batch, and what was recommended at the largest; panels by study."""
    panels = []
    sizes = sorted({batch for study in studies for batch in study.batches})
    colors = dict(zip(sizes, shades(len(sizes)), strict=True))
    for study in studies:
        found = [(f"{study.baseline} recipe", EPOCHS, _by_batch(study, colors)), *_largest(study)]
        for title, axis, marks in found:
            title = ", ".join(filter(None, [study_label(study, studies), title]))
            panels.append(Panel(axis, ERROR, marks, title))
    return shown(panels)


def _by_batch(study, colors):
    """Hoffer 2017, Figure 1."""
    points = [study.of(batch, study.baseline) for batch in study.batches]
    marks = [
        _curve(point, f"batch {batch_label(point.global_batch)}", colors[point.global_batch])
        for point in points
        if point and curve(point)
    ]
    return [mark for pair in marks for mark in pair]


def _largest(study):
    """The recommended recipe beside the baseline and the reference: by epochs, or by steps where it
    takes more epochs."""
    batch = study.batches[-1]
    baseline, reference = study.of(batch, study.baseline), study.reference
    for best in reversed(choices(study, batch)):
        if best in (baseline, reference) or not curve(best):
            continue
        longer = times_longer(study, best)
        marks = []
        for point, color, dash in (
            (baseline, COLORS[1], "solid"),
            (best, COLORS[2] if longer else COLORS[0], "solid"),
            (reference, GREY, "dash"),
        ):
            if point and curve(point):
                label = f"{point.recipe}, batch {batch_label(point.global_batch)}"
                marks += _curve(point, label, color, not longer, dash)
        title = f"batch {batch_label(batch)}, {'step by step' if longer else 'as many epochs'}"
        yield title, STEPS if longer else EPOCHS, marks


def _curve(point: Point, label: str, color: str, epochs: bool = True, dash="solid") -> list[Mark]:
    """A line, and a mark at its end that tells what it is."""
    # The axis of steps is one of logs, and has no place for the evaluation before the first.
    steps, errors = zip(*[(s, e) for s, e in curve(point) if s > 0 or epochs], strict=True)
    x = [step * (point.epochs / point.steps if epochs else 1) for step in steps]
    told = [
        f"<b>{plain(point.recipe)}</b>, batch {count(point.global_batch)}",
        f"{percent(errors[-1])} validation error after {count(steps[-1])} steps",
    ]
    end = Points(x[-1:], errors[-1:], color, size=4, texts=["<br>".join(told)])
    return [Line(x, errors, color, label, dash), end]


def tuned(study: Study) -> list[Point]:
    """The tuned points of the largest batch."""
    return [point for point in study.at(study.batches[-1]) if point.tuning]


def tuning(studies: Sequence[Study]) -> list[Panel]:
    """Validation error against the learning rates tried at the largest batch, by recipe."""
    panels = []
    for study in studies:
        errors = [t.validation_error for p in tuned(study) for t in p.tuning.trials if _done(t)]
        # Diverged trials stand above all errors, and all panels share their axis.
        ends = (min(errors), max(errors) * ABOVE) if errors else (0.1, 1.0)
        for point in tuned(study):
            title = ", ".join(filter(None, [study_label(study, studies), point.recipe]))
            panels.append(_tuning(point, title, ends))
    return shown(panels)[:PANELS]


def _done(trial: Trial) -> bool:
    return trial.status != "diverged" and trial.validation_error is not None


def _tuning(point: Point, title: str, ends: tuple[float, float]) -> Panel:
    found, trials = point.tuning, point.tuning.trials
    done = [trial for trial in trials if _done(trial)]
    failed = [trial for trial in trials if not _done(trial)]
    marks = [
        Rule(GREY, "end of the range searched" * (not i), x=end)
        for i, end in enumerate(found.range)
    ]
    rate = f"learning rate at batch {batch_label(point.global_batch)}"
    for some, look, label in (
        (failed, OUTCOMES["infeasible"], "diverged, so it has no error"),
        (done, OUTCOMES["reached"], "a learning rate tried"),
        ([trials[found.best]] if found.best is not None else [], BEST, "the best, used for runs"),
    ):
        color, marker = look
        y = [trial.validation_error if _done(trial) else ends[1] for trial in some]
        texts = [_told(trial) for trial in some]
        x = [trial.learning_rate for trial in some]
        size = 9 if look is BEST else 5
        if some:
            marks.append(Points(x, y, color, label, marker, size, texts=texts))
    error = replace(ERROR, include=ends)
    return Panel(Axis(rate, tick=decimal_label), error, marks, title)


def _told(trial):
    error = "diverged" if trial.status == "diverged" else percent(trial.validation_error)
    return f"learning rate {number(trial.learning_rate)}<br>{error}"
