"""Recipes for large batches: named pieces, joined by "+", that change a config.

`linear+warmup` is Goyal 2017's, `sqrt+gbn+adapt` Hoffer 2017's, `lars+warmup+poly` You 2017's;
`adamw+seesaw` (Meterez 2025) grows the batch on the way. A config describes training at the small
batch, `optim.base_batch`; a recipe changes it for `global_batch`. `PIECES` documents each piece
with its paper; `recipes.pieces` of a config adds or replaces pieces. Their order in a name has no
effect.

At the base batch most recipes are identical: no rate is scaled or warmed up, and a ghost batch is
the batch. `apply` gives identical recipes equal configs, so that a study measures them once.
"""

import math
import re
from collections.abc import Callable

from ml_collections import ConfigDict

from scaling.errors import UserError, look_up

Steps = Callable[[str, int], int]  # (duration, batch) -> steps, as `DataInfo.steps`
Change = Callable[[ConfigDict, Steps], None]  # changes a config

# Defaults of `recipes.rates`. LARS: You 2017 (arXiv:1708.03888), Table 3, batch 512; the others are
# customary values of the papers or their authors. Starting points, not tuned.
RATES = {"lars": 2.0, "lamb": 2e-3, "novograd": 0.01, "adamw": 1e-3, "muon": 0.02}
OPTIMIZERS = {
    "lars": "LARS, layer-wise learning rates (You 2017, eq. 6).",
    "larc": "LARC, LARS clipped at the learning rate (Kurth 2018).",
    "lamb": "LAMB, layer-wise trust ratios on Adam's step (You 2019).",
    "novograd": "NovoGrad, layer-wise second moments (Ginsburg 2019).",
    "adamw": "Adam with decoupled decay (Loshchilov and Hutter 2019).",
    "muon": "Muon, orthogonalised momentum (Jordan 2024).",
}
# Optimizers that keep the momentum and weight decay of the config, which are those of SGD.
COUPLED = ("lars", "larc")
SGD = ("sgd", "momentum", "nesterov")
# Mutually exclusive pieces.
RIVALS = (tuple(OPTIMIZERS), ("naive", "linear", "sqrt"), ("warmup", "constant_warmup"))
# Keys that all recipes of a study share, which a piece of `recipes.pieces` may not change.
FIXED = ("study", "seed", "global_batch", "batch_sizes", "data", "recipes")


def _naive(c, steps):
    """The learning rate of the small batch, unchanged."""


def _linear(c, steps):
    """eta = eta_base B / B_base (Goyal 2017, section 2.1)."""
    c.optim.scaling_rule = "linear"


def _sqrt(c, steps):
    """eta = eta_base sqrt(B / B_base) (Hoffer 2017, eq. 7): keeps the covariance of the update."""
    c.optim.scaling_rule = "sqrt"


def _warmup(c, steps, shape="gradual"):
    """Gradual warmup over `recipes.warmup` from the rate of the base batch (Goyal 2017, section
    2.2); where no rule scales the rate, from B_base / B times the rate. None up to the base
    batch."""
    if c.global_batch <= c.optim.base_batch:
        return
    c.schedule.warmup, c.schedule.warmup_shape = c.recipes.warmup, shape
    scaled = c.optim.scaling_rule != "none"
    share = 1.0 if scaled else c.optim.base_batch / c.global_batch
    c.schedule.warmup_init = c.optim.base_lr * share


def _constant_warmup(c, steps):
    """As `warmup`, but constant at its initial rate (Goyal 2017, Table 1)."""
    _warmup(c, steps, shape="constant")


def _poly(c, steps):
    """eta_t = eta (1 - t / T)^2 (You 2017)."""
    c.schedule.name, c.schedule.power = "polynomial", 2.0
    c.schedule.boundaries = c.schedule.decay_factors = ()
    c.schedule.decay_factor = c.schedule.end_factor = c.schedule.cooldown = None


def _optimizer(name):
    """The piece that trains with another optimizer, at its rate of `recipes.rates`."""

    def change(c, steps):
        for key in ("trust_coefficient", "fallback", "b1", "b2", "b2_half_life", "eps"):
            c.optim[key] = None
        if name not in COUPLED:
            c.optim.momentum = c.optim.weight_decay = None
        c.optim.name = name
        c.optim.base_lr = float(c.recipes.rates.get(name, c.optim.base_lr))

    change.__doc__ = OPTIMIZERS[name]
    return change


def _gbn(c, steps):
    """Ghost batch norm over `optim.base_batch` examples (Hoffer 2017, Algorithm 1)."""
    if c.model.get("norm") not in ("batch", "ghost"):
        raise UserError(
            f"The recipe piece 'gbn' changes batch norm, and model.norm is "
            f"{c.model.get('norm')!r}; set it to 'batch' or drop the piece."
        )
    c.model.norm, c.model.ghost_batch = "ghost", c.optim.base_batch


def _zero_gamma(c, steps):
    """The last norm scale of every residual block initialised at 0 (Goyal 2017, section 5.1)."""
    normed = c.model.get("norm", "none") != "none" and not c.model.get("preactivation")
    if "zero_init_residual" not in c.model or not normed:
        raise UserError(
            "The recipe piece 'zero_gamma' needs residual blocks that end in a norm, and "
            f"model is {c.model.name}(norm={c.model.get('norm')!r}, "
            f"preactivation={c.model.get('preactivation')}); drop the piece."
        )
    c.model.zero_init_residual = True


def _smoothing(c, steps):
    """Label smoothing of 0.1 (Szegedy 2016; Shallue 2018, section 4.6)."""
    c.loss.label_smoothing = 0.1


def _clip(c, steps):
    """Gradients clipped to norm 5 (Hoffer 2017's code)."""
    c.optim.max_grad_norm = 5.0


def _noise(c, steps):
    """Each example's gradient times z ~ N(1, sigma^2), sigma^2 = B / B_base - 1 (Hoffer 2017,
    section 4: sigma^2 in proportion to B). The second moment of the gradients then contributes to
    the covariance of the update as at the base batch: (1 + sigma^2) / B = 1 / B_base."""
    c.loss.gradient_noise = max(0.0, c.global_batch / c.optim.base_batch - 1.0)


def _conservative(c, steps):
    """Three updates in a row on every batch, with a pull of lambda / 2 |w - w_k|^2 to the weights
    before them, lambda 1e-3 (Keskar 2016, Table 7). As many updates as without, so a third of the
    batches. None up to the base batch."""
    if c.global_batch > c.optim.base_batch:
        c.optim.echo, c.optim.proximal = 3, 1e-3


def _adapt(c, steps):
    """Regime adaptation (Hoffer 2017, section 6): e epochs become e B / B_base, for as many updates
    as at the base batch."""
    if c.global_batch == c.optim.base_batch:
        return
    at_base = lambda duration: f"{steps(duration, c.optim.base_batch)} steps"
    c.duration, c.eval.every = at_base(c.duration), at_base(c.eval.every)
    c.schedule.warmup = at_base(c.schedule.warmup)
    c.schedule.boundaries = tuple(at_base(boundary) for boundary in c.schedule.boundaries)


def _seesaw(c, steps):
    """Where the schedule would multiply the rate by f, the rate by sqrt(f) and the batch by 1 / f
    (Meterez 2025, arXiv:2510.14717): the same examples in fewer updates, as long as the batch is
    below the critical one. With SGD the rate stays. A cosine is followed in halvings."""
    if c.schedule.name == "step":
        boundaries, factors = c.schedule.boundaries, c.schedule.decay_factors
        factors = factors or (c.schedule.decay_factor or 0.1,) * len(boundaries)
    elif c.schedule.name == "cosine" and not c.schedule.end_factor:
        boundaries, factors = _halvings(c, steps)
    else:
        raise UserError(
            "The recipe piece 'seesaw' follows the falls of the schedule 'step', or of a 'cosine' "
            f"to 0, and schedule.name is {c.schedule.name!r}; use one of them or drop the piece."
        )
    if max(factors, default=1) > 1:
        raise UserError(
            f"The recipe piece 'seesaw' grows the batch where the rate falls, and "
            f"schedule.decay_factors is {factors}; use factors below 1 or drop the piece."
        )
    share = 0.0 if c.optim.name in SGD else 0.5
    c.schedule.name, c.schedule.boundaries = "step", boundaries
    c.schedule.decay_factor = c.schedule.end_factor = None
    c.schedule.decay_factors = tuple(f**share for f in factors)
    c.schedule.batch_factors = tuple(1 / f for f in factors)


def _halvings(c, steps):
    """Where a cosine from 1 to 0 passes 1/2, 1/4, ..., as long as an update at the batch size that
    follows fits in the rest: (boundaries, factors)."""
    batch, boundaries = c.global_batch, []
    warmup, total = steps(c.schedule.warmup, batch), steps(c.duration, batch)
    while True:
        k = len(boundaries) + 1
        left = (total - warmup) * (1 - math.acos(2 ** (1 - k) - 1) / math.pi)
        if left < 2**k:
            return tuple(boundaries), (0.5,) * len(boundaries)
        boundaries.append(f"{round((total - left) * batch)} examples")


PIECES: dict[str, Change] = {
    "naive": _naive,
    "linear": _linear,
    "sqrt": _sqrt,
    "warmup": _warmup,
    "constant_warmup": _constant_warmup,
    "poly": _poly,
    **{name: _optimizer(name) for name in OPTIMIZERS},
    "gbn": _gbn,
    "zero_gamma": _zero_gamma,
    "smoothing": _smoothing,
    "clip": _clip,
    "noise": _noise,
    "conservative": _conservative,
    "seesaw": _seesaw,
    "adapt": _adapt,
}


def apply(config: ConfigDict, recipe: str, steps: Steps) -> ConfigDict:
    """A copy of the config, changed by a recipe for its global batch.

    Args:
      recipe: pieces joined by "+".
      steps: of durations, for `adapt`.

    Raises:
      UserError: an unknown, repeated or mutually exclusive piece, one that does not apply to the
        model, or one of `recipes.pieces` that sets a key that does not exist.
    """
    c = config.copy_and_resolve_references()
    own, pieces = c.recipes.pieces, recipe.split("+")
    for piece in pieces:
        look_up("recipe piece", piece, {**PIECES, **own})
        if pieces.count(piece) > 1:
            raise UserError(f"The recipe {recipe!r} has {piece!r} twice; use each piece once.")
    for rivals in RIVALS:
        named = [piece for piece in pieces if piece in rivals and piece not in own]
        if len(named) > 1:
            raise UserError(f"The recipe {recipe!r} has {' and '.join(named)}; choose one of them.")
    for piece in sorted(pieces, key=_rank):
        if piece in own:
            _apply_own(c, piece, own[piece])
        else:
            PIECES[piece](c, steps)
    return _canonical(c)


def _apply_own(c, name, changes):
    """A piece of `recipes.pieces`."""
    where = f"recipes.pieces has {name!r}"
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"{where}; use letters, digits, '_', '-' and '.' in the name.")
    if not isinstance(changes, ConfigDict | dict):
        raise UserError(f'{where}: {changes!r}; write sections, {{"optim": {{"base_lr": 0.5}}}}.')
    for key in changes:
        if key in FIXED:
            raise UserError(f"{where}, which sets {key!r}: all recipes share it; remove it.")
        section, value = isinstance(c.get(key), ConfigDict), changes[key]
        if section and not isinstance(value, ConfigDict | dict):
            raise UserError(
                f"{where}, which sets {key!r} to {value!r}: it is a section; name keys of it, "
                '{"optim": {"base_lr": 0.5}}.'
            )
    try:
        c.lock()  # no new keys
        c.update_from_flattened_dict(_flat(changes))
        c.unlock()
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0].strip("'\"")
        raise UserError(f"{where}, which cannot be set: {reason.rstrip('.')}.") from None


def _rank(piece):
    """Optimizers first: a warmup starts from their rate; `adapt` last: it scales all durations."""
    if piece in OPTIMIZERS:
        return 0
    return {"warmup": 2, "constant_warmup": 2, "seesaw": 3, "adapt": 4}.get(piece, 1)


def _canonical(c):
    """Identical recipes in one form."""
    if c.global_batch == c.optim.base_batch:
        c.optim.scaling_rule = "none"
    if c.model.get("norm") == "ghost" and (c.model.ghost_batch or 0) >= c.global_batch:
        c.model.norm, c.model.ghost_batch = "batch", None
    return c


def settings(config: ConfigDict, changed: ConfigDict) -> dict[str, object]:
    """The keys that a recipe changed, "section.key" -> value."""
    before, after = _flat(config), _flat(changed)
    return {
        key: value
        for key, value in after.items()
        if value != before.get(key) and not key.startswith("recipes.")
    }


def _flat(config, path=""):
    """{"section.key": value}"""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat |= _flat(value, f"{path}{key}.")
        else:
            flat[path + key] = value
    return flat
