"""Training tasks: per-example losses and metrics."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Classification:
    """Softmax cross entropy with label smoothing, and the classification error.

    Attributes:
      model: called as `scaling.models` describes.
      image_shape: (H, W, C) of one example.
    """

    model: nn.Module
    image_shape: tuple[int, int, int]

    def init(self, key: jax.Array) -> tuple[Variables, Variables]:
        """Parameters and batch statistics (empty where the model has none)."""
        images = jnp.zeros((1, *self.image_shape))
        variables = self.model.init({"params": key}, images, train=False)
        return variables["params"], variables.get("batch_stats", {})

    def train_metrics(
        self,
        params: Variables,
        batch_stats: Variables,
        batch: Mapping[str, jax.Array],
        positions: jax.Array,
        key: jax.Array,
        hparams: Mapping[str, jax.Array],
    ) -> tuple[dict[str, jax.Array], Variables]:
        """Per-example metrics {"loss", "error"}, each [N], and the new batch statistics.

        Args:
          batch: {"image": [N, H, W, C], "label": [N]}.
          positions: [N] indices in the global batch (dropout keys depend on them).
          key: of this update.
          hparams: "label_smoothing" s: the target is 1 - s on the true class and s / (K - 1) on
            each of the others (Shallue 2018).
        """
        logits, updated = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch["image"],
            train=True,
            positions=positions,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        metrics = _classification(logits, batch["label"], hparams["label_smoothing"])
        return metrics, updated.get("batch_stats", batch_stats)

    def eval_metrics(
        self, params: Variables, batch_stats: Variables, batch: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Per-example metrics without smoothing or dropout, on the running statistics."""
        variables = {"params": params, "batch_stats": batch_stats}
        logits = self.model.apply(variables, batch["image"], train=False)
        return _classification(logits, batch["label"], 0.0)


def _classification(logits, labels, smoothing):
    classes = logits.shape[-1]
    target = jax.nn.one_hot(labels, classes)
    target = target * (1.0 - smoothing) + (1.0 - target) * smoothing / (classes - 1)
    # argmax of NaN logits is the first class, which may be the correct one.
    wrong = (logits.argmax(-1) != labels) | ~jnp.isfinite(logits).all(-1)
    return {
        "loss": optax.softmax_cross_entropy(logits, target),
        "error": wrong.astype(jnp.float32),
    }
