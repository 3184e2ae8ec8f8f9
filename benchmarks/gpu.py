"""The parts of benchmarks/gpu.sh, which documents them."""

import argparse
import contextlib
import functools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from common import ROOT, Contestant, machine, serve, synthetic_config

REPEATS = 5
# Panel (b): batch sizes by importance for the curve, and approximate steps, to divide the time
# (docs/results/shallue_fashion_cnn_h200).
PANEL = (512, 2048, 128, 32, 8192, 8, 32768, 2, 55000)
PANEL_STEPS = lambda batch: 150 * (1 + 400 / batch)
MARGIN = 1.5  # the other trials train up to this multiple of the first crossing
FEWEST, MOST = 4, 100  # trials
TRAINING_SHARE = 0.6  # of the time; the rest is compilation and evaluation
WORTH_STARTING, TO_SAVE = 45, 25  # seconds


class Results:
    """The JSON file of one part, rewritten atomically at every addition."""

    def __init__(self, options, part: str):
        self.path, self.content = options.out / f"{part}.json", {"machine": machine()}
        if options.toy:
            self.content["toy"] = "sizes and numbers are meaningless"

    def add(self, **content):
        """Merge into the content, one level deep."""
        from scaling.files import json_text, write_atomically

        for key, value in content.items():
            old = self.content.get(key)
            both = isinstance(value, dict) and isinstance(old, dict)
            self.content[key] = old | value if both else value
        write_atomically(self.path, json_text(self.content) + "\n")


def resnet_config(toy: bool, batch: int):
    """ResNet-50 on 1,024 images of ImageNet's size; with --toy, ResNet-8."""
    model = {"name": "resnet", "norm": "batch"}
    if toy:
        return synthetic_config(model | {"depth": 8}, (16, 16, 3), batch)
    model |= {"depth": 50, "dtype": "bfloat16"}
    return synthetic_config(model, (224, 224, 3), batch, classes=1000, size=1024)


def cnn_config(toy: bool, batch: int):
    """The Simple CNN of panel (b)."""
    model = {"name": "simple_cnn", "size": "narrow" if toy else "base", "dropout": 0.4}
    return synthetic_config(model, (28, 28, 1), batch)


# --- ResNet-50 against PyTorch ---


def resnet50(results, options):
    """Ours and PyTorch's, each in its own process: each alone after its start, then alternating.

    The share of the peak uses the FLOPs of `scaling.flops` for both.
    """
    from scaling.published import peak_flops

    contestants, rates, peak, per_image = {}, {}, options.peak, None
    share = lambda rate: peak and rate * per_image / (peak * 1e12)
    results.add(batch=options.batch)
    for name in ("ours", "torch"):
        command = [__file__, f"--serve={name}", *sys.argv[1:]]
        # Both use the GPU's memory at the same time.
        contestant = Contestant(command, XLA_PYTHON_CLIENT_PREALLOCATE="false")
        facts = contestant.answer()
        if name == "ours":
            per_image = facts["flops_per_image"]
            known = peak_flops(facts["device"], "bfloat16")
            peak = peak or (known and known / 1e12)
            results.add(device=facts["device"], peak_tflops=peak)
        alone = contestant.rate()
        contestants[name], rates[name] = contestant, []
        alone = {"images_per_second_alone": alone, "share_of_peak_alone": share(alone)}
        results.add(**{name: facts | alone})
    for _ in range(REPEATS):
        for name, contestant in contestants.items():
            rates[name].append(contestant.rate())
        medians = {name: statistics.median(values) for name, values in rates.items()}
        results.add(
            images_per_second={n: {"median": medians[n], "all": rates[n]} for n in rates},
            ratio=round(medians["ours"] / medians["torch"], 3),
            share_of_peak={name: share(rate) for name, rate in medians.items()},
        )


def our_rate(options):
    """(() -> images per second, facts) of our training step."""
    import vs_torch

    from scaling.train.planning import flops_per_example
    from scaling.train.point import resolve

    start, config = time.perf_counter(), resnet_config(options.toy, options.batch)
    rate, plan = vs_torch.ours(config, examples=10 * options.batch)
    point = resolve(config)
    return rate, {
        "parameters": point.parameter_count,
        "device": device().device_kind,
        "plan": plan,
        "flops_per_image": flops_per_example(point),
        "seconds_to_start": round(time.perf_counter() - start, 1),
    }


def torch_rate(options):
    """Likewise of PyTorch's."""
    import torch_resnet50 as peer

    if options.toy:
        return peer.step_rate(options.batch, 16, 64, stages=(1,), updates=1)
    return peer.step_rate(options.batch, 224, 1024)


# --- populations ---


def populations(results, options):
    """Trial-steps per second, the most informative cases first."""
    import population as benchmark

    results.add(device=device().device_kind, cases={})
    for batch in (64, 8, 512):
        for name, shape, model, trials in _population_cases(options):
            start = time.perf_counter()
            racers = benchmark.racers(model, shape, batch, trials)
            ready = time.perf_counter() - start
            rates = [benchmark.rate_of(racers)() for _ in range(1 if options.toy else 3)]
            case = {
                "batch": batch,
                "trials": trials,
                "trial_steps_per_second": statistics.median(rates),
                "all": rates,
                "placement": racers.placement,
                "seconds_to_start": round(ready, 1),
            }
            results.add(cases={f"{name}, batch {batch}": case})
        if options.toy:
            return


def _population_cases(options):
    """(name, image shape, model, trials)."""
    from population import SHAPES, TRIALS, WIDTHS

    mlp, cnn = {"name": "mlp", "widths": WIDTHS}, cnn_config(options.toy, 1)
    cases = [(f"{data} MLP", shape, mlp, TRIALS) for data, shape in SHAPES.items()]
    cases += [("Simple CNN", cnn.data.image_shape, cnn.model.to_dict(), 16)]
    return [(*case[:3], 2) for case in cases[::2]] if options.toy else cases


# --- images per second over batches and devices ---


def throughput(task, results, options):
    """configs/throughput.py; with --toy, a small net of the kind."""
    workdir = options.out / "throughput" / task
    overrides = []
    if options.toy:
        task = {"resnet50": "resnet8"}.get(task, f"{task}_small")
        small = {
            "per_device_batches": "(2, 4)",
            "rounds": 3,
            "seconds": 0.01,
            "microbatches": "(1,)",
        }
        overrides = [f"--config.throughput.{key}={value}" for key, value in small.items()]
    command = [sys.executable, "launch.py", f"--config=configs/throughput.py:{task}", *overrides]
    subprocess.run([*command, f"--workdir={workdir}"], cwd=ROOT, check=True)
    record = json.loads((workdir / "throughput" / "result.json").read_text())
    results.add(task=task, **record, device=record["devices"]["kind"])


def device():
    """The device used."""
    import jax

    return jax.devices()[0]


# --- panel (b) ---


def panel_b(results, options):
    """Points in parallel processes; unfinished ones are saved at the end of the time."""
    end = time.monotonic() + options.limit - TO_SAVE
    workdir, running = options.work / "panel_b", {}
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        _share_out(results, options, workdir, running, end)
    finally:
        for process in running.values():
            process.terminate()  # it saves its progress
        killed = time.monotonic() + TO_SAVE
        for batch, process in running.items():
            try:
                code = process.wait(max(0.1, killed - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                code = "killed while saving"
            results.add(exit_codes={batch: code})
        results.add(points=_points(workdir))
        with tarfile.open(options.out / "panel_b.tgz", "w:gz") as archive:
            archive.add(workdir, "panel_b", filter=_record_alone)
    if not any(point["status"] != "not finished" for point in results.content["points"].values()):
        sys.exit("No point has finished.")


def _share_out(results, options, workdir, running, end):
    """Keep as many points running as there are workers, until `end`."""
    workers = 1 if options.toy else max(1, min(4, os.cpu_count() // 4))
    folder, rates = data_folder(options), _measured(options.out)
    waiting = [64, 256] if options.toy else list(PANEL)
    while (waiting or running) and time.monotonic() < end:
        for batch in [b for b, process in running.items() if process.poll() is not None]:
            results.add(exit_codes={batch: running.pop(batch).returncode}, points=_points(workdir))
        if end - time.monotonic() < WORTH_STARTING:
            waiting = []
        while waiting and len(running) < workers:
            batch = waiting.pop(0)
            choice = _begun(workdir, batch) or _choice(batch, rates, options)
            results.add(begun={batch: choice})
            command = _point_command(batch, choice, workdir, folder, options)
            # An equal share of the device's memory for each.
            environment = os.environ | {"XLA_PYTHON_CLIENT_MEM_FRACTION": str(0.9 / workers)}
            running[batch] = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL
            )
        time.sleep(0.5)


def _begun(workdir, batch):
    """The options of an earlier run of this point, needed to resume it."""
    for file in workdir.glob("*/config.json"):
        config = json.loads(file.read_text())
        if config["global_batch"] == batch:
            method = config["model"]["conv_method"]
            return {"search.trials": config["search"]["trials"], "model.conv_method": method}
    return None


def _choice(batch, rates, options):
    """The number of trials that fits this point's share of the time, and the fastest convolution
    method at the nearest measured batch size."""
    # Approximately an H100, if nothing was measured.
    per_step, method = 1e-3 * max(1, batch / 256), "auto"
    if rates:
        case = min(rates, key=lambda case: abs(math.log(case["batch"] / batch)))
        per_step = max(1, batch / case["batch"]) / case["trial_steps_per_second"]
        method = case["placement"]["conv_method"] or "auto"
    share = TRAINING_SHARE * options.limit / len(PANEL)
    trials = int(share / (MARGIN * PANEL_STEPS(batch) * per_step))
    trials = 2 if options.toy else max(FEWEST, min(MOST, trials))
    return {"search.trials": trials, "model.conv_method": method}


def _point_command(batch, choice, workdir, folder, options):
    """launch.py, as one of several workers, on one batch size of panel (b)."""
    config = choice | {
        "batch_sizes": f"({batch},)",
        "target.margin": MARGIN,
        "target.repeats": 0,
        "checkpoint.every_seconds": 600,
    }
    if folder:
        config["data.dir"] = folder
    if batch > 1024:  # limits the memory of parallel trials
        config["micro_batch"] = 512 if batch % 512 == 0 else 500
    if options.toy:
        config |= {"model.size": "narrow", "target.goal": 0.5, "target.budget": "('30 steps',)"}
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    panel = ["--config=configs/shallue.py:fashion_mnist_cnn", f"--workdir={workdir}", "--worker"]
    return [sys.executable, "launch.py", *panel, *flags]


def _measured(out):
    """The cases of the Simple CNN in `populations`, if measured."""
    try:
        cases = json.loads((out / "populations.json").read_text())["cases"]
    except (OSError, KeyError, ValueError):
        return []
    return [case for name, case in cases.items() if name.startswith("Simple CNN")]


def _points(workdir):
    """Status and results of every point that was started."""
    keys = ("status", "steps_to_target", "trial_steps", "seconds")
    points = {}
    for folder in sorted(workdir.glob("*/")):
        points[folder.name] = {"status": "not finished"}
        for file in ("resolved.json", "result.json"):
            if (folder / file).exists():
                record = json.loads((folder / file).read_text())
                if file == "resolved.json":
                    points[folder.name]["device"] = record["devices"]["kind"]
                else:
                    points[folder.name] |= {key: record.get(key) for key in keys}
    return points


def _record_alone(entry):
    """Without weights."""
    heavy = "checkpoints" in Path(entry.name).parts or entry.name.endswith(".npz")
    return None if heavy else entry


def data_folder(options):
    """TFDS's root with Fashion-MNIST, prepared here from the original files if necessary."""
    given = options.data_dir
    if given is None or not (given / "train-images-idx3-ubyte.gz").exists():
        return given
    root = options.work / "data"
    command = ["-m", "scaling.data.prepare", "fashion_mnist", f"--from={given}"]
    subprocess.run([sys.executable, *command, f"--data_dir={root}"], cwd=ROOT, check=True)
    return root


# --- all of them ---

PARTS = {  # function and share of the time; unused time goes to later parts
    "resnet50": (resnet50, 140),
    "throughput_resnet50": (functools.partial(throughput, "resnet50"), 120),
    "throughput_tiramisu": (functools.partial(throughput, "tiramisu"), 80),
    "throughput_deeplab": (functools.partial(throughput, "deeplab"), 80),
    "populations": (populations, 60),
    "panel_b": (panel_b, 80),
}


def conduct(options):
    """Run every part in its own process, killed at its limit; update the summary after each."""
    summary = Results(options, "summary")
    shares = {part: PARTS[part][1] for part in options.parts}
    end = time.monotonic() + options.seconds
    while shares:
        part, share = next(iter(shares.items()))
        limit = max(0.0, end - time.monotonic()) * share / sum(shares.values())
        del shares[part]
        file, start = options.out / f"{part}.json", time.monotonic()
        file.unlink(missing_ok=True)
        status = _run_part(part, limit, options)
        row = {"status": status, "seconds": round(time.monotonic() - start), "limit": round(limit)}
        print(f"{part}: {row}", flush=True)
        result = json.loads(file.read_text()) if file.exists() else {}
        result.pop("machine", None)
        summary.add(parts={part: row | {"result": result}})


def _run_part(part, limit, options):
    """Run a part; returns its status."""
    command = [sys.executable, __file__, *sys.argv[1:], f"--part={part}", f"--limit={limit}"]
    # Without a usable GPU, JAX would fall back to the CPU; this makes it fail.
    environment = os.environ | ({} if options.toy else {"JAX_PLATFORMS": "cuda,cpu"})
    process = subprocess.Popen(command, env=environment, process_group=0)
    saves = TO_SAVE if part == "panel_b" else 0  # it ends by itself and archives its records
    try:
        code = process.wait(limit + saves)
        return "done" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        return "stopped at its limit"
    finally:
        if saves and process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(saves)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # including its children
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=path, help="Fashion-MNIST, original or prepared")
    parser.add_argument("--out", type=path, default=ROOT / "benchmarks" / "results" / "gpu")
    parser.add_argument("--work", type=path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--seconds", type=float, default=560, help="for everything")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--batch", type=int, default=256, help="of ResNet-50 against PyTorch")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, if unknown here")
    parser.add_argument("--toy", action="store_true", help="small enough for a CPU")
    parser.add_argument("--part", choices=PARTS, help="internal: run this part")
    parser.add_argument("--limit", type=float, help="internal: seconds of the part")
    parser.add_argument("--serve", choices=("ours", "torch"), help="internal: one contestant")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"There is no part {unknown.pop()}; choose from {', '.join(PARTS)}.")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.serve == "torch":
        serve(lambda: torch_rate(options))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if not (options.part or options.serve):
        conduct(options)
        return
    # Parts share the compilation cache.
    from scaling.cli import set_up_jax

    set_up_jax(None)
    if options.serve:
        serve(lambda: our_rate(options))
    else:
        PARTS[options.part][0](Results(options, options.part), options)


def path(text):
    """An absolute path, as parts run in other folders."""
    return Path(text).expanduser().resolve()


if __name__ == "__main__":
    main()
