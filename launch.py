"""Run a study: python launch.py --config=configs/quickstart.py
Report on finished ones: python launch.py --report=runs/quickstart

Exit codes: 0 done (a diverged run is a result too), 2 bad input, 128 + n stopped by signal n and
saved.
"""

import os
import re
import runpy
import signal
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from scaling.errors import UserError, nearest
from scaling.report import REPORTED, write_report
from scaling.signals import Interrupted
from scaling.workers import run_workers, stop_with_parent


class OrNone(flags.ArgumentParser):
    """The word None for a config key that may be None; all else by another parser."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser, self.syntactic_help = parser, parser.syntactic_help

    def parse(self, argument):
        return None if argument == "None" else self._parser.parse(argument)

    def flag_type(self) -> str:
        return self._parser.flag_type()


for kind, parser in (
    (int, flags.IntegerParser()),
    (float, flags.FloatParser()),
    (str, flags.ArgumentParser()),
):
    config_flags.register_flag_parser_for_type(kind, OrNone(parser))

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "FILE[:task]; any field can be set, as in --config.optim.base_lr=0.2"
)
WORKDIR = flags.DEFINE_string("workdir", None, "where to record; default: a folder under runs/")
DEVICES = flags.DEFINE_integer(
    "devices", None, "simulate this many devices on CPU, to check results, never speed", 1
)
POINTS = flags.DEFINE_string("points", None, "i:j, run only these points of a sweep")
WORKERS = flags.DEFINE_integer(
    "workers", None, "processes that share a study's points on a CPU; default: one per core", 1
)
WORKER = flags.DEFINE_bool(
    "worker", False, "be one of several processes on a workdir: take only points that are free"
)
REPORT = flags.DEFINE_list(
    "report", None, "WORKDIR[,WORKDIR...], make the report of finished studies and run nothing"
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the resolved plan and train nothing")


def main(_) -> None:
    say = lambda text: print(text, flush=True)
    if REPORT.value:
        workdirs = [Path(workdir) for workdir in REPORT.value]
        write_report(workdirs, Path(WORKDIR.value or report_folder(workdirs)), say)
        return
    config = CONFIG.value
    set_up_jax(DEVICES.value)
    from scaling.studies import ONE_PER_CORE, STUDIES, points_of, run_study  # devices are set
    from scaling.train.threads import fit_cpu

    points = points_of(config, POINTS.value)
    if config.study in ONE_PER_CORE:  # alone or as one of several workers: the same numbers
        os.environ.setdefault("PJRT_NPROC", "1")
    elif config.study == "train" and not DEVICES.value:
        fit_cpu(points.values())
    if DRY_RUN.value:
        say(STUDIES[config.study].dry_run(points))
        return
    workdir = Path(WORKDIR.value or default_workdir())
    if WORKER.value:
        stop_with_parent()
        run_study(config, workdir, POINTS.value, say, worker=True)
        return
    workers = workers_for(config, workdir)
    if workers > 1:
        for point in points.values():
            STUDIES[config.study].check(point)
        run_workers(workers, worker_command(workdir), say)
    # What workers left undone is done here: an error shows as it would have without them.
    quiet = lambda text: None if workers > 1 and "finished before" in text else say(text)
    results = run_study(config, workdir, POINTS.value, quiet)
    if DEVICES.value:
        say(f"On {DEVICES.value} simulated devices: correctness only, never speed.")
    say(STUDIES[config.study].summarize(results))
    if config.study in REPORTED and results:
        write_report([workdir], workdir, say)


def report_folder(workdirs: list[Path]) -> Path:
    """Of one study beside its records; of several in a folder of its own, beside the first."""
    first, *others = [workdir.resolve() for workdir in workdirs]
    names = "+".join(workdir.name for workdir in (first, *others))
    return first.with_name(names[:200]) if others else workdirs[0]


def workers_for(config, workdir: Path) -> int:
    """How many processes share the points: one per core where JAX has only the CPU."""
    import jax

    from scaling.studies import ONE_PER_CORE, unfinished

    if config.study not in ONE_PER_CORE or DEVICES.value or jax.default_backend() != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(WORKERS.value or cores, unfinished(config, workdir, POINTS.value))


def worker_command(workdir: Path) -> list[str]:
    """This command again, as a worker's."""
    return [sys.executable, *sys.argv, f"--workdir={workdir}", "--worker"]


def set_up_jax(devices: int | None) -> None:
    """Simulated devices, if asked for, and the cache of compiled programs."""
    import jax

    from scaling.data.sources import cache_dir
    from scaling.train.threads import split_cpu

    if devices:
        split_cpu(devices)
        jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def arguments(argv: list[str]) -> list[tuple[str, str]]:
    """(name, value) of every flag, whether written --name=value or --name value."""
    pairs, rest = [], list(argv[1:])
    while rest:
        name, equals, value = rest.pop(0).lstrip("-").partition("=")
        if not equals and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        pairs.append((name, value))
    return pairs


def default_workdir() -> str:
    """runs/FILE-task, and what was overridden: the same command finds the same run."""
    parts = []
    for name, value in arguments(sys.argv):
        if name == "config":
            path, _, task = value.partition(":")
            parts.insert(0, "-".join(filter(None, (Path(path).stem, task))))
        elif name.startswith("config."):
            parts.append(f"{name.removeprefix('config.')}={value}")
        elif name == "devices":
            parts.append(f"simulated{value}")
    return "runs/" + re.sub(r"[^\w.=,-]+", "_", "-".join(parts))


def parse_flags(argv: list[str]) -> list[str]:
    """absl's flags, with its errors and ml_collections' as one sentence.

    Raises:
      UserError: unknown flag, config file, task or key, or a value of the wrong kind.
    """
    try:
        rest = flags.FLAGS(argv)
        # A file that could not be loaded is a stand-in that raises when it is looked at.
        missing = not hasattr(CONFIG.value, "keys")
    except flags.Error as error:
        path, _, task = dict(arguments(argv)).get("config", "").partition(":")
        if task and "get_config() takes 0 positional arguments" in str(error):
            raise UserError(f"{path} has no tasks to choose from; leave :{task} out.") from None
        raise UserError(f"{str(error).replace(' ?', '?').rstrip('.')}.") from None
    except (AttributeError, KeyError):
        raise UserError(_unknown_key(argv)) from None
    except OSError:
        if Path(_config_path(argv)).exists():
            raise  # of something that the config file itself reads
        raise UserError(f"There is no config file {_config_path(argv)!r}. {_configs()}") from None
    if REPORT.value:
        if CONFIG.value is not None:
            raise UserError("--report makes a report of records alone; leave --config out.")
    elif missing:
        raise UserError(f"No config; name one with --config=FILE[:task]. {_configs()}")
    if len(rest) > 1:
        raise UserError(f"Unknown argument {rest[1]!r}; flags start with --.")
    return rest


def _unknown_key(argv):
    """The first --config.KEY that the config does not have."""
    path, _, task = dict(arguments(argv))["config"].partition(":")
    config = runpy.run_path(path)["get_config"](*[task] * bool(task))
    for name, value in arguments(argv):
        if not name.startswith("config."):
            continue
        keys = config
        for key in name.removeprefix("config.").split("."):
            if not hasattr(keys, "keys") or key not in keys:
                known = nearest(key, keys.keys()) if hasattr(keys, "keys") else "It is one value."
                return f"Unknown config key {key!r} in --{name}={value}: {known}"
            keys = keys[key]
    raise  # not about a key: a bug in the config file, to be seen with its traceback


def _config_path(argv):
    return dict(arguments(argv))["config"].partition(":")[0]


def _configs():
    here = Path(__file__).parent
    files = sorted((here / "configs").glob("*.py"))
    runnable = [p for p in files if "def get_config" in p.read_text()]
    return nearest("", [p.relative_to(here) for p in runnable])


def cli() -> None:
    """The whole program, with its exit code."""
    app.define_help_flags()
    try:
        parse_flags(sys.argv)
        main(sys.argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as error:
        if not WORKER.value:  # else the process that started this one says it
            print(f"{error} Run the same command again to resume.", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if not WORKER.value:
            print("Interrupted. Run the same command again to go on.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    cli()
