"""What a model is trained to do: the loss of each example, and the metrics of many."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from scaling.crossings import ERROR, LOSS, Metric
from scaling.errors import UserError

Variables = Mapping[str, Any]
Arrays = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """A model and what is asked of it. A kind of task says what an example scores.

    The loss of a batch is the sum of the examples' losses over the sum of their weights, whatever
    the devices and microbatches: both sums are additive, and the total divides once.

    Attributes:
      model: called as `scaling.models` describes.
      example: name -> (shape, dtype) of the arrays of one example, as `preprocess` gives them.
      num_classes: the model's field of that name.
      unit: what weights count.
      metrics: of an evaluation, by name; the first is the headline. One is "loss".
      targets: names of an example that the model does not see.
      smooths: whether `score` reads the label smoothing.
    """

    model: nn.Module
    example: Mapping[str, tuple[tuple[int, ...], Any]]
    num_classes: int

    unit: ClassVar[str] = "examples"
    metrics: ClassVar[dict[str, Metric]] = {"loss": LOSS}
    targets: ClassVar[tuple[str, ...]] = ("label",)
    smooths: ClassVar[bool] = False

    @abc.abstractmethod
    def score(
        self, outputs: jax.Array, batch: Arrays, smoothing: jax.Array | float = 0.0
    ) -> tuple[dict[str, jax.Array], jax.Array | None]:
        """Sums of each example, {"loss", ...} of [N], and the examples' weights [N]; None: 1 each, and
        nothing is divided.

        Args:
          outputs: of the model, float32 [N, *output_shape].
          smoothing: of labels, where the task `smooths`.
        """

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the model's output for one example."""
        return (self.num_classes,)

    def inputs(self, batch: Arrays) -> Any:
        """What the model is called with: the array that is not a target, or a dict of several."""
        names = [name for name in self.example if name not in self.targets]
        return batch[names[0]] if len(names) == 1 else {name: batch[name] for name in names}

    def blank(self, rows: int = 1) -> dict[str, jax.Array]:
        """A batch of zeros."""
        return {k: jnp.zeros((rows, *shape), kind) for k, (shape, kind) in self.example.items()}

    def init(self, key: jax.Array) -> tuple[Variables, Variables]:
        """Parameters and batch statistics (empty where the model has none)."""
        batch = self.blank()
        outputs, variables = self.model.init_with_output(
            {"params": key}, self.inputs(batch), train=False
        )
        self._check(outputs, batch)
        return variables["params"], variables.get("batch_stats", {})

    def losses(
        self,
        params: Variables,
        batch_stats: Variables,
        batch: Arrays,
        positions: jax.Array,
        key: jax.Array,
        hparams: Arrays,
    ) -> tuple[dict[str, jax.Array], jax.Array | None, Variables]:
        """`score` in training, and the new batch statistics.

        Args:
          positions: [N] indices in the global batch (dropout keys depend on them).
          key: of this update.
          hparams: "label_smoothing".
        """
        outputs, updated = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            self.inputs(batch),
            train=True,
            positions=positions,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        self._check(outputs, batch)
        scores, weights = self.score(outputs, batch, hparams["label_smoothing"])
        return scores, weights, updated.get("batch_stats", batch_stats)

    def outputs(self, params: Variables, batch_stats: Variables, batch: Arrays) -> jax.Array:
        """Of the model without dropout, on the running statistics."""
        variables = {"params": params, "batch_stats": batch_stats}
        return self.model.apply(variables, self.inputs(batch), train=False)

    def sums(
        self, params: Variables, batch_stats: Variables, batch: Arrays, mask: jax.Array
    ) -> dict[str, jax.Array]:
        """What `finish` needs, added up over the examples whose mask is 1; arrays of any shape."""
        return self.statistics(self.outputs(params, batch_stats, batch), batch, mask)

    def statistics(
        self, outputs: jax.Array, batch: Arrays, mask: jax.Array
    ) -> dict[str, jax.Array]:
        """`sums`, from the model's outputs."""
        scores, weights = self.score(outputs, batch)
        weights = jnp.ones_like(scores["loss"]) if weights is None else weights
        return masked(scores | {"weight": weights}, mask)

    def finish(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """The metrics of an evaluation, from the total of its `sums` in float64."""
        return {name: sums[name] / sums["weight"] for name in sums if name != "weight"}

    def _check(self, outputs, batch):
        """UserError unless the outputs have the shape that is scored."""
        count = len(jax.tree.leaves(batch)[0])
        shape = getattr(outputs, "shape", type(outputs).__name__)
        if shape != (count, *self.output_shape):
            raise UserError(
                f"Model {type(self.model).__name__!r} returns {shape} for {count} example(s); the "
                f"task needs {(count, *self.output_shape)}, of num_classes {self.num_classes}."
            )


def masked(values: Arrays, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums over the rows whose mask is 1. Padding counts for nothing, even if it is NaN."""
    along = lambda v: mask.reshape(-1, *(1,) * (v.ndim - 1)) > 0
    return {name: jnp.sum(jnp.where(along(v), v, 0.0), 0) for name, v in values.items()}


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """Softmax cross entropy with label smoothing, and the classification error.

    An example's "label" is one of `num_classes`. Smoothing s is that of Shallue 2018: the target is
    1 - s on the true class and s / (K - 1) on each of the others.
    """

    metrics: ClassVar = {"error": ERROR, "loss": LOSS}
    smooths = True

    def score(self, outputs, batch, smoothing=0.0):
        labels, classes = batch["label"], outputs.shape[-1]
        target = jax.nn.one_hot(labels, classes)
        target = target * (1.0 - smoothing) + (1.0 - target) * smoothing / (classes - 1)
        # argmax of NaN logits is the first class, which may be the correct one.
        wrong = (outputs.argmax(-1) != labels) | ~jnp.isfinite(outputs).all(-1)
        loss = optax.softmax_cross_entropy(outputs, target)
        return {"loss": loss, "error": wrong.astype(jnp.float32)}, None
