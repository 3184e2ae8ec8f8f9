"""Durations: "500 steps", "90 epochs", "1.5e6 examples" -> optimizer steps.

Durations are resolved only here; all other code counts optimizer steps. An epoch is N / B of them
(You et al. 2017, arXiv:1709.05011, Table 2): at a fixed number of epochs a larger batch takes
proportionally fewer steps.
"""

import math

from scaling.errors import UserError, nearest

MOST_STEPS = 2**31 - 1  # int32
UNITS = ("steps", "epochs", "examples")


def to_steps(duration: str, global_batch: int, train_size: int) -> int:
    """Optimizer steps in `duration`, rounded to the nearest step (a half rounds up).

    A positive duration is at least one step: "0.001 epochs" should train.

    Args:
      duration: `<number> <unit>`, the unit step(s), epoch(s) or example(s); the number may be
        fractional, or written as 1.5e6.
      global_batch: examples per optimizer step, over all devices and microbatches (B).
      train_size: examples in the training set (N).

    Raises:
      UserError: another form, an unknown unit, or a number that is negative, not finite or too
        large.
    """
    number, unit = _parse(duration)
    examples = {"steps": global_batch, "epochs": train_size, "examples": 1}[unit]
    steps = number * examples / global_batch
    if not (math.isfinite(steps) and steps >= 0):
        raise UserError(
            f"The duration {duration!r} is not finite and non-negative; write for example "
            "'90 epochs'."
        )
    if steps > MOST_STEPS:
        raise UserError(
            f"{duration!r} is {steps:.3g} steps at batch {global_batch:,}; use at most "
            f"{MOST_STEPS:,} steps."
        )
    return max(math.floor(steps + 0.5), 1 if steps > 0 else 0)


def _parse(duration: str) -> tuple[float, str]:
    """'1 epoch' -> (1.0, 'epochs')."""
    try:
        number, unit = str(duration).split()
        number = float(number)
    except ValueError:
        raise UserError(
            f"The duration {duration!r} is not a number, a space and a unit; write for example "
            "'500 steps', '90 epochs' or '1.5e6 examples'."
        ) from None
    plural = unit if unit.endswith("s") else unit + "s"
    if plural not in UNITS:
        raise UserError(
            f"Unknown unit {unit!r} in the duration {duration!r}, "
            f"write for example '90 epochs': {nearest(unit, UNITS)}"
        )
    return number, plural
