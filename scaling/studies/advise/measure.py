"""Which batch size, on how many devices, at what cost: from measurements to advice.

One point. It asks the compiler how much memory an update takes at each per-device batch, times
those that fit, trains one run with its noise scale tracked (McCandlish 2018), takes the fitted
curve of finished studies where `advise.records` names some, models the all-reduce, and combines

    T(B, n) = S_min (1 + B_crit / B) x seconds of a step of batch B on n devices.
"""

import dataclasses
import json

from ml_collections import ConfigDict

from scaling import advice, comms, noise
from scaling.config import differences
from scaling.data import sources
from scaling.errors import UserError, look_up
from scaling.files import user_path
from scaling.fits import StepsFit, fit_steps
from scaling.optim import scale_learning_rate
from scaling.record import RunDir, read_metrics, read_points
from scaling.report.reading import from_json
from scaling.signals import Signals
from scaling.studies.advise.record import Record
from scaling.studies.noise_records import Noise
from scaling.studies.shared import in_parts, refuse_goals_of_a_constant, single_run
from scaling.train import throughput
from scaling.train.point import Point, resolve
from scaling.train.resolved import device_values
from scaling.train.resolved import dry_run as train_dry_run
from scaling.train.single import train_inside
from scaling.train.tensorboard import check_installed

KNEE_SHARE = 0.9  # of the best examples per second
FEWEST_POINTS = 3  # batch sizes that a fit needs


def points(config: ConfigDict) -> list[ConfigDict]:
    """One: the machine at hand."""
    return [config.copy_and_resolve_references()]


def name(config: ConfigDict) -> str:
    """What the point's directory is called."""
    del config
    return "advice"


def check(config: ConfigDict) -> None:
    """The config can be used here, its data set and its records are there."""
    wanted = config.advise
    if config.batch_sizes:
        raise UserError("batch_sizes is of other studies; name batches in advise.batches.")
    if not config.noise_scale:
        raise UserError("noise_scale is False, and advice rests on it; leave it True.")
    if not wanted.devices:
        raise UserError("advise.devices is empty; name at least one number of devices.")
    limited = wanted.max_hours is not None or wanted.max_cost is not None
    if limited and wanted.goal is None and not wanted.records:
        raise UserError(
            "advise.max_hours and max_cost need steps to a goal; set advise.goal or advise.records."
        )
    scale_learning_rate(1.0, wanted.rule, 1, 1)
    point = _point(config)
    # The plans that measurements will be put into, with numbers of no meaning.
    curve = advice.Curve(advice.CriticalBatch(1.0, None, None, (1, 1)))
    every = advice.Throughput((1, 2**31), (1.0, 1.0))
    _options(config, point, curve, every, _network(config, None)[0])
    _recorded(config)
    if config.metrics.tensorboard:
        check_installed()
    sources.check_available(config.data.name, config.data.dir)
    if wanted.goal is not None:
        refuse_goals_of_a_constant(config, "advise.goal", (wanted.goal,), "error", "validation")


def _point(config):
    """The run whose noise is tracked."""
    run = single_run(config)
    run.title, run.eval.test = "", False
    return resolve(in_parts(run))


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """Measure this machine and this task, and advise."""
    point, wanted = _point(config), config.advise
    devices = device_values(point.devices)
    run.launched({"devices": devices})
    fits, speeds = _device(config)
    tracked = train_inside(point.config, run, f"{name} tracked", signals)
    noise_of_run = from_json(Noise, tracked["noise_scale"])
    link, all_reduce = _measured_link(point)
    network, network_name = _network(config, link)

    recorded = _recorded(config)
    reached = None if recorded else _steps_to_goal(config, run, tracked)
    by_noise = _by_noise(noise_of_run, reached)
    by_fit = recorded and advice.CriticalBatch.of_fit(recorded.fit)
    curve = _curve(config, by_noise, by_fit, recorded, reached)
    measured = advice.Throughput(
        [speed.per_device_batch for speed in speeds], [speed.seconds for speed in speeds]
    )
    options = _options(config, point, curve, measured, network) if curve else []
    known = curve is not None and curve.s_min is not None
    best = advice.recommend(options, *((wanted.max_hours, wanted.max_cost) if known else ()))
    goal = "" if wanted.goal is None else f"a validation error below {wanted.goal:g}"
    return Record(
        study=config.study,
        memory=fits,
        limit_bytes=throughput.limit_bytes(point),
        throughput=speeds,
        throughput_knee=measured.knee(KNEE_SHARE),
        noise_scale=noise_of_run,
        tracked_status=tracked["status"],
        critical={"noise_scale": by_noise, "fit": by_fit},
        goal=recorded.goal if recorded else goal,
        unit_hours=known,
        s_min=curve and curve.s_min,
        options=options,
        recommended={key: best.get(key) for key in advice.RECOMMENDED},
        price_per_device_hour=wanted.price,
        currency=wanted.currency,
        network=network_name,
        all_reduce=all_reduce,
        gradient_bytes=_gradient_bytes(point),
        devices=devices,
        train_size=point.info.sizes["train"],
    )


def _device(config):
    """Memory and speed of one device over its batches."""
    fits = throughput.memory(config, config.advise.largest)
    fitting = [row.per_device_batch for row in fits if row.fits]
    if not fitting:
        raise UserError(
            f"Not even {fits[0].per_device_batch} example(s) fit a device; use a smaller model."
        )
    speeds = throughput.speeds(config, fitting, config.advise.seconds)
    # A batch that ran out of memory all the same does not fit, whatever the compiler said.
    ran = speeds[-1].per_device_batch
    fits = [dataclasses.replace(row, fits=row.fits and row.per_device_batch <= ran) for row in fits]
    return fits, speeds


def _options(config, point, curve, measured, network):
    """Plans that training would accept, each with a learning rate to start from."""
    wanted, size = config.advise, point.info.sizes["train"]
    smallest = throughput.smallest_batch(config)
    powers = [smallest * 2**i for i in range((size // smallest).bit_length())]
    options = advice.plans_table(
        curve,
        measured,
        network,
        _gradient_bytes(point),
        wanted.devices,
        wanted.batches or powers,
        wanted.price,
        wanted.overlap,
        multiple=config.model.ghost_batch if config.model.get("norm") == "ghost" else 1,
        # Statistics over the global batch need a device's share in one microbatch.
        accumulate=config.model.get("norm") != "batch",
    )
    rate = lambda batch: scale_learning_rate(point.peak, wanted.rule, batch, point.global_batch)
    return [dataclasses.replace(o, learning_rate=rate(o.global_batch)) for o in options]


def _by_noise(measured, reached):
    """The critical batch by the tracked run's noise: its average up to the goal, if reached."""
    windows = [w for w in measured.windows if reached is None or w.first_step <= reached]
    level = noise.average(windows)
    if level.noise_scale is None:  # no window is resolved by itself; all of them may be
        level = measured.whole
    ends = (measured.b_big, measured.b_big)
    return advice.CriticalBatch(level.noise_scale, level.low, level.high, ends, "noise scale")


def _curve(config, by_noise, by_fit, recorded, reached):
    """Steps to the goal: as fitted, else by the noise scale and the tracked run."""
    if recorded and by_fit.value is not None:
        return advice.Curve.of_fit(recorded.fit)
    if by_noise.value is None:
        return None
    return advice.Curve(by_noise, anchor=reached and (config.global_batch, reached))


def _steps_to_goal(config, run, tracked):
    """The first evaluation of the tracked run below the goal, or None."""
    if config.advise.goal is None or tracked["status"] != "complete":
        return None
    rows = read_metrics(run.path / "tracked", "validation")
    return next((row["step"] for row in rows if row["error"] < config.advise.goal), None)


@dataclasses.dataclass(frozen=True)
class _Recorded:
    """A curve from finished studies, and what its steps are to."""

    fit: StepsFit
    goal: str


def _recorded(config) -> _Recorded | None:
    """S(B) fitted to the finished studies that `advise.records` names.

    Raises:
      UserError: no such study, one of another task or goal, or too few batch sizes that reached it.
    """
    if not config.advise.records:
        return None
    ours = json.loads(config.to_json_best_effort())
    targets, steps, tried = set(), {}, {}
    for workdir in config.advise.records:
        for theirs, result in read_points(user_path(workdir, "advise.records")).values():
            if theirs["study"] not in ("steps_to_target", "pareto"):
                raise UserError(
                    f"{workdir} holds a study of {theirs['study']!r}; advise.records takes studies "
                    "of steps to a target."
                )
            for key in ("data", "model"):
                if changed := differences(_task(theirs[key]), _task(ours[key])):
                    raise UserError(
                        f"{workdir} is of another task than this config ({key}.{changed[0]}); "
                        "advise on the task that was studied."
                    )
            split = "training" if result.get("split") == "train" else "validation"
            targets.add(f"a {split} {result['metric']} below {result['goal']:g}")
            batch = result["global_batch"]
            steps[batch], tried[batch] = result["steps_to_target"], result["stopped_at_step"]
    if len(targets) > 1:
        raise UserError(
            f"advise.records holds steps to {' and to '.join(sorted(targets))}; name records of "
            "one goal."
        )
    reached = [batch for batch in steps if steps[batch]]
    if len(reached) < FEWEST_POINTS:
        raise UserError(
            f"{', '.join(config.advise.records)}: {len(reached)} batch size(s) reached the goal, "
            f"and a fit needs {FEWEST_POINTS}; search more of them or leave advise.records empty."
        )
    missed = [None if steps[batch] else tried[batch] for batch in steps]
    fit = fit_steps(list(steps), [steps[batch] for batch in steps], censored_at=missed)
    return _Recorded(fit, targets.pop())


def _task(section):
    """A section of a config without where its files are."""
    return {key: value for key, value in section.items() if key != "dir"}


def _measured_link(point: Point):
    """(link, [(bytes, seconds)]) of real devices; (None, None) of one, or of simulated ones."""
    if len(point.devices) == 1 or point.devices[0].platform == "cpu":
        return None, None
    times = throughput.all_reduce_seconds(point.devices)
    sizes, seconds = zip(*times, strict=True)
    return comms.fit_link(sizes, seconds, len(point.devices)), times


def _network(config, link):
    """(network, its name): as given, as measured, or nominal."""
    wanted = config.advise
    if (wanted.latency is None) != (wanted.bandwidth is None):
        raise UserError(
            f"advise.latency is {wanted.latency} and advise.bandwidth {wanted.bandwidth}; give "
            "both, in seconds and bytes per second, or neither."
        )
    nominal = look_up("advise.network", wanted.network, comms.NETWORKS)
    if wanted.latency is not None:
        given = comms.Link(wanted.latency, wanted.bandwidth)
        return given, f"a link of {given.bandwidth / 1e9:g} GB/s and {given.latency:g} s, as given"
    if link is not None:
        text = f"{link.bandwidth / 1e9:.3g} GB/s and {link.latency:.2g} s per message"
        return link, f"the link measured here, {text}"
    return nominal, f"{wanted.network}, nominal"


def _gradient_bytes(point):
    """Gradients are float32, whatever the model computes in."""
    return 4 * point.parameter_count


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What would be measured."""
    (config,) = points.values()
    wanted = config.advise
    counts = ", ".join(f"{n:,}" for n in wanted.devices)
    lines = [
        f"memory and speed at per-device batches up to {wanted.largest:,}, then this run with its "
        f"noise scale tracked, then plans on {counts} devices:",
        train_dry_run(_point(config).config),
    ]
    return "\n".join(lines)
