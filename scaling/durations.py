"""Durations: "500 steps", "90 epochs", "1.5e6 examples", "5M tokens" -> optimizer steps.

Durations are resolved only here; all other code counts optimizer steps. An epoch is N / B of them
(You et al. 2017, arXiv:1709.05011, Table 2): at a fixed number of epochs a larger batch takes
proportionally fewer steps.
"""

import math
from collections.abc import Iterable, Mapping

from scaling.errors import UserError, nearest

MOST_STEPS = 2**31 - 1  # int32
LETTERS = {"k": 1e3, "M": 1e6, "B": 1e9}


def to_steps(
    duration: str, global_batch: int, train_size: int, amounts: Mapping[str, int] | None = None
) -> int:
    """Optimizer steps in `duration`, rounded to the nearest step (a half rounds up).

    A positive duration is at least one step: "0.001 epochs" should train.

    Args:
      duration: `<number> <unit>`, the unit step(s), epoch(s), example(s) or one of `amounts`; the
        number may be fractional, or written as 1.5e6 or 1.5M (k, M, B).
      global_batch: examples per optimizer step, over all devices and microbatches (B).
      train_size: examples in the training set (N).
      amounts: what an example has of other units, such as {"tokens": 128}.

    Raises:
      UserError: another form, an unknown unit, or a number that is negative, not finite or too
        large.
    """
    units = {"steps": global_batch, "epochs": train_size, "examples": 1}
    units |= {unit: 1 / amount for unit, amount in (amounts or {}).items()}
    number, unit = _parse(duration, units)
    steps = number * units[unit] / global_batch
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


def _parse(duration: str, units: Iterable[str]) -> tuple[float, str]:
    """'1 epoch' -> (1.0, 'epochs'); '5M tokens' -> (5e6, 'tokens')."""
    try:
        number, unit = str(duration).split()
        number = (
            float(number[:-1]) * LETTERS[number[-1]] if number[-1] in LETTERS else float(number)
        )
    except ValueError:
        raise UserError(
            f"The duration {duration!r} is not a number, a space and a unit; write for example "
            "'500 steps', '90 epochs' or '1.5e6 examples'."
        ) from None
    plural = unit if unit.endswith("s") else unit + "s"
    if plural not in units:
        raise UserError(
            f"Unknown unit {unit!r} in the duration {duration!r}, "
            f"write for example '90 epochs': {nearest(unit, units)}"
        )
    return number, plural
