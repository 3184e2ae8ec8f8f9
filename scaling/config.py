"""Every config key, its default and meaning. A config file changes what it wants to differ."""

import functools
from collections.abc import Mapping
from numbers import Real
from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder

from scaling import search
from scaling.errors import UserError, look_up, nearest, refuse_unread
from scaling.limits import (
    COUNT,
    FINITE,
    NOT_NEGATIVE,
    POSITIVE,
    RATE,
    SHARE,
    Limits,
    check_value,
    plain,
)
from scaling.models import OWN, model_options
from scaling.studies import STUDIES, part, recipes_config

# Sub-dictionaries whose keys belong to what they name: checked where that is built.
OPEN = ("search.space", "noise.models", "recipes.pieces")
# Keys that a run may be resumed with other values of.
LOGISTICS = (
    "title",
    "devices",
    "memory_limit_gib",
    "data.dir",
    "recipes.names",
    "recipes.all",
    "checkpoint",
    "metrics.tensorboard",
)
# Of what a tuple is made, where its default does not tell.
HOLDS = {
    "batch_sizes": int,
    "data.image_shape": int,
    "schedule.boundaries": str,
    "schedule.decay_factors": float,
}
MOST_SEED = 2**32 - 1  # JAX drops the higher bits of a larger one
LATER_SEEDS = 2**24  # more than any study gives to its trials and repeats after `seed`
# What a number, or each of a tuple, can be. Those of optim, schedule and loss that are not here are
# those of the search; a section's own are for keys in it that are not here.
LIMITS = {
    "seed": Limits(0, MOST_SEED, "[]"),
    "global_batch": COUNT,
    "batch_sizes": COUNT,
    "micro_batch": COUNT,
    "devices": COUNT,
    "memory_limit_gib": POSITIVE,
    "data.train_size": COUNT,
    "data.image_shape": Limits(1, 4096, "[]"),
    "data.num_classes": Limits(2, 100_000, "[]"),
    "model.dropout": SHARE,
    "model.ghost_batch": COUNT,
    "model.depth": Limits(1, 1202, "[]"),
    "model.width": Limits(1, 10_000, "[]"),
    "model.widths": Limits(1, 1_000_000, "[]"),
    "model.hidden": Limits(1, 1_000_000, "[]"),
    "model.groups": COUNT,
    "optim.base_lr": RATE,
    "optim.base_batch": COUNT,
    "schedule.decay_factors": search.LIMITS["decay_factor"],
    "noise_every": COUNT,
    "eval.batch": COUNT,
    "checkpoint.every_seconds": NOT_NEGATIVE,
    "checkpoint.keep": Limits(2, 1000, "[]"),
}

OPTION = Limits(-(2**31), 2**31 - 1, "[]")  # of a model that is registered


def default_config(study: str = "train") -> ConfigDict:
    """The config of one point of a study, or of one point per entry of `batch_sizes`; a study's own
    keys are in its `config.py`."""
    c = ConfigDict()
    c.title = ""  # one line, shown at the start of a run and in reports
    c.study = study  # which question to ask, see scaling/studies
    c.seed = 0  # of initialisation, data order, augmentation, dropout; of searches

    c.global_batch = 128  # examples per optimizer update, over all devices and microbatches
    c.batch_sizes = ()  # several global batches: one point each, instead of global_batch
    c.micro_batch = placeholder(
        int
    )  # examples per device and microbatch; None: chosen, see batch.py
    c.devices = placeholder(int)  # local devices to use; None: all
    c.memory_limit_gib = placeholder(float)  # per device; None: what the device reports
    c.duration = "10 epochs"  # "<number> steps|epochs|examples", as all durations here

    c.data = ConfigDict()
    c.data.name = "digits"  # see scaling/data/sources.py
    c.data.dir = placeholder(str)  # of prepared TFDS data sets; None: TFDS's own default
    c.data.augment = "none"  # none, or crop_flip
    c.data.train_size = placeholder(int)  # only so many training examples; of synthetic, all
    c.data.image_shape = ()  # of synthetic images, (H, W, C)
    c.data.num_classes = placeholder(int)  # of synthetic images

    c.model = ConfigDict({"name": "mlp"})  # the other keys are the model's own options

    c.optim = ConfigDict()
    c.optim.name = "nesterov"  # see scaling/optim/build.py
    c.optim.base_lr = 0.1  # learning rate at base_batch
    c.optim.base_batch = 256
    c.optim.scaling_rule = "none"  # none, linear, sqrt: how the rate follows the global batch
    # None: the optimizer's own default. A value that the optimizer does not read is an error.
    for name in (
        "momentum",
        "weight_decay",
        "trust_coefficient",
        "fallback",
        "b1",
        "b2",
        "eps",
        "max_grad_norm",
    ):
        c.optim[name] = placeholder(float)

    c.schedule = ConfigDict()
    c.schedule.name = "constant"  # see scaling/optim/schedules.py
    c.schedule.warmup = "0 steps"
    c.schedule.warmup_init = 0.0  # learning rate of the first step of a warmup
    c.schedule.warmup_shape = "gradual"  # or constant: warmup_init until the warmup ends
    c.schedule.end_factor = placeholder(float)
    c.schedule.power = placeholder(float)
    c.schedule.boundaries = ()  # durations, from the start of training
    c.schedule.decay_factor = placeholder(float)
    c.schedule.decay_factors = ()  # of the step schedule, one per boundary, not one for all

    c.noise_scale = False  # track the gradient noise scale, see scaling/noise.py
    # Updates per measurement; None: 64 where a batch must be cut in halves for it, 32 where it is
    # in microbatches. One microbatch per device costs nothing and is measured at every update.
    c.noise_every = placeholder(int)

    c.loss = ConfigDict()
    c.loss.label_smoothing = 0.0
    c.loss.gradient_noise = 0.0  # variance of the factor on each example's gradient, its mean 1

    c.eval = ConfigDict()
    c.eval.every = "1 epoch"
    c.eval.batch = 1000  # examples per evaluation step, over all devices
    c.eval.test = True  # evaluate the test split, once, after the last step

    c.checkpoint = ConfigDict()
    c.checkpoint.every_seconds = 60.0
    c.checkpoint.keep = 2  # newest ones

    c.metrics = ConfigDict()
    c.metrics.weight_distance = False  # record ||w - w_0||
    c.metrics.tensorboard = False  # also write TensorBoard files
    if study in STUDIES:
        part(study, "config").section(c)
    return _free(c)


def _free(c):
    """The same, whose keys take any value but keep their type, for flags. What a key cannot have is
    told when the config is read, in a sentence that names it."""
    free = ConfigDict(type_safe=False)
    for key, value in c.items():
        kind = c.get_type(key)
        free[key] = _free(value) if kind is ConfigDict else FieldReference(value, kind)
    return free


def model_config(name: str, **options: Any) -> ConfigDict:
    """All options of the model `name`, those of `options` at their values, the rest at defaults.

    Listed so that each can be set from the command line.

    Raises:
      UserError: no such model, or an option that it does not have.
    """
    defaults = model_options(name)
    refuse_unread(f"Model {name!r}", options, defaults)
    c = ConfigDict({"name": name})
    for key, value in (defaults | options).items():
        c[key] = placeholder(int) if value is None else value
    return _free(c)


def checked(config: Mapping[str, Any]) -> ConfigDict:
    """A copy of the config, plain Python, in which every key is known and has what it can have.

    Raises:
      UserError: an unknown or a missing key, or a value of another type or outside its limits.
    """
    study = check_value("study", plain(config.get("study")), str)
    look_up("study", study, dict.fromkeys(STUDIES))
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        _check(config, _schema(study), "")
    later = any(section in config for section in ("search", "recipes", "adaptive"))
    limits = Limits(0, MOST_SEED - LATER_SEEDS * later, "[]")
    limits.check(f"seed is {config.seed}{', trials have those after it' * later}", config.seed)
    return config


_schema = functools.lru_cache(default_config)


def _check(config, schema, path):
    """`config` made plain in place."""
    for key in config:
        if key not in schema:
            raise UserError(f"Unknown config key '{path}{key}': {nearest(key, schema)}")
    for key, value in schema.items():
        where = path + key
        if key not in config:
            raise UserError(f"The config lacks {where!r}; start from default_config().")
        if not isinstance(value, ConfigDict):
            kind = schema.get_type(key)
            if kind is tuple:
                kind = (_of_studies("HOLDS").get(where) or type(value[0]),)
            limits, optional = limits_of(where), value is None
            config[key] = check_value(where, plain(config[key]), kind, limits, optional)
        elif not isinstance(config[key], ConfigDict):
            raise UserError(f"Config key {where!r} must hold keys of its own, not a value.")
        elif where == "model":
            _check_model(config.model)
        elif where in OPEN:
            config[key] = plain(config[key])
        else:
            _check(config[key], value, f"{where}.")


def limits_of(path: str) -> Limits:
    """Of the key "section.key"."""
    section, _, key = path.rpartition(".")
    limits = _of_studies("LIMITS")
    of_search = search.LIMITS if section in ("optim", "schedule", "loss") else {}
    return limits.get(path) or of_search.get(key) or limits.get(section, FINITE)


@functools.cache
def _of_studies(table):
    """LIMITS or HOLDS, of all keys."""
    parts = [part(study, "config") for study in STUDIES] + [recipes_config]
    return functools.reduce(dict.__or__, (getattr(p, table, {}) for p in parts), globals()[table])


def _check_model(model):
    """The options that the model has; others are told where it is built."""
    name = model.name = check_value("model.name", plain(model.get("name")), str)
    own = name in OWN
    kinds = {type(None): int, tuple: (int,)} if own else {int: Real, float: Real}
    for key, default in model_options(name).items():
        if key in model:
            where, kind = f"model.{key}", type(default)
            kind = kinds.get(kind, kind if own or kind in (bool, str) else object)
            limits = LIMITS.get(where, FINITE) if own else OPTION
            model[key] = check_value(where, plain(model[key]), kind, limits, default is None)


def without_logistics(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The config without the keys that change no number of a run, only where and how it is done."""
    kept = {}
    for key, value in config.items():
        if path + key in LOGISTICS:
            continue
        nested = isinstance(value, dict)
        kept[key] = without_logistics(value, f"{path}{key}.") if nested else value
    return kept


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """The keys at which two configs differ, as 'optim.base_lr: 0.1 there, 0.2 here'."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{path}{key}.")
        elif a != b:
            found.append(f"{path}{key}: {a!r} there, {b!r} here")
    return found


def given(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys whose value was chosen: not None and not ()."""
    return {key: value for key, value in config.items() if value is not None and value != ()}
