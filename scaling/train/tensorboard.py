"""Optional TensorBoard files, written without TensorFlow."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from scaling.errors import UserError


def check_installed() -> None:
    """Raises UserError where tensorboardX is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "metrics.tensorboard is on and tensorboardX is missing; pip install tensorboardX."
        )


class TensorBoard:
    """Scalars as TensorBoard events under `path`; does nothing where `path` is None."""

    def __init__(self, path: Path | None, first_step: int):
        self._writer = None
        if path is None:
            return
        from tensorboardX import SummaryWriter

        # Events after the step that a run resumes from are dropped by TensorBoard.
        self._writer = SummaryWriter(str(path), purge_step=first_step)

    def scalars(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """One point on the curve of every value."""
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Write what is buffered."""
        if self._writer:
            self._writer.close()
