"""Learning-rate schedules: a warmup, then one of seven shapes.

A schedule is a function of the number of previous optimizer updates: the first update uses
schedule(0). All numbers may be traced, so that trials with different peaks, warmups and lengths run
under `jax.vmap` in one program; only the names and the number of boundaries are static.

The two phases:
  * Warmup, "gradual": lr(step) = warmup_init + (peak - warmup_init) step / warmup_steps for
    step < warmup_steps. It starts at `warmup_init` exactly and lr(warmup_steps) is the peak, as in
    Goyal et al. 2017, section 2.2, where the rate ramps from the reference rate to the scaled one,
    and as in `optax.linear_schedule`. With `warmup_init` = 0 the first update is therefore zero;
    start from the reference rate (Goyal) or from 0.001 (You et al. 2017) to avoid this. "constant",
    for comparison (Goyal's Table 1), stays at `warmup_init` and jumps to the peak.
  * Decay: `linear`, `cosine`, `polynomial` and `wsd` are functions of
    progress = (step - warmup_steps) / (total_steps - warmup_steps), clipped to [0, 1]. The peak is
    reached with any warmup, and the last value at `total_steps`, warmup included; the rate then
    stays constant. The boundaries of `step` and `dip` count from the start of training, warmup
    included, like Goyal's epochs 30, 60, 80; one inside the warmup takes effect at its end.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scaling.errors import UserError, look_up, refuse_unread

Schedule = Callable[[ArrayLike], jax.Array]


def make_schedule(
    name: str,
    *,
    peak: ArrayLike,
    total_steps: ArrayLike,
    warmup_steps: ArrayLike = 0,
    warmup_init: ArrayLike = 0.0,
    warmup_shape: str = "gradual",
    **shape: ArrayLike,
) -> Schedule:
    """The schedule `name`: step -> learning rate, a float32 scalar.

    Args:
      name: a key of `DECAYS`.
      peak: learning rate at the end of the warmup.
      total_steps: steps until the decay is complete, warmup included; "constant", "step" and "dip"
        do not depend on it.
      warmup_steps: steps of warmup; 0 for none.
      warmup_init: learning rate of step 0 when there is a warmup.
      warmup_shape: "gradual" or "constant".
      **shape: parameters of the decay, with the names and defaults of `SHAPES`:
        linear, cosine: end_factor, the last rate as a fraction of the peak.
        polynomial: power, end_factor.
        wsd: cooldown, the share of the steps after the warmup in which the rate falls; end_factor.
        step: boundaries, in steps, shape (n,); decay_factor, the factor at each boundary, a scalar
          or shape (n,).
        dip: boundaries, two of them; decay_factor, the factor between them.

    Raises:
      UserError: unknown schedule or warmup shape, or a parameter that it does not have; when the
        schedule is called, if there is neither one decay_factor nor one for each boundary.
    """
    decay = look_up("schedule", name, DECAYS)
    warmup = look_up("schedule.warmup_shape", warmup_shape, WARMUPS)
    common = ("peak", "total_steps", "warmup_steps", "warmup_init", "warmup_shape")
    refuse_unread(f"The {name!r} schedule", shape, (*common, *SHAPES[name]))

    def schedule(step: ArrayLike) -> jax.Array:
        # `where` evaluates both branches: the maxima keep the unused one finite.
        warmed = warmup(step, jnp.maximum(warmup_steps, 1), warmup_init, peak)
        progress = (step - warmup_steps) / jnp.maximum(total_steps - warmup_steps, 1)
        decayed = peak * decay(step, jnp.clip(progress, 0.0, 1.0), **shape)
        return jnp.where(step < warmup_steps, warmed, decayed)

    return schedule


# The learning rate at a step of the warmup.
WARMUPS = {
    "gradual": lambda step, steps, init, peak: init + (peak - init) * step / steps,
    "constant": lambda step, steps, init, peak: init,
}


# Decays: the fraction of the peak at `step`, or at `progress` in [0, 1] from the end of the warmup
# to the last step.


def _constant(step, progress):
    return 1.0


def _linear(step, progress, *, end_factor=0.0):
    """Shallue et al. 2018 (arXiv:1811.03600): eta_0 [1 - (1 - alpha) t/T], then alpha eta_0."""
    return 1.0 - (1.0 - end_factor) * progress


def _cosine(step, progress, *, end_factor=0.0):
    """Loshchilov and Hutter 2017 (arXiv:1608.03983), eq. 5, without restarts."""
    return end_factor + (1.0 - end_factor) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def _polynomial(step, progress, *, power=2.0, end_factor=0.0):
    """You et al. 2017 (arXiv:1708.03888): gamma_0 (1 - t/T)^2."""
    return end_factor + (1.0 - end_factor) * (1.0 - progress) ** power


def _wsd(step, progress, *, cooldown=0.2, end_factor=0.0):
    """Warmup, stable, decay (Hu et al. 2024, arXiv:2404.06395): constant, then linear in the last
    share of the steps (Haegele et al. 2024, arXiv:2405.18392)."""
    # From the end, where 1 - progress is exactly 0, whatever the rounding of the cooldown.
    left = jnp.minimum((1.0 - progress) / cooldown, 1.0)
    return end_factor + (1.0 - end_factor) * left


def _step(step, progress, *, boundaries=(), decay_factor=0.1):
    """Goyal et al. 2017: /10 at three boundaries. Hoffer et al. 2017 also use unequal factors."""
    boundaries, factors = jnp.asarray(boundaries), jnp.asarray(decay_factor)
    if factors.shape not in ((), boundaries.shape):
        raise UserError(
            f"The 'step' schedule has boundaries of shape {boundaries.shape} and decay_factor of "
            f"shape {factors.shape}; give one factor, or one for each boundary."
        )
    return jnp.prod(jnp.where(step >= boundaries, factors, 1.0))


def _dip(step, progress, *, boundaries=(0, 0), decay_factor=1.0):
    """Temporarily lower: the temperature test of McCandlish 2018, App. C."""
    first, last = boundaries
    return jnp.where((step >= first) & (step < last), decay_factor, 1.0)


DECAYS = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "polynomial": _polynomial,
    "wsd": _wsd,
    "step": _step,
    "dip": _dip,
}
# Those that do not depend on `total_steps`.
ENDLESS = ("constant", "step", "dip")
# The parameters of each decay, with defaults.
SHAPES = {name: decay.__kwdefaults__ or {} for name, decay in DECAYS.items()}
