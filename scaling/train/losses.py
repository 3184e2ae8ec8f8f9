"""The loss of a task over fixed examples, as `scaling.curvature` takes it: without weight decay,
label smoothing and dropout."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling import sharpness
from scaling.curvature import in_chunks
from scaling.models.layers import for_curvature
from scaling.tasks import Task
from scaling.train.feed import ResidentFeed
from scaling.train.point import Point


def in_one_group(task: Task) -> Task:
    """The task on one device, with batch norm over all examples of a call where it was in ghost
    batches; running statistics mean the same for both."""
    model = task.model.clone(axis_name=None)
    if getattr(model, "norm", None) == "ghost":
        model = model.clone(norm="batch", ghost_batch=None)
    return dataclasses.replace(task, model=model)


def has_statistics(point: Point) -> bool:
    """Whether the model keeps batch statistics."""
    return bool(jax.tree.leaves(point.variables()[1]))


@dataclasses.dataclass(frozen=True)
class TaskLoss:
    """((params, batch statistics), (examples, mask)) -> (sum of losses, of weights), as
    `scaling.curvature` has it. Those of one task and form are equal, and share their programs.

    Attributes:
      form: of the task, as text.
      train: whether batch statistics are those of the examples.
      normalised: whether logits are centred and divided by their norm.
    """

    form: str
    task: Task = dataclasses.field(compare=False)
    train: bool
    normalised: bool = False

    def __call__(self, variables: Any, chunk: Any) -> tuple[jax.Array, jax.Array]:
        batch, mask = chunk
        if self.train:
            call = *variables, batch, jnp.arange(len(mask)), jax.random.key(0)
            outputs, _ = self.task.outputs_in_training(*call)
        else:
            outputs = self.task.outputs(*variables, batch)
        if self.normalised:
            outputs = sharpness.normalised(outputs)
        scores, weights = self.task.score(outputs, batch)
        weights = jnp.ones_like(scores["loss"]) if weights is None else weights
        total = lambda values: jnp.sum(jnp.where(mask > 0, values, 0.0))
        return total(scores["loss"]), total(weights)


def loss_over(point: Point, count: int, recomputed: bool) -> tuple[TaskLoss, Any, Any]:
    """(the loss, the first `count` training examples, the same in chunks for `scaling.curvature`).

    Args:
      recomputed: batch statistics are those of the examples, then in one chunk; else those that
        were averaged in training.
    """
    task, train = in_one_group(point.task), recomputed and has_statistics(point)
    task = dataclasses.replace(task, model=for_curvature(task.model))
    if train and getattr(task.model, "dropout", 0):
        task = dataclasses.replace(task, model=task.model.clone(dropout=0.0))
    feed = ResidentFeed(point)
    examples = point.preprocess(feed.data, {"index": np.arange(count)})
    examples = jax.tree.map(np.asarray, examples)
    rows = count if train else min(count, point.config.eval.batch)
    return TaskLoss(repr(task), task, train), examples, in_chunks(examples, rows)
