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
    UP_TO_ONE,
    Limits,
    check_value,
    plain,
)
from scaling.models import OWN, model_options
from scaling.recipes import RATES

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
    "noise.batches": int,
    "adaptive.batches": int,
    "advise.records": str,
    "advise.batches": int,
    "recipes.all": str,
    "recipes.changed": str,
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
    "search.trials": Limits(1, 100_000, "[]"),
    "search.widen": Limits(0, 100, "[]"),
    "target.goal": POSITIVE,
    "target.margin": Limits(1, 1_000_000, "[]"),
    "target.resolution": Limits(0.001, 1, "[]"),
    "target.repeats": Limits(0, 10_000, "[]"),
    "noise.rates": POSITIVE,
    "noise.batches": Limits(2, COUNT.high, "[]"),
    "noise.dip": NOT_NEGATIVE,
    "pareto.goals": POSITIVE,
    "adaptive.batches": Limits(2, 2**30, "[]"),
    "adaptive.r": POSITIVE,
    "adaptive.first_batch": Limits(2, 2**30, "[]"),
    "adaptive.smallest": Limits(2, 2**30, "[]"),
    "adaptive.largest": Limits(2, 2**30, "[]"),
    "adaptive.seeds": Limits(1, 10_000, "[]"),
    "adaptive.goals": POSITIVE,
    "adaptive.resolution": Limits(0.001, 1, "[]"),
    "adaptive.parts": Limits(2, 1024, "[]"),
    "adaptive.memory": Limits(1, 1_000_000, "[]"),
    "adaptive.rate_star": RATE,
    "adaptive.batch_star": Limits(0, 1e12, "[]"),
    "adaptive.alpha": Limits(0, 2, "[]"),
    "advise.goal": POSITIVE,
    "advise.devices": Limits(1, 1_000_000, "[]"),
    "advise.batches": COUNT,
    "advise.largest": Limits(1, 2**24, "[]"),
    "advise.seconds": Limits(0, 3600, "(]"),
    "advise.price": NOT_NEGATIVE,
    "advise.max_hours": Limits(0, 1e9, "(]"),
    "advise.max_cost": Limits(0, 1e12, "(]"),
    "advise.latency": Limits(0, 3600, "[]"),
    "advise.bandwidth": Limits(0, 1e15, "(]"),
    "advise.overlap": UP_TO_ONE,
    "recipes.seeds": Limits(1, 10_000, "[]"),
    "recipes.rates": RATE,
    "accuracy.tolerance": UP_TO_ONE,
    "accuracy.trials": Limits(0, 10_000, "[]"),
    "accuracy.span": POSITIVE,
    "accuracy.widen": Limits(0, 100, "[]"),
    "generalization.resolution": Limits(0.001, 10, "[]"),
}

OPTION = Limits(-(2**31), 2**31 - 1, "[]")  # of a model that is registered


def default_config(study: str = "train") -> ConfigDict:
    """The config of one point of a study, or of one point per entry of `batch_sizes`."""
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
    if study in SECTIONS:
        SECTIONS[study](c)
    return _free(c)


def _free(c):
    """The same, whose keys take any value but keep their type, for flags. What a key cannot have is
    told when the config is read, in a sentence that names it."""
    free = ConfigDict(type_safe=False)
    for key, value in c.items():
        kind = c.get_type(key)
        free[key] = _free(value) if kind is ConfigDict else FieldReference(value, kind)
    return free


def _steps_to_target(c):
    """Steps to a goal, with hyperparameters searched for every batch size (Shallue 2018)."""
    c.search = ConfigDict()
    c.search.trials = 64  # per batch size
    c.search.sampler = "sobol"  # or halton
    # Hyperparameter -> (scale, low, high) or ("discrete", value, ...), see scaling/search.py.
    c.search.space = ConfigDict(
        {"learning_rate": ("log", 1e-3, 10.0), "momentum": ("reverse_log", 0.0, 0.999)}
    )
    c.search.widen = 0  # how often to search on beyond a range at whose edge the best trial sits

    c.target = ConfigDict()
    c.target.metric = "error"  # or loss
    # Of the validation split; "train": of as many training examples, the first ones, without
    # dropout, augmentation or smoothing.
    c.target.split = "validation"
    c.target.goal = 0.1  # reached means strictly below
    # Training stops at this multiple of the first crossing. 1.0 finds the minimum and no more; its
    # interval has an upper end where about four trials cross until then.
    c.target.margin = 2.0
    # By how much the steps of the evaluations grow, on one grid for all trials and repeats: 0.08 is
    # 9 in every doubling. A dip below the goal between two is not seen; a finer grid misses fewer.
    c.target.resolution = 0.08
    # Steps after which to give up: the sum of these. Steps for the part of the curve that does not
    # fall with the batch, epochs or examples for the part that falls as 1/batch.
    c.target.budget = ("1000 steps", "20 epochs")
    c.target.repeats = 5  # fresh seeds of the best trial, for its spread


def _noise_scale(c):
    """The noise scale of one tuned run, and of runs that differ in one thing (McCandlish 2018)."""
    c.noise_scale = True
    c.noise = ConfigDict()
    c.noise.rates = (0.25, 4.0)  # other learning rates, as multiples of this one
    c.noise.batches = ()  # other global batches; optim.scaling_rule says at which learning rate
    c.noise.models = ConfigDict()  # other models: name -> the options in which it differs
    c.noise.dip = 16.0  # the temperature test divides the learning rate by this; 0: no such test
    c.noise.dip_from = "1 epoch"
    c.noise.dip_to = "1.5 epochs"
    c.noise.exact = False  # of the run itself, also from every example's gradient; small models
    c.noise.kind, c.noise.value = "base", ""  # which of the runs a point is; set by the study


def _pareto(c):
    """Steps to several goals of the training loss, and the noise of the best runs beside them."""
    _steps_to_target(c)
    c.target.split = "train"
    c.target.metric = "loss"
    c.target.repeats = 0
    c.pareto = ConfigDict()
    c.pareto.goals = (1.0, 0.5)  # of target.metric; the lowest is the target.goal


def _adaptive_batch(c):
    """A batch that follows the noise scale, against batches that stay (McCandlish 2018, App. D)."""
    c.noise_scale = True
    c.eval.test = False
    c.adaptive = ConfigDict()
    c.adaptive.batches = ()  # fixed global batches, a point each
    c.adaptive.r = (64.0,)  # a point each: the batch is sqrt(r B_simple)
    c.adaptive.first_batch = 16  # of the adaptive runs, until the noise scale is resolved
    c.adaptive.smallest, c.adaptive.largest = 2, 1024  # of the adaptive runs' batches
    c.adaptive.seeds = 3  # runs of every point
    c.adaptive.goals = (1.0, 0.5)  # of the training loss; reached means strictly below
    c.adaptive.resolution = 0.03  # of the steps to a goal, as a share
    c.adaptive.parts = 8  # microbatches whose gradients tell the noise
    c.adaptive.memory = 100.0  # updates that the live noise scale is an average of, about
    # The learning rate at batch B is rate_star / (1 + batch_star / B)^alpha.
    c.adaptive.rate_star, c.adaptive.batch_star, c.adaptive.alpha = 0.5, 64.0, 1.0


def _advise(c):
    """Which batch size on how many devices, from what is measured here (McCandlish 2018)."""
    c.noise_scale = True
    c.advise = ConfigDict()
    c.advise.records = ()  # workdirs of finished steps_to_target studies of the same task
    c.advise.goal = placeholder(float)  # validation error at which the run counts as done
    c.advise.devices = (1, 2, 4, 8, 16, 32, 64)  # numbers of devices to consider
    c.advise.batches = ()  # global batches to consider; (): powers of two up to the training set
    c.advise.largest = 65536  # per-device batch to try
    c.advise.seconds = 0.2  # per timing
    c.advise.rule = "sqrt"  # how learning rates follow the batch: none, linear, sqrt
    c.advise.price = 1.0  # per device and hour
    c.advise.currency = "USD"
    c.advise.max_hours = placeholder(float)
    c.advise.max_cost = placeholder(float)
    c.advise.network = "100gbe"  # nominal, see scaling/comms.py, where it cannot be measured
    c.advise.latency = placeholder(float)  # seconds per message, of a network of your own
    c.advise.bandwidth = placeholder(float)  # bytes per second and device, likewise
    c.advise.overlap = 0.0  # share of the all-reduce that hides behind the backward pass


def _recipes(c, *names):
    """Recipes for large batches, see scaling/recipes.py."""
    c.recipes = ConfigDict()
    c.recipes.names = names  # a point each, at every batch size; pieces joined by "+"
    c.recipes.all = ()  # those of the whole study, in their order; set by the study
    c.recipes.changed = ()  # "section.key=value" of what a point's recipe sets; set by the study
    c.recipes.seeds = 5  # runs of every point, the same seeds for all
    c.recipes.warmup = "5 epochs"
    # Learning rates at optim.base_batch of optimizers whose rates mean something else than SGD's.
    c.recipes.rates = ConfigDict(RATES)
    # More pieces: name -> the sections and keys that it sets, {"hot": {"optim": {"base_lr": 1.0}}}.
    c.recipes.pieces = ConfigDict()


def _accuracy(c):
    """Test error by batch size and recipe, at a fixed budget (You, Goyal, Hoffer 2017)."""
    _recipes(c, "naive", "sqrt", "linear+warmup")
    c.accuracy = ConfigDict()
    # A recipe holds where its test error is less than this above the base batch's.
    c.accuracy.tolerance = 0.005
    # Learning rates to try for every recipe and batch, before the runs, as multiples of the
    # recipe's own; the lowest validation error at the end wins. 0: the recipe's own is taken.
    c.accuracy.trials = 0
    c.accuracy.span = (0.1, 10.0)
    c.accuracy.widen = 2  # how often to go on beyond that, while the best is at the edge


def _generalization(c):
    """How far weights walk, and what gradients they meet, by batch size (Hoffer 2017, Fig. 2)."""
    _recipes(c, "naive")
    c.generalization = ConfigDict()
    c.generalization.resolution = 0.15  # steps of the evaluations grow by this share
    # The fits of distance against log t begin here, or with the end of the warmup.
    c.generalization.fit_from = "10 steps"
    c.generalization.fit_to = placeholder(str)  # and end here; None: with the first learning rate
    c.generalization.layers = True  # ||w|| and ||g|| of every layer, after the first step and last


# What a study reads beyond the keys of all.
SECTIONS = {
    "steps_to_target": _steps_to_target,
    "noise_scale": _noise_scale,
    "pareto": _pareto,
    "advise": _advise,
    "adaptive_batch": _adaptive_batch,
    "accuracy": _accuracy,
    "generalization": _generalization,
}


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
    look_up("study", study, {"train": None, **SECTIONS})
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
                kind = (HOLDS[where] if where in HOLDS else type(value[0]),)
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
    of_search = search.LIMITS if section in ("optim", "schedule", "loss") else {}
    return LIMITS.get(path) or of_search.get(key) or LIMITS.get(section, FINITE)


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
