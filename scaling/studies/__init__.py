"""Studies: one question each, all of one shape.

A study module has six functions:
    points(config) -> the sweep, a list of configs
    name(config) -> what the point's directory is called
    check(config) -> None, or a UserError for what can be known of a point before anything starts
    dry_run(points by name) -> text: what it would do and cost
    measure(config, run, name, signals) -> one point's result, JSON (arrays go beside it, into the
        run); raises Interrupted, all saved, soon after a signal came
    sentence(result) -> what to say when a point is done
    summarize(results by name) -> text
and, where a run may become a longer one,
    goes_on(config, run, duration) -> see scaling.record.GoesOn
and may be run on any slice of its points by any number of processes: every point has a directory
of its own, and a finished one is never measured again.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from scaling.config import checked
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.signals import Interrupted, Signals
from scaling.studies import (
    accuracy,
    adaptive_batch,
    advise,
    generalization,
    noise_scale,
    pareto,
    steps_to_target,
    train,
)
from scaling.studies.shared import check_batch

# Studies whose points run side by side on a CPU, one per core (scaling/workers.py).
ONE_PER_CORE = (
    "steps_to_target",
    "accuracy",
    "generalization",
    "pareto",
    "noise_scale",
    "adaptive_batch",
)
STUDIES = {
    "train": train,
    "steps_to_target": steps_to_target,
    "accuracy": accuracy,
    "generalization": generalization,
    "noise_scale": noise_scale,
    "pareto": pareto,
    "advise": advise,
    "adaptive_batch": adaptive_batch,
}


def points_of(config: ConfigDict, part: str | None = None) -> dict[str, ConfigDict]:
    """The study's points by name, or those of the slice `part`, "i:j".

    Raises:
      UserError: unknown study or key, a value that cannot be, a batch far beyond the training set,
        two points of one name, or a slice that is not one.
    """
    config = checked(config)
    study = STUDIES[config.study]
    points = study.points(config)
    for point in points:
        check_batch(point)
    named = {study.name(point): point for point in points}
    if len(named) < len(points):
        names = [study.name(point) for point in points]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{twice} is named twice among the study's points; name each once.")
    if part is None:
        return named
    try:
        start, stop = (int(end) if end else None for end in part.split(":"))
    except ValueError:
        raise UserError(
            f"--points={part} is not a slice; write --points=i:j for points i to j - 1."
        ) from None
    chosen = dict(list(named.items())[start:stop])
    if not chosen:
        raise UserError(f"--points={part} holds none of the study's {len(named)} points.")
    return chosen


def run_study(
    config: ConfigDict,
    workdir: Path,
    part: str | None,
    say: Callable[[str], None],
    worker: bool = False,
) -> dict[str, Any]:
    """Measure every point that is not finished, the largest batch first; results by name.

    Args:
      part: a slice of the points, see `points_of`.
      worker: leave out the points that another process is working on, and those that cannot be
        measured, rather than refuse: who started the workers does what is left, and tells.

    Raises:
      UserError: see `points_of`, `RunDir` and the study's `measure`.
      Interrupted: a signal came before all points were done.
    """
    points, results = points_of(config, part), {}
    study = STUDIES[config.study]
    for name, point in points.items():
        study.check(point)
        if not worker:  # before anything is trained
            RunDir(workdir / name).continues(*_asked(study, point))
    if config.title and not worker:
        say(config.title)
    with Signals(again=not worker) as signals:
        for name, point in reversed(points.items()):
            if signals.received:
                raise Interrupted(signals.received, f"before {name}; what was done is saved.")
            try:
                with RunDir(workdir / name) as run:
                    results[name] = _point(study, point, run, name, signals, say, worker)
            except UserError:
                if not worker:
                    raise
    return {name: results[name] for name in points if name in results}


def _point(study, point, run, name, signals, say, worker):
    """The result of one point, measured now or before."""
    run.begin(*_asked(study, point))
    if run.result is None:
        say(f"{name}: {run.path}")
        run.finish(study.measure(point, run, name, signals))
        say(f"{name}: {study.sentence(run.result)}")
    elif not worker:
        say(f"{name}: finished before, in {run.path}")
    return run.result


def _asked(study, point):
    """What `RunDir.begin` is told of a point."""
    goes_on = getattr(study, "goes_on", None)
    return json.loads(point.to_json_best_effort()), goes_on and partial(goes_on, point)


def unfinished(config: ConfigDict, workdir: Path, part: str | None) -> int:
    """How many of the study's points have no result yet."""
    return sum(not (workdir / name / "result.json").exists() for name in points_of(config, part))
