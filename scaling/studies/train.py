"""Train: one run per global batch. What every other study is made of."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from scaling.data import sources
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.train.dry_run import dry_run as train_dry_run
from scaling.train.loop import train_point
from scaling.train.point import resolve
from scaling.train.tensorboard import check_installed


def points(config: ConfigDict) -> list[ConfigDict]:
    """One config for each of `batch_sizes`, or for `global_batch` where that is empty."""
    configs = []
    for batch in config.batch_sizes or (config.global_batch,):
        point = config.copy_and_resolve_references()
        point.global_batch, point.batch_sizes = int(batch), ()
        configs.append(point)
    return configs


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


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned columns, for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _number(metrics, name, form):
    value = (metrics or {}).get(name)
    return "-" if value is None else format(value, form)
