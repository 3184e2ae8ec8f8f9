"""Examples per second of every per-device batch on every number of devices here.

One point. Everything takes turns in rounds: each batch on each number of devices, with its input,
without it, and the input alone; the largest batch in microbatches and with its activations
computed again, where the model can. Then, on several devices, an update with and without the mean
of the gradients, and that mean alone.
"""

import json
import os

import jax
from ml_collections import ConfigDict

from scaling import comms
from scaling.batch import BatchPlan
from scaling.data import sources
from scaling.errors import UserError, look_up
from scaling.published import peak_flops
from scaling.record import RunDir
from scaling.signals import Interrupted, Signals
from scaling.studies.shared import refuse_keys_of_single_runs
from scaling.studies.throughput.record import Overlap, Record, Row, Variant
from scaling.train import throughput
from scaling.train.planning import flops_per_example, working_set
from scaling.train.resolved import device_values, point_values


def points(config: ConfigDict) -> list[ConfigDict]:
    """One: the machine at hand. Its batches are those of `throughput`, see `throughput.alone`."""
    point = config.copy_and_resolve_references()
    point.global_batch, point.micro_batch = max(_batches(config), default=1), None
    return [point]


def name(config: ConfigDict) -> str:
    """What the point's directory is called."""
    del config
    return "throughput"


def check(config: ConfigDict) -> None:
    """The same, on as many devices as are asked for, and its data set is there.

    Raises:
      UserError: it does not fit them, or it is not.
    """
    check_values(config)
    for devices in _devices(config):
        for batch in _batches(config):
            throughput.alone(config, batch, devices=devices)
    sources.check_available(config.data.name, config.data.dir)


def check_values(config: ConfigDict) -> None:
    """UserError for what no machine could measure."""
    if config.batch_sizes:
        raise UserError("batch_sizes is of other studies; name throughput.per_device_batches.")
    if not config.throughput.per_device_batches:
        raise UserError("throughput.per_device_batches is empty; name at least one.")
    refuse_keys_of_single_runs(config)
    look_up("throughput.network", config.throughput.network, comms.NETWORKS)


def _batches(config):
    return sorted(set(config.throughput.per_device_batches))


def _devices(config):
    """Numbers of devices, from few to many."""
    here = config.devices or jax.local_device_count()
    return sorted(set(config.throughput.devices)) or [2**i for i in range(here.bit_length())]


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """Time this machine."""
    settings, load = config.throughput, os.getloadavg()[0]
    point = throughput.alone(config, _batches(config)[0])
    every = throughput.alone(config, _batches(config)[0], devices=_devices(config)[-1]).devices
    values = point_values(point) | {"devices": device_values(every)}
    run.launched(values)
    run.truncate(0)  # timings of an earlier launch are not compared
    racers, peaks = {}, {}
    before = throughput.peak_bytes(point.devices[0])
    whole = values["devices"]["platform"] != "cpu"  # there, small microbatches fit the cache
    for devices in _devices(config):
        found = throughput.racers(config, _batches(config), settings.seconds, devices, whole)
        for batch, racer in found:
            racers[devices, batch] = racer
            after = throughput.peak_bytes(point.devices[0])
            if before is not None and after > before:
                peaks[devices, batch] = before = after
    fewest = min(devices for devices, _ in racers)
    largest = max(batch for devices, batch in racers if devices == fewest)
    variants = _variants(config, largest)
    rates = ("device", "input", "both")
    calls = {(key, rate): getattr(racers[key], rate) for key in racers for rate in rates}
    calls |= {key: racer.device for key, racer in variants.items()}
    times = throughput.rounds(calls, settings.rounds, _noted(run, signals, name))
    rows = [
        Row(
            *key,
            racer.program.plan.accum_steps,
            *(times[key, rate] for rate in rates),
            racer.program.step_bytes,
            peaks.get(key),
        )
        for key, racer in racers.items()
    ]
    most = max(racers)
    racers.clear()
    return Record(
        study=config.study,
        rows=rows,
        variant_batch=largest if variants else None,
        variants=[
            Variant(*key, times[key], racer.program.step_bytes) for key, racer in variants.items()
        ],
        overlap=_overlap(config, *most) if most[0] > 1 else None,
        flops_per_example=flops_per_example(point),
        peak_flops=peak_flops(values["devices"]["kind"], config.model.get("dtype", "float32")),
        gradient_bytes=4 * point.parameter_count,
        limit_bytes=throughput.limit_bytes(point),
        network=settings.network,
        projected=list(settings.projected),
        load_average=load,
        devices=values["devices"],
        train_size=point.info.sizes["train"],
    )


def _noted(run, signals, name):
    """What is called with every timing: writes it down at once, and ends where it is asked to."""

    def note(key, seconds):
        what = key if isinstance(key[0], int) else (*key[0], key[1])
        run.append(json.dumps({"split": "timing", "of": what, "seconds": seconds}) + "\n")
        if signals.received:
            raise Interrupted(signals.received, f"while timing {name}, which then starts anew.")

    return note


def _variants(config, batch):
    """(microbatches, whether activations are computed again) -> what trains so, where it fits."""
    found, couples = {}, config.model.get("norm") == "batch"
    for remat in (False, True) if "remat" in config.model else (False,):
        changed = config.copy_and_resolve_references()
        if remat:
            changed.model.remat = True
        for parts in config.throughput.microbatches:
            if batch % parts or (couples and parts > 1):
                continue  # statistics over the batch need it in one piece
            try:
                point = throughput.alone(changed, batch, batch // parts)
                found[parts, remat] = throughput.Racer(point, config.throughput.seconds)
            except (UserError, jax.errors.JaxRuntimeError) as error:
                if not throughput.unfit(error):  # no whole ghost batches, or too large
                    raise
    return found


def _overlap(config, devices, batch):
    settings = config.throughput
    times = throughput.overlap_of(config, batch, devices, settings.seconds, settings.rounds)
    return Overlap(devices, batch, times["with"], times["without"], times["alone"])


def dry_run(points: dict[str, ConfigDict]) -> str:
    """What would be measured."""
    (config,) = points.values()
    batches, devices = _batches(config), _devices(config)
    point = throughput.alone(config, batches[0])
    numbers = lambda values: ", ".join(f"{value:,}" for value in values)
    size = working_set(point, BatchPlan(batches[-1], 1, 1, batches[-1]))
    rows = {
        "title": config.title,
        "model": f"{config.model.name}, {point.parameter_count:,} parameters",
        "cost": f"{flops_per_example(point):.4g} FLOPs per example in training",
        "memory": f"about {size / 2**30:.3g} GiB of activations and weights at per-device batch "
        f"{batches[-1]:,}, from their shapes",
        "batches": f"{numbers(batches)} on each of {numbers(devices)} device(s)",
        "rounds": f"{config.throughput.rounds}, the first dropped, of timings of "
        f"{config.throughput.seconds:g} s",
    }
    return "\n".join(f"{name:>8}  {text}" for name, text in rows.items() if text)
