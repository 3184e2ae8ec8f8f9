"""What several studies do in the same way."""

import math
from collections.abc import Sequence

from ml_collections import ConfigDict

from scaling.config import default_config
from scaling.train.point import resolve

# Microbatches of a run whose noise is tracked: it comes from how their gradients differ.
PARTS = 8


def by_batch_size(config: ConfigDict) -> list[ConfigDict]:
    """One config for each of `batch_sizes`, or for `global_batch` where that is empty."""
    configs = []
    for batch in config.batch_sizes or (config.global_batch,):
        point = config.copy_and_resolve_references()
        point.global_batch, point.batch_sizes = int(batch), ()
        configs.append(point)
    return configs


def batch_name(config: ConfigDict) -> str:
    """What a point's directory is called: bs256, bs8k."""
    batch = config.global_batch
    return f"bs{batch // 1024}k" if batch >= 1024 and batch % 1024 == 0 else f"bs{batch}"


def single_run(config: ConfigDict) -> ConfigDict:
    """The config of one training run that a study makes on the way, from the study's own."""
    c = default_config()
    for key in c:
        if key not in ("study", "batch_sizes"):
            value = config[key]
            nested = isinstance(value, ConfigDict)
            c[key] = value.copy_and_resolve_references() if nested else value
    return c


def in_parts(config: ConfigDict) -> ConfigDict:
    """The run with its noise measured at every update, from microbatches where it allows some."""
    config.noise_scale = True
    config.noise_every = config.noise_every or 1
    parts = math.gcd(PARTS, config.global_batch)
    if config.micro_batch is None and parts > 1 and resolve(config).ghost_batch is None:
        config.micro_batch = config.global_batch // parts
    return config


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned columns, for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
