"""Fuzz test of configs: a thousand mutated ones of all studies, each run to its end.

    python benchmarks/fuzz.py [--first=SEED] [--count=1000] [--seconds=300]

Each config trains in seconds and has one to three values of `tests/mutations.py`: NaN, infinities,
other types, NumPy and JAX numbers, ends of ranges. It is run as by `launch.py`, with the report for
every fifth seed, in a process that is killed after `--seconds`. The result has the numbers of
configs that were done, refused with a message before anything was written, refused later, raised a
traceback or did not end; the last three kinds are listed.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

from common import ROOT, machine, write

sys.path.append(str(ROOT / "tests"))
OUTCOMES = ("done", "refused", "refused_after_writing", "traceback", "no_end")
QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
PER_PROCESS = 100  # configs, limited by the memory of compiled programs


def run(seed: int, folder: Path) -> tuple[str, str]:
    """The outcome of one config, and its message."""
    from mutations import mutated

    from scaling.errors import UserError
    from scaling.report import write_report
    from scaling.studies.running import run_study

    quiet = lambda text: None
    config, _ = mutated(seed)
    try:
        run_study(config, folder, None, quiet)
        if seed % 5 == 0:  # figures take longer than all else
            write_report([folder], folder, quiet)
    except UserError as error:
        return "refused_after_writing" if folder.exists() else "refused", str(error)
    except Exception:
        return "traceback", traceback.format_exc()
    return "done", ""


def _serve(connection) -> None:
    """In a worker process: run the seeds received."""
    import jax

    from scaling.cli import set_up_jax

    set_up_jax(None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    while True:
        seed = connection.recv()
        with tempfile.TemporaryDirectory() as folder:
            connection.send(run(seed, Path(folder) / "run"))


class Worker:
    """A process that runs configs."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def outcome(self, seed: int, seconds: float) -> tuple[str, str]:
        """(outcome, message) of one config; "no_end" after `seconds`."""
        self.connection.send(seed)
        if not self.connection.poll(seconds):
            return "no_end", f"no end in {seconds:g} seconds"
        try:
            return self.connection.recv()
        except EOFError:
            return "traceback", "the process died"

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--name", default="fuzz")
    options = parser.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", "PJRT_NPROC": "1", "XLA_FLAGS": QUICK_TO_COMPILE}
    from mutations import mutated

    described, studies, counts, offending = machine(), Counter(), Counter(), []
    worker = None
    for place in range(options.count):
        seed = options.first + place
        if worker is None:
            worker = Worker()
        outcome, message = worker.outcome(seed, options.seconds)
        config = mutated(seed)[1]
        counts[outcome] += 1
        studies[config[0]] += 1
        if outcome not in ("done", "refused"):
            row = {"seed": seed, "config": config, "outcome": outcome, "message": message}
            offending.append(row)
            print(f"{seed}: {outcome}\n{config}\n{message}", flush=True)
        if outcome == "no_end" or message == "the process died" or place % PER_PROCESS == 0:
            worker.end()
            worker = None
        if place % 20 == 0:
            print(f"{place + 1}: {dict(counts)}", flush=True)
    write(
        options.name,
        {
            "machine": described,
            "seeds": [options.first, options.first + options.count - 1],
            "seconds_limit": options.seconds,
            "studies": dict(sorted(studies.items())),
            **{outcome: counts[outcome] for outcome in OUTCOMES},
            "offending": offending,
        },
    )


if __name__ == "__main__":
    main()
