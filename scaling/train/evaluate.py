"""Evaluation: a fixed batch of its own, padded and masked, independent of training's."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scaling.train.step import AXIS, on_devices


def metric_sums(task, preprocess: Callable) -> Callable:
    """Sums of the task's metrics over the masked examples that one device holds.

    Returns `sums(params, batch_stats, data, batches) -> {name: sum, ..., "count": n}`. `batches`
    leaves are [steps, rows, ...]; "mask" [steps, rows] is 1 on real examples and 0 on padding.
    """

    def sums(params, batch_stats, data, batches):
        def one(batch):
            mask = batch["mask"]
            metrics = task.eval_metrics(params, batch_stats, preprocess(data, batch))
            # where, not times: padding may evaluate to NaN.
            sums = {k: jnp.sum(jnp.where(mask > 0, v, 0.0)) for k, v in metrics.items()}
            return sums | {"count": mask.sum()}

        return jax.tree.map(lambda leaf: leaf.sum(0), lax.map(one, batches))

    return sums


def make_evaluate(task, preprocess: Callable, devices: Sequence) -> Callable:
    """`metric_sums` over all devices: `batches` leaves are [devices, steps, rows, ...]."""
    sums = metric_sums(task, preprocess)

    def evaluate(*args):
        return lax.psum(sums(*args), AXIS)

    return on_devices(evaluate, devices, (None, None, None, 0))


def index_batches(size: int, batch: int, devices: int) -> dict[str, np.ndarray]:
    """Every index below `size` once: {"index", "mask"}, each [devices, steps, rows].

    `batch` is the number of examples in one step over all devices; it is rounded up to fill them.
    """
    rows = -(-min(batch, size) // devices)
    steps = -(-size // (rows * devices))
    index = np.arange(steps * rows * devices, dtype=np.int32).reshape(steps, devices, rows)
    index = index.swapaxes(0, 1)
    return {"index": np.minimum(index, size - 1), "mask": (index < size).astype(np.float32)}


def means(sums: Iterator[dict]) -> dict[str, float]:
    """Metric means from the sums of one or more calls."""
    total: dict[str, float] = {}
    for part in sums:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + float(value)
    count = total.pop("count")
    return {name: value / count for name, value in total.items()}
