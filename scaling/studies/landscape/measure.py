"""The loss around trained nets and between them (Keskar 2016, Fig. 3 and 7; Li 2018, Fig. 2 and 3).

A point is one weight decay: a net is trained at each of `batch_sizes`, or the weights are those of
finished runs (`landscape.of`). The loss and the other metrics are evaluated along random directions
whose filters have the norms of the net's own, on the plane of two of them, and, on training and
held-out examples, along the line and the arc from the first net to the last, beyond both. All nets
share the raw random numbers. Every surface is saved as it grows, and goes on where it was stopped.
"""

import math
import time
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling.config import checked, default_config, differences
from scaling.data import sources
from scaling.directions import random_direction
from scaling.errors import UserError, look_up
from scaling.files import user_path
from scaling.progress import Progress
from scaling.record import RunDir
from scaling.report.records import read_object
from scaling.signals import Interrupted, Signals
from scaling.studies.landscape.record import Net, Record
from scaling.studies.shared import (
    check_batch,
    priced_plan,
    refuse_keys_of_single_runs,
    single_run,
)
from scaling.train.checkpoint import saved_steps
from scaling.train.feed import evaluation_size
from scaling.train.point import Point, resolve
from scaling.train.resolved import point_values
from scaling.train.single import every, last_variables
from scaling.train.surface import STATISTICS, Surface
from scaling.train.trials import Observer, Training, seconds_of

BEYOND = -1.0, 2.0  # ends of a path (Keskar 2016)
OF_RUNS = ("data", "model", "optim", "schedule", "loss", "global_batch", "duration")


def points(config: ConfigDict) -> list[ConfigDict]:
    """One config for each weight decay, or one of the runs that are named.

    Raises:
      UserError: a folder holds no finished run whose weights were kept, or the runs differ in
        their data or model.
    """
    landscape = config.landscape
    if landscape.of:
        point = config.copy_and_resolve_references()
        first = _of_runs(config)
        for key in OF_RUNS:
            point[key] = first[key]
        point.landscape.weight_decays, point.batch_sizes = (), ()
        return [point]
    configs = []
    for decay in landscape.weight_decays or (config.optim.weight_decay,):
        point = config.copy_and_resolve_references()
        point.optim.weight_decay, point.landscape.weight_decays = decay, ()
        configs.append(point)
    return configs


def name(config: ConfigDict) -> str:
    """The name of a point's directory: wd0.0005, or "runs"."""
    decay = config.optim.weight_decay
    return "runs" if config.landscape.of else "nets" if decay is None else f"wd{decay:g}"


def nets_of(config: ConfigDict) -> dict[str, ConfigDict]:
    """The config of every net, by its name.

    Raises:
      UserError: see `points`; or not as many durations as batch sizes.
    """
    if config.landscape.of:
        return {path: _run(path, config) for path in config.landscape.of}
    batches = config.batch_sizes or (config.global_batch,)
    durations = config.landscape.durations or (config.duration,) * len(batches)
    if len(durations) != len(batches):
        raise UserError(
            f"landscape.durations names {len(durations)} and there are {len(batches)} batch "
            "sizes; name one for each, or none."
        )
    if len(set(batches)) < len(batches):
        raise UserError(f"batch_sizes is {tuple(batches)}; name each batch size once.")
    nets = {}
    for batch, duration in zip(batches, durations, strict=True):
        c = single_run(config)
        c.global_batch, c.duration = batch, duration
        nets[f"batch {batch:,}"] = c
    return nets


def _of_runs(config):
    """The config of the first run of `landscape.of`; all have its data and model."""
    paths = config.landscape.of
    if len(set(paths)) < len(paths):
        raise UserError(f"landscape.of is {tuple(paths)}; name each run once.")
    kept = [{key: _run(path, config)[key].to_dict() for key in ("data", "model")} for path in paths]
    for path, other in zip(paths, kept, strict=True):
        if changed := differences(kept[0], other):
            raise UserError(
                f"The runs {paths[0]} and {path} differ ({changed[0]}); a landscape is of one "
                "data set and model."
            )
    return _run(paths[0], config)


def _run(path, config):
    """The config of a finished run."""
    folder = user_path(path, "landscape.of")
    result = read_object(folder / "result.json", missing={})
    if not result:
        raise UserError(
            f"landscape.of names {path}, which holds no finished run; name the folder of one, such "
            "as runs/my_config/bs256."
        )
    if result.get("study", "train") != "train" or not saved_steps(RunDir(folder)):
        raise UserError(
            f"landscape.of names {path}, which keeps no weights; name a single run (study "
            "'train') with its checkpoints."
        )
    if result["status"] != "complete":
        raise UserError(f"landscape.of names {path}, a run that diverged; name one that did not.")
    c, recorded = default_config(), read_object(folder / "config.json")
    c.model = ConfigDict(recorded.pop("model"))
    c.update(recorded)
    c.devices, c.data.dir = config.devices, config.data.dir or c.data.dir
    return checked(c)


def check(config: ConfigDict) -> None:
    """The config can be used here, and its data set is there.

    Raises:
      UserError: it cannot, or it is not.
    """
    landscape = config.landscape
    refuse_keys_of_single_runs(config)
    look_up("landscape.statistics", landscape.statistics, dict.fromkeys(STATISTICS))
    for key, step in (("line", 2), ("plane", 2), ("path", 6)):
        number = landscape[key]
        if number % step != 1:
            raise UserError(
                f"landscape.{key} is {number}, which leaves out a net's own place; make it a "
                f"multiple of {step}, plus 1, such as {number - number % step + 1}."
            )
    for net in nets_of(config).values():
        check_batch(net)
        info = resolve(net).info
        if info.streaming:
            raise UserError(f"{info.name} is streamed; this study needs a data set in memory.")
    sources.check_available(info.name, config.data.dir)


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What would be trained and evaluated, and what the training takes."""
    nets = {
        f"{point}, {net}": resolve(config)
        for point, each in points.items()
        for net, config in nets_of(each).items()
    }
    first = next(iter(points.values())).landscape
    rows = {
        "each": f"{first.directions} lines of {first.line} points, a plane of {first.plane} x "
        f"{first.plane}, paths of {first.path}, batch statistics {first.statistics}"
    }
    verb = "trained before" if first.of else "trained"
    line = lambda name, point, price: f"{name}: {point.total_steps:,} steps, {verb}; {price}"
    return priced_plan(nets, lambda point: 1, rows, line)


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """The nets of a point, and the surfaces around and between them."""
    configs = nets_of(config)
    resolved = {net: resolve(each) for net, each in configs.items()}
    point = next(iter(resolved.values()))
    values = point_values(point)
    run.launched(values)
    nets, variables, seconds = _nets(config, resolved, run, name, signals)
    start = time.perf_counter()
    surfaces = _Surfaces(config, point, run, name, signals)
    ratios = surfaces.measure([each for each in variables if each is not None])
    norms = iter(ratios)
    sizes, group = point.info.sizes, min(config.landscape.group, point.info.sizes["train"])
    has_statistics = bool(jax.tree.leaves(point.variables()[1]))
    return Record(
        study=config.study,
        weight_decay=None if config.landscape.of else config.optim.weight_decay,
        nets=[
            Net(**net, **_norms(each, next(norms) if each is not None else []))
            for net, each in zip(nets, variables, strict=True)
        ],
        splits=list(surfaces.splits),
        metrics=list(point.task.metrics),
        statistics=config.landscape.statistics if has_statistics else "none",
        group=group,
        examples={split: surfaces.examples(sizes, split) for split in surfaces.splits},
        seeds=surfaces.seeds,
        line=config.landscape.line,
        plane=config.landscape.plane,
        reach=config.landscape.reach,
        train_size=sizes["train"],
        seconds=seconds | {"surfaces": time.perf_counter() - start},
        devices=values["devices"],
    )


def _norms(variables, ratios):
    norm = None if variables is None else _norm(variables[0])
    return {"norm": norm, "direction_norms": ratios}


def _norm(tree) -> float:
    return math.sqrt(
        sum(float(np.square(leaf, dtype=float).sum()) for leaf in jax.tree.leaves(tree))
    )


# --- nets ---


class _Keep(Observer):
    """Saves the weights after the last update."""

    def __init__(self, run, name):
        self.run, self.name = run, name

    def end(self, population):
        self.run.save_arrays(self.name, jax.tree.leaves(population.variables(0)))


def _nets(config, resolved, run, name, signals):
    """Fields of every `Net`, its (params, batch_stats), None if it diverged, and the seconds of
    training."""
    held_out, lines, outcomes, nets, variables = _held_out(config), 0, [], [], []
    if config.landscape.of:
        found = [_finished(net, point, held_out) for net, point in resolved.items()]
        return *map(list, zip(*found, strict=True)), {}
    for net, point in resolved.items():
        label = f"weights_{point.global_batch}"
        ends = ("train", "test") if held_out == "test" else ("train",)
        trained = Training(
            point,
            every(point),
            [{}],
            [config.seed],
            run,
            f"bs{point.global_batch}",
            f"bs{point.global_batch}",
            ends=ends,
            observers=[_Keep(run, label)],
        )
        outcome = trained.run(lines, signals, f"{name}, {net}")
        outcomes.append(outcome)
        lines, (history,) = outcome.lines, outcome.histories
        diverged = history.diverged_at is not None
        ended = {split: metrics for split, (metrics,) in outcome.ends.items()}
        if not diverged:
            ended["validation"] = {key: history.last[key] for key in point.task.metrics}
        nets.append(_fields(net, point, outcome.steps, diverged, ended, held_out))
        structure = jax.tree.structure(point.variables())
        leaves = None if diverged else run.load_arrays(label)
        variables.append(None if diverged else jax.tree.unflatten(structure, leaves))
    return nets, variables, seconds_of(outcomes)


def _fields(net, point, steps, diverged, ended, held_out):
    return {
        "name": net,
        "global_batch": point.global_batch,
        "learning_rate": point.peak,
        "steps": steps,
        "diverged": diverged,
        "train": ended.get("train"),
        "held_out": ended.get(held_out),
    }


def _finished(path, point, held_out):
    """(fields of the `Net`, (params, batch_stats)) of a finished run."""
    run = RunDir(user_path(path, "landscape.of"))
    result, names = run.result, point.task.metrics
    ended = {held_out: result[held_out] and {name: result[held_out][name] for name in names}}
    fields = _fields(path, point, result["steps"], False, ended, held_out)
    return fields, last_variables(run, point)


def _held_out(config) -> str:
    return "test" if config.eval.test else "validation"


# --- surfaces ---


class _Surfaces:
    """The surfaces of the nets of a point."""

    def __init__(self, config: ConfigDict, point: Point, run: RunDir, name: str, signals: Signals):
        self.settings, self.point, self.run = config.landscape, point, run
        self.name, self.signals = name, signals
        self.splits = "train", _held_out(config)
        self.seeds = [config.seed + 1 + k for k in range(self.settings.directions)]
        self._programs: dict[tuple[str, str], Surface] = {}

    def examples(self, sizes: dict[str, int], split: str) -> int:
        """That are read at every place."""
        return min(self.settings.examples or evaluation_size(sizes, split), sizes[split])

    def measure(self, nets: Sequence) -> list[list[float]]:
        """Evaluate all; the norms of the directions over that of each net's weights."""
        ratios = []
        for index, (params, batch_stats) in enumerate(nets):
            along = [random_direction(jax.random.key(seed), params) for seed in self.seeds]
            ratios.append([_norm(direction) / _norm(params) for direction in along])
            # Between two nets they would be interpolated; around one there is nothing between.
            statistics = self.settings.statistics.replace("interpolated", "frozen")
            for split in self.splits:
                places = self._around() if split == "train" else self._lines()
                shape = "plane", [params, *along], [batch_stats], statistics
                self._evaluate(f"net{index}_{split}", split, places, *shape)
        if len(nets) > 1:
            trees, stats = zip(nets[0], nets[-1], strict=True)
            for path in ("line", "arc"):
                for split in self.splits:
                    shape = path, trees, stats, self.settings.statistics
                    self._evaluate(f"{path}_{split}", split, self._between(), *shape)
        return ratios

    def _lines(self):
        """A line along each direction, [directions * line, directions]."""
        along = np.linspace(-1, 1, self.settings.line) * self.settings.reach
        return np.kron(np.eye(len(self.seeds)), along[:, None])

    def _around(self):
        """The lines, then the plane of the first two directions."""
        lines, side = self._lines(), self.settings.plane
        if side == 1:
            return lines
        along = np.linspace(-1, 1, side) * self.settings.reach
        plane = np.zeros((side * side, lines.shape[1]))
        plane[:, :2] = np.stack(np.meshgrid(along, along, indexing="ij"), -1).reshape(-1, 2)
        return np.concatenate([lines, plane])

    def _between(self):
        places = np.linspace(*BEYOND, self.settings.path)
        if self.settings.statistics == "interpolated":
            places = places[(places > -1e-9) & (places < 1 + 1e-9)].clip(0, 1)
        return places[:, None]

    def _evaluate(self, file, split, places, path, trees, batch_stats, statistics):
        """The surface in FILE.npz, from where it was stopped."""
        names, done = list(self.point.task.metrics), 0
        columns = [np.zeros(0, np.float32) for _ in names]
        if (self.run.path / f"{file}.npz").exists():
            _, *columns = self.run.load_arrays(file)
            done = len(columns[0])
        if done == len(places):
            return
        surface = self._surface(split, path, trees, batch_stats, statistics)
        saved, batch = time.perf_counter(), self.examples(self.point.info.sizes, split)
        label, headline = f"{self.name}, {file}", self.point.task.metrics[names[0]]
        with Progress(label, len(places), batch, done, headline) as progress:
            for count, metrics in surface.blocks(places, done):
                columns = [
                    np.concatenate([column, np.float32(metrics[name])])
                    for name, column in zip(names, columns, strict=True)
                ]
                progress.step(count, float(metrics["loss"][-1]))
                now, stop = time.perf_counter(), self.signals.received
                late = now - saved > self.point.config.checkpoint.every_seconds
                if stop or late or count == len(places):
                    self.run.save_arrays(file, [np.float32(places), *columns])
                    saved = now
                if stop:
                    raise Interrupted(stop, f"after {count:,} places of {file}; progress is saved.")

    def _surface(self, split, path, trees, batch_stats, statistics):
        """With the program of one of the same split and kind of path, where there is one."""
        if (split, path) not in self._programs:
            settings = self.settings
            self._programs[split, path] = Surface(
                self.point,
                path,
                trees,
                batch_stats,
                split,
                statistics,
                settings.examples,
                settings.group,
            )
        return self._programs[split, path].at(trees, batch_stats)
