"""Train: one run per global batch. What every other study is made of."""

from typing import Any

from ml_collections import ConfigDict

from scaling.data import sources
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.studies.shared import batch_name, by_batch_size, text_table
from scaling.train.dry_run import dry_run as train_dry_run
from scaling.train.loop import train_point
from scaling.train.point import resolve
from scaling.train.tensorboard import check_installed

points, name = by_batch_size, batch_name


def check(config: ConfigDict) -> None:
    """The config can be used here, its data set is there, and so is what it writes with."""
    sources.check_available(resolve(config).info.name, config.data.dir)
    if config.metrics.tensorboard:
        check_installed()


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> dict[str, Any]:
    """Train one point."""
    return train_point(config, run, name, signals)


def dry_run(points: dict[str, ConfigDict]) -> str:
    """The resolved plan of every point."""
    return "\n".join(
        f"{name}: dry run, nothing is trained\n{train_dry_run(point)}"
        for name, point in points.items()
    )


def sentence(result: dict[str, Any]) -> str:
    """What a finished point came to."""
    if result["status"] == "diverged":
        return f"diverged after {result['steps']:,} steps"
    error = _number(result["validation"], "error", ".2%")
    return f"{result['steps']:,} steps, {error} validation error"


def summarize(results: dict[str, dict[str, Any]]) -> str:
    """A table of the finished points, by name."""
    head = ("point", "steps", "learning rate", "train loss", "validation", "test", "examples/s")
    rows = [head]
    for name, result in results.items():
        rows.append(
            (
                name,
                f"{result['steps']:,}" + " diverged" * (result["status"] == "diverged"),
                f"{result['learning_rate']:.4g}",
                _number(result["train"], "loss", ".4f"),
                _number(result["validation"], "error", ".2%"),
                _number(result["test"], "error", ".2%"),
                f"{result['examples_per_second']:,.0f}",
            )
        )
    return text_table(rows)


def _number(metrics, name, form):
    value = (metrics or {}).get(name)
    return "-" if value is None else format(value, form)
