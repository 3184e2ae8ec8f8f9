"""Studies: one question each, all of one shape.

A study module has four functions:
    points(config) -> the sweep, a list of configs
    check(config) -> None, or a UserError for what can be known of a point before anything starts
    measure(config, run, name, signals) -> one point's result, JSON (arrays go beside it, into the
        run); raises Interrupted, all saved, soon after a signal came
    summarize(results by name) -> text
and may be run on any slice of its points by any number of processes: every point has a directory
of its own, and a finished one is never measured again.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from scaling.config import check_keys
from scaling.errors import UserError, look_up
from scaling.record import RunDir
from scaling.signals import Interrupted, Signals
from scaling.studies import train

STUDIES = {"train": train}


def point_name(config: ConfigDict) -> str:
    """What a point's directory is called: bs256, bs8k."""
    batch = config.global_batch
    return f"bs{batch // 1024}k" if batch >= 1024 and batch % 1024 == 0 else f"bs{batch}"


def points_of(config: ConfigDict, part: str | None = None) -> dict[str, ConfigDict]:
    """The study's points by name, or those of the slice `part`, "i:j".

    Raises:
      UserError: unknown study or key, two points of one name, or a slice that is not one.
    """
    check_keys(config)
    points = look_up("study", config.study, STUDIES).points(config)
    named = {point_name(point): point for point in points}
    if len(named) < len(points):
        raise UserError(f"batch_sizes {config.batch_sizes} names a batch twice; name each once.")
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
    config: ConfigDict, workdir: Path, part: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure every point that is not finished; returns the results by name.

    Raises:
      UserError: see `points_of`, `RunDir` and the study's `measure`.
      Interrupted: a signal came before all points were done.
    """
    study = look_up("study", config.study, STUDIES)
    points, results = points_of(config, part), {}
    for point in points.values():
        study.check(point)
    with Signals() as signals:
        for name, point in points.items():
            if signals.received:
                raise Interrupted(signals.received, f"before {name}; what was done is saved.")
            with RunDir(workdir / name) as run:
                run.begin(json.loads(point.to_json_best_effort()))
                if run.result is None:
                    say(f"{name}: {run.path}")
                    run.finish(study.measure(point, run, name, signals))
                else:
                    say(f"{name}: finished before, in {run.path}")
                results[name] = run.result
    return results
