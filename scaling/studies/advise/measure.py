"""Which batch size, on how many devices, at what cost: from measurements to advice.

One point. It asks the compiler how much memory an update takes at each per-device batch, times
those that fit, trains one run with its noise scale tracked (McCandlish 2018), takes the fitted
curve of finished studies where `advise.records` names some, models the all-reduce, and combines

    T(B, n) = S_min (1 + B_crit / B) x seconds of a step of batch B on n devices.
"""

import dataclasses
import json
import math

import numpy as np
from ml_collections import ConfigDict

from scaling import advice, comms, noise
from scaling.config import completed, differences
from scaling.crossings import better_than
from scaling.data import sources
from scaling.errors import UserError, look_up
from scaling.files import user_path
from scaling.optim import scale_learning_rate
from scaling.record import RunDir, read_metrics
from scaling.report.kind import kind_of
from scaling.report.reading import from_json
from scaling.report.records import read_workdir
from scaling.report.wording import goal_text
from scaling.signals import Interrupted, Signals
from scaling.studies.advise.record import Record
from scaling.studies.noise_records import Noise
from scaling.studies.shared import (
    check_goals,
    in_parts,
    single_run,
)
from scaling.studies.steps_to_target.analysis import Quantity, Study
from scaling.train import throughput
from scaling.train.point import Point, data_info, resolve
from scaling.train.resolved import dry_run as train_dry_run
from scaling.train.resolved import point_values
from scaling.train.single import train_inside
from scaling.train.tensorboard import check_installed

KNEE_SHARE = 0.9  # of the best examples per second


def points(config: ConfigDict) -> list[ConfigDict]:
    """One: the machine at hand."""
    return [config.copy_and_resolve_references()]


def name(config: ConfigDict) -> str:
    """What the point's directory is called."""
    del config
    return "advice"


def check_values(config: ConfigDict) -> None:
    """The config can be used, wherever its data are.

    Raises:
      UserError: a value that cannot be.
    """
    settings = config.advise
    if config.batch_sizes:
        raise UserError("batch_sizes is of other studies; name batches in advise.batches.")
    if not config.noise_scale:
        raise UserError("noise_scale is False, and advice rests on it; leave it True.")
    if not settings.devices:
        raise UserError("advise.devices is empty; name at least one number of devices.")
    limited = settings.max_hours is not None or settings.max_cost is not None
    if limited and settings.goal is None and not settings.records:
        raise UserError(
            "advise.max_hours and max_cost need steps to a goal; set advise.goal or advise.records."
        )
    scale_learning_rate(1.0, settings.rule, 1, 1)
    point = _point(config)
    # The plans that measurements will be put into, with numbers of no meaning.
    curve = advice.Curve(advice.CriticalBatch(1.0, None, None, (1, 1)))
    every = advice.Throughput((1, 2**31), (1.0, 1.0))
    _options(config, point, curve, every, _network(config, None)[0])
    _recorded(config)


def check(config: ConfigDict) -> None:
    """The same, and it fits this machine, and its data set is there.

    Raises:
      UserError: it does not, or it is not.
    """
    check_values(config)
    settings = config.advise
    if config.metrics.tensorboard:
        check_installed()
    sources.check_available(config.data.name, config.data.dir)
    if settings.goal is not None:
        metric = _point(config).task.headline
        check_goals(config, "advise.goal", (settings.goal,), metric, "validation")


def _point(config):
    """The run whose noise is tracked."""
    run = single_run(config)
    run.title, run.eval.test = "", False
    return resolve(in_parts(run))


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """Measure this machine and this task, and advise."""
    point, settings = _point(config), config.advise
    values = point_values(point)
    run.launched(values)
    fits, speeds = _device(config, signals, name)
    tracked = train_inside(point.config, run, f"{name} tracked", signals)
    noise_of_run = from_json(Noise, tracked["noise_scale"])
    link, all_reduce = _measured_link(point)
    network, network_name = _network(config, link)

    recorded = _recorded(config)
    reached = None if recorded else _steps_to_goal(point.task, settings.goal, run, tracked)
    by_noise = _by_noise(noise_of_run, reached)
    curve = fitted = recorded and advice.Curve.of_fit(recorded.fit)
    if not fitted or fitted.critical.value is None:
        anchor = reached and (config.global_batch, reached)
        curve = advice.Curve(by_noise, anchor) if by_noise.value else None
    measured = advice.Throughput(
        [speed.per_device_batch for speed in speeds], [speed.seconds for speed in speeds]
    )
    options = _options(config, point, curve, measured, network, recorded) if curve else []
    known = curve is not None and curve.s_min is not None
    best = advice.recommend(options, *((settings.max_hours, settings.max_cost) if known else ()))
    metric, goal = point.task.metrics[point.task.headline], ""
    if settings.goal is not None:
        goal = goal_text(metric, settings.goal)
    return Record(
        study=config.study,
        memory=fits,
        limit_bytes=throughput.limit_bytes(point),
        throughput=speeds,
        throughput_knee=measured.knee(KNEE_SHARE),
        noise_scale=noise_of_run,
        tracked_status=tracked["status"],
        critical={"noise_scale": by_noise, "fit": fitted and fitted.critical},
        doubts=recorded.fit.doubts if recorded else [],
        searched=sorted(recorded.points[0].ranges) if recorded else [],
        goal=recorded.goal_text if recorded else goal,
        unit_hours=known,
        s_min=curve and curve.s_min,
        options=options,
        recommended={key: best.get(key) for key in advice.RECOMMENDED},
        price_per_device_hour=settings.price,
        currency=settings.currency,
        network=network_name,
        all_reduce=all_reduce,
        gradient_bytes=_gradient_bytes(point),
        devices=values["devices"],
        train_size=point.info.sizes["train"],
    )


def _device(config, signals, name):
    """Memory and speed of one device over the batches that an option can put on it."""

    def between():
        if signals.received:
            raise Interrupted(signals.received, f"while timing {name}, which then starts anew.")

    settings = config.advise
    most = max(_batches(config), default=1) // min(settings.devices)
    largest = min(settings.largest, max(most, throughput.smallest_batch(config)))
    fits = throughput.memory(config, largest)
    fitting = [row.per_device_batch for row in fits if row.fits]
    if not fitting:
        raise UserError(
            f"Not even {fits[0].per_device_batch} example(s) fit a device; use a smaller model."
        )
    speeds = throughput.speeds(config, fitting, settings.seconds, between)
    # A batch that ran out of memory all the same does not fit, whatever the compiler said.
    ran = speeds[-1].per_device_batch
    fits = [dataclasses.replace(row, fits=row.fits and row.per_device_batch <= ran) for row in fits]
    return fits, speeds


def _batches(config):
    """Global batches to consider."""
    smallest, size = throughput.smallest_batch(config), data_info(config.data).sizes["train"]
    powers = [smallest * 2**i for i in range((size // smallest).bit_length())]
    return config.advise.batches or powers


def _options(config, point, curve, measured, network, recorded=None):
    """Plans that training would accept, each with a learning rate to start from: between those of
    the best trials recorded, or that of the run by the rule."""
    settings = config.advise
    options = advice.plans_table(
        curve,
        measured,
        network,
        _gradient_bytes(point),
        settings.devices,
        _batches(config),
        settings.price,
        settings.overlap,
        multiple=config.model.ghost_batch if config.model.get("norm") == "ghost" else 1,
        # Statistics over the global batch need a device's share in one microbatch.
        accumulate=config.model.get("norm") != "batch",
    )
    rate = lambda batch: scale_learning_rate(point.peak, settings.rule, batch, point.global_batch)
    if tuned := recorded and Quantity("learning_rate").best(recorded):
        sizes, rates = np.log([(p.global_batch, value) for p, value in tuned]).T
        rate = lambda batch: float(np.exp(np.interp(math.log(batch), sizes, rates)))
    return [dataclasses.replace(o, learning_rate=rate(o.global_batch)) for o in options]


def _by_noise(measured, reached):
    """The critical batch by the tracked run's noise: its average up to the goal, if reached; where
    too little of that is resolved, that of all updates together."""
    windows = [w for w in measured.windows if reached is None or w.first_step <= reached]
    level = noise.average(windows, measured.whole)
    if level.noise_scale is None:
        level = measured.together
    ends = (measured.b_big, measured.b_big)
    return advice.CriticalBatch(level.noise_scale, level.low, level.high, ends, "noise scale")


def _steps_to_goal(task, goal, run, tracked):
    """The first evaluation of the tracked run better than the goal, or None."""
    if goal is None or tracked["status"] != "complete":
        return None
    name, better = task.headline, task.metrics[task.headline].better
    rows = read_metrics(run.path / "tracked", "validation")
    return next((r["step"] for r in rows if better_than(r[name], goal, better)), None)


def _recorded(config) -> Study | None:
    """The finished studies that `advise.records` names, as one.

    Raises:
      UserError: no such study, one of another task or goal, or no fit of S(B).
    """
    names, studies = config.advise.records, []
    ours = completed(json.loads(config.to_json_best_effort()))
    for workdir in (read_workdir(user_path(name, "advise.records")) for name in names):
        if workdir.study not in ("steps_to_target", "pareto"):
            raise UserError(
                f"{workdir.path} holds a study of {workdir.study!r}; advise.records takes studies "
                "of steps to a target."
            )
        studies.append(kind_of(workdir.study).read(workdir))
        theirs = completed(workdir.directories[0].config)
        if changed := differences(_task(theirs), _task(ours)):
            raise UserError(
                f"{workdir.path} is of another task than this config ({changed[0]}); advise on the "
                "task that was studied."
            )
    if not studies:
        return None
    if len(goals := sorted({study.goal_text for study in studies})) > 1:
        raise UserError(
            f"advise.records holds steps to {' and to '.join(goals)}; name records of one goal."
        )
    points = [point for study in studies for point in study.points]
    study = dataclasses.replace(studies[0], points=sorted(points, key=lambda p: p.global_batch))
    if not study.fit:
        raise UserError(
            f"{', '.join(names)}: {study.no_fit} Search more batch sizes or leave advise.records "
            "empty."
        )
    return study


def _task(config):
    """What records and the run have to share. Of an optimizer only the name: its numbers are what
    was searched."""
    same = {key: config[key] for key in ("data", "model", "loss")}
    return same | {
        "data": {**config["data"], "dir": None},
        "optim": {"name": config["optim"]["name"]},
    }


def _measured_link(point: Point):
    """(link, [(bytes, seconds)]) of real devices; (None, None) of one, or of simulated ones."""
    if len(point.devices) == 1 or point.devices[0].platform == "cpu":
        return None, None
    times = throughput.all_reduce_seconds(point.devices)
    sizes, seconds = zip(*times, strict=True)
    return comms.fit_link(sizes, seconds, len(point.devices)), times


def _network(config, link):
    """(network, its name): as given, as measured, or nominal."""
    settings = config.advise
    if (settings.latency is None) != (settings.bandwidth is None):
        raise UserError(
            f"advise.latency is {settings.latency} and advise.bandwidth {settings.bandwidth}; give "
            "both, in seconds and bytes per second, or neither."
        )
    nominal = look_up("advise.network", settings.network, comms.NETWORKS)
    if settings.latency is not None:
        given = comms.Link(settings.latency, settings.bandwidth)
        return given, f"a link of {given.bandwidth / 1e9:g} GB/s and {given.latency:g} s, as given"
    if link is not None:
        text = f"{link.bandwidth / 1e9:.3g} GB/s and {link.latency:.2g} s per message"
        return link, f"the link measured here, {text}"
    return nominal, f"{settings.network}, nominal"


def _gradient_bytes(point):
    """Gradients are float32, whatever the model computes in."""
    return 4 * point.parameter_count


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What would be measured."""
    (config,) = points.values()
    settings = config.advise
    counts = ", ".join(f"{n:,}" for n in settings.devices)
    lines = [
        f"memory and speed at per-device batches up to {settings.largest:,}, then this run with "
        f"its noise scale tracked, then plans on {counts} devices:",
        train_dry_run(_point(config).config),
    ]
    return "\n".join(lines)
