"""Norms of every layer's weights and gradient: what LARS sees (You 2017, Table 2)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scaling.data.resident import EpochOrder
from scaling.train.population import Population
from scaling.train.step import AXIS, make_gradient, on_devices, per_weight, replicate


class LayerNorms:
    """||w|| and ||g|| of every parameter tensor, g the gradient of the mean loss over the batch
    that a trial would take next, as the optimizer would see it.

    Args:
      population: on a resident data set; its layout of a batch, which fits the memory, is used.
      seeds: of its trials, for their orders of examples.
    """

    def __init__(self, population: Population, seeds: Sequence[int]):
        self.population, self.seeds, self.plan = population, seeds, population.layout.plan
        point = population.point
        self._devices = point.devices[: self.plan.devices]
        gradient = make_gradient(point.task, self.plan, point.preprocess)

        def norms(params, batch_stats, data, batch, key, hparams, step):
            grads, _, sums = gradient(params, batch_stats, data, batch, key, hparams, step)
            if self.plan.devices > 1:
                grads, sums = lax.pmean((grads, sums), AXIS)
            grads, _ = per_weight(grads, sums)
            norm = lambda leaf: jnp.linalg.norm(leaf.astype(jnp.float32).ravel())
            return jax.tree.map(norm, params), jax.tree.map(norm, grads)

        self._norms = on_devices(norms, self._devices, (None, None, None, 0, None, None, None))
        # Trials that are spread hold the data on more devices than share a batch.
        self._data = replicate(population.data, self._devices)

    def now(self) -> list[dict[str, Any]] | None:
        """Means over the trials whose norms are finite, [{"name", "size", "weight_norm",
        "grad_norm"}, ...]; None where there is no such trial."""
        found = [self._of_one(int(trial)) for trial in np.flatnonzero(self.population.alive)]
        found = [norms for norms in found if np.isfinite(norms).all()]
        if not found:
            return None
        leaves = jax.tree.leaves_with_path(self.population.variables(0)[0])
        return [
            {
                "name": jax.tree_util.keystr(path, simple=True, separator="."),
                "size": leaf.size,
                "weight_norm": float(weight),
                "grad_norm": float(grad),
            }
            for (path, leaf), (weight, grad) in zip(leaves, np.mean(found, 0), strict=True)
        ]

    def _of_one(self, trial):
        """[tensors, 2]: ||w||, ||g|| of every one."""
        population, seed = self.population, self.seeds[trial]
        point, step = population.point, population.step
        order = EpochOrder(seed, point.info.sizes["train"])
        index = order[step * point.global_batch : (step + 1) * point.global_batch]
        batch = {"index": np.moveaxis(index.reshape(self.plan.layout), 1, 0)}
        _, step_key = jax.random.split(jax.random.key(seed))
        key = jax.random.fold_in(step_key, step)
        fixed = replicate((*population.variables(trial), key, point.hparams), self._devices)
        params, batch_stats, key, hparams = fixed
        weights, grads = self._norms(
            params, batch_stats, self._data, batch, key, hparams, np.int32(step)
        )
        return np.stack([jax.tree.leaves(tree) for tree in (weights, grads)], 1)
