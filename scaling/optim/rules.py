"""Scaling rules of the learning rate: lr = base_lr (global_batch / base_batch)^exponent, and of
Adam's other numbers.

A rule applies only where a config names it.
"""

from collections.abc import Mapping

from jax.typing import ArrayLike

from scaling.errors import UserError, look_up

EXPONENTS = {
    "none": 0.0,
    # Goyal et al. 2017 (arXiv:1706.02677), linear scaling rule: k steps of size eta are equivalent
    # to one step of size k eta while the gradient barely changes.
    "linear": 1.0,
    # Hoffer et al. 2017 (arXiv:1705.08741), eq. 7: preserves the covariance of the weight update,
    # proportional to lr^2 / batch.
    "sqrt": 0.5,
    # Malladi et al. 2022 (arXiv:2205.10287): preserves the stochastic differential equation that
    # Adam follows; b1, b2 and eps move too, `scale_adam`.
    "sqrt_adam": 0.5,
}


def scale_learning_rate(
    base_lr: ArrayLike, rule: str, global_batch: int, base_batch: int
) -> ArrayLike:
    """`base_lr`, tuned at `base_batch`, scaled to `global_batch` by `rule`.

    Args:
      base_lr: learning rate at `base_batch`; a number or a traced array, any shape.
      rule: a key of `EXPONENTS`.
      global_batch: examples per optimizer step.
      base_batch: examples per optimizer step at `base_lr`.

    Raises:
      UserError: unknown rule.
    """
    return base_lr * (global_batch / base_batch) ** look_up("scaling rule", rule, EXPONENTS)


def scale_adam(numbers: Mapping[str, float], ratio: float) -> dict[str, float]:
    """Adam's b1, b2 and eps, tuned at a batch, at one `ratio` times as large.

    1 - b becomes ratio (1 - b), eps becomes eps / sqrt(ratio) (Malladi et al. 2022, the square-root
    scaling rule). Other numbers are left out.

    Raises:
      UserError: ratio (1 - b) is 1 or more: the average would be over less than an update.
    """
    scaled = {"eps": numbers["eps"] / ratio**0.5}
    for name in ("b1", "b2"):
        scaled[name] = 1 - ratio * (1 - numbers[name])
        if scaled[name] <= 0:
            raise UserError(
                f"The rule 'sqrt_adam' moves {name} from {numbers[name]:g} to {scaled[name]:.3g}, "
                f"at {ratio:g} times optim.base_batch; tune it nearer to 1, or at a larger batch."
            )
    return scaled


def decay_of_half_life(half_life: float, global_batch: int) -> float:
    """d = 2^(-B / half_life), of an average that forgets half in `half_life` examples.

    Marek et al. 2025 (arXiv:2507.07101), of Adam's b2: the half-life in units of data is what stays
    best over batch sizes, down to one example.
    """
    return 2.0 ** (-global_batch / half_life)
