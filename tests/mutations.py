"""Configs as small as a study can be, and the same with mistakes that a user may make."""

import math
import random

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from scaling.config import default_config, limits_of, model_config
from scaling.studies import STUDIES


def tiny(study="train", **changes) -> ConfigDict:
    """As little as a study can do with an MLP on digits on one device."""
    c = default_config(study)
    c.global_batch, c.devices = 32, 1
    if study in ("steps_to_target", "pareto"):
        c.search.trials, c.target.budget = 4, ("100 steps",)
    elif study == "adaptive_batch":
        c.duration, c.adaptive.batches, c.adaptive.seeds = "3000 examples", (32,), 1
    elif study == "warm_start":
        c.duration, c.eval.every, w = "2 steps", "1 step", c.warm_start
        w.batch, w.duration, w.every, w.seeds = 64, "1 step", "1 step", 2
        w.examples, w.steps = 64, 2
    elif study == "branch":
        c.branch.snapshots, c.branch.factors, c.branch.window = ("2 steps",), (1, 2), "64 examples"
        c.branch.seeds = 2
    else:
        c.duration, c.eval.every = "2 steps", "1 step"
    if study == "noise_scale":
        c.duration, c.noise.dip_from, c.noise.dip_to = "10 steps", "1 steps", "9 steps"
    if study in ("accuracy", "generalization", "sharpness"):
        c.recipes.seeds, c.recipes.warmup, c.recipes.names = 2, "1 step", ("lars+warmup",)
        c.optim.base_batch = 8
    if study in ("accuracy", "sharpness"):
        c[study].trials = 2
    if study in ("generalization", "sharpness"):
        c.duration, c.eval.every = "8 steps", "1 epoch"
    if study == "generalization":
        c.generalization.fit_from = "1 step"
    if study == "landscape":
        c.landscape.line, c.landscape.plane, c.landscape.path = 3, 3, 7
        c.landscape.weight_decays, c.landscape.directions = (0.0,), 2
    if study == "sharpness":
        c.sharpness.examples, c.sharpness.batch, c.sharpness.draws = 64, 32, 2
        c.sharpness.steps, c.sharpness.products, c.sharpness.subspace = 2, 6, 2
    if study == "advise":
        c.advise.largest, c.advise.seconds = 4, 1e-3
    if study == "throughput":
        c.throughput.per_device_batches, c.throughput.seconds = (4, 8), 1e-3
        c.throughput.rounds, c.throughput.microbatches = 3, (1, 2)
    c.model = model_config("mlp", widths=(8,))
    c.update_from_flattened_dict(changes)
    return c


def mutated(seed: int, study: str | None = None) -> tuple[ConfigDict, list[str]]:
    """A tiny config of a study, any if None, with one to three values drawn from `KINDS` in it; and
    the study and what was changed, as text."""
    rng = random.Random(seed)
    study = study or rng.choice(sorted(STUDIES))
    config, told = tiny(study), [study]
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder, key, path = rng.choice(list(_places(config)))
        kind = rng.choice((*KINDS, *MILD))
        if kind == "unknown" and rng.random() < 0.3:
            key, path = "nonsense", path + "_nonsense"
        value = KINDS[kind](holder.get(key), path, rng)
        holder[key] = value
        told.append(f"{path} = {value!r}")
    return config, told


def _places(config, path=""):
    """(section, key, path) of every key, those of sections themselves too."""
    for key in config:
        yield config, key, path + key
        if isinstance(config[key], ConfigDict):
            yield from _places(config[key], f"{path}{key}.")


def _within(*values):
    """One of the values, in place of a key's, or among those of a tuple."""

    def change(value, path, rng):
        bad = rng.choice(values)
        if not isinstance(value, tuple) or rng.random() < 0.2:
            return bad
        place = rng.randrange(len(value) + 1)
        return (*value[:place], bad, *value[place + 1 :])

    return change


def _as_arrays(value, path, rng):
    """The same value as NumPy or JAX would have it."""
    if isinstance(value, tuple):
        numbers = value and not any(isinstance(v, str) for v in value)
        if numbers and rng.random() < 0.3:
            return np.asarray(value)
        return tuple(_as_arrays(v, path, rng) for v in value)
    if isinstance(value, float):
        return rng.choice((np.float32, np.float64, np.asarray, jnp.float32, jnp.asarray))(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return rng.choice((np.int32, np.uint64, np.asarray, jnp.int32))(value)
    return np.asarray(value)[()] if isinstance(value, str | bool) else value


def _boundary(value, path, rng):
    """The lowest value that may be, or one beyond either end."""
    limits = limits_of(path)
    if not isinstance(value, int | float | tuple) or math.isinf(limits.low):
        return value
    low, above = limits.low, math.nextafter(limits.low, math.inf)
    return _within(low, low, above, low - 1, limits.high + 1)(value, path, rng)


KINDS = {
    "nan": _within(math.nan, np.float32(math.nan)),
    "infinite": _within(math.inf, -math.inf, np.inf),
    "negative": _within(-1, -0.1, -(2**31)),
    "zero": _within(0, 0.0),
    "huge": _within(10**12, 2**63, 1e308, 10**30),
    "type": _within(
        "x", 1.5, True, (1,), {"a": 1}, {}, b"x", 1 + 2j, [None], {1}, object, ("x", 1)
    ),
    "element": lambda value, path, rng: (rng.choice((1.5, "x", None, (1,), True, b"x", 1)),),
    "arrays": _as_arrays,
    "empty": _within("", (), " "),
    "none": _within(None),
    "unknown": _within("nonsense", "0 steps", "-1 epochs", "nan steps", "1e400 epochs", "../x"),
    "boundary": _boundary,
}
# Those that leave a config as good as it was, or may: more of them, so that some get to train.
MILD = ("arrays",) * 8 + ("boundary",) * 3
