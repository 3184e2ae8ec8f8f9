"""Measures of sharpness of trained nets, of the studies that compare them.

All nets of a point are measured on the same examples, the first of the training set, by the loss
without weight decay and label smoothing, in the same random directions. Batch norm has the
statistics of these examples, in one group, by which the loss is differentiated too; or the frozen
ones of evaluations, with which the loss is another function than in training, and steeper. A worst
case over few examples has the statistics of those.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling import sharpness
from scaling.curvature import (
    Estimate,
    Quadrature,
    flatten,
    hessian_product,
    in_chunks,
    lanczos,
    ritz,
    spectrum,
    trace,
    value_and_grad,
)
from scaling.studies import measure_records as record
from scaling.studies.measure_records import Measure
from scaling.tasks import Classification, Language
from scaling.train.evaluate import HeldOut
from scaling.train.feed import ResidentFeed
from scaling.train.losses import has_statistics, loss_over
from scaling.train.point import Point

STATISTICS = ("recomputed", "frozen")


def examples_of(point: Point, settings: ConfigDict) -> int:
    """How many are measured on."""
    return min(settings.examples, point.info.sizes["train"])


class Gauge:
    """Measures the nets of a point.

    Args:
      settings: a section of the config with the keys of `sharpness` that are read.
      brief: the outermost eigenvalues and Keskar's metric in all directions only.

    Attributes:
      count: examples that are measured on.
      statistics: "recomputed", "frozen" or, without batch norm, "none".
      split: whose headline metric is the score of a net.
    """

    def __init__(self, point: Point, settings: ConfigDict, brief: bool = False):
        self.point, self.settings, self.brief = point, settings, brief
        self.count = examples_of(point, settings)
        self.split = "test" if point.config.eval.test else "validation"
        self._shapes = jax.tree.structure(point.variables())
        found = loss_over(point, self.count, self.settings.statistics == "recomputed")
        self.loss, self.examples, self.chunks = found
        self.statistics = self.settings.statistics if has_statistics(point) else "none"
        self._held_out = HeldOut(point, self.split, ResidentFeed(point))
        # The same directions for all nets.
        self.keys = jax.random.split(jax.random.key(point.config.seed), 5)

    def measure(self, leaves: list[np.ndarray]) -> dict[str, Any]:
        """Fields of a `Net`, JSON, of its weights and batch statistics."""
        variables = jax.tree.unflatten(self._shapes, leaves)
        score = float(self._held_out.metrics(variables)[self.point.task.headline][0])
        with jax.default_matmul_precision("highest"):
            at = _Weights(self, variables)
            try:
                measures = [*at.raw()]
                if not self.brief:
                    measures += [*at.adaptive(), at.flatness()]
            except ValueError:  # a loss or a product is not finite
                measures = []
            loss = at.value_and_grad(at.x)[0]
        return {
            "loss": _finite(loss),
            "score": _finite(score),
            "measures": list(map(dataclasses.asdict, measures)),
        }

    def spectrum(self, leaves: list[np.ndarray], probes: int) -> dict[str, Any] | None:
        """Fields of a `Spectrum`, JSON, to six digits; None where a product is not finite."""
        at = _Weights(self, jax.tree.unflatten(self._shapes, leaves))
        with jax.default_matmul_precision("highest"):
            try:
                found = at.spectrum(probes)
            except ValueError:
                return None
        short = lambda array: [[float(f"{value:.6g}") for value in row] for row in array]
        return {"nodes": short(found.nodes), "weights": short(found.weights)}


class _Weights:
    """The measures of one net."""

    def __init__(self, gauge: Gauge, variables: Any):
        self.gauge, self.settings, self.variables = gauge, gauge.settings, variables
        self.lanczos_key, self.trace_key, self.box_key, self.average_key, self.worst_key = (
            gauge.keys
        )
        self.tensors = self._chosen(lambda path: True)
        self.x = np.asarray(flatten(variables, self.tensors)[0])
        self.value_and_grad = self._value_and_grad(gauge.loss, gauge.chunks)

    def _chosen(self, keep: Callable[[str], bool]) -> Any:
        """Which tensors: parameters whose path says so."""
        params, stats = self.variables
        name = functools.partial(jax.tree_util.keystr, simple=True, separator=".")
        chosen = jax.tree_util.tree_map_with_path(lambda path, _: keep(name(path)), params)
        return chosen, jax.tree.map(lambda _: False, stats)

    def _value_and_grad(self, loss, chunks):
        return value_and_grad(loss, self.variables, chunks, self.tensors)

    def _hessian(self, tensors=None, scale=None):
        gauge, tensors = self.gauge, tensors or self.tensors
        return hessian_product(gauge.loss, self.variables, gauge.chunks, tensors, scale)

    def raw(self) -> Iterator[Measure]:
        """Those that depend on the scale of the weights."""
        hessian, settings, brief = self._hessian(), self.settings, self.gauge.brief
        values, bounds = ritz(lanczos(hessian, self.lanczos_key, settings.steps))
        yield _eigenvalue(record.TOP, False, values[0], bounds[0])
        yield _eigenvalue(record.LEAST, False, values[-1], bounds[-1])
        if not brief:
            yield _estimate(record.TRACE, False, trace(hessian, self.trace_key, settings.products))
        for dimensions in (None,) if brief else (None, settings.subspace):
            space = dimensions and sharpness.subspace(self.box_key, len(self.x), dimensions)
            for eps in settings.eps:
                box = sharpness.box(self.x, eps, space)
                peak = sharpness.largest_loss(self.value_and_grad, self.x, box, space)
                yield Measure(record.keskar(eps, dimensions), False, _finite(peak.keskar))

    def spectrum(self, probes: int) -> Quadrature:
        """Of the Hessian."""
        key = jax.random.fold_in(self.lanczos_key, 1)
        return spectrum(self._hessian(), key, self.settings.steps, probes)

    def adaptive(self) -> Iterator[Measure]:
        """Those in units of each weight."""
        scale, settings, gauge = np.abs(self.x), self.settings, self.gauge
        krylov = lanczos(self._hessian(scale=scale), self.lanczos_key, settings.steps)
        values, bounds = ritz(krylov)
        yield _eigenvalue(record.ADAPTIVE_TOP, True, values[0], bounds[0])
        losses = {False: gauge.loss}
        if isinstance(gauge.loss.task, Classification | Language):
            losses[True] = dataclasses.replace(gauge.loss, normalised=True)
        for normalised, loss in losses.items():
            of = self._value_and_grad(loss, gauge.chunks)
            for rho in settings.average_rho:
                moved = self.x, scale, rho, self.average_key, settings.draws
                found = sharpness.average(lambda x, of=of: of(x)[0], *moved)
                yield _estimate(record.average(rho, normalised), True, found)
        for normalised, loss in losses.items():
            batches = list(self._batches(loss))
            for rho in settings.worst_rho:
                found = sharpness.worst(batches, self.x, scale, rho, self.worst_key)
                yield _estimate(record.worst(rho, normalised), True, found)

    def _batches(self, loss):
        """The loss of each batch of the examples, without an incomplete one."""
        examples, rows = self.gauge.examples, self.settings.batch
        for first in range(0, self.gauge.count - rows + 1, rows):
            cut = slice(first, first + rows)
            batch = in_chunks(jax.tree.map(lambda leaf: leaf[cut], examples), rows)  # noqa: B023
            yield self._value_and_grad(loss, batch)

    def flatness(self) -> Measure:
        """Relative flatness, the sum over the kernels."""
        total, variance, kernels = 0.0, 0.0, jax.tree_util.tree_leaves_with_path(self.variables[0])
        for index, (path, kernel) in enumerate(kernels):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            if not name.endswith("kernel"):
                continue
            layer = self._hessian(self._chosen(lambda other: other == name))  # noqa: B023
            # Probes of its own: errors of layers must be independent to be added up.
            probes = jax.random.fold_in(self.trace_key, index), self.settings.products
            found = sharpness.relative_flatness(layer, kernel, *probes)
            total, variance = total + found.value, variance + found.standard_error**2
        half = 1.96 * math.sqrt(variance)
        return Measure(record.FLATNESS, True, *map(_finite, (total, total - half, total + half)))


def _eigenvalue(name: str, invariant: bool, value: float, bound: float) -> Measure:
    return Measure(name, invariant, *map(_finite, (value, value - bound, value + bound)))


def _estimate(name: str, invariant: bool, found: Estimate) -> Measure:
    return Measure(name, invariant, *map(_finite, (found.value, *found.interval)))


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return float(value) if math.isfinite(value) else None
