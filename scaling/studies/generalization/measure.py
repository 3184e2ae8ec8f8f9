"""Distance from initialisation and gradient norms by batch size (Hoffer 2017, Fig. 1 and 2).

A point is one batch size and one recipe (scaling/recipes.py); its seeds train side by side and are
evaluated on a grid whose steps grow by `generalization.resolution`. Hoffer et al. find that the
distance from the initial weights grows as log t while the learning rate is the initial one, faster
at small batches, and that a learning rate scaled by sqrt with ghost batch norm brings the large
batch near the small one. The fits are of that phase: from `generalization.fit_from` to the first
change of the rate, or `fit_to`.

The gradient norms are root mean squares over the updates since the evaluation before, of the mean
gradient of the batch: at a small batch most of that is noise. Layer by layer, ||w|| and ||g|| are
those of a training batch after the first update and after the last (You 2017, Table 2).
"""

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling.crossings import History, next_evaluation
from scaling.diffusion import Diffusion, fit_diffusion
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.studies import recipe_points
from scaling.studies.generalization.record import Curve, Layer, Norms, Record, Run
from scaling.train.gradients import LayerNorms
from scaling.train.point import Point, resolve
from scaling.train.trials import Observer, ToTheEnd, Training, seconds_of

START, END = "layers at the start", "layers at the end"

points, name = recipe_points.points_on_grid, recipe_points.name


def check_values(config: ConfigDict) -> None:
    """The config can be used, wherever its data are.

    Raises:
      UserError: a value that cannot be.
    """
    (point,) = recipe_points.resolved(config, several=False)
    if point.info.streaming:
        raise UserError(f"{point.info.name} is streamed; this study needs a data set in memory.")
    first, last = fit_range(point)
    if first >= last:
        raise UserError(
            f"The fits would be from step {first:,} to step {last:,}; set generalization.fit_from "
            "earlier or fit_to later."
        )


def check(config: ConfigDict) -> None:
    """The same, and it fits this machine, and its data set is there.

    Raises:
      UserError: it does not, or it is not.
    """
    check_values(config)
    recipe_points.check(config, config.recipes.seeds)


def fit_range(point: Point) -> tuple[int, int]:
    """First and last step of the phase that the fits are of: one learning rate."""
    settings, schedule = point.config.generalization, point.config.schedule
    steps = lambda duration: point.info.steps(duration, point.global_batch)
    first, last = max(1, steps(settings.fit_from), steps(schedule.warmup)), point.total_steps
    if settings.fit_to is not None:
        last = min(last, steps(settings.fit_to))
    elif schedule.boundaries:
        last = min(last, steps(schedule.boundaries[0]))
    elif schedule.name not in ("constant", "step", "dip"):
        raise UserError(
            f"The {schedule.name!r} schedule changes the learning rate at every step, and the "
            "fits are of a phase of one rate; set schedule.name='constant', or "
            "generalization.fit_to."
        )
    return first, last


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """Every seed of one batch size and recipe."""
    point = resolve(config, ("peak",))
    fields = recipe_points.begin([point], run)
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
        Run(
            seed=seed,
            **recipe_points.end_of(point, outcome, k),
            curve=(curve := _curve(outcome.histories[k], point.task.headline)),
            diffusion=_fit(outcome.histories[k], curve, span),
        )
        for k, seed in enumerate(seeds)
    ]
    return Record(
        **fields,
        status=recipe_points.status_of(runs),
        fit_steps=span,
        runs=runs,
        layers=_layers(*outcome.observed),
        seconds=seconds_of([outcome]),
    )


class _Distance(Observer):
    """Distances from initialisation along training, and layer norms at step 1 and at the end."""

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


def _curve(history: History, metric: str) -> Curve:
    """Of one run."""
    columns = history.columns
    return Curve(
        step=columns["step"],
        weight_distance=columns["weight_distance"],
        grad_norm=[None if s is None else s**0.5 for s in columns["train_grad_sq_norm"]],
        train_loss=columns["train_loss"],
        validation_error=columns[metric],
        validation_loss=columns["loss"],
    )


def _fit(history: History, curve: Curve, span: tuple[int, int]) -> Diffusion | None:
    """The laws fitted to the evaluations within `span`; None of a run that diverged."""
    pairs = zip(curve.step, curve.weight_distance, strict=True)
    inside = [(step, distance) for step, distance in pairs if span[0] <= step <= span[1]]
    if history.diverged_at is not None or not inside:
        return None
    return fit_diffusion(*zip(*inside, strict=True))


def _layers(notes) -> list[Layer] | None:
    """Norms at the start and at the end; None where either is missing."""
    if not (notes.get(START) and notes.get(END)):
        return None
    norms = lambda layer: Norms(layer["weight_norm"], layer["grad_norm"])
    return [
        Layer(first["name"], first["size"], norms(first), norms(last))
        for first, last in zip(notes[START], notes[END], strict=True)
    ]


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What the study would do and cost, as text. Reads no data and trains nothing.

    Raises:
      UserError: a config cannot be used.
    """
    first = next(iter(points.values()))
    seeds, growth = first.recipes.seeds, first.generalization.resolution
    each = f"{seeds} seeds, evaluated at steps that grow by {growth:.0%}"
    return recipe_points.dry_run(points, seeds, each)
