"""What a model is trained to do: the loss of each example, and the metrics of many.

`register` adds a task of one's own.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from scaling.crossings import ERROR, LOSS, Metric, constant_metrics
from scaling.data.known import Example
from scaling.errors import UserError, look_up

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
      rows: what examples are called.
      metrics: of an evaluation, by name; the first is the headline. One is "loss".
      needs: names that an example has.
      targets: names that the model does not see.
      smooths: whether `score` reads the label smoothing.

    Other fields have defaults, and are options of a data set (`sources.register`).
    """

    model: nn.Module
    example: Example
    num_classes: int

    unit: ClassVar[str] = "examples"
    rows: ClassVar[str] = "examples"
    metrics: ClassVar[dict[str, Metric]] = {"loss": LOSS}
    needs: ClassVar[tuple[str, ...]] = ("label",)
    targets: ClassVar[tuple[str, ...]] = ("label",)
    smooths: ClassVar[bool] = False

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """The fields that a data set may set."""
        base = {field.name for field in dataclasses.fields(Task)}
        return tuple(field.name for field in dataclasses.fields(cls) if field.name not in base)

    @classmethod
    def outputs_of(cls, example: Example) -> int | None:
        """`num_classes`, where an example's shapes tell it."""
        return None

    @classmethod
    def amounts(cls, example: Example) -> dict[str, int]:
        """What an example has of units other than examples, for durations."""
        return {}

    @classmethod
    def bounds(cls, num_classes: int) -> dict[str, tuple[float, float]]:
        """The least and the largest value of arrays by name."""
        return {"label": (0, num_classes - 1)}

    @classmethod
    def constant(cls, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The best metrics of one answer for all examples, of those that are known."""
        return {}

    @property
    def headline(self) -> str:
        """The metric that stands for all."""
        return next(iter(self.metrics))

    @abc.abstractmethod
    def score(
        self, outputs: jax.Array, batch: Arrays, smoothing: jax.Array | float = 0.0
    ) -> tuple[dict[str, jax.Array], jax.Array | None]:
        """Sums of each example, {"loss", ...} of [N], and the examples' weights [N].

        Without weights, None, each counts 1 and nothing is divided.

        Args:
          outputs: of the model, float32 [N, *output_shape].
          smoothing: of labels, where the task `smooths`.
        """

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the model's output for one example."""
        return (self.num_classes,)

    @property
    def per_row(self) -> int | None:
        """Units of an example, where it holds another number of them than one; None: not known."""
        return self.amounts(self.example).get(self.unit)

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

    def check_model(self) -> None:
        """UserError for a model that answers from what it must not see; it runs the model."""
        return

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
          positions, key: see `outputs_in_training`.
          hparams: "label_smoothing".
        """
        outputs, updated = self.outputs_in_training(params, batch_stats, batch, positions, key)
        self._check(outputs, batch)
        scores, weights = self.score(outputs, batch, hparams["label_smoothing"])
        return scores, weights, updated

    def outputs_in_training(
        self,
        params: Variables,
        batch_stats: Variables,
        batch: Arrays,
        positions: jax.Array,
        key: jax.Array,
    ) -> tuple[jax.Array, Variables]:
        """Of the model with dropout, on the batch's own statistics; and the new running ones.

        Args:
          positions: [N] indices in the global batch (dropout keys depend on them).
          key: of this update.
        """
        outputs, updated = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            self.inputs(batch),
            train=True,
            positions=positions,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return outputs, updated.get("batch_stats", batch_stats)

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

    def finer(self) -> "Task":
        """The same task for an evaluation that is made once and may take more memory."""
        return self

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

    @classmethod
    def constant(cls, arrays):
        return constant_metrics(np.unique(arrays["label"], return_counts=True)[1])

    def score(self, outputs, batch, smoothing=0.0):
        labels, classes = batch["label"], outputs.shape[-1]
        target = jax.nn.one_hot(labels, classes)
        target = target * (1.0 - smoothing) + (1.0 - target) * smoothing / (classes - 1)
        # argmax of NaN logits is the first class, which may be the correct one.
        wrong = (outputs.argmax(-1) != labels) | ~jnp.isfinite(outputs).all(-1)
        loss = optax.softmax_cross_entropy(outputs, target)
        return {"loss": loss, "error": wrong.astype(jnp.float32)}, None


@dataclasses.dataclass(frozen=True)
class Language(Task):
    """Cross entropy of each token given those before it.

    An example is "tokens" [L], and where rows are padded "weights" [L], 1 on tokens that count. The
    model reads the tokens one place to the right, after `start`, and gives logits [L, num_classes].

    Attributes:
      start: the token before the first; by default 1, the end of a document in SentencePiece.
      bytes_per_token: of the text, for bits per byte.
    """

    start: int = 1
    bytes_per_token: float | None = None

    unit, rows = "tokens", "sequences"
    needs = ("tokens",)
    smooths = True

    @property
    def metrics(self):
        bits = {"bits_per_byte": Metric("bits per byte", best=0.0)} if self.bytes_per_token else {}
        return {
            "loss": Metric("loss", unit="nats per token", best=0.0),
            "error": Metric("token error", form="percent", best=0.0),
            "perplexity": Metric("perplexity", best=1.0),
        } | bits

    @classmethod
    def amounts(cls, example):
        return {"tokens": example["tokens"][0][0]}

    @classmethod
    def bounds(cls, num_classes):
        return {"tokens": (0, num_classes - 1), "weights": (0, math.inf)}

    @classmethod
    def constant(cls, arrays):
        weights = arrays["weights"].ravel() if "weights" in arrays else None
        counts = np.bincount(arrays["tokens"].ravel(), weights)
        known = constant_metrics(counts[counts > 0])
        return known | {"perplexity": math.exp(known["loss"])}

    @property
    def output_shape(self):
        return (*self.example["tokens"][0], self.num_classes)

    def inputs(self, batch):
        tokens = batch["tokens"].astype(jnp.int32)
        start = min(self.start, self.num_classes - 1)
        return jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=start)

    def check_model(self):
        """Logits of the first half of the places, under random weights, must not change with the
        tokens of the second half."""
        (length,) = self.example["tokens"][0]
        keys = jax.random.split(jax.random.key(0), 3)
        seen = length - length // 2

        @jax.jit
        def logits():
            params, batch_stats = self.init(keys[0])
            flat, unravel = ravel_pytree(params)
            params = unravel(flat + 0.1 * jax.random.normal(keys[1], flat.shape))
            variables = {"params": params, "batch_stats": batch_stats}
            tokens = jax.random.randint(keys[2], (2, length), 0, self.num_classes)
            tokens = tokens.at[1, :seen].set(tokens[0, :seen])
            return self.model.apply(variables, tokens, train=False)[:, :seen]

        one, other = np.asarray(logits(), np.float32)
        if not np.allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(one).max()):
            raise UserError(
                f"{type(self.model).__qualname__} sees the tokens that it is to predict: its "
                f"logits of the first {seen} places change with later tokens; let each place see "
                "itself and those before it alone, as with a causal mask."
            )

    def score(self, outputs, batch, smoothing=0.0):
        labels = batch["tokens"].astype(jnp.int32)
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        if not (isinstance(smoothing, float) and smoothing == 0.0):
            # The target of `Classification` without an array of it: V may be 30,000.
            classes, others = outputs.shape[-1], smoothing / (outputs.shape[-1] - 1)
            spread = classes * jax.nn.logsumexp(outputs, -1) - outputs.sum(-1)
            loss = (1.0 - smoothing - others) * loss + others * spread
        wrong = (outputs.argmax(-1) != labels) | ~jnp.isfinite(loss)
        weights = batch.get("weights", jnp.ones(()))
        weights = jnp.broadcast_to(weights, labels.shape).astype(jnp.float32)
        # where, not times: what is masked may be anything.
        total = lambda values: jnp.sum(jnp.where(weights > 0, values * weights, 0.0), -1)
        return {"loss": total(loss), "error": total(wrong)}, weights.sum(-1)

    def finish(self, sums):
        metrics = super().finish(sums)
        metrics["perplexity"] = np.exp(np.minimum(metrics["loss"], 700.0))
        if self.bytes_per_token:
            metrics["bits_per_byte"] = metrics["loss"] / math.log(2) / self.bytes_per_token
        return metrics


@dataclasses.dataclass(frozen=True)
class MultiLabel(Task):
    """Sigmoid cross entropy of several labels an example, added up, and the average precision.

    An example's "label" is 0 or 1 for each of `num_classes`, [K]. Average precision is that of
    scikit-learn, the sum of (R_n - R_{n-1}) P_n over falling scores, from histograms of the logits:
    they add up over calls and devices, and no example's scores are kept. Scores of one bin count
    as spread evenly in it. `ap` pools all labels, `ap_macro` is the mean over those that occur.

    Attributes:
      bins: of z / (1 + |z| / 10), for a logit z: logits that are far from zero, as those of rare
        labels are, have wider bins and none is left out.
    """

    bins: int = 512

    metrics: ClassVar = {
        "ap": Metric("average precision", "higher", best=1.0),
        "ap_macro": Metric("macro average precision", "higher", best=1.0),
        "loss": LOSS,
    }
    REACH = 10.0
    FINE = 2**24  # bins of all labels together, where a split is evaluated once

    @classmethod
    def outputs_of(cls, example):
        return example["label"][0][0]

    @classmethod
    def bounds(cls, num_classes):
        return {"label": (0, 1)}

    @classmethod
    def constant(cls, arrays):
        rates = np.mean(arrays["label"], 0, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -rates * np.log(rates) - (1 - rates) * np.log1p(-rates)
        present = rates[rates > 0]
        return {
            "loss": float(np.nansum(entropy)),
            "ap_macro": float(present.mean()) if present.size else 0.0,
        }

    def score(self, outputs, batch, smoothing=0.0):
        label = batch["label"].astype(jnp.float32)
        return {"loss": optax.sigmoid_binary_cross_entropy(outputs, label).sum(-1)}, None

    def statistics(self, outputs, batch, mask):
        logits = jnp.clip(outputs.astype(jnp.float32), -1e9, 1e9)
        folded = logits / (1.0 + jnp.abs(logits) / self.REACH)
        place = jnp.floor((folded + self.REACH) * (self.bins / (2 * self.REACH)))
        place = jnp.clip(jnp.nan_to_num(place), 0, self.bins - 1).astype(jnp.int32)
        place += self.bins * jnp.arange(self.num_classes)
        count = lambda values: counts(place, values, self.num_classes * self.bins)
        rows = jnp.broadcast_to(mask.astype(jnp.float32)[:, None], place.shape)
        found = {"positives": count(rows * batch["label"]), "all": count(rows)}
        shape = (self.num_classes, self.bins)
        histograms = {name: value.reshape(shape) for name, value in found.items()}
        return super().statistics(outputs, batch, mask) | histograms

    def finish(self, sums):
        positives, every = sums["positives"], sums["all"]
        known = positives.sum(1) > 0
        each = average_precision(positives[known], every[known])
        return {
            "ap": float(average_precision(positives.sum(0), every.sum(0))) if known.any() else 0.0,
            "ap_macro": float(each.mean()) if known.any() else 0.0,
            "loss": sums["loss"] / sums["weight"],
        }

    def finer(self):
        return dataclasses.replace(
            self, bins=max(self.bins, min(2**16, self.FINE // self.num_classes))
        )


def average_precision(positives: np.ndarray, every: np.ndarray) -> np.ndarray:
    """The area under precision against recall, from counts in bins of rising scores, [..., bins].

    Of the others in its bin, half count as scored above a positive: exact where it is alone there.
    """
    hits, seen = (np.cumsum(counts[..., ::-1], -1)[..., ::-1] for counts in (positives, every))
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(
            every > 0, (hits - (positives - 1) / 2) / (seen - (every - 1) / 2), 0.0
        )
        return (precision * positives).sum(-1) / positives.sum(-1)


def counts(place: jax.Array, values: jax.Array, size: int) -> jax.Array:
    """The values added up by their places, [size]."""
    return jnp.zeros(size).at[place.ravel()].add(values.ravel())


@dataclasses.dataclass(frozen=True)
class Regression(Task):
    """Squared error, the mean over the numbers of "y", [] or [D]; best standardised."""

    metrics: ClassVar = {
        "loss": Metric("squared error", best=0.0),
        "mae": Metric("absolute error", best=0.0),
        "r2": Metric("R²", "higher", best=1.0),
    }
    needs = targets = ("y",)

    @classmethod
    def outputs_of(cls, example):
        return math.prod(example["y"][0])

    @classmethod
    def bounds(cls, num_classes):
        return {}

    @classmethod
    def constant(cls, arrays):
        return {"loss": float(np.var(arrays["y"], 0, dtype=np.float64).mean()), "r2": 0.0}

    def _errors(self, outputs, batch):
        """(errors, y), [N, D]."""
        y = batch["y"].reshape(outputs.shape).astype(jnp.float32)
        return outputs - y, y

    def score(self, outputs, batch, smoothing=0.0):
        errors, _ = self._errors(outputs, batch)
        return {"loss": jnp.square(errors).mean(-1), "mae": jnp.abs(errors).mean(-1)}, None

    def statistics(self, outputs, batch, mask):
        errors, y = self._errors(outputs, batch)
        moments = {"squares": jnp.square(errors), "y": y, "yy": jnp.square(y)}
        return super().statistics(outputs, batch, mask) | masked(moments, mask)

    def finish(self, sums):
        weight = sums["weight"]
        spread = sums["yy"] - np.square(sums["y"]) / weight
        r2 = np.mean(1.0 - sums["squares"] / np.maximum(spread, 1e-30))
        return {"loss": sums["loss"] / weight, "mae": sums["mae"] / weight, "r2": float(r2)}


@dataclasses.dataclass(frozen=True)
class Segmentation(Task):
    """Cross entropy of every pixel, weighted by its class, and the intersection over union.

    An example's "label" is one of `num_classes` for each pixel, [H, W]; the model gives logits
    [H, W, num_classes]. The error and the mean over classes of intersection over union, of those
    that occur, do not read the weights.

    Attributes:
      class_weights: one for each class; (): 1.
      frequencies: the share of pixels that each class has, for `weighted`.
      void: the label of pixels that do not count, in no metric; None: all count.
    """

    class_weights: tuple[float, ...] = ()
    frequencies: tuple[float, ...] = ()
    void: int | None = None

    unit = "pixels"
    metrics: ClassVar = {
        "iou": Metric("mean IoU", "higher", "percent", best=1.0),
        "error": Metric("pixel error", form="percent"),
        "loss": LOSS,
    }

    @classmethod
    def amounts(cls, example):
        return {"pixels": math.prod(example["label"][0])}

    @property
    def output_shape(self):
        return (*self.example["label"][0], self.num_classes)

    def _label(self, batch):
        """The class of every pixel, and whether it counts."""
        label = batch["label"].astype(jnp.int32)
        counted = jnp.full(label.shape, True) if self.void is None else label != self.void
        return jnp.where(counted, label, 0), counted

    def score(self, outputs, batch, smoothing=0.0):
        label, counted = self._label(batch)
        weights = jnp.asarray(self.class_weights or (1.0,) * self.num_classes)[label] * counted
        loss = weights * optax.softmax_cross_entropy_with_integer_labels(outputs, label)
        return {"loss": loss.sum((1, 2))}, weights.sum((1, 2))

    def statistics(self, outputs, batch, mask):
        (label, counted), size = self._label(batch), self.num_classes
        rows = mask.astype(jnp.float32)[:, None, None] * counted
        # argmax of NaN is the first class; one that is wrong stands for it.
        known = jnp.isfinite(outputs).all(-1)
        place = label * size + jnp.where(known, outputs.argmax(-1), (label + 1) % size)
        # Map by map: one added to a float32 of 2**24 is lost.
        confusion = jax.vmap(lambda *row: counts(*row, size**2))(place, rows).sum(0)
        return super().statistics(outputs, batch, mask) | {
            "confusion": confusion.reshape(size, size)
        }

    def finish(self, sums):
        confusion = sums["confusion"]
        hits = np.diag(confusion)
        union = confusion.sum(0) + confusion.sum(1) - hits
        return {
            "iou": float(np.mean(hits[union > 0] / union[union > 0])),
            "error": 1.0 - hits.sum() / confusion.sum(),
            "loss": sums["loss"] / sums["weight"],
        }


# Weights of classes by their frequencies f (Kurth 2018; the last is MLPerf HPC's DeepCAM).
WEIGHTINGS = {
    "none": np.ones_like,
    "inverse": lambda f: 1 / f,
    "inverse_sqrt": lambda f: 1 / np.sqrt(f),
    "eighth_root": lambda f: f**-0.125,
}


def weighted(frequencies: Sequence[float], weighting: str) -> tuple[float, ...]:
    """Weights of classes that add up to 1.

    Losses are divided by the weights of their pixels, so that the sum has no effect. Kurth 2018
    divides by the number of pixels; with Adam that is the same but for how rare classes vary from
    batch to batch.

    Args:
      frequencies: share of the pixels of each class, above 0.
      weighting: of `WEIGHTINGS`.
    """
    weights = look_up("loss.weighting", weighting, WEIGHTINGS)(np.asarray(frequencies, float))
    return tuple((weights / weights.sum()).tolist())


TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "language": Language,
    "multi_label": MultiLabel,
    "regression": Regression,
    "segmentation": Segmentation,
}
OWN = tuple(TASKS)


def register(name: str, task: type[Task]) -> None:
    """Make a task of one's own available to data sets, see `sources.register`.

    Args:
      name: a later registration of it replaces an earlier one, since a config file may be loaded
        more than once.
      task: a frozen dataclass.

    Raises:
      UserError: it is not a `Task`, has no metric "loss", or takes the name of one of the program.
    """
    if name in OWN:
        raise UserError(f"Task {name!r} already exists; register yours under another name.")
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise UserError(f"Task {name!r} is {task!r}; register a class made from tasks.Task.")
    known = getattr(task, "metrics", {})
    if isinstance(known, dict) and "loss" not in known:
        raise UserError(f"Task {name!r} has the metrics {', '.join(known)}; add 'loss'.")
    TASKS[name] = task
