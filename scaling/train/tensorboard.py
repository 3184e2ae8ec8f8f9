"""Optional TensorBoard files, written without TensorFlow."""

from collections.abc import Mapping
from pathlib import Path

from scaling.errors import UserError


class TensorBoard:
    """Scalars as TensorBoard events under `path`; does nothing where `path` is None.

    Raises:
      UserError: tensorboardX is not installed.
    """

    def __init__(self, path: Path | None, first_step: int):
        self._writer = None
        if path is None:
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError(
                "metrics.tensorboard is on and tensorboardX is missing; pip install tensorboardX."
            ) from None
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
