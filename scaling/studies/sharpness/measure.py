"""Sharpness of nets by batch size and recipe (Keskar 2016, Tables 2 to 4; Andriushchenko 2023).

A point is one batch size and one recipe (scaling/recipes.py); its seeds train side by side, and
recipe by recipe they are the same. The weights of a seed are kept where its training loss is first
seen at or below each of `sharpness.losses`, and after the last update: at one budget batch sizes
end at different losses, on which every measure of sharpness depends.

All nets are measured on the same examples, the first of the training set, by the loss without
weight decay and label smoothing, in the same random directions. Batch norm has the statistics of
these examples, in one group, by which the loss is differentiated too; or the frozen ones of
evaluations, with which the loss is another function than in training, and steeper. A worst case
over few examples has the statistics of those.
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
from scaling.crossings import next_evaluation
from scaling.curvature import (
    Estimate,
    flatten,
    hessian_product,
    in_chunks,
    lanczos,
    ritz,
    trace,
    value_and_grad,
)
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.signals import Interrupted, Signals
from scaling.studies import recipe_points, tuning
from scaling.studies.sharpness import record
from scaling.studies.sharpness.record import END, Measure, Net, Record, Run, at_loss
from scaling.tasks import Classification, Language
from scaling.train.evaluate import HeldOut
from scaling.train.feed import ResidentFeed
from scaling.train.losses import has_statistics, loss_over
from scaling.train.point import Point, resolve
from scaling.train.trials import Observer, Outcome, ToTheEnd, Training, seconds_of

STATISTICS = ("recomputed", "frozen")

points, name = recipe_points.points_on_grid, recipe_points.name


def check(config: ConfigDict) -> None:
    """The config can be used here, and its data set is there.

    Raises:
      UserError: it cannot, or it is not.
    """
    (point,) = recipe_points.resolved(config, several=False)
    settings, info = config.sharpness, point.info
    if info.streaming:
        raise UserError(f"{info.name} is streamed; this study needs a data set in memory.")
    if settings.statistics not in STATISTICS:
        raise UserError(
            f"sharpness.statistics is {settings.statistics!r}; it must be "
            f"{' or '.join(map(repr, STATISTICS))}."
        )
    for key in ("losses", "eps", "average_rho", "worst_rho"):
        values = settings[key]
        if len({f"{value:g}" for value in values}) < len(values):
            raise UserError(f"sharpness.{key} is {values}; name each value once.")
    if not settings.eps:
        raise UserError("sharpness.eps is empty; name the half-width of a box, such as 0.001.")
    examples = _examples(point, settings)
    if 2 * settings.batch > examples:
        raise UserError(
            f"sharpness.batch is {settings.batch:,} and {examples:,} examples are measured on; "
            f"set it to at most {examples // 2:,}, half of them."
        )
    tuning.check(config)
    recipe_points.check(config, max(settings.trials, config.recipes.seeds))


def _examples(point: Point, settings: ConfigDict) -> int:
    """How many are measured on."""
    return min(settings.examples, point.info.sizes["train"])


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """Every seed of one batch size and recipe, then its nets one after another."""
    point = resolve(config, ("peak",))
    fields, settings = recipe_points.begin([point], run), config.sharpness
    outcomes, found, rate = tuning.tune([point], run, name, signals)
    gauge, runs = Gauge(point, settings), []
    if rate is not None:
        seeds = [config.seed + k for k in range(config.recipes.seeds)]
        values = [tuning.at_rate(point, rate)] * len(seeds)
        rule = ToTheEnd(point.total_steps, lambda step: next_evaluation(step, settings.resolution))
        trials = point, rule, values, seeds, run, "runs", "train"
        training = Training(*trials, split="train", observers=[_Keep(run, settings.losses)])
        outcomes.append(training.run(outcomes[-1].lines if outcomes else 0, signals, name))
        outcome = outcomes[-1]
        for k, seed in enumerate(seeds):
            lost = outcome.histories[k].diverged_at
            nets = [] if lost is not None else list(_nets(gauge, run, outcome, k, name, signals))
            runs.append(Run(seed, "complete" if lost is None else "diverged", lost, nets))
    fields |= {"learning_rate": rate}
    return Record(
        **fields,
        tuning=found,
        status="diverged" if not any(run.nets for run in runs) else "complete",
        split=gauge.split,
        places=[*map(at_loss, settings.losses), END],
        examples=gauge.count,
        statistics=gauge.statistics,
        batch=settings.batch,
        parameters=point.parameter_count,
        runs=runs,
        seconds=seconds_of(outcomes),
    )


class _Keep(Observer):
    """Saves the weights of every trial at its places; `state` is trial -> place -> step."""

    def __init__(self, run: RunDir, losses):
        self.run, self.losses, self.state = run, losses, {}

    def begin(self, training):
        """Whose histories it reads."""
        self.training = training

    def show(self, progress):
        """Trials whose training loss is low enough for the first time."""
        if self.training.evaluated == self.training.step:
            self._look(())

    def end(self, population):
        """All that did not diverge."""
        self._look((END,))

    def _look(self, places):
        step = self.training.step
        for k, history in enumerate(self.training.histories):
            if history.diverged_at is not None:
                continue
            loss, known = history.last["loss"], self.state.setdefault(str(k), {})
            for place in (*(at_loss(goal) for goal in self.losses if loss <= goal), *places):
                if place not in known:
                    leaves = jax.tree.leaves(self.training.population.variables(k))
                    self.run.save_arrays(_file("weights", k, place), leaves)
                    known[place] = step


def _file(what: str, trial: int, place: str) -> str:
    """The name of a net's file, without its suffix."""
    return f"{what}{trial}_{place.replace(' ', '_')}"


def _nets(
    gauge: "Gauge", run: RunDir, outcome: Outcome, trial: int, name: str, signals: Signals
) -> Iterator[Net]:
    """The nets of one run. Each is a file once it is measured, so no launch measures it again."""
    columns = outcome.histories[trial].columns
    losses = dict(zip(columns["step"], columns["loss"], strict=True))
    for place, step in outcome.observed[0][str(trial)].items():
        file = _file("net", trial, place)
        if run.load_json(file) is None:
            if signals.received:
                when = f"before {name} was measured, seed {trial}; progress is saved."
                raise Interrupted(signals.received, when)
            found = gauge.measure(run.load_arrays(_file("weights", trial, place)))
            run.save_json(file, {"place": place, "step": step, "train_loss": losses[step]} | found)
        saved = run.load_json(file)
        measures = [Measure(**measure) for measure in saved["measures"]]
        yield Net(**saved | {"measures": measures})


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
        self.count = _examples(point, settings)
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
        return {
            "loss": _finite(at.value_and_grad(at.x)[0]),
            "score": score,
            "measures": list(map(dataclasses.asdict, measures)),
        }


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
        batches = list(self._batches())
        for rho in settings.worst_rho:
            found = sharpness.worst(batches, self.x, scale, rho, self.worst_key)
            yield _estimate(record.worst(rho), True, found)

    def _batches(self):
        """The loss of each batch of the examples, without an incomplete one."""
        examples, rows = self.gauge.examples, self.settings.batch
        for first in range(0, self.gauge.count - rows + 1, rows):
            cut = slice(first, first + rows)
            batch = in_chunks(jax.tree.map(lambda leaf: leaf[cut], examples), rows)  # noqa: B023
            yield self._value_and_grad(self.gauge.loss, batch)

    def flatness(self) -> Measure:
        """Relative flatness, the sum over the kernels."""
        total, variance, kernels = 0.0, 0.0, jax.tree_util.tree_leaves_with_path(self.variables[0])
        for path, kernel in kernels:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            if not name.endswith("kernel"):
                continue
            layer = self._hessian(self._chosen(lambda other: other == name))  # noqa: B023
            products = self.settings.products
            found = sharpness.relative_flatness(layer, kernel, self.trace_key, products)
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


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What the study would do and cost, as text. Reads no data and trains nothing.

    Raises:
      UserError: a config cannot be used.
    """
    first = next(iter(points.values()))
    seeds, settings = first.recipes.seeds, first.sharpness
    tuned = tuning.text(settings)
    places = [f"at a training loss of {loss:g}" for loss in settings.losses]
    each = f"{tuned}{seeds} seeds, measured {', '.join([*places, 'after the last update'])}"
    return recipe_points.dry_run(points, settings.trials + seeds, each)
