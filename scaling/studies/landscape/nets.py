"""The nets of a point: trained here, or those of finished runs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling.config import checked, default_config, differences
from scaling.errors import UserError
from scaling.files import user_path
from scaling.record import RunDir
from scaling.report.records import read_object
from scaling.signals import Signals
from scaling.studies.landscape.record import BINS, Histogram
from scaling.train.checkpoint import saved_steps
from scaling.train.point import Point
from scaling.train.single import every, last_variables
from scaling.train.trials import Observer, Training, seconds_of


@dataclass(frozen=True)
class Trained:
    """A net.

    Attributes:
      fields: of its `record.Net`.
      variables: parameters and batch statistics; None if it diverged.
      steps: after which its weights were saved along the training.
      files: of these weights, from the first to the last.
    """

    fields: dict[str, Any]
    variables: Any
    steps: tuple[int, ...] = ()
    files: tuple[str, ...] = ()


def held_out(config: ConfigDict) -> str:
    """The split beside the training examples."""
    return "test" if config.eval.test else "validation"


def norm_of(tree: Any) -> float:
    """Euclidean, of all leaves together."""
    return math.sqrt(
        sum(float(np.square(leaf, dtype=float).sum()) for leaf in jax.tree.leaves(tree))
    )


def histogram(params: Any) -> Histogram:
    """Of the weights of kernels."""
    kernels = [np.ravel(leaf) for leaf in jax.tree.leaves(params) if np.ndim(leaf) > 1]
    values = np.concatenate(kernels)
    edge = float(f"{np.quantile(np.abs(values), 0.999):.3g}") or 1.0
    counts, _ = np.histogram(np.clip(values, -edge, edge), BINS, (-edge, edge))
    return Histogram(edge, counts.tolist())


# --- trained here ---


class _Keep(Observer):
    """Saves the weights before the first update, `count` times along the training, at evaluations,
    and after the last update; `state` is the steps."""

    def __init__(self, run: RunDir, batch: int, total: int, count: int):
        self.run, self.batch, self.every, self.state = run, batch, total / max(count, 1), []
        self.kept = count > 0

    def begin(self, training):
        """The weights before the first update."""
        self.training = training
        if self.kept and not self.state:
            self._save(training.population.initial_weights())

    def show(self, progress):
        """Those of an evaluation, where it is time."""
        training = self.training
        looked = training.evaluated == training.step > 0 and not training.all_diverged
        if self.kept and looked and training.step >= len(self.state) * self.every:
            self._save(training.population.weights())

    def end(self, population):
        """The last, with the batch statistics."""
        self.run.save_arrays(f"weights_{self.batch}", jax.tree.leaves(population.variables(0)))
        if self.kept and self.training.step not in self.state:
            self._save(population.weights())

    def _save(self, weights):
        step = self.training.step if self.state else 0
        if step not in self.state:
            arrays = [leaf[0] for leaf in jax.tree.leaves(weights)]
            self.run.save_arrays(_file(self.batch, step), arrays)
            self.state.append(step)


def _file(batch: int, step: int) -> str:
    return f"weights_{batch}_{step}"


def train(
    config: ConfigDict, resolved: dict[str, Point], run: RunDir, name: str, signals: Signals
) -> tuple[list[Trained], dict[str, float]]:
    """The nets of `resolved`, one after another, and the seconds of it."""
    lines, outcomes, nets, split = 0, [], [], held_out(config)
    for net, point in resolved.items():
        batch = point.global_batch
        keep = _Keep(run, batch, point.total_steps, config.landscape.trajectory)
        trial = [{}], [config.seed], run, f"bs{batch}", f"bs{batch}"
        ends = ("train", "test") if split == "test" else ("train",)
        trained = Training(point, every(point), *trial, ends=ends, observers=[keep])
        outcome = trained.run(lines, signals, f"{name}, {net}")
        outcomes.append(outcome)
        lines, (history,) = outcome.lines, outcome.histories
        if history.diverged_at is not None:
            nets.append(Trained(_fields(net, point, outcome.steps, True, {}, split), None))
            continue
        ended = {split: metrics for split, (metrics,) in outcome.ends.items()}
        ended["validation"] = {key: history.last[key] for key in point.task.metrics}
        fields, steps = _fields(net, point, outcome.steps, False, ended, split), outcome.observed[0]
        structure = jax.tree.structure(point.variables())
        variables = jax.tree.unflatten(structure, run.load_arrays(f"weights_{batch}"))
        files = tuple(_file(batch, step) for step in steps)
        nets.append(Trained(fields, variables, tuple(steps), files))
    return nets, seconds_of(outcomes)


def _fields(net, point, steps, diverged, ended, split):
    return {
        "name": net,
        "global_batch": point.global_batch,
        "learning_rate": point.peak,
        "steps": steps,
        "diverged": diverged,
        "train": ended.get("train"),
        "held_out": ended.get(split),
    }


# --- of finished runs ---


def config_of_runs(config: ConfigDict) -> ConfigDict:
    """The config of the first run of `landscape.of`; all have its data and model.

    Raises:
      UserError: a folder holds no finished run whose weights were kept, or they differ.
    """
    paths = config.landscape.of
    if len(set(paths)) < len(paths):
        raise UserError(f"landscape.of is {tuple(paths)}; name each run once.")
    configs = {path: config_of_run(path, config) for path in paths}
    kept = [{"data": c.data.to_dict(), "model": _function(c.model)} for c in configs.values()]
    for path, other in zip(paths, kept, strict=True):
        if changed := differences(kept[0], other):
            raise UserError(
                f"The runs {paths[0]} and {path} differ ({changed[0]}); a landscape is of one "
                "data set and model."
            )
    return configs[paths[0]]


def _function(model: ConfigDict) -> dict[str, Any]:
    """What says which function of its weights a model is: over all examples of a call, as surfaces
    have it, ghost batch norm is batch norm."""
    ghost = {"norm": "batch", "ghost_batch": None} if model.get("norm") == "ghost" else {}
    return model.to_dict() | ghost


def _place(path: str) -> tuple[Path, str]:
    """(folder of a run, name of its file of weights without the suffix or "")"""
    found = user_path(path, "landscape.of")
    return (found.parent, found.stem) if found.suffix == ".npz" else (found, "")


def config_of_run(path: str, config: ConfigDict) -> ConfigDict:
    """The config of a finished run of `landscape.of`.

    Raises:
      UserError: it is none, or it keeps no weights.
    """
    folder, file = _place(path)
    result = read_object(folder / "result.json", missing={})
    if not result:
        raise UserError(
            f"landscape.of names {path}, which holds no finished run; name the folder of one, such "
            "as runs/my_config/bs256."
        )
    if file and not (folder / f"{file}.npz").exists():
        raise UserError(f"landscape.of names {path}, and there is no such file.")
    if not file and (result.get("study", "train") != "train" or not saved_steps(RunDir(folder))):
        files = sorted(each.name for each in folder.glob("weights*.npz"))
        instead = f"a file of weights in it, such as {path}/{files[0]}" if files else "another run"
        raise UserError(
            f"landscape.of names {path}, which is no single run with its checkpoints; "
            f"name {instead}."
        )
    if result["status"] == "diverged":
        raise UserError(f"landscape.of names {path}, a run that diverged; name one that did not.")
    c, recorded = default_config(), read_object(folder / "config.json")
    c.model = ConfigDict(recorded.pop("model"))
    for key in (set(c) & set(recorded)) - {"study", "batch_sizes"}:
        value = recorded[key]
        if isinstance(value, dict):  # a study may have a section of that name with more keys
            value = {name: each for name, each in value.items() if name in c[key]}
        c.update({key: value})
    c.devices, c.data.dir = config.devices, config.data.dir or c.data.dir
    return checked(c)


def finished(resolved: dict[str, Point], split: str) -> Iterator[Trained]:
    """The nets of finished runs, by the path of each.

    Raises:
      UserError: a file holds other arrays than a model's weights.
    """
    for path, point in resolved.items():
        (folder, file), names = _place(path), point.task.metrics
        run, ended, steps = RunDir(folder), {}, None
        if file:
            variables = _read(run, file, point)
        else:
            variables, steps = last_variables(run, point), run.result["steps"]
            ended = {
                s: run.result[s] and {name: run.result[s][name] for name in names}
                for s in ("train", split)
            }
        fields = _fields(path, point, steps, False, ended, split)
        rate = run.result.get("learning_rate", point.peak)  # it may have been tuned
        yield Trained(fields | {"learning_rate": rate}, variables)


def _read(run, file, point):
    """The weights and batch statistics of a file."""
    like, found = point.variables(), run.load_arrays(file)
    shapes = [leaf.shape for leaf in jax.tree.leaves(like)]
    if [leaf.shape for leaf in found] != shapes:
        raise UserError(
            f"landscape.of names {run.path / file}.npz, which holds {len(found)} array(s), and not "
            f"the {len(shapes)} of the weights and statistics of {point.config.model.name!r}."
        )
    return jax.tree.unflatten(jax.tree.structure(like), found)
