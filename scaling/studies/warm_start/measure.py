"""Large-batch training from the weights along a small-batch run (Keskar 2016, Fig. 5).

A point is one small batch. Its seeds train side by side, and their weights are kept at the
beginning and then about every `warm_start.every`, the last time at the end. From all of these the
large batch trains, as one population, with a new state of the optimizer. The nets at every start,
and those that came from it, are measured on the same examples.
"""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling import durations
from scaling.crossings import History
from scaling.data import sources
from scaling.errors import UserError, look_up
from scaling.record import RunDir
from scaling.signals import Interrupted, Signals
from scaling.studies.gauge import STATISTICS, Gauge
from scaling.studies.measure_records import Measure
from scaling.studies.shared import (
    batch_name,
    by_batch_size,
    priced_plan,
    refuse_keys_of_single_runs,
    single_run,
)
from scaling.studies.warm_start.record import Net, Record, Start
from scaling.train import planning
from scaling.train.memory import check_population
from scaling.train.point import Point, data_info, resolve
from scaling.train.population import placements
from scaling.train.resolved import point_values
from scaling.train.trials import Observer, ToTheEnd, Training, seconds_of

points, name = by_batch_size, batch_name


def check_values(config: ConfigDict) -> None:
    """The config can be used, wherever its data are.

    Raises:
      UserError: a value that cannot be.
    """
    settings, info = config.warm_start, data_info(config.data)
    refuse_keys_of_single_runs(config)
    if info.streaming:
        raise UserError(f"{info.name} is streamed; this study needs a data set in memory.")
    if settings.batch <= config.global_batch:
        raise UserError(
            f"warm_start.batch is {settings.batch:,} and global_batch, the small one, "
            f"{config.global_batch:,}; make it larger."
        )
    look_up("warm_start.statistics", settings.statistics, dict.fromkeys(STATISTICS))
    if not settings.eps or len({f"{eps:g}" for eps in settings.eps}) < len(settings.eps):
        raise UserError(
            f"warm_start.eps is {tuple(settings.eps)}; name each half-width of a box once, such as "
            "0.001."
        )


def check(config: ConfigDict) -> None:
    """The same, and it fits this machine, and its data set is there.

    Raises:
      UserError: it does not, or it is not.
    """
    check_values(config)
    settings = config.warm_start
    starts = settings.seeds * len(places_of(config))
    for point, trials in zip(_resolved(config), (settings.seeds, starts), strict=True):
        planning.layout_of(point, trials)
        check_population(point, trials)
    sources.check_available(config.data.name, config.data.dir)


def places_of(config: ConfigDict) -> list[int]:
    """Steps of the small batch's run at which the large one starts, evenly from 0 to the end.

    Raises:
      UserError: there is no update between two.
    """
    size, every = data_info(config.data).sizes["train"], config.warm_start.every
    total, step = (
        durations.to_steps(d, config.global_batch, size) for d in (config.duration, every)
    )
    if not 1 <= step <= total:
        raise UserError(
            f"warm_start.every is {every!r}, {step:,} steps of the {total:,} of {config.duration}; "
            "make it at least 1 step and at most all."
        )
    count = round(total / step)
    return [round(total * k / count) for k in range(count + 1)]


def _resolved(config: ConfigDict) -> tuple[Point, Point]:
    """The small batch's run, and training with the large batch."""
    small, large = single_run(config), single_run(config)
    large.global_batch, large.micro_batch = config.warm_start.batch, None
    large.duration = config.warm_start.duration
    return resolve(small, ("peak",)), resolve(large, ("peak",))


class _Keep(Observer):
    """Saves the weights of all trials, leaves [K, ...], at every evaluation: NAME and the step."""

    def __init__(self, run: RunDir, name: str):
        self.run, self.name = run, name

    def columns(self, population):
        state = population.packed().state
        leaves = jax.tree.leaves((state.params, state.batch_stats))
        self.run.save_arrays(f"{self.name}{population.step}", leaves)
        return {}


class _From(Training):
    """A training that begins at other weights.

    Args:
      weights: called for (params, batch_stats), leaves [K, ...].
    """

    def __init__(self, *args, weights, **kwargs):
        super().__init__(*args, **kwargs)
        self._weights = weights

    def place(self):
        super().place()
        self.population.begin(*self._weights())


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """The small batch's runs, large-batch training from them, then the nets one after another."""
    small, large = _resolved(config)
    values, seeds = point_values(small), [config.seed + k for k in range(config.warm_start.seeds)]
    run.launched(values | {"populations": placements(run)})
    places, end = places_of(config), large.total_steps
    after = lambda step: min((place for place in places if place > step), default=places[-1])
    trials = small, ToTheEnd(places[-1], after), [{}] * len(seeds), seeds, run, "run", "run"
    first = Training(*trials, observers=[_Keep(run, "small")]).run(0, signals, name)
    starts = [
        (step, k) for step in places for k, h in enumerate(first.histories) if _reached(h, step)
    ]
    saved = _Saved(small, run)
    weights = lambda: saved.all([(f"small{step}", k) for step, k in starts])
    rule, own = ToTheEnd(end, lambda step: end, begin=end), [seeds[k] for _, k in starts]
    trials = large, rule, [{}] * len(starts), own, run, "warm", "warm"
    training = _From(*trials, weights=weights, observers=[_Keep(run, "warm")])
    second = training.run(first.lines, signals, f"{name}, from {len(starts)} starts")
    gauge = Gauge(small, config.warm_start, brief=True)
    nets = _Nets(gauge, run, saved, name, signals)
    found = [
        Start(
            seeds[k],
            step,
            nets.of(f"small{step}", k),
            nets.of(f"warm{end}", i) if _reached(second.histories[i], end) else None,
        )
        for i, (step, k) in enumerate(starts)
    ]
    for path in run.path.glob("*.npz"):
        path.unlink()
    return Record(
        study=config.study,
        status="complete" if any(start.warm for start in found) else "diverged",
        global_batch=small.global_batch,
        large_batch=large.global_batch,
        steps=small.total_steps,
        large_steps=end,
        learning_rate=small.peak,
        large_learning_rate=large.peak,
        metric=small.task.headline,
        split=gauge.split,
        examples=gauge.count,
        statistics=gauge.statistics,
        starts=found,
        train_size=small.info.sizes["train"],
        seconds=seconds_of([first, second]),
        devices=values["devices"],
    )


def _reached(history: History, step: int) -> bool:
    """Whether a trial had a finite loss there."""
    return any(at == step for at, _ in history.known("loss"))


class _Saved:
    """Weights and batch statistics in files of a run, trials in rows."""

    def __init__(self, point: Point, run: RunDir):
        self.structure, self.run = jax.tree.structure(point.variables()), run

    def leaves(self, file: str, trial: int) -> list[np.ndarray]:
        """Of one trial."""
        return [leaf[trial] for leaf in self.run.load_arrays(file)]

    def all(self, nets: list[tuple[str, int]]) -> Any:
        """(params, batch_stats) of many (file, trial), leaves [K, ...]."""
        each = [self.leaves(*net) for net in nets]
        return self.structure.unflatten(map(np.stack, zip(*each, strict=True)))


class _Nets:
    """The nets, measured one after another; nets.json has them, so none is measured again."""

    def __init__(self, gauge: Gauge, run: RunDir, saved: _Saved, name: str, signals: Signals):
        self.gauge, self.run, self.saved, self.name = gauge, run, saved, name
        self.signals, self.known = signals, run.load_json("nets") or {}

    def of(self, file: str, trial: int) -> Net:
        """One net.

        Raises:
          Interrupted: by a signal, before it is measured.
        """
        key = f"{file}, trial {trial}"
        if key not in self.known:
            if self.signals.received:
                when = f"before {self.name} was measured; progress is saved."
                raise Interrupted(self.signals.received, when)
            self.known[key] = self.gauge.measure(self.saved.leaves(file, trial))
            self.run.save_json("nets", self.known)
        net = self.known[key]
        return Net(**net | {"measures": [Measure(**measure) for measure in net["measures"]]})


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What would be trained, and what it takes.

    Raises:
      UserError: a config cannot be used.
    """
    settings = next(iter(points.values())).warm_start
    each = (
        f"{settings.seeds} seeds; from each, every {settings.every}, {settings.duration} with "
        f"batch {settings.batch:,}"
    )
    pairs = {name: _resolved(config) for name, config in points.items()}
    starts = {id(pairs[n][0]): settings.seeds * len(places_of(c)) for n, c in points.items()}
    examples = lambda point: point.total_steps * point.global_batch
    warm = {id(small): examples(large) / examples(small) for small, large in pairs.values()}
    runs_of = lambda small: settings.seeds + starts[id(small)] * warm[id(small)]
    line = lambda name, small, price: (
        f"{name:>7}  {small.total_steps:,} steps, {starts[id(small)]} starts; {price}"
    )
    smalls = {name: small for name, (small, _) in pairs.items()}
    return priced_plan(smalls, runs_of, {"each": each}, line)
