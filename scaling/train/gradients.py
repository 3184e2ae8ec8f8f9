"""What follows from the gradients of the batches that a trial takes next: the norms of every layer,
which LARS sees (You 2017, Table 2), and batch sharpness along a run."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scaling.curvature import edge, ratio_of_means
from scaling.data.resident import EpochOrder
from scaling.models.layers import for_curvature
from scaling.train.point import Point
from scaling.train.population import Population
from scaling.train.step import AXIS, make_gradient, on_devices, per_weight, replicate
from scaling.train.trials import Observer

# Batches of a measurement of sharpness hold about so many examples in all, but there are so many
# batches at least and at most.
EXAMPLES, FEWEST, MOST = 2048, 2, 16


class OnGradients:
    """A function of a trial's weights and its gradient.

    Args:
      population: on a resident data set; its layout of a batch, which fits the memory, is used.
      seeds: of its trials, for their orders of examples.
      function: (gradient, params) -> a tree. gradient(params) is that of the mean loss over a
        batch, in training, as the optimizer would see it.
    """

    def __init__(
        self,
        population: Population,
        seeds: Sequence[int],
        function: Callable[[Callable[[Any], Any], Any], Any],
    ):
        self.population, self.seeds, self.plan = population, seeds, population.layout.plan
        point = population.point
        self._devices = point.devices[: self.plan.devices]
        task = dataclasses.replace(point.task, model=for_curvature(point.task.model))
        gradient = make_gradient(task, self.plan, point.preprocess)

        def of_batch(params, batch_stats, data, batch, key, hparams, step):
            def mean_gradient(params):
                grads, _, sums = gradient(params, batch_stats, data, batch, key, hparams, step)
                if self.plan.devices > 1:
                    grads, sums = lax.pmean((grads, sums), AXIS)
                return per_weight(grads, sums)[0]

            return function(mean_gradient, params)

        self._of_batch = on_devices(
            of_batch, self._devices, (None, None, None, 0, None, None, None)
        )
        # Trials that are spread hold the data on more devices than share a batch.
        self._data = replicate(population.data, self._devices)

    def of(self, trial: int, batches: int = 1) -> list[Any]:
        """At the weights now, of each of the next batches of a trial, on the host."""
        population, seed = self.population, self.seeds[trial]
        point, step, size = population.point, population.step, population.point.global_batch
        order = EpochOrder(seed, point.info.sizes["train"])
        _, step_key = jax.random.split(jax.random.key(seed))
        weights = replicate((*population.variables(trial), point.hparams), self._devices)
        params, batch_stats, hparams = weights
        found = []
        for at in range(step, step + batches * point.echo, point.echo):
            index = order.batches(at * size, 1, size, point.echo)
            batch = {"index": np.moveaxis(index.reshape(self.plan.layout), 1, 0)}
            key = replicate(jax.random.fold_in(step_key, at), self._devices)
            args = params, batch_stats, self._data, batch, key, hparams, np.int32(at)
            found.append(jax.tree.map(np.asarray, self._of_batch(*args)))
        return found


class LayerNorms:
    """||w|| and ||g|| of every parameter tensor, g the gradient of the next batch.

    Args:
      population, seeds: see `OnGradients`.
    """

    def __init__(self, population: Population, seeds: Sequence[int]):
        def norms(gradient, params):
            norm = lambda leaf: jnp.linalg.norm(leaf.astype(jnp.float32).ravel())
            return jax.tree.map(norm, params), jax.tree.map(norm, gradient(params))

        self.population, self._norms = population, OnGradients(population, seeds, norms)

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
        ((weights, grads),) = self._norms.of(trial)
        return np.stack([jax.tree.leaves(tree) for tree in (weights, grads)], 1)


class SharpnessTracker(Observer):
    """Batch sharpness of a single run at its evaluations, and where it should settle.

    E[g^T H g] / E|g|^2 over batches of the run's own size, g and H of the loss of a batch as it is
    trained on (Andreyev and Beneventano 2024, arXiv:2412.20553). Without momentum it rises to
    2 / rate and stays there; with momentum b it does so at 2 (1 - b) / rate for small batches, and
    at the edge of stability of the whole gradient for large ones (arXiv:2604.14108).
    """

    def __init__(self, point: Point):
        self.point, self._along = point, None
        self._batches = min(max(EXAMPLES // point.global_batch, FEWEST), MOST)

    def columns(self, population):
        """Batch sharpness, its standard error, and both edges at the rate of the last update."""
        point, hparams = self.point, self.point.hparams
        if self._along is None:
            self._along = OnGradients(population, [point.config.seed], _along_gradient)
        found = ratio_of_means(*np.float64(self._along.of(0, self._batches)).T)
        rate = float(point.make_optimizer(hparams)[1](max(population.step - 1, 0)))
        momentum = float(hparams.get("momentum", 0.0))
        nesterov = point.config.optim.name == "nesterov"
        row = {
            "batch_sharpness": found.value,
            "batch_sharpness_error": found.standard_error,
            "edge_small_batch": edge(rate / (1 - momentum)) if rate else np.inf,
            "edge_large_batch": edge(rate, momentum, nesterov) if rate else np.inf,
        }
        return {name: np.asarray([value]) for name, value in row.items()}


def _along_gradient(gradient, params):
    """g^T H g and |g|^2."""
    dot = lambda a, b: sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))
    with jax.default_matmul_precision("highest"):
        g = gradient(params)
        _, product = jax.jvp(gradient, (params,), (g,))
    return dot(g, product), dot(g, g)
