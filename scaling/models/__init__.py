"""Model families by name; `register` adds to them.

A model is a Flax Linen module called as `model(x, train=..., positions=...)`, with x the input of a
task, such as images [N, H, W, C] or tokens [N, L], or a dict of several arrays, and `positions` [N]
the indices of the examples in the global batch (for dropout). It returns float32 outputs, such as
logits [N, num_classes].
"""

import dataclasses
import functools
import inspect
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from scaling.errors import UserError, call_users, look_up, nearest, refuse_unread
from scaling.models.alexnet import GROUPS, AlexNet
from scaling.models.cnn import SIZES, ShallowCNN, SimpleCNN
from scaling.models.deeplab import DeepCAM, DeepLab
from scaling.models.lstm import LSTM
from scaling.models.mlp import MLP
from scaling.models.norm import FEWEST_VALUES, KINDS, GhostBatchNorm, GroupNorm, groups_of
from scaling.models.resnet import ResNet
from scaling.models.tiramisu import Tiramisu
from scaling.models.transformer import ACTIVATIONS, Transformer
from scaling.models.transformer import SIZES as TRANSFORMERS
from scaling.models.vgg import LAYERS, VGG

MODELS = {
    "mlp": MLP,
    "simple_cnn": SimpleCNN,
    "shallow_cnn": ShallowCNN,
    "alexnet": AlexNet,
    "resnet": ResNet,
    "vgg": VGG,
    "transformer": Transformer,
    "lstm": LSTM,
    "tiramisu": Tiramisu,
    "deeplab": DeepLab,
    "deepcam": DeepCAM,
}
OWN = tuple(MODELS)
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
METHODS = ("auto", "xla", "forward_only", "patches")
# Options with a fixed set of values.
_CHOICES = {"norm": KINDS, "dtype": tuple(DTYPES), "conv_method": METHODS}
# Fields set by the program or Flax, not by a config.
_FILLED = ("num_classes", "axis_name", "parent", "name")


def register(name: str, module_class: type[nn.Module]) -> None:
    """Make a Flax Linen class available to configs as a model; see docs/your_model.md.

    Args:
      name: for `model.name`. A class replaces one of the same qualified name, since a config file
        may be loaded more than once.
      module_class: called as `model(x, train=..., positions=...)`, without arguments that its
        `__call__` does not accept; returns what the task scores, such as logits [N,
        num_classes]. All fields but `num_classes`
        have defaults; those that are numbers, strings, None or tuples of them are options of the
        model. `axis_name`, `dtype`, `norm`, `ghost_batch` and `conv_method` have the same meaning
        as in the families here.

    Raises:
      UserError: the class is not such a model, or the name is taken.
    """
    if not (isinstance(module_class, type) and issubclass(module_class, nn.Module)):
        raise UserError(f"Model {name!r} is {module_class!r}; register a flax.linen.Module class.")
    own, taken = module_class.__qualname__, MODELS.get(name)
    if name in OWN or (taken and taken.__qualname__ != own):
        raise UserError(
            f"Model {name!r} is already {taken.__qualname__}; register {own} under another name."
        )
    fields = {field.name: field for field in dataclasses.fields(module_class)}
    if "num_classes" not in fields:
        raise UserError(f"Model {name!r} has no field `num_classes: int`; add it to {own}.")
    for field in fields.values():
        lacks_default = field.default is field.default_factory is dataclasses.MISSING
        if lacks_default and field.name not in _FILLED:
            raise UserError(f"Model {name!r} has no default for {field.name!r}; add it to {own}.")
    MODELS[name] = _adapted(name, module_class)


def _adapted(name: str, base: type[nn.Module]) -> type[nn.Module]:
    """`base` with the call signature and `axis_name` of the families, and its parameter names."""
    signature = inspect.signature(base.__call__)
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    passed = [k for k in ("train", "positions") if any_keyword or k in signature.parameters]
    try:
        signature.bind("self", "x", **dict.fromkeys(passed))
    except TypeError as error:
        raise UserError(
            f"Model {name!r} cannot be called as model(x, train=..., positions=...): {error}."
        ) from None
    across_devices = "axis_name" in {field.name for field in dataclasses.fields(base)}

    class Adapted(base):
        axis_name: str | None = None

        def __call__(self, x, *, train, positions=None):
            values = {"train": train, "positions": positions}
            named = {k: values[k] for k in passed}
            frozen: set[tuple[str, ...]] = set()
            with nn.intercept_methods(functools.partial(_refuse_coupling, name, frozen)):
                outputs = call_users(f"model {name!r}", super().__call__, x, **named)
            if not hasattr(outputs, "astype"):
                kind = type(outputs).__name__
                raise UserError(f"Model {name!r} returns {kind}; return an array [N, ...].")
            statistics = flatten_dict(self.variables.get("batch_stats", {}))
            free = all(path[:-1] in frozen for path in statistics)
            if not (free or (couples_examples(self) and across_devices)):
                raise _coupled(name)
            return outputs.astype(jnp.float32)

    Adapted.__name__, Adapted.__qualname__ = base.__name__, base.__qualname__
    return Adapted


def _refuse_coupling(name, frozen, call, args, kwargs, context):
    """Flax's own dropout and batch norm: their results in training would depend on the layout.

    Args:
      frozen: paths of batch norms that only read their statistics are added.
    """
    module, switch = context.module, None
    if context.method_name == "__call__" and isinstance(module, nn.Dropout | nn.BatchNorm):
        switch = "deterministic" if isinstance(module, nn.Dropout) else "use_running_average"
    if switch is None:
        return call(*args, **kwargs)
    off = getattr(module, switch)
    off = kwargs.get(switch, args[1] if len(args) > 1 else None) if off is None else off
    if not off and isinstance(module, nn.BatchNorm):
        raise _coupled(name)
    if not off and module.rate > 0:
        raise UserError(
            f"Model {name!r} has Flax's Dropout, whose mask would depend on how a batch is split; "
            "use scaling.models.layers.Dropout(rate)(x, train=train, positions=positions)."
        )
    frozen.add(module.path)
    return call(*args, **kwargs)


def _coupled(name):
    return UserError(
        f"Model {name!r} has batch norm whose result would depend on how a batch is split; create "
        "it by scaling.models.norm.make_norm, from fields norm, ghost_batch and axis_name."
    )


def model_options(name: str) -> dict[str, Any]:
    """The options of the model `name` and their defaults, for `build_model`.

    Raises:
      UserError: no such model.
    """
    family = look_up("model", name, MODELS)
    options = {f.name: f.default for f in dataclasses.fields(family) if f.name not in _FILLED}
    if "dtype" in options:
        names = {dtype: name for name, dtype in DTYPES.items()} | {None: "float32"}
        options["dtype"] = names.get(options["dtype"], options["dtype"])
    return {key: value for key, value in options.items() if _is_plain(value)}


def _is_plain(value):
    """Whether a config and its record can contain the value."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def build_model(name: str, num_classes: int, axis_name: str | None = None, **options) -> nn.Module:
    """The model `name`, with its options checked.

    Raises:
      UserError: no such model, an option it does not have, or an invalid value.
    """
    known, family = model_options(name), MODELS[name]
    refuse_unread(f"Model {name!r}", options, known)
    own = {
        SimpleCNN: {"size": tuple(SIZES)},
        AlexNet: {"groups": GROUPS},
        Transformer: {"size": tuple(TRANSFORMERS), "activation": tuple(ACTIVATIONS)},
    }
    choices = _CHOICES | own.get(family, {})
    for key, value in options.items():
        if key in choices and value not in choices[key]:
            raise UserError(f"model.{key} is {value!r}: {nearest(value, choices[key])}")
    if family is MLP and not all(map(_is_width, options.get("widths", ()))):
        raise UserError(
            f"model.widths is {options['widths']}; give numbers of units, each 1 or more."
        )
    if family is VGG and options.get("depth", 9) not in LAYERS:
        raise UserError(f"model.depth is {options['depth']}; use 9, 11 or 16 for a VGG.")
    if "dtype" in options:
        options["dtype"] = DTYPES[options["dtype"]]
    model = family(num_classes=num_classes, axis_name=axis_name, **options)
    if getattr(model, "norm", "none") == "ghost" and not getattr(model, "ghost_batch", None):
        raise UserError("model.norm is 'ghost' without a size; set model.ghost_batch, e.g. to 32.")
    if family in (ResNet, Transformer):
        try:
            model._shape()
        except ValueError as error:
            raise UserError(f"{error}.") from None
    return model


def _is_width(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def ghost_batch_of(model: nn.Module, global_batch: int) -> int | None:
    """Examples that share statistics in training; None if examples do not interact."""
    kind = getattr(model, "norm", "none")
    return {"batch": global_batch, "ghost": getattr(model, "ghost_batch", None)}.get(kind)


def couples_examples(model: nn.Module) -> bool:
    """Whether an example's gradient depends on the others of its batch, as with batch norm."""
    return getattr(model, "norm", "none") in ("batch", "ghost")


def check_statistics(model: nn.Module, inputs: Any, global_batch: int) -> None:
    """Check that every normalisation in training is over at least `FEWEST_VALUES`, from shapes
    alone.

    Args:
      inputs: shapes of one example, as the model is called with it, [1, ...].

    Raises:
      UserError: one is over fewer.
    """
    kind, group = getattr(model, "norm", "none"), ghost_batch_of(model, global_batch)
    if kind == "none" or (group is not None and not 1 <= group < FEWEST_VALUES):
        return
    for name, shape in _normalised(model, inputs):
        *places, channels = shape
        places = math.prod(places)
        values = (group or channels // groups_of(channels)) * places
        if values >= FEWEST_VALUES:
            continue
        over = f"{channels} channels are {groups_of(channels)} groups"
        remedy = "more channels, larger images"
        if group:
            over = f"{group} example{'s' * (group > 1)} share statistics"
            key = "global_batch" if kind == "batch" else "model.ghost_batch"
            remedy = f"a {key} of {-(-FEWEST_VALUES // places)} or more"
        raise UserError(
            f"model.norm is {kind!r}, and in {name} {over} and a channel has {places} "
            f"place{'s' * (places > 1)}: statistics of {values} value{'s' * (values > 1)}, which "
            f"leave no gradient. At least {FEWEST_VALUES} are needed; use {remedy}, or another "
            "norm."
        )


def smallest_group(model: nn.Module, inputs: Any) -> int:
    """The fewest examples that may share statistics, see `check_statistics`."""
    fewest = [math.prod(shape[:-1]) for _, shape in _normalised(model, inputs)]
    return -(-FEWEST_VALUES // min(fewest, default=FEWEST_VALUES))


def _normalised(model, inputs):
    """(name, shape of one example, channels last) of every normalisation."""
    layers = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, GhostBatchNorm | GroupNorm):
            layers.append(("/".join(context.module.path), args[0].shape[1:]))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(
            functools.partial(model.init, train=False), jax.eval_shape(jax.random.key, 0), inputs
        )
    return layers
