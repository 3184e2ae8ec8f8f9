"""The gradient noise scale of a run, from the norms that its updates record (McCandlish 2018)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling import noise
from scaling.batch import BatchPlan
from scaling.models import couples_examples
from scaling.record import RunDir, read_metrics
from scaling.train.point import Point
from scaling.train.step import noise_every, noise_parts
from scaling.train.trials import Observer

# Of the live averages, in measurements: the newest hundred or so count.
MEMORY = 100


class NoiseTracker(Observer):
    """The live value while a run trains.

    Args:
      memory: measurements that it is an average of, about; the newest count most.
    """

    def __init__(self, global_batch: int, memory: float = MEMORY):
        self.global_batch = global_batch
        self._average = noise.Tracker(decay=1.0 - 1.0 / memory)

    def updates(self, first_step: int, rows: Mapping[str, np.ndarray]) -> None:
        """Metrics of consecutive updates, as `step.make_update` gives them."""
        self._average.add(*noise_terms(rows, self.global_batch))

    def show(self, progress):
        progress.noise_scale(self.noise_scale)

    @property
    def noise_scale(self) -> float | None:
        """B_simple, examples; None: not resolved yet."""
        return self._average.noise_scale

    @property
    def state(self) -> dict[str, Any]:
        """JSON."""
        return self._average.as_dict()

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self._average = noise.Tracker(**state)


def noise_of_run(point: Point, plan: BatchPlan, run: RunDir) -> dict[str, Any] | None:
    """B_simple over a run, from its metrics.jsonl; `studies.noise_records.Noise` lists the keys.

    None where it was not tracked.
    """
    every = noise_every(point.config, plan)
    if every is None:
        return None
    names = ("step", "loss", "grad_sq_norm", "part_grad_sq_norm", "part_batch")
    # The last row of a run that diverged has no loss; an update that was not measured, no norm of
    # its parts.
    rows = read_metrics(run.path, "train")
    rows = [row for row in rows if None not in (row["loss"], row["grad_sq_norm"])]
    columns = {name: np.asarray([row[name] for row in rows], float) for name in names}
    terms = noise_terms(columns, plan.global_batch)
    source, b_small = noise_parts(plan)
    spans = noise.windows(columns["step"], *terms, columns["loss"])
    by_devices = _by_devices(rows, plan) if source == "microbatches" else None
    nothing = noise.noise_scale([], [])
    return {
        "source": source,
        "b_small": b_small,
        "b_big": plan.global_batch,
        "every": every,
        "coupled": couples_examples(point.task.model),
        "start": (spans[0] if spans else nothing).as_dict(),
        "end": (spans[-1] if spans else nothing).as_dict(),
        "whole": noise.noise_scale(*terms).as_dict(),
        "windows": [span.as_dict() for span in spans],
        "by_devices": by_devices and by_devices.as_dict(),
        "exact": None,
    }


def _by_devices(rows, plan):
    """From the norms of whole devices; None if there is one, or if their number changed."""
    local = [row["local_grad_sq_norm"] for row in rows]
    if plan.devices == 1 or {len(norms) for norms in local} != {plan.devices}:
        return None
    big = [row["grad_sq_norm"] for row in rows]
    sizes = plan.per_device_batch, plan.global_batch
    return noise.noise_scale(*noise.estimate(np.mean(local, axis=1), big, *sizes))


def noise_terms(metrics, global_batch):
    """Unbiased |G|^2 and tr(Sigma) of every update; NaN of those that were not measured."""
    names = "part_grad_sq_norm", "grad_sq_norm", "part_batch"
    small, big, b_small = (np.asarray(metrics[name], np.float64) for name in names)
    return noise.estimate(small, big, b_small, global_batch)
