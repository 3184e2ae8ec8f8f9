"""Train: one run per global batch. What every other study is made of."""

from dataclasses import replace

from ml_collections import ConfigDict

from scaling.crossings import better_than
from scaling.data import sources
from scaling.errors import UserError
from scaling.optim.schedules import ENDLESS
from scaling.record import RunDir, read_metrics
from scaling.report.reading import from_json
from scaling.signals import Signals
from scaling.studies.shared import batch_name, by_batch_size
from scaling.studies.train.record import Record
from scaling.train.checkpoint import saved_steps
from scaling.train.point import data_info, resolve
from scaling.train.resolved import dry_run as train_dry_run
from scaling.train.single import train_point
from scaling.train.tensorboard import check_installed

points, name = by_batch_size, batch_name


def check(config: ConfigDict) -> None:
    """The config can be used here, its data set is there, and so is what it writes with."""
    sources.check_available(resolve(config).info.name, config.data.dir)
    if config.metrics.tensorboard:
        check_installed()


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """Train one point."""
    record = from_json(Record, train_point(config, run, name, signals))
    return replace(record, reached=_reached(config, run, record.clock))


def _reached(config, run, clock):
    """(step, seconds) of the last of `train.patience` evaluations in a row that meet the goal."""
    if config.train.goal is None:
        return None
    task, in_a_row, seconds = resolve(config).task, 0, dict(clock)
    better = task.metrics[task.headline].better
    for row in read_metrics(run.path, "validation"):
        value = row[task.headline]
        meets = value == config.train.goal or better_than(value, config.train.goal, better)
        in_a_row = in_a_row + 1 if meets else 0
        if in_a_row == config.train.patience:
            return row["step"], seconds[row["step"]]
    return None


def goes_on(config: ConfigDict, run: RunDir, duration: str) -> bool:
    """Whether a run recorded with another `duration` is the beginning of this one, and is not all
    of it: then it goes on from its last checkpoint, bit for bit as if it had been this long.

    Raises:
      UserError: it is longer than this one, its learning rates depend on its duration, or it is
        finished and has no checkpoint.
    """
    info = data_info(config.data)
    before, now = (info.steps(d, config.global_batch) for d in (duration, config.duration))
    if before == now:
        return False
    what = f"{run.path} holds a run of {duration} ({before:,} steps), and this one is "
    what += f"{config.duration} ({now:,} steps)"
    if now < before:
        raise UserError(f"{what}: a run can be made longer, not shorter; choose another --workdir.")
    if config.schedule.name not in ENDLESS:
        raise UserError(
            f"{what}: with schedule.name={config.schedule.name!r} the learning rate of every step "
            "depends on the duration, so one is not the beginning of the other; choose another "
            "--workdir."
        )
    result = run.result
    if result and result["status"] == "complete" and not saved_steps(run):
        raise UserError(
            f"{what}: it could go on from its last checkpoint, but that is gone; choose another "
            "--workdir to train from the start."
        )
    return True


def dry_run(points: dict[str, ConfigDict]) -> str:
    """The resolved plan of every point."""
    return "\n".join(
        f"{name}: dry run, nothing is trained\n{train_dry_run(point)}"
        for name, point in points.items()
    )
