"""How far weights walk at each batch size, and the gradients they meet (Hoffer 2017, Fig. 1 and 2).

A point is one batch size and one recipe (scaling/recipes.py); its seeds train side by side and are
evaluated on a grid whose steps grow by `generalization.resolution`. Hoffer et al. find that the
distance from the initial weights grows as log t while the learning rate is the initial one, faster
at small batches, and that a learning rate scaled by sqrt with ghost batch norm brings the large
batch's walk near the small one's. The fits are of that phase: from `generalization.fit_from` to the
first change of the rate, or `fit_to`.

The gradient norms are root mean squares over the updates since the evaluation before, of the mean
gradient of the batch: at a small batch most of that is noise. Layer by layer, ||w|| and ||g|| are
those of a training batch after the first update and after the last (You 2017, Table 2).
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling import durations
from scaling.config import default_config
from scaling.crossings import History, next_evaluation
from scaling.data import sources
from scaling.diffusion import fit_diffusion
from scaling.errors import UserError
from scaling.paired import mean_and_deviation
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.studies import recipe_points
from scaling.studies.shared import text_table
from scaling.train.layers import LayerNorms
from scaling.train.memory import check_population
from scaling.train.planning import layout_of
from scaling.train.point import Point, resolve
from scaling.train.trials import Observer, ToTheEnd, Training, seconds_of

START, END = "layers at the start", "layers at the end"

name = recipe_points.name


def points(config: ConfigDict) -> list[ConfigDict]:
    """One config for each batch size and recipe.

    Raises:
      UserError: see `recipe_points.points`; an evaluation interval of single runs is set.
    """
    if config.eval.every != default_config(config.study).eval.every:
        raise UserError(
            f"eval.every is {config.eval.every!r}, but this study evaluates on a grid of its own; "
            "set generalization.resolution instead."
        )
    return recipe_points.points(config)


def check(config: ConfigDict) -> None:
    """The config can be used here, and its data set is there."""
    point = recipe_points.check(config)
    if point.info.streaming:
        raise UserError(f"{point.info.name} is streamed; this study needs a data set in memory.")
    first, last = fit_range(point)
    if first >= last:
        raise UserError(
            f"The fits would be from step {first:,} to step {last:,}; set generalization.fit_from "
            "earlier or fit_to later."
        )
    layout_of(point, config.recipes.seeds)
    check_population(point, config.recipes.seeds)
    sources.check_available(config.data.name, config.data.dir)


def fit_range(point: Point) -> tuple[int, int]:
    """First and last step of the phase that the fits are of: one learning rate."""
    wanted, size = point.config.generalization, point.info.sizes["train"]
    schedule = point.config.schedule
    steps = lambda duration: durations.to_steps(duration, point.global_batch, size)
    first, last = max(1, steps(wanted.fit_from), steps(schedule.warmup)), point.total_steps
    if wanted.fit_to is not None:
        last = min(last, steps(wanted.fit_to))
    elif schedule.boundaries:
        last = min(last, steps(schedule.boundaries[0]))
    elif schedule.name not in ("constant", "step", "dip"):
        raise UserError(
            f"The {schedule.name!r} schedule changes the learning rate all along, and the fits are "
            "of a phase of one rate; set schedule.name='constant', or generalization.fit_to."
        )
    return first, last


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> dict[str, Any]:
    """Every seed of one batch size and recipe.

    Returns:
      The result, JSON; docs/architecture.md lists its keys.
    """
    point = resolve(config, ("peak",))
    result = recipe_points.begin(point, run)
    seeds = [config.seed + k for k in range(config.recipes.seeds)]
    resolution = config.generalization.resolution
    training = Training(
        point,
        ToTheEnd(point.total_steps, lambda step: next_evaluation(step, resolution)),
        [{}] * len(seeds),
        seeds,
        run,
        "runs",
        "validation",
        means=("loss", "grad_sq_norm"),
        ends=recipe_points.ends_of(config),
        observers=[_Distance(point, seeds)],
    )
    outcome = training.run(0, signals, name)
    span = fit_range(point)
    runs = [
        {"seed": seed, **recipe_points.end_of(outcome, k), **_walked(outcome.histories[k], span)}
        for k, seed in enumerate(seeds)
    ]
    complete = any(each["status"] == "complete" for each in runs)
    return result | {
        "status": "complete" if complete else "diverged",
        "fit_steps": list(span),
        "runs": runs,
        "layers": _layers(*outcome.observed),
        "seconds": seconds_of([outcome]),
        "trial_steps_per_second": outcome.trial_steps / max(outcome.seconds["train"], 1e-9),
    }


class _Distance(Observer):
    """How far the weights are from the initial ones, and at step 1 and at the end the layers'
    norms."""

    def __init__(self, point: Point, seeds):
        self.point, self.seeds, self.state = point, seeds, {}
        self.layers: LayerNorms | None = None
        self.initial = None

    def columns(self, population):
        """||w - w_0|| of every trial."""
        if self.initial is None:
            self.initial = population.initial_weights()
        if self.point.config.generalization.layers and population.step == 1:
            self.state[START] = self._norms(population)
        squares = jax.tree.map(_squared_distances, population.weights(), self.initial)
        return {"weight_distance": np.sqrt(sum(jax.tree.leaves(squares)))}

    def end(self, population):
        """The layers' norms after the last update."""
        if self.point.config.generalization.layers:
            self.state[END] = self._norms(population)

    def _norms(self, population):
        if self.layers is None:
            self.layers = LayerNorms(population, self.seeds)
        return self.layers.now()


def _squared_distances(now, before):
    """Of each trial, [K], in double precision."""
    apart = now.astype(np.float64) - before
    return np.square(apart).reshape(len(apart), -1).sum(1)


def _walked(history: History, span) -> dict[str, Any]:
    """The curve of one run and what it fits."""
    curve = history.columns
    columns = {
        "step": curve["step"],
        "weight_distance": curve["weight_distance"],
        "grad_norm": [None if s is None else s**0.5 for s in curve["train_grad_sq_norm"]],
        "train_loss": curve["train_loss"],
        "validation_error": curve["error"],
        "validation_loss": curve["loss"],
    }
    complete = history.diverged_at is None
    return {"curve": columns, "diffusion": _diffusion(columns, span) if complete else None}


def _diffusion(curve, span):
    """The laws fitted to the evaluations within `span`, JSON; None where they are too few."""
    inside = [
        (step, distance)
        for step, distance in zip(curve["step"], curve["weight_distance"], strict=True)
        if span[0] <= step <= span[1]
    ]
    fit = fit_diffusion(*zip(*inside, strict=True)) if inside else None
    return None if fit is None else dataclasses.asdict(fit)


def _layers(notes):
    """Norms at the start and at the end, layer by layer; None where either is missing."""
    if not (notes.get(START) and notes.get(END)):
        return None
    norms = lambda layer: {key: layer[key] for key in ("weight_norm", "grad_norm")}
    return [
        {"name": a["name"], "size": a["size"], "start": norms(a), "end": norms(b)}
        for a, b in zip(notes[START], notes[END], strict=True)
    ]


def sentence(result: dict[str, Any]) -> str:
    """What a finished point came to."""
    fits = [run["diffusion"] for run in result["runs"] if run["diffusion"]]
    diverged = sum(run["status"] == "diverged" for run in result["runs"])
    text = f"; {diverged} of {len(result['runs'])} runs diverged" if diverged else ""
    if not fits:
        return f"no fit of the weights' distance{text}"
    slope, deviation = mean_and_deviation([fit["log"]["slope"] for fit in fits])
    spread = "" if deviation is None else f" +- {deviation:.3g}"
    r2 = min(fit["log"]["r2"] for fit in fits)
    return f"the weights' distance grows by {slope:.3g}{spread} per e-fold, R^2 {r2:.3f}{text}"


def summarize(results: dict[str, dict[str, Any]]) -> str:
    """A table of the finished points, by name."""
    rows = [("point", "steps", "slope", "R^2 log t", "sqrt t", "power", "exponent", "validation")]
    for name, result in results.items():
        fits = [run["diffusion"] for run in result["runs"] if run["diffusion"]]
        of = lambda law, key, fits=fits: mean_and_deviation([fit[law][key] for fit in fits])
        runs = [run for run in result["runs"] if run["status"] == "complete"]
        error, _ = mean_and_deviation([run["curve"]["validation_error"][-1] for run in runs])
        numbers = [of("log", "slope"), of("log", "r2"), of("root", "r2"), of("power", "r2")]
        cells = ["-" if mean is None else f"{mean:.3f}" for mean, _ in numbers]
        exponent, _ = of("power", "slope")
        rows.append(
            (
                name,
                f"{result['steps']:,}",
                *cells,
                "-" if exponent is None else f"{exponent:.2f}",
                "-" if error is None else f"{error:.2%}",
            )
        )
    return text_table(rows)


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What the study would do and cost, as text. Reads no data and trains nothing.

    Raises:
      UserError: a config cannot be used.
    """
    first = next(iter(points.values()))
    growth = f"{first.generalization.resolution:.0%}"
    each = f"{first.recipes.seeds} seeds, evaluated at steps that grow by {growth}"
    return recipe_points.dry_run(points, lambda point: point.config.recipes.seeds, {"each": each})
