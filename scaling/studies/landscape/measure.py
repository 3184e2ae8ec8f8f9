"""The loss around trained nets and between them (Keskar 2016, Fig. 3 and 7; Li 2018, Fig. 2 and 3).

A point is one weight decay: a net is trained at each of `batch_sizes`, or the weights are those of
finished runs (`landscape.of`). The loss and the other metrics are evaluated along random directions
whose filters have the norms of the net's own, on the plane of two of them, on the plane in which
the weights moved the most in training, and, on training and held-out examples, along the line and
the arc from the first net to the last, beyond both. A map has the first and last eigenvalue of the
Hessian on the plane of the random directions. All nets share the raw random numbers. Every surface
is saved as it grows, and goes on where it was stopped.
"""

import time
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from scaling.data import sources
from scaling.errors import UserError, look_up
from scaling.record import RunDir
from scaling.signals import Signals
from scaling.studies.landscape.nets import (
    Trained,
    config_of_run,
    config_of_runs,
    finished,
    held_out,
    histogram,
    norm_of,
    train,
)
from scaling.studies.landscape.record import Net, Record
from scaling.studies.landscape.surfaces import Surfaces
from scaling.studies.shared import (
    check_batch,
    priced_plan,
    refuse_keys_of_single_runs,
    single_run,
)
from scaling.train.losses import has_statistics
from scaling.train.point import resolve
from scaling.train.resolved import point_values
from scaling.train.surface import STATISTICS

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
        first = config_of_runs(config)
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
        return {path: config_of_run(path, config) for path in config.landscape.of}
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


def check_values(config: ConfigDict) -> None:
    """The config can be used, wherever its data are.

    Raises:
      UserError: a value that cannot be.
    """
    landscape = config.landscape
    refuse_keys_of_single_runs(config)
    look_up("landscape.statistics", landscape.statistics, dict.fromkeys(STATISTICS))
    for key, step in (("line", 2), ("plane", 2), ("path", 6), ("map", 2)):
        number = landscape[key]
        if number and number % step != 1:
            raise UserError(
                f"landscape.{key} is {number}, which leaves out a net's own place; make it a "
                f"multiple of {step}, plus 1, such as {number - number % step + 1}."
            )
    if landscape.map == 1:
        raise UserError("landscape.map is 1, which is one place; set 0 for no map, or 3 or more.")
    for net in nets_of(config).values():
        check_batch(net)
        info = resolve(net).info
        if info.streaming:
            raise UserError(f"{info.name} is streamed; this study needs a data set in memory.")


def check(config: ConfigDict) -> None:
    """The same, and it fits this machine, and its data set is there.

    Raises:
      UserError: it does not, or it is not.
    """
    check_values(config)
    first = next(iter(nets_of(config).values()))
    sources.check_available(first.data.name, config.data.dir)


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
        f"{first.plane}, paths of {first.path}, "
        + f"a map of {first.map} x {first.map}, " * bool(first.map)
        + f"batch statistics {first.statistics}",
        "besides": f"surfaces of a point take as many operations as training on "
        f"{_examples_of_surfaces(next(iter(points.values())), nets):.2g} examples",
    }
    verb = "trained before" if first.of else "trained"
    line = lambda name, point, price: f"{name}: {point.total_steps:,} steps, {verb}; {price}"
    return priced_plan(nets, lambda point: 0 if first.of else 1, rows, line)


def _examples_of_surfaces(config, resolved):
    """Examples of training with as many operations as the surfaces of a point: a forward pass is a
    third of it, and a product with the Hessian two of it. About: a plane of a track is as large as
    that of the random directions, and new statistics take their own examples."""
    settings, (point, *_) = config.landscape, resolved.values()
    nets, sizes = len(nets_of(config)), point.info.sizes
    splits = [Surfaces.examples_of(settings, sizes, s) for s in ("train", held_out(config))]
    if settings.statistics == "recomputed" and has_statistics(point):
        splits = [rows + min(settings.group, sizes["train"]) for rows in splits]
    lines, plane = settings.directions * settings.line, settings.plane**2 * (settings.plane > 1)
    planes = plane * (1 + bool(settings.trajectory)) * splits[0]
    passes = nets * (planes + lines * sum(splits)) + 2 * settings.path * sum(splits) * (nets > 1)
    products = nets * settings.map**2 * settings.map_steps
    return passes / 3 + 2 * products * min(settings.map_examples, sizes["train"])


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """The nets of a point, and the surfaces around and between them."""
    configs = nets_of(config)
    resolved = {net: resolve(each) for net, each in configs.items()}
    point = next(iter(resolved.values()))
    values = point_values(point)
    run.launched(values)
    if config.landscape.of:
        nets, seconds = list(finished(resolved, held_out(config))), {}
    else:
        nets, seconds = train(config, resolved, run, name, signals)
    start = time.perf_counter()
    surfaces = Surfaces(config, point, run, name, signals)
    around = iter(surfaces.measure([net for net in nets if net.variables is not None]))
    settings, sizes = config.landscape, point.info.sizes
    return Record(
        study=config.study,
        weight_decay=None if settings.of else config.optim.weight_decay,
        nets=[_net(net, around) for net in nets],
        splits=list(surfaces.splits),
        metrics=list(point.task.metrics),
        statistics=settings.statistics if has_statistics(point) else "none",
        group=min(settings.group, sizes["train"]),
        examples={s: surfaces.examples_of(settings, sizes, s) for s in surfaces.splits},
        seeds=surfaces.seeds,
        line=settings.line,
        plane=settings.plane,
        reach=settings.reach,
        map=settings.map,
        map_steps=settings.map_steps,
        map_examples=min(settings.map_examples, sizes["train"]),
        train_size=sizes["train"],
        seconds=seconds | {"surfaces": time.perf_counter() - start},
        devices=values["devices"],
    )


def _net(net: Trained, around: Iterator[dict[str, Any]]) -> Net:
    """With what is around it, unless it diverged."""
    if net.variables is None:
        return Net(**net.fields, norm=None, direction_norms=[], track=None, histogram=None)
    params, _ = net.variables
    found = {"norm": norm_of(params), "histogram": histogram(params)}
    return Net(**net.fields, **found, **next(around))
