"""Model families and the table of their names.

A model is a Flax Linen module called as `model(x, train=..., positions=...)`, with x [N, H, W, C]
and `positions` [N] naming the examples of the global batch (only dropout reads them). It returns
float32 logits [N, num_classes].
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from scaling.errors import UserError, look_up, nearest, refuse_unread
from scaling.models.cnn import SIZES, SimpleCNN
from scaling.models.mlp import MLP
from scaling.models.norm import KINDS
from scaling.models.resnet import ResNet
from scaling.models.vgg import LAYERS, VGG

MODELS = {"mlp": MLP, "simple_cnn": SimpleCNN, "resnet": ResNet, "vgg": VGG}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
METHODS = ("auto", "xla", "forward_only", "patches")
# What may be said of a model by name; a wrong word is answered with the nearest right one.
_CHOICES = {
    "norm": KINDS,
    "dtype": tuple(DTYPES),
    "size": tuple(SIZES),
    "conv_method": METHODS,
}


def model_options(name: str) -> dict[str, Any]:
    """The options of the model called `name` with their defaults, as `build_model` takes them.

    Raises:
      UserError: no such model.
    """
    family = look_up("model", name, MODELS)
    options = {f.name: f.default for f in dataclasses.fields(family)}
    for other in ("num_classes", "axis_name", "parent", "name"):
        del options[other]
    names = {dtype: name for name, dtype in DTYPES.items()}
    return options | {"dtype": names[options["dtype"]]}


def build_model(name: str, num_classes: int, axis_name: str | None = None, **options) -> nn.Module:
    """The model called `name`, with its options checked.

    Raises:
      UserError: no such model, an option it does not have, or a value the option does not take.
    """
    known, family = model_options(name), MODELS[name]
    refuse_unread(f"Model {name!r}", options, known)
    for key, value in options.items():
        if key in _CHOICES and value not in _CHOICES[key]:
            raise UserError(f"model.{key} is {value!r}: {nearest(value, _CHOICES[key])}")
    if family is VGG and options.get("depth", 9) not in LAYERS:
        raise UserError(f"VGG depth {options['depth']} does not exist; use 9, 11 or 16.")
    if options.get("norm") == "ghost" and not options.get("ghost_batch"):
        raise UserError("model.norm is 'ghost' without a size; set model.ghost_batch, such as 32.")
    if "dtype" in options:
        options["dtype"] = DTYPES[options["dtype"]]
    model = family(num_classes=num_classes, axis_name=axis_name, **options)
    if family is ResNet:
        try:
            model._shape()
        except ValueError as error:
            raise UserError(f"{error}.") from None
    return model


def ghost_batch_of(model: nn.Module, global_batch: int) -> int | None:
    """Examples that share statistics in training, None where examples do not interact."""
    kind = getattr(model, "norm", "none")
    return {"batch": global_batch, "ghost": getattr(model, "ghost_batch", None)}.get(kind)
