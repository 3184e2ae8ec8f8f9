"""Every config key, its default and meaning. A config file changes what it wants to differ."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from scaling.errors import UserError, nearest, refuse_unread
from scaling.models import model_options
from scaling.recipes import RATES

# Sub-dictionaries whose keys belong to what they name: checked where that is built.
OPEN = ("model", "search.space", "noise.models", "recipes.pieces")
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
    return c


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
    return c


def check_keys(config: Mapping[str, Any]) -> None:
    """Every key of `config` is one of `default_config`, and none is missing.

    Raises:
      UserError: an unknown or a missing key.
    """
    study = config.get("study")
    _compare(config, default_config(study if isinstance(study, str) else "train"), "")


def _compare(config, schema, path):
    for key in config:
        if key not in schema:
            raise UserError(f"Unknown config key {path + key!r}: {nearest(key, schema)}")
    for key, value in schema.items():
        if key not in config:
            raise UserError(f"The config lacks {path + key!r}; start from default_config().")
        if isinstance(value, ConfigDict) and path + key not in OPEN:
            if not isinstance(config[key], ConfigDict):
                raise UserError(
                    f"Config key {path + key!r} must hold keys of its own, not a value."
                )
            _compare(config[key], value, f"{path}{key}.")


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
