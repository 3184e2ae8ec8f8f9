"""The config keys of every run, with default and meaning; a study adds those of its config.py.

A config file sets those that differ.
"""

import functools
import json
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

# Sections with free keys, checked where they are used.
OPEN = ("search.space", "noise.models", "recipes.pieces")
# Keys that may differ when a run is resumed.
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
# Item types of tuples that are empty by default.
HOLDS = {
    "batch_sizes": int,
    "data.image_shape": int,
    "schedule.boundaries": str,
    "schedule.decay_factors": float,
    "schedule.batch_factors": float,
}
OF_FRESH_BATCHES = ("noise_scale", "pareto", "adaptive_batch", "branch", "advise")  # studies
MOST_SEED = 2**32 - 1  # JAX drops higher bits
LATER_SEEDS = 2**24  # more than the trials and repeats of any study use after `seed`
# Limits of a number, or of each in a tuple. Missing keys of optim, schedule and loss have those of
# `search.LIMITS`; the limits of a section are for its keys that are not listed.
LIMITS = {
    "seed": Limits(0, MOST_SEED, "[]"),
    "global_batch": COUNT,
    "batch_sizes": COUNT,
    "micro_batch": COUNT,
    "devices": COUNT,
    "memory_limit_gib": POSITIVE,
    "data.train_size": COUNT,
    "data.validation_size": COUNT,
    "data.length": Limits(2, 2**20, "[]"),
    "data.image_shape": Limits(1, 4096, "[]"),
    "data.num_classes": Limits(2, 100_000, "[]"),
    "model.dropout": SHARE,
    "model.ghost_batch": COUNT,
    "model.depth": Limits(1, 1202, "[]"),
    "model.width": Limits(1, 10_000, "[]"),
    "model.widths": Limits(1, 1_000_000, "[]"),
    "model.hidden": Limits(1, 1_000_000, "[]"),
    "model.groups": COUNT,
    "model.layers": Limits(1, 1000, "[]"),
    "model.ffn": COUNT,
    "model.heads": COUNT,
    "model.cells": COUNT,
    "model.blocks": Limits(1, 100, "[]"),
    "model.growth": COUNT,
    "model.filters": COUNT,
    "model.kernel": Limits(1, 101, "[]"),
    "model.middle": Limits(0, 100, "[]"),
    "optim.base_lr": RATE,
    "optim.base_batch": COUNT,
    "optim.lag": Limits(0, 16, "[]"),
    "optim.echo": Limits(1, 1000, "[]"),
    "optim.proximal": NOT_NEGATIVE,
    "schedule.decay_factors": search.LIMITS["decay_factor"],
    "schedule.batch_factors": search.LIMITS["decay_factor"],
    "noise_every": COUNT,
    "eval.batch": COUNT,
    "checkpoint.every_seconds": NOT_NEGATIVE,
    "checkpoint.keep": Limits(2, 1000, "[]"),
}

OPTION = Limits(-(2**31), 2**31 - 1, "[]")  # of a registered model


def default_config(study: str = "train") -> ConfigDict:
    """The config of one point of a study, or of one point per entry of `batch_sizes`; `config.py`
    of the study adds its own keys."""
    c = ConfigDict()
    c.title = ""  # one line, shown at the start of a run and in reports
    c.study = study  # see scaling/studies
    c.seed = 0  # of initialisation, data order, augmentation, dropout and searches

    c.global_batch = 128  # examples per optimizer update, over all devices and microbatches
    c.batch_sizes = ()  # global batches of a sweep, one point each, instead of global_batch
    # Examples per device and microbatch; None: the largest that fits, see scaling/batch.py.
    c.micro_batch = placeholder(int)
    c.devices = placeholder(int)  # local devices to use; None: all
    c.memory_limit_gib = placeholder(float)  # per device; None: as reported by the device
    c.duration = "10 epochs"  # "<number> steps|epochs|examples|tokens", like all durations

    c.data = ConfigDict()
    c.data.name = "digits"  # see scaling/data/known.py
    c.data.dir = placeholder(str)  # of prepared TFDS data sets; None: the default of TFDS
    c.data.augment = "none"  # none or crop_flip
    c.data.train_size = placeholder(int)  # size of a training subset; of the synthetic set
    c.data.validation_size = placeholder(int)  # examples of an evaluation; None: all
    c.data.length = placeholder(int)  # of a row, in tokens
    c.data.streamed = False  # tokens, deepcam: read from disk, where a device cannot hold all
    c.data.image_shape = ()  # of synthetic images, (H, W, C)
    c.data.num_classes = placeholder(int)  # of synthetic images

    c.model = ConfigDict({"name": "mlp"})  # all other keys are options of the model

    c.optim = ConfigDict()
    c.optim.name = "nesterov"  # see scaling/optim/build.py
    c.optim.base_lr = 0.1  # learning rate at base_batch
    c.optim.base_batch = 256
    c.optim.scaling_rule = "none"  # learning rate against global batch, see scaling/optim/rules.py
    # Instead of b2: how much data halves the weight of a gradient in the second moment, the same at
    # every batch size, "10M tokens" (Marek 2025).
    c.optim.b2_half_life = placeholder(str)
    # Likewise of an exponential average of the weights, see scaling/optim/averaging.py. It is
    # evaluated beside the last weights, its metrics are ewa_loss and so on; None: no average.
    c.optim.ewa_half_life = placeholder(str)
    # Updates between computing a gradient and applying it, see scaling/optim/lag.py; None: 0.
    c.optim.lag = placeholder(int)
    # Updates in a row on every batch, with augmentation and dropout drawn anew; None: one. A
    # duration has as many updates as without. With `proximal`, lambda, the loss has a term lambda /
    # 2 |w - w_k|^2, w_k the weights before the first of them (see scaling/optim/proximal.py).
    c.optim.echo = placeholder(int)
    c.optim.proximal = placeholder(float)
    # None: the default of the optimizer. A value that the optimizer does not use is an error.
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
    c.schedule.cooldown = placeholder(float)  # of wsd: the last share of the steps
    c.schedule.boundaries = ()  # durations, from the start of training
    c.schedule.decay_factor = placeholder(float)
    c.schedule.decay_factors = ()  # of the step schedule, one per boundary
    c.schedule.batch_factors = ()  # of the batch size there, in studies of recipes; see `seesaw`

    c.noise_scale = False  # track the gradient noise scale, see scaling/noise.py
    # Updates per measurement; None: 64 where a batch must be split in halves for it, 32 with
    # microbatches. With one microbatch per device it is free and measured at every update.
    c.noise_every = placeholder(int)

    c.sharpness = ConfigDict()
    c.sharpness.track = False  # batch sharpness at evaluations, see scaling/train/gradients.py

    c.loss = ConfigDict()
    c.loss.label_smoothing = 0.0
    # Weights of classes in segmentation, from their frequencies: none, inverse, inverse_sqrt or
    # eighth_root, see scaling/tasks.py; None: those that the data set has.
    c.loss.weighting = placeholder(str)
    c.loss.gradient_noise = 0.0  # variance of a random factor, of mean 1, on example gradients

    c.eval = ConfigDict()
    c.eval.every = "1 epoch"
    c.eval.batch = 1000  # examples per evaluation step, over all devices
    c.eval.test = True  # evaluate the test split once, after the last step

    c.checkpoint = ConfigDict()
    c.checkpoint.every_seconds = 60.0  # while training; and at the end, and when stopped
    c.checkpoint.keep = 2  # number of latest checkpoints

    c.metrics = ConfigDict()
    c.metrics.weight_distance = False  # record ||w - w_0||
    c.metrics.tensorboard = False  # also write TensorBoard files
    if study in STUDIES:
        part(study, "config").section(c)
    return _free(c)


def _free(c):
    """The same config, not type-safe but with the types of its keys, for flags. Invalid values are
    refused by `checked`, with better messages."""
    free = ConfigDict(type_safe=False)
    for key, value in c.items():
        kind = c.get_type(key)
        free[key] = _free(value) if kind is ConfigDict else FieldReference(value, kind)
    return free


def model_config(name: str, **options: Any) -> ConfigDict:
    """All options of the model `name`, so that each can be set by a flag; those not in `options` at
    their defaults.

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
    """A copy of the config in plain Python values, with all keys and values checked.

    Raises:
      UserError: an unknown or a missing key, or a value of another type or outside its limits.
    """
    study = check_value("study", plain(config.get("study")), str)
    look_up("study", study, dict.fromkeys(STUDIES))
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        _check(config, _schema(study), "")
    if study in OF_FRESH_BATCHES and (config.optim.echo or 1) > 1:
        raise UserError(
            f"optim.echo is {config.optim.echo}, and the {study} study measures the noise of fresh "
            "batches; leave it None."
        )
    later = study != "train"
    limits = Limits(0, MOST_SEED - LATER_SEEDS * later, "[]")
    limits.check(f"seed is {config.seed}{', trials use those after it' * later}", config.seed)
    return config


_schema = functools.lru_cache(default_config)


def _check(config, schema, path):
    """Check `config` against the schema, and make its values plain in place."""
    for key in config:
        if key not in schema:
            raise UserError(f"Unknown config key '{path}{key}': {nearest(key, schema)}")
    for key, value in schema.items():
        where = path + key
        if key not in config:
            raise UserError(f"The config lacks {where!r}; create it by default_config().")
        if not isinstance(value, ConfigDict):
            kind = schema.get_type(key)
            if kind is tuple:
                kind = (_of_studies("HOLDS").get(where) or type(value[0]),)
            limits, optional = limits_of(where), value is None
            config[key] = check_value(where, plain(config[key]), kind, limits, optional)
        elif not isinstance(config[key], ConfigDict):
            raise UserError(f"Config key {where!r} must be a section with keys, not a value.")
        elif where == "model":
            _check_model(config.model)
        elif where in OPEN:
            config[key] = plain(config[key])
        else:
            _check(config[key], value, f"{where}.")


def limits_of(path: str) -> Limits:
    """Limits of the key "section.key"."""
    section, _, key = path.rpartition(".")
    limits = _of_studies("LIMITS")
    of_search = search.LIMITS if section in ("optim", "schedule", "loss") else {}
    return limits.get(path) or of_search.get(key) or limits.get(section, FINITE)


@functools.cache
def _of_studies(table):
    """LIMITS or HOLDS, merged over this module and all studies."""
    parts = [part(study, "config") for study in STUDIES] + [recipes_config]
    return functools.reduce(dict.__or__, (getattr(p, table, {}) for p in parts), globals()[table])


def _check_model(model):
    """Check the options that the model has; others are refused when it is built."""
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
    """The config without the keys of LOGISTICS, which change no number of a run."""
    kept = {}
    for key, value in config.items():
        if path + key in LOGISTICS:
            continue
        nested = isinstance(value, dict)
        kept[key] = without_logistics(value, f"{path}{key}.") if nested else value
    return kept


def completed(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the keys that it lacks, such as have come since it was recorded, at their
    defaults."""
    try:
        defaults = default_config(recorded.get("study"))
        defaults.model = model_config(recorded["model"]["name"])
    except (KeyError, UserError):  # a model that is not registered here
        return dict(recorded)
    return _over(json.loads(defaults.to_json_best_effort()), recorded)


def _over(defaults, values):
    nested = lambda key, value: isinstance(value, dict) and isinstance(defaults.get(key), dict)
    return defaults | {
        key: _over(defaults[key], value) if nested(key, value) else value
        for key, value in values.items()
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """The keys at which two configs differ, as 'optim.base_lr: 0.1 there, 0.2 here'."""
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{path}{key}.")
        elif a != b:
            lines.append(f"{path}{key}: {a!r} there, {b!r} here")
    return lines


def given(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys with a value: not None and not ()."""
    return {key: value for key, value in config.items() if value is not None and value != ()}
