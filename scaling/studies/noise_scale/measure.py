"""The gradient noise scale of one tuned run, and what it depends on (McCandlish 2018).

A point is one run with the noise tracked: the run itself, and runs that differ in one thing.
B_simple should grow as the loss falls, be the same for models of other sizes at equal loss and at
other batch sizes of equal temperature, and fall in proportion to the learning rate (Fig. 15,
App. C); cut the rate for half an epoch and it should rise by that factor, and return.
"""

import re

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from scaling import noise, noise_exact
from scaling.errors import UserError
from scaling.limits import plain
from scaling.models import couples_examples
from scaling.record import RunDir
from scaling.report.reading import from_json
from scaling.signals import Interrupted, Signals
from scaling.studies.noise_scale.record import Dip, Record
from scaling.studies.shared import batch_name
from scaling.studies.train import measure as train
from scaling.train.feed import ResidentFeed
from scaling.train.planning import run_once
from scaling.train.point import data_info, resolve, task_of
from scaling.train.resolved import dry_run as train_dry_run
from scaling.train.single import last_variables, train_point
from scaling.train.step import init_state

# Examples whose gradients are in memory at once, for the exact values.
EXACT_NUMBERS = 2**24
# Of tr(H Sigma), by random combinations of examples.
HESSIAN_SAMPLES = 32


def points(config: ConfigDict) -> list[ConfigDict]:
    """The run itself, then one config for everything that is varied.

    Raises:
      UserError: a temperature test on a schedule that is not constant, or a factor that is none.
    """
    varied = config.noise
    for name, options in varied.models.items():
        if not (isinstance(options, ConfigDict) and re.fullmatch(r"[\w.+-]+", name)):
            raise UserError(
                f"noise.models has {name!r}: {plain(options)!r}; write a name of letters, digits "
                "and _.+-, and the options in which that model differs, such as "
                '{"wide": {"widths": (256,)}}.'
            )
    variants = [("base", "")]
    variants += [("rate", f"{factor:g}") for factor in varied.rates]
    variants += [("batch", f"{batch}") for batch in varied.batches]
    variants += [("model", name) for name in varied.models]
    if varied.dip:
        variants.append(("temperature", f"{varied.dip:g}"))
    return [_variant(config, kind, value) for kind, value in variants]


def _variant(config, kind, value):
    point = config.copy_and_resolve_references()
    point.noise.kind, point.noise.value = kind, value
    if point.noise_every is None:
        point.noise_every = 1  # here the noise is the question, not the speed
    if kind == "rate":
        point.optim.base_lr *= float(value)
    elif kind == "batch":
        point.global_batch = int(value)
    elif kind == "model":
        with point.unlocked():  # an unknown option is refused when it is built
            point.model.update(config.noise.models[value])
    elif kind == "temperature":
        if config.schedule.name != "constant":
            raise UserError(
                f"The temperature test cuts a constant learning rate and schedule.name is "
                f"{config.schedule.name!r}; set it to 'constant', or noise.dip to 0."
            )
        point.schedule.name, point.schedule.decay_factor = "dip", 1.0 / config.noise.dip
        point.schedule.boundaries = (config.noise.dip_from, config.noise.dip_to)
    return point


def _names(config) -> tuple[str, str]:
    """(directory, label) of a point."""
    varied, value = config.noise, config.noise.value
    return {
        "base": ("base", "the tuned run"),
        "rate": (f"rate_x{value}", f"learning rate x {value}"),
        "batch": (batch_name(config), f"batch {config.global_batch:,}"),
        "model": (f"model_{value}", value),
        "temperature": (
            "temperature",
            f"learning rate / {value} from {varied.dip_from} to {varied.dip_to}",
        ),
    }[varied.kind]


def name(config: ConfigDict) -> str:
    """What a point's directory is called."""
    return _names(config)[0]


def check_values(config: ConfigDict) -> None:
    """The config can be used, wherever its data are.

    Raises:
      UserError: a value that cannot be.
    """
    if not config.noise_scale:
        raise UserError("noise_scale is False in a study of it; leave it True.")
    if config.batch_sizes:
        raise UserError("batch_sizes is of other studies; name other batches in noise.batches.")
    info = data_info(config.data)
    if config.noise.exact:
        coupled = couples_examples(task_of(config, info).model)
        for bad, why in (
            (info.streaming, f"needs all examples at once and {info.name} is streamed"),
            (coupled, "is about single examples and batch norm couples them"),
            (config.loss.label_smoothing, "knows no label smoothing"),
        ):
            if bad:
                raise UserError(f"noise.exact {why}; set noise.exact to False.")
    if config.noise.kind == "temperature":
        _check_dip(config)


def check(config: ConfigDict) -> None:
    """The same, and it fits this machine, and its data set is there.

    Raises:
      UserError: it does not, or it is not.
    """
    check_values(config)
    train.check(config)


def _check_dip(config):
    point = resolve(config)
    first, last = point.hparams["boundaries"]
    if not 0 <= first < last < point.total_steps:
        raise UserError(
            f"The temperature test is from step {first} to {last} of {point.total_steps}; set "
            "noise.dip_from and noise.dip_to, in this order, within the run."
        )
    if last - first < noise.FEWEST:
        raise UserError(
            f"The temperature test is {last - first} updates long, and a noise scale needs "
            f"{noise.FEWEST}; set noise.dip_to later."
        )


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """Train one point and look at its noise."""
    result = train_point(config, run, name, signals)
    point = resolve(config)
    if config.noise.exact and config.noise.kind == "base":
        finished = result["status"] == "complete"
        result["noise_scale"]["exact"] = _exact(point, run, finished, signals, name)
    dip = None
    if config.noise.kind == "temperature":
        first, last = (int(step) for step in point.hparams["boundaries"])
        dip = Dip(config.noise.dip, first + 1, last)
    own = {"study": config.study, "kind": config.noise.kind, "label": _names(config)[1], "dip": dip}
    return from_json(Record, result | own | {"parameters": point.parameter_count})


def _exact(point, run, finished, signals, name) -> dict[str, noise.Exact | None]:
    """B_simple and B_noise over all training examples, at the first and at the last weights.

    Without augmentation and dropout, which add to the gradients' variance. A run that diverged has
    no last weights.
    """
    feed = ResidentFeed(point)
    init_key, _ = jax.random.split(jax.random.key(point.config.seed))
    make = point.make_optimizer, point.hparams
    start = run_once(lambda key: init_state(point.task, *make, key), init_key)
    exact = {"start": _exact_at(point, feed.data, start.params), "end": None}
    if signals.received:
        raise Interrupted(signals.received, f"after the training of {name}, which is saved.")
    if finished:
        exact["end"] = _exact_at(point, feed.data, last_variables(run, point)[0])
    return exact


def _exact_at(point, data, params) -> noise.Exact:
    def loss(params, example):
        batch = point.preprocess(None, jax.tree.map(lambda leaf: leaf[None], example))
        return point.task.sums(params, {}, batch, jnp.ones(1))["loss"]

    rows = max(1, min(1024, EXACT_NUMBERS // point.parameter_count))
    key = jax.random.key(0)
    return noise_exact.exact_noise(loss, params, data, rows, HESSIAN_SAMPLES, key)


def dry_run(points: dict[str, ConfigDict]) -> str:
    """The resolved plan of every point."""
    return "\n".join(
        f"{name}: {_names(point)[1]}; dry run, nothing is trained\n{train_dry_run(point)}"
        for name, point in points.items()
    )
