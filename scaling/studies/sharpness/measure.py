"""Sharpness of nets by batch size and recipe (Keskar 2016, Tables 2 to 4; Andriushchenko 2023).

A point is one batch size and one recipe (scaling/recipes.py); its seeds train side by side, and
recipe by recipe they are the same. The weights of a seed are kept where its training loss is first
seen at or below each of `sharpness.losses`, and after the last update: at one budget batch sizes
end at different losses, on which every measure of sharpness depends. How nets are measured is in
scaling/studies/gauge.py.
"""

from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from scaling.crossings import next_evaluation
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.signals import Interrupted, Signals
from scaling.studies import recipe_points, tuning
from scaling.studies.gauge import STATISTICS, Gauge, examples_of
from scaling.studies.measure_records import Measure
from scaling.studies.sharpness.record import END, Net, Record, Run, Spectrum, at_loss
from scaling.train.point import resolve
from scaling.train.trials import Observer, Outcome, ToTheEnd, Training, seconds_of

points, name = recipe_points.points_on_grid, recipe_points.name


def check_values(config: ConfigDict) -> None:
    """The config can be used, wherever its data are.

    Raises:
      UserError: a value that cannot be.
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
    examples = examples_of(point, settings)
    if 2 * settings.batch > examples:
        raise UserError(
            f"sharpness.batch is {settings.batch:,} and {examples:,} examples are measured on; "
            f"set it to at most {examples // 2:,}, half of them."
        )
    tuning.check(config)


def check(config: ConfigDict) -> None:
    """The same, and it fits this machine, and its data set is there.

    Raises:
      UserError: it does not, or it is not.
    """
    check_values(config)
    settings = config.sharpness
    recipe_points.check(config, max(settings.trials, config.recipes.seeds))


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
    gauge: Gauge, run: RunDir, outcome: Outcome, trial: int, name: str, signals: Signals
) -> Iterator[Net]:
    """The nets of one run. Each is a file once it is measured, so no launch measures it again."""
    columns, settings = outcome.histories[trial].columns, gauge.settings
    losses = dict(zip(columns["step"], columns["loss"], strict=True))
    for place, step in outcome.observed[0][str(trial)].items():
        file = _file("net", trial, place)
        if run.load_json(file) is None:
            if signals.received:
                when = f"before {name} was measured, seed {trial}; progress is saved."
                raise Interrupted(signals.received, when)
            weights, probes = run.load_arrays(_file("weights", trial, place)), settings.probes
            found = {"place": place, "step": step, "train_loss": losses[step]}
            found |= gauge.measure(weights)
            found["spectrum"] = gauge.spectrum(weights, probes) if probes and not trial else None
            run.save_json(file, found)
        saved = run.load_json(file)
        measures = [Measure(**measure) for measure in saved["measures"]]
        spectrum = saved["spectrum"] and Spectrum(**saved["spectrum"])
        yield Net(**saved | {"measures": measures, "spectrum": spectrum})


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
