"""Scaling rules of the learning rate: lr = base_lr (global_batch / base_batch)^exponent.

A rule applies only where a config names it.
"""

from jax.typing import ArrayLike

from scaling.errors import look_up

EXPONENTS = {
    "none": 0.0,
    # Goyal et al. 2017 (arXiv:1706.02677), linear scaling rule: k steps of size eta are equivalent
    # to one step of size k eta while the gradient barely changes.
    "linear": 1.0,
    # Hoffer et al. 2017 (arXiv:1705.08741), eq. 7: preserves the covariance of the weight update,
    # proportional to lr^2 / batch.
    "sqrt": 0.5,
}


def scale_learning_rate(
    base_lr: ArrayLike, rule: str, global_batch: int, base_batch: int
) -> ArrayLike:
    """`base_lr`, tuned at `base_batch`, scaled to `global_batch` by `rule`.

    Args:
      base_lr: learning rate at `base_batch`; a number or a traced array, any shape.
      rule: "none", "linear" or "sqrt"; see `EXPONENTS`.
      global_batch: examples per optimizer step.
      base_batch: examples per optimizer step at `base_lr`.

    Raises:
      UserError: unknown rule.
    """
    return base_lr * (global_batch / base_batch) ** look_up("scaling rule", rule, EXPONENTS)
