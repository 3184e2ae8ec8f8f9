"""From a config to the results of a study: its points, measured one after another."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from scaling import hosts, models
from scaling.config import checked
from scaling.errors import UserError
from scaling.record import InUse, RunDir
from scaling.report import point_line
from scaling.report.records import read_object
from scaling.signals import Interrupted, Signals
from scaling.studies import part as module_of
from scaling.studies.shared import check_batch, value_at
from scaling.train.point import data_info, task_of


def study_of(config: ConfigDict):
    """The module that measures the config's study."""
    return module_of(config.study, "measure")


def one_per_core(study: str) -> bool:
    """Whether its points run side by side on a CPU, one per core (scaling/workers.py)."""
    return getattr(module_of(study, "config"), "ONE_PER_CORE", True)


def points_of(config: ConfigDict, part: str | None = None) -> dict[str, ConfigDict]:
    """The study's points by name, or those of the slice `part`, "i:j".

    Raises:
      UserError: unknown study or key, a value that cannot be, a batch far beyond the training set,
        two points of one name, or a slice that is not one.
    """
    config = checked(config)
    study = study_of(config)
    named: dict[str, ConfigDict] = {}
    for point in study.points(config):
        check_batch(point)
        name = study.name(point)
        if name in named:
            raise UserError(f"{name} is named twice among the study's points; name each once.")
        named[name] = point
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


def check_changes(config: ConfigDict, written: ConfigDict, keys: Iterable[str]) -> None:
    """Every key that a user changed from the value in the config file changes a point.

    Args:
      written: the config as the file has it.

    Raises:
      UserError: a key changes none, since the study or all of its recipes set it themselves.
    """
    points = _without_origin(points_of(config))
    for key in keys:
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict({key: value_at(written, key)})
        try:
            idle = other != config and _without_origin(points_of(other)) == points
        except UserError:  # so it has an effect
            continue
        if idle:
            raise UserError(
                f"--config.{key}={value_at(config, key)} has no effect: the points of this study "
                "have values of their own. Remove it; --dry_run shows them."
            )


def _without_origin(points: dict[str, ConfigDict]) -> dict[str, ConfigDict]:
    """Points without what says how they came about."""
    for point in points.values():
        if "recipes" in point:
            point.recipes.changed = ()
    return points


def run_study(
    config: ConfigDict,
    workdir: Path,
    part: str | None,
    say: Callable[[str], None],
    worker: bool = False,
    reported: bool = False,
) -> None:
    """Measure every point that is not finished, the largest batch first.

    Args:
      part: a slice of the points, see `points_of`.
      worker: leave out points that another process holds.
      reported: leave out those that cannot be measured too; the process that started the workers
        reports them.

    Raises:
      UserError: see `points_of`, `RunDir` and the study's `measure`.
      Interrupted: a signal came before all points were done.
    """
    points, study = points_of(config, part), study_of(config)
    if not worker:
        _check_models(points.values())
    for name, point in points.items():
        study.check(point)
        if not worker:  # before anything is trained
            run, info = RunDir(workdir / name), data_info(point.data)
            run.continues(*_asked(study, point))
            run.check_files({"name": info.name, "files": info.files})
    if config.title and not worker:
        say(config.title)
    with Signals(again=not worker) as signals:
        for name, point in reversed(points.items()):
            if received := [s for s in hosts.everyones(signals.received) if s]:
                raise Interrupted(received[0], f"before {name}; progress is saved.")
            try:
                with RunDir(workdir / name) as run:
                    _measure(study, point, run, name, signals, say, worker)
            except InUse:
                if not worker:
                    raise
            except UserError:
                if not reported:
                    raise


def check_workdir(config: ConfigDict, workdir: Path) -> None:
    """UserError where it has points of another study or of other data."""
    for path in sorted(workdir.glob("*/config.json")):
        other = read_object(path)
        theirs = other.get("study"), (other.get("data") or {}).get("name")
        if None not in theirs and theirs != (config.study, config.data.name):
            raise UserError(
                f"{path.parent} is of the study {theirs[0]!r} on {theirs[1]!r}, this one is "
                f"{config.study!r} on {config.data.name!r}; choose another --workdir."
            )


def _check_models(points):
    """UserError for a user's model that its task cannot use; those here are tested."""
    own = (point for point in points if point.model.name not in models.OWN)
    tasks = (task_of(point, data_info(point.data)) for point in own)
    for task in {repr(task): task for task in tasks}.values():
        task.check_model()


def _measure(study, point, run, name, signals, say, worker):
    """One point, unless it was measured before."""
    run.begin(*_asked(study, point))
    if run.result is None:
        say(f"{name}: {run.path}")
        record = study.measure(point, run, name, signals)
        run.finish(dataclasses.asdict(record) if dataclasses.is_dataclass(record) else record)
        say(f"{name}: {hosts.by_leader(point_line)(run.path)}")
    elif not worker:
        say(f"{name}: already finished, in {run.path}")


def _asked(study, point):
    """Arguments of `RunDir.begin` for a point."""
    goes_on = getattr(study, "goes_on", None)
    return json.loads(point.to_json_best_effort()), goes_on and partial(goes_on, point)


def unfinished(config: ConfigDict, workdir: Path, part: str | None) -> list[str]:
    """The study's points that have no result yet."""
    names = points_of(config, part)
    return [name for name in names if not (workdir / name / "result.json").exists()]
