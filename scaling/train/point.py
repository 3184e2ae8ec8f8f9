"""One point, resolved: what a config comes to before anything is loaded, compiled or trained."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from ml_collections import ConfigDict

from scaling import hosts
from scaling.batch import plan_by_hand, plans
from scaling.config import checked, given
from scaling.crossings import EWA, OF_AVERAGED, Metric
from scaling.data import resident, sources
from scaling.errors import UserError, look_up, refuse_unread
from scaling.limits import RATE
from scaling.models import OWN, build_model, check_statistics, couples_examples, ghost_batch_of
from scaling.optim import build_optimizer, make_schedule, scale_learning_rate
from scaling.optim.averaging import averaging
from scaling.optim.build import HYPERPARAMETERS
from scaling.optim.lag import lagged
from scaling.optim.proximal import proximal
from scaling.optim.rules import decay_of_half_life, scale_adam
from scaling.optim.schedules import SHAPES, WARMUPS
from scaling.recipes import SGD
from scaling.tasks import Task, weighted
from scaling.train.memory import check_size
from scaling.train.step import AXIS, MakeOptimizer

T = TypeVar("T")
AUGMENTATIONS = ("none", "crop_flip")


@dataclasses.dataclass(frozen=True)
class Point:
    """Everything that follows from the config and the machine, and nothing that takes time.

    Attributes:
      hparams: every numeric hyperparameter, by name; what a population would stack.
      make_optimizer: hparams -> (optimizer, learning rate of a step).
      peak: the learning rate after scaling, at the end of the warmup.
    """

    config: ConfigDict
    info: sources.DataInfo
    task: Task
    devices: Sequence[Any]
    ghost_batch: int | None
    total_steps: int
    eval_every: int
    hparams: dict[str, Any]
    make_optimizer: MakeOptimizer
    preprocess: Callable
    peak: float

    @property
    def global_batch(self) -> int:
        """Examples per optimizer update."""
        return self.config.global_batch

    @property
    def echo(self) -> int:
        """Updates in a row that each batch is used for."""
        return self.config.optim.echo or 1

    @property
    def metrics(self) -> dict[str, Metric]:
        """Of an evaluation, see `metrics_of`."""
        return metrics_of(self.config, self.task)

    def variables(self) -> tuple[Any, Any]:
        """Shapes of the parameters and batch statistics."""
        return shapes_of_variables(self.task)

    @property
    def parameter_count(self) -> int:
        """Trained numbers in the model."""
        return numbers_in(self.variables()[0])


def _once(of_task: Callable[[Task], T]) -> Callable[[Task], T]:
    """The function, called once for each task: tracing takes a second where a model is deep."""
    known = functools.lru_cache(maxsize=64)(of_task)

    @functools.wraps(of_task)
    def found(task):
        try:
            hash(task)
        except TypeError:  # a model of one's own with a list in it
            return of_task(task)
        return known(task)

    return found


@_once
def shapes_of_variables(task: Task) -> tuple[Any, Any]:
    """Shapes of a task's parameters and batch statistics; asks nothing of the devices."""
    return jax.eval_shape(task.init, jax.eval_shape(jax.random.key, 0))


@_once
def activations_of(task: Task) -> int:
    """Numbers in the inputs and outputs of a model's layers, of one example."""
    inputs = inputs_of(task)

    def activations(params, batch_stats, inputs):
        variables = {"params": params, "batch_stats": batch_stats}
        return task.model.apply(variables, inputs, train=False, capture_intermediates=True)[1]

    outputs = jax.eval_shape(activations, *shapes_of_variables(task), inputs)
    return numbers_in(inputs) + numbers_in(outputs)


def numbers_in(tree) -> int:
    """Elements of all leaves."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def resolve(config: ConfigDict, searched: Collection[str] = ()) -> Point:
    """Check a config and work out what it means here.

    Args:
      searched: hyperparameters that trials will set, by the names of `hparams`. Without any, the
        batch must divide over the devices; a population may put whole trials on them.

    Raises:
      UserError: anything in it that cannot be.
    """
    config = checked(config)
    if config.noise_scale and config.global_batch == 1:
        raise UserError(
            "noise_scale compares the gradients of parts of a batch, and global_batch is 1; set it "
            "to 2 or more, or noise_scale to False."
        )
    devices = _devices(config.devices)
    info = data_info(config.data)
    look_up("data.augment", config.data.augment, dict.fromkeys(AUGMENTATIONS))
    if config.data.augment != "none":
        _check_augmented(info)
    if info.streaming and config.data.augment != "none":
        raise UserError(
            f"data.augment is {config.data.augment!r}, but {info.name} is cropped and flipped as "
            "it is read; set it to 'none'."
        )

    if config.noise_scale and config.global_batch > info.sizes["train"]:
        raise UserError(
            f"noise_scale compares parts of a batch as independent examples, and a batch of "
            f"{config.global_batch:,} holds the {info.sizes['train']:,} training examples more "
            f"than once; use batches of at most {info.sizes['train']:,}, or set noise_scale to "
            "False."
        )

    _check_echo(config)
    if config.sharpness.track:
        _check_tracked(config, info)

    task = task_of(config, info)
    check_statistics(task.model, inputs_of(task), config.global_batch)
    if not task.smooths and (config.loss.label_smoothing or "label_smoothing" in searched):
        raise UserError(
            f"{info.name} is for {info.task}, which smooths no labels; leave loss.label_smoothing "
            "at 0 and do not search it."
        )
    steps = lambda duration: info.steps(duration, config.global_batch)
    total_steps = steps(config.duration)
    if total_steps < 1:
        raise UserError(f"The duration {config.duration!r} is no step; train for at least 1 step.")
    eval_every = steps(config.eval.every)
    if eval_every < 1:
        raise UserError(f"eval.every is {config.eval.every!r}; evaluate every 1 step or more.")
    if config.model.name not in OWN and not couples_examples(task.model):
        jax.eval_shape(functools.partial(_training, task), *shapes_of_variables(task))
    if config.optim.ewa_half_life and shapes_of_variables(task)[1]:
        raise UserError(
            f"optim.ewa_half_life is {config.optim.ewa_half_life!r}, and batch norm's running "
            "statistics are those of the last weights, not of averaged ones; set it to None, or "
            "use a model without batch norm, such as model.norm='group'."
        )
    hparams, make_optimizer = _optimization(config, info, total_steps, searched)
    ghost_batch = ghost_batch_of(task.model, config.global_batch)
    if not searched:
        _check_plan(config, len(devices), ghost_batch)
    point = Point(
        config=config,
        info=info,
        task=task,
        devices=devices,
        ghost_batch=ghost_batch,
        total_steps=total_steps,
        eval_every=eval_every,
        hparams=hparams,
        make_optimizer=make_optimizer,
        preprocess=resident.make_preprocess(info.mean, info.std, config.data.augment),
        peak=float(hparams["peak"]),
    )
    check_size(point)
    return point


def task_of(config: ConfigDict, info: sources.DataInfo) -> Task:
    """What the config's model learns on that data; asks nothing of the devices.

    Raises:
      UserError: unknown model or option, or weights of classes that cannot be.
    """
    options = config.model.to_dict()
    model = build_model(options.pop("name"), info.num_classes, AXIS, **options)
    example, options = FrozenDict(resident.preprocessed(info.example)), dict(info.options)
    if config.loss.weighting:
        frequencies = options.get("frequencies", ())
        if len(frequencies) != info.num_classes or min(frequencies) <= 0:
            raise UserError(
                f"loss.weighting is {config.loss.weighting!r}, and {info.name}, for {info.task}, "
                "is not registered with frequencies, the share of pixels of each class, above 0; "
                "register it with them or leave the weighting None."
            )
        options["class_weights"] = weighted(frequencies, config.loss.weighting)
    return sources.task_class(info.task)(model, example, info.num_classes, **options)


def metrics_of(config: ConfigDict, task: Task) -> dict[str, Metric]:
    """The task's metrics, and after them those of the averaged weights, where there are any."""
    if not config.optim.ewa_half_life:
        return task.metrics
    words = lambda metric: metric._replace(words=metric.words + OF_AVERAGED)
    return task.metrics | {EWA + name: words(metric) for name, metric in task.metrics.items()}


def _training(task, params, batch_stats):
    """One example's scores as in training, for what can only be wrong there."""
    key, hparams = jax.random.key(0), {"label_smoothing": 0.0}
    return task.losses(params, batch_stats, task.blank(), jnp.arange(1), key, hparams)


def inputs_of(task: Task) -> Any:
    """Shapes of what the model reads of one example; asks nothing of the devices."""
    return jax.eval_shape(lambda: task.inputs(task.blank()))


def _check_augmented(info):
    """There are images, and what is asked of them does not depend on the place."""
    shape, _ = info.example.get("image", ((), ""))
    if len(shape) != 3 or info.task == "segmentation":
        raise UserError(
            f"data.augment crops and flips images with labels of the whole, and {info.name} has "
            f"{', '.join(info.example)} for {info.task}; set it to 'none'."
        )


def _check_echo(config):
    """Batches are used again where that matters, and not where it would mislead."""
    echo = config.optim.echo or 1
    if config.optim.proximal and echo == 1:
        raise UserError(
            f"optim.proximal is {config.optim.proximal:g}, a pull to the weights before the first "
            "of several updates on a batch, and there is one; set optim.echo to 2 or more."
        )
    if config.noise_scale and echo > 1:
        raise UserError(
            f"noise_scale is of fresh batches, and optim.echo is {echo}; set one of them to None "
            "or False."
        )


def _check_tracked(config, info):
    """Batches can be measured again, and the edge of stability of the optimizer is known."""
    told = "or set sharpness.track to False"
    if hosts.several():
        raise UserError(
            f"sharpness.track is measured by one process, and this run has {jax.process_count()}; "
            f"run it on one host, {told}."
        )
    if info.streaming:
        raise UserError(
            f"sharpness.track measures batches on the side, and {info.name} is streamed; use a "
            f"data set in memory, {told}."
        )
    if config.optim.name not in SGD or config.optim.lag:
        raise UserError(
            f"sharpness.track is compared with the edge of stability of SGD, and optim.name is "
            f"{config.optim.name!r}, optim.lag {config.optim.lag}; use {', '.join(SGD[:-1])} or "
            f"{SGD[-1]} without a lag, {told}."
        )


def _check_plan(config, devices, ghost_batch):
    """The batch divides over the devices, and into microbatches if their size is given."""
    if config.micro_batch is None:
        plans(config.global_batch, devices, ghost_batch)
    else:
        plan_by_hand(config.global_batch, devices, config.micro_batch, ghost_batch)


def _devices(count):
    if jax.process_count() > 1 and not hosts.several():
        raise UserError(
            f"This is one of {jax.process_count()} JAX processes that another program started; "
            "start it alone, or each of them with --hosts."
        )
    if hosts.several() and count is not None:
        raise UserError(
            f"config.devices is {count}, and a run over several hosts is on all their devices; "
            "leave it None."
        )
    found = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if count is None:
        return found
    if not 1 <= count <= len(found):
        raise UserError(
            f"config.devices is {count} and this machine has {len(found)} "
            f"({found[0].device_kind}); ask for 1 to {len(found)}, or simulate with "
            f"--devices={count} on CPU."
        )
    return found[:count]


def data_info(data: ConfigDict) -> sources.DataInfo:
    """What is known of the data set that a config's `data` names; asks nothing of the devices.

    Raises:
      UserError: unknown set or option, or a subset larger than the set.
    """
    if data.name != "synthetic":
        options = given({key: data[key] for key in ("image_shape", "num_classes", "length")})
        options |= {"streamed": True} if data.streamed else {}
        info = sources.describe(data.name, data.dir, **options)
        sizes = given({split: data[f"{split}_size"] for split in ("train", "validation")})
        if info.streaming and "train" in sizes:
            raise UserError(
                f"data.train_size is {data.train_size}, but {info.name} is streamed whole; leave "
                "it None."
            )
        for split, size in sizes.items():
            if size > info.sizes[split]:
                raise UserError(
                    f"data.{split}_size is {size} and {info.name} has {info.sizes[split]:,} "
                    f"{'training' if split == 'train' else split} examples; ask for at most as "
                    "many."
                )
        return dataclasses.replace(info, sizes=info.sizes | sizes)
    if len(data.image_shape) not in (0, 3):
        raise UserError(f"data.image_shape is {data.image_shape}; give (height, width, channels).")
    options = given({key: data[key] for key in ("image_shape", "num_classes", "train_size")})
    size = options.pop("train_size", None)
    if size is not None:
        held_out = max(size // 10, 1)
        options["sizes"] = {"train": size, "validation": held_out, "test": held_out}
    return sources.describe(data.name, **options)


def _numbers(config, info, searched):
    """The optimizer's numbers at this batch size."""
    optim, known = config.optim, look_up("optimizer", config.optim.name, HYPERPARAMETERS)
    words = (
        "name",
        "base_lr",
        "base_batch",
        "scaling_rule",
        "b2_half_life",
        "ewa_half_life",
        "lag",
        "echo",
        "proximal",
    )
    numbers = given({key: optim[key] for key in optim if key not in words})
    half_life = optim.b2_half_life
    if half_life:
        if "b2" in numbers or "b2" in searched:
            raise UserError(
                f"optim.b2_half_life is {half_life!r}, and b2 is given or searched too; keep one "
                "of them."
            )
        numbers["b2"] = 0.0  # set below
    build_optimizer(optim.name, 0.0, numbers)  # an unread number is an error now
    numbers = {k: v for k, v in known.items() if math.isfinite(v)} | numbers
    if optim.scaling_rule == "sqrt_adam":
        if optim.name not in ("adam", "adamw"):
            raise UserError(
                f"optim.scaling_rule 'sqrt_adam' is of Adam and optim.name is {optim.name!r}; use "
                "'sqrt'."
            )
        tuned = numbers | ({"b2": known["b2"]} if half_life else {})
        numbers |= scale_adam(tuned, config.global_batch / optim.base_batch)
    if half_life:
        numbers["b2"] = _decay_per_update(config, info, "b2_half_life")
    numbers |= {name: 0.0 for name in searched if name in known}
    if numbers.get("weight_decay") == 0 and "weight_decay" not in searched:
        del numbers["weight_decay"]  # a pass over all weights that would do nothing
    return numbers


def _decay_per_update(config, info, key):
    """Of an average whose half-life `optim.key` gives."""
    half_life = config.optim[key]
    if "step" in half_life:
        raise UserError(
            f"optim.{key} is {half_life!r}; it is an amount of data, the same at every batch size: "
            "write for example '10M tokens' or '10000 examples'."
        )
    try:
        examples = info.steps(half_life, 1)
    except UserError as error:
        raise UserError(f"optim.{key}: {error}") from None
    return decay_of_half_life(max(examples, 1), config.global_batch)


def _optimization(config, info, total_steps, searched):
    """(hparams, make_optimizer): the optimizer and its schedule as functions of plain numbers."""
    optim, schedule = config.optim, config.schedule
    if schedule.batch_factors:
        raise UserError(
            f"schedule.batch_factors is {schedule.batch_factors}, and the {config.study} study "
            "keeps the batch size; leave it empty, or drop the recipe piece 'seesaw'."
        )
    steps = lambda duration: info.steps(duration, config.global_batch)
    peak = scale_learning_rate(
        optim.base_lr, optim.scaling_rule, config.global_batch, optim.base_batch
    )
    told = f"optim.base_lr is {optim.base_lr:g}, by the rule {optim.scaling_rule!r} {peak:g}"
    RATE.check(told, peak)
    numbers = _numbers(config, info, searched)
    shape = _decay(schedule, steps, searched)
    look_up("schedule.warmup_shape", schedule.warmup_shape, WARMUPS)
    clock = {
        "peak": peak,
        "total_steps": total_steps,
        "warmup_steps": steps(schedule.warmup),
        "warmup_init": schedule.warmup_init,
    }
    if clock["warmup_steps"] > total_steps:
        raise UserError(
            f"The warmup of {schedule.warmup!r} is {clock['warmup_steps']} steps and training "
            f"only {total_steps}; shorten it or train longer."
        )
    starts = schedule.warmup_init or "warmup_init" in searched
    if schedule.warmup_shape == "constant" and clock["warmup_steps"] and not starts:
        raise UserError(
            "schedule.warmup_init is 0 and a constant warmup stays there, so nothing would be "
            "learned in it; set it to a rate, such as optim.base_lr."
        )
    hparams = {**clock, **shape, **numbers, "label_smoothing": config.loss.label_smoothing}
    if config.loss.gradient_noise or "gradient_noise" in searched:
        hparams["gradient_noise"] = config.loss.gradient_noise
    if optim.ewa_half_life:
        hparams["ewa_decay"] = _decay_per_update(config, info, "ewa_half_life")
    if optim.proximal:
        hparams["proximal"] = optim.proximal

    def make_optimizer(hparams):
        values = {k: hparams[k] for k in (*clock, *shape)}
        rate = make_schedule(schedule.name, warmup_shape=schedule.warmup_shape, **values)
        tx = build_optimizer(optim.name, rate, {k: hparams[k] for k in numbers})
        tx = lagged(tx, optim.lag or 0)
        if "proximal" in hparams:
            tx = proximal(tx, hparams["proximal"], optim.echo)
        return averaging(tx, hparams["ewa_decay"]) if "ewa_decay" in hparams else tx, rate

    return hparams, make_optimizer


def _decay(schedule, steps, searched):
    """The numbers that the schedule's decay reads, boundaries in steps."""
    names = ("end_factor", "power", "cooldown", "decay_factor", "decay_factors")
    shape = given({key: schedule[key] for key in names})
    if schedule.boundaries:
        shape["boundaries"] = tuple(steps(boundary) for boundary in schedule.boundaries)
    defaults = look_up("schedule", schedule.name, SHAPES)
    several = ("decay_factors",) if schedule.name == "step" else ()
    refuse_unread(f"The {schedule.name!r} schedule", shape, (*defaults, *several))
    factors = shape.pop("decay_factors", None)
    if factors is None:
        return defaults | shape
    if "decay_factor" in shape or "decay_factor" in searched:
        raise UserError(
            "schedule.decay_factors gives every boundary its own factor, and decay_factor is given "
            "or searched too; keep one of them."
        )
    boundaries = shape.get("boundaries", ())
    if len(factors) != len(boundaries):
        raise UserError(
            f"schedule.decay_factors has {len(factors)} values and schedule.boundaries "
            f"{len(boundaries)}; give one factor for each boundary."
        )
    return defaults | shape | {"decay_factor": tuple(map(float, factors))}
