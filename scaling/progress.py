"""What a person sees while a point trains: one live line on a terminal, nothing elsewhere."""

import sys
import time

from scaling.crossings import Metric


class Progress:
    """The live line of one point. Quiet where standard output is not a terminal.

    Args:
      name: of the point.
      total_steps: updates it trains for.
      each: what an update reads, in `unit`.
      first_step: where a resumed run goes on.
      headline: the metric of evaluations.
    """

    def __init__(
        self,
        name: str,
        total_steps: int,
        each: int,
        first_step: int,
        headline: Metric,
        unit: str = "examples",
    ):
        self._form = ".2%" if headline.form == "percent" else ".4g"
        self._total = total_steps
        self._each = each
        self._fields = {"loss": "-", "validation": "-", "noise": ""}
        self._start = (time.perf_counter(), first_step)
        self._bar = None
        if sys.stdout.isatty():
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn(name),
                BarColumn(bar_width=20),
                TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
                TextColumn("loss {task.fields[loss]}"),
                TextColumn(f"validation {headline.words} {{task.fields[validation]}}"),
                TextColumn("{task.fields[noise]}"),
                TextColumn(f"{{task.fields[rate]}} {unit}/s"),
                TimeRemainingColumn(),
                transient=True,
            )
            self._task = self._bar.add_task(
                name, total=total_steps, completed=first_step, rate="-", **self._fields
            )
            self._bar.start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, step: int, loss: float | None) -> None:
        """`step` updates are done; None: without a loss to show."""
        start, first = self._start
        seconds = time.perf_counter() - start
        rate = f"{(step - first) * self._each / seconds:,.0f}" if seconds > 0 else "-"
        text = "-" if loss is None else f"{loss:.4f}"
        self._update(completed=step, loss=text, rate=rate)

    def validation(self, value: float | None) -> None:
        """The headline metric of the newest evaluation; None: all trials diverged."""
        self._update(validation="-" if value is None else format(value, self._form))

    def noise_scale(self, value: float | None) -> None:
        """The gradient noise scale, examples; None: not resolved yet."""
        self._update(noise=f"B_simple {'-' if value is None else format(value, ',.3g')}")

    def _update(self, **fields):
        if self._bar:
            self._bar.update(self._task, **fields)
