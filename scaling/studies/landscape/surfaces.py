"""The surfaces of the nets of a point, each a file that grows and goes on where it was stopped."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict

from scaling.curvature import hessian_product, lanczos, ritz
from scaling.directions import pca, random_direction, shifted
from scaling.progress import Progress
from scaling.record import RunDir
from scaling.signals import Interrupted, Signals
from scaling.studies.landscape.nets import Trained, held_out, norm_of
from scaling.studies.landscape.record import EIGENVALUES, Track
from scaling.train.feed import evaluation_size
from scaling.train.losses import loss_over
from scaling.train.point import Point
from scaling.train.surface import Surface

BEYOND = -1.0, 2.0  # ends of a path (Keskar 2016)
MARGIN = 0.15  # of the extent of a trajectory, around it

# (places left out) -> (places so far, name -> values of those since), again and again.
Blocks = Callable[[int], Iterable[tuple[int, dict[str, Any]]]]


class Surfaces:
    """The surfaces of the nets of a point.

    Attributes:
      splits: the training examples, and the split that is held out.
      seeds: of the random directions.
    """

    def __init__(self, config: ConfigDict, point: Point, run: RunDir, name: str, signals: Signals):
        self.settings, self.point, self.run = config.landscape, point, run
        self.name, self.signals = name, signals
        self.splits = "train", held_out(config)
        self.seeds = [config.seed + 1 + k for k in range(self.settings.directions)]
        self._programs: dict[tuple[str, str, int], Surface] = {}
        self._measured: Any = None  # the loss and the examples of a map

    @staticmethod
    def examples_of(settings: ConfigDict, sizes: dict[str, int], split: str) -> int:
        """That are read at every place."""
        return min(settings.examples or evaluation_size(sizes, split), sizes[split])

    def measure(self, nets: Sequence[Trained]) -> list[dict[str, Any]]:
        """Evaluate all; of each net, fields of its `record.Net`."""
        found = []
        # Between two nets statistics would be interpolated; around one there is nothing between.
        statistics = self.settings.statistics.replace("interpolated", "frozen")
        for index, net in enumerate(nets):
            params, batch_stats = net.variables
            along = [random_direction(jax.random.key(seed), params) for seed in self.seeds]
            ratios = [norm_of(direction) / norm_of(params) for direction in along]
            for split in self.splits:
                places = self._around() if split == "train" else self._lines()
                shape = "plane", [params, *along], [batch_stats], statistics
                self._evaluate(f"net{index}_{split}", split, places, *shape)
            self._map(f"map{index}", net.variables, along[:2])
            track = self._trajectory(f"track{index}", net, statistics)
            found.append({"direction_norms": ratios, "track": track})
        if len(nets) > 1:
            trees, stats = zip(nets[0].variables, nets[-1].variables, strict=True)
            for path in ("line", "arc"):
                for split in self.splits:
                    shape = path, trees, stats, self.settings.statistics
                    self._evaluate(f"{path}_{split}", split, self._between(), *shape)
        return found

    # ---- Places ----

    def _lines(self):
        """A line along each direction, [directions * line, directions]."""
        along = np.linspace(-1, 1, self.settings.line) * self.settings.reach
        return np.kron(np.eye(len(self.seeds)), along[:, None])

    def _around(self):
        """The lines, then the plane of the first two directions."""
        lines, side = self._lines(), self.settings.plane
        if side == 1:
            return lines
        plane = np.zeros((side * side, lines.shape[1]))
        plane[:, :2] = _grid(*[np.linspace(-1, 1, side) * self.settings.reach] * 2)
        return np.concatenate([lines, plane])

    def _between(self):
        places = np.linspace(*BEYOND, self.settings.path)
        if self.settings.statistics == "interpolated":
            places = places[(places > -1e-9) & (places < 1 + 1e-9)].clip(0, 1)
        return places[:, None]

    # ---- Surfaces of several kinds ----

    def _trajectory(self, file, net: Trained, statistics) -> Track | None:
        """The plane in which a net's weights moved the most, and its surface."""
        if len(net.files) < 3:
            return None
        params, batch_stats = net.variables
        row = lambda name: np.concatenate([np.ravel(leaf) for leaf in self.run.load_arrays(name)])
        try:
            plane = pca(np.stack([row(name) for name in net.files]))
        except ValueError:  # they moved along a line, or not at all
            return None
        _, restore = ravel_pytree(params)
        axes = [restore(np.float32(axis)) for axis in plane.axes]
        side, low, high = self.settings.plane, plane.coordinates.min(0), plane.coordinates.max(0)
        if side > 1:
            margin = MARGIN * (high - low)
            ends = zip(low - margin, high + margin, strict=True)
            places = _grid(*[np.linspace(*pair, side) for pair in ends])
            self._evaluate(
                file, "train", places, "plane", [params, *axes], [batch_stats], statistics
            )
        return Track(list(net.steps), plane.coordinates.tolist(), plane.explained.tolist())

    def _map(self, file, variables, along):
        """The last and first eigenvalue of the Hessian on the plane of two directions."""
        settings = self.settings
        if not settings.map:
            return
        if self._measured is None:
            count = min(settings.map_examples, self.point.info.sizes["train"])
            recomputed = settings.statistics == "recomputed"
            loss, _, chunks = loss_over(self.point, count, recomputed)
            self._measured = loss, jax.device_put(chunks), count
        loss, chunks, count = self._measured
        params, batch_stats = variables
        tensors = jax.tree.map(lambda _: True, params), jax.tree.map(lambda _: False, batch_stats)
        places = _grid(*[np.linspace(-1, 1, settings.map) * settings.reach] * 2)

        def blocks(done) -> Iterator[tuple[int, dict[str, Any]]]:
            for k, place in enumerate(places[done:], done + 1):
                moved = shifted(params, along, place), batch_stats
                product = hessian_product(loss, moved, chunks, tensors)
                try:
                    krylov = lanczos(product, jax.random.key(self.seeds[0]), settings.map_steps)
                    values, bounds = ritz(krylov)
                    ends = values[-1], bounds[-1], values[0], bounds[0]
                except ValueError:  # the loss is not finite there
                    ends = [np.nan] * len(EIGENVALUES)
                yield k, dict(zip(EIGENVALUES, [[value] for value in ends], strict=True))

        self._grow(file, places, EIGENVALUES, blocks, count * settings.map_steps)

    def _evaluate(self, file, split, places, path, trees, batch_stats, statistics):
        """Metrics at places of a path."""
        blocks = lambda done: self._surface(split, path, trees, batch_stats, statistics).blocks(
            places, done
        )
        count = self.examples_of(self.settings, self.point.info.sizes, split)
        self._grow(file, places, list(self.point.task.metrics), blocks, count)

    def _surface(self, split, path, trees, batch_stats, statistics):
        """With the program of one of the same split and kind of path, where there is one."""
        key = split, path, len(trees)
        if key not in self._programs:
            settings = self.settings
            shape = path, trees, batch_stats, split, statistics
            self._programs[key] = Surface(self.point, *shape, settings.examples, settings.group)
        return self._programs[key].at(trees, batch_stats)

    def _grow(self, file, places, names, blocks: Blocks, examples: int):
        """FILE.npz with the values of `names` at the places, from where it was stopped.

        Args:
          examples: read at every place, for the speed on the live line.
        """
        done, columns = 0, [np.zeros(0, np.float32) for _ in names]
        if (self.run.path / f"{file}.npz").exists():
            _, *columns = self.run.load_arrays(file)
            done = len(columns[0])
        if done == len(places):
            return
        saved, every = time.perf_counter(), self.point.config.checkpoint.every_seconds
        headline = next(iter(self.point.task.metrics.values()))
        label = f"{self.name}, {file}"
        with Progress(label, len(places), examples, done, headline) as progress:
            for count, values in blocks(done):
                columns = [
                    np.concatenate([column, np.float32(values[name])])
                    for name, column in zip(names, columns, strict=True)
                ]
                progress.step(count, float(values["loss"][-1]) if "loss" in values else None)
                now, stop = time.perf_counter(), self.signals.received
                if stop or now - saved > every or count == len(places):
                    self.run.save_arrays(file, [np.float32(places), *columns])
                    saved = now
                if stop:
                    raise Interrupted(stop, f"after {count:,} places of {file}; progress is saved.")


def _grid(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[len(x) * len(y), 2], the first coordinate slowest."""
    return np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
