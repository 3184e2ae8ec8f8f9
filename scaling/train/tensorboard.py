"""Optional TensorBoard files, written without TensorFlow."""

import importlib.util
import math
from pathlib import Path

from scaling.errors import UserError
from scaling.train.tracking import NoiseTracker
from scaling.train.trials import Observer


def check_installed() -> None:
    """Raises UserError where tensorboardX is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "metrics.tensorboard is on and tensorboardX is missing; pip install tensorboardX."
        )


class TensorBoard(Observer):
    """The scalars of a single run as TensorBoard events under `path`: of every call's last update,
    with the live noise scale if there is one, and of every evaluation."""

    def __init__(self, path: Path, noise: NoiseTracker | None):
        self._path, self._noise = path, noise

    def begin(self, training):
        from tensorboardX import SummaryWriter

        # Events after the step that a run resumes from are dropped by TensorBoard.
        self._writer = SummaryWriter(str(self._path), purge_step=training.step)

    def updates(self, first_step, rows):
        newest = {name: float(v[-1]) for name, v in rows.items() if v.ndim == 1}
        if self._noise and self._noise.noise_scale is not None:
            newest["noise_scale"] = self._noise.noise_scale
        step = first_step + len(rows["loss"]) - 1
        self.evaluated("train", step, {k: v for k, v in newest.items() if math.isfinite(v)})

    def evaluated(self, split, step, metrics):
        for name, value in metrics.items():
            self._writer.add_scalar(f"{split}/{name}", value, step)

    def close(self):
        self._writer.close()
