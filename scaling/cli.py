"""The program: flags -> config -> study -> report -> exit code.

Exit codes: 0 done (a diverged run is a result too), 2 bad input, 128 + n stopped by signal n and
saved, 75 a process of a run over several hosts was lost.
"""

import ast
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import re
import signal
import sys
import traceback
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags
from ml_collections.config_flags import tuple_parser

from scaling import hosts
from scaling.errors import UserCodeError, UserError, call_users, nearest
from scaling.files import user_path
from scaling.limits import cores
from scaling.report import write_report
from scaling.signals import Interrupted
from scaling.workers import run_workers, stop_with_parent


class OrNone(flags.ArgumentParser):
    """Parses "None" for config keys that may be None, all else by another parser."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser, self.syntactic_help = parser, parser.syntactic_help

    def parse(self, argument):
        return None if argument == "None" else self._parser.parse(argument)

    def flag_type(self) -> str:
        return self._parser.flag_type()


class Listed(tuple_parser.TupleParser):
    """Parses tuples, also without quotes and brackets, as in naive,lars+warmup."""

    def parse(self, argument):
        if not isinstance(argument, str) or any(sign in argument for sign in "()[]{}'\""):
            return super().parse(argument)
        return tuple(_literal(part.strip()) for part in argument.split(",") if part.strip())


def _literal(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


config_flags.register_flag_parser_for_type(tuple, Listed())
for kind, parser in (
    (int, flags.IntegerParser()),
    (float, flags.FloatParser()),
    (str, flags.ArgumentParser()),
):
    config_flags.register_flag_parser_for_type(kind, OrNone(parser))

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "FILE[:task], or the name of a packaged config; any key can be set, as in "
    "--config.optim.base_lr=0.2",
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the records; default: under runs/")
DEVICES = flags.DEFINE_integer(
    "devices", None, "simulate this many devices on the CPU; valid for results, not for speed", 1
)
POINTS = flags.DEFINE_string("points", None, "i:j, run only these points of a study")
WORKERS = flags.DEFINE_integer(
    "workers", None, "processes that share a study's points on a CPU; default: one per core", 1
)
WORKER = flags.DEFINE_bool(
    "worker", False, "run as one of several processes on a workdir, on points that no other runs"
)
ON = flags.DEFINE_string(
    "on", None, "ray[:ADDRESS], run each point of a study as a task of a Ray cluster"
)
GPUS_PER_POINT = flags.DEFINE_float(
    "gpus_per_point", None, "with --on: of a task; default: 1 where there are any", 0
)
CPUS_PER_POINT = flags.DEFINE_float("cpus_per_point", 1, "with --on: of a task", 0)
RETRIES = flags.DEFINE_integer("retries", 3, "with --on: of a point whose machine was lost", 0)
HOSTS = flags.DEFINE_string(
    "hosts",
    None,
    "auto, mpi4py or ADDRESS:PORT,N,I: one run over several hosts, the same command on each",
)
OF_ENGINE = (GPUS_PER_POINT, CPUS_PER_POINT, RETRIES)
REPORT = flags.DEFINE_list(
    "report", None, "WORKDIR[,WORKDIR...], write the report of finished studies and run nothing"
)
FIT = flags.DEFINE_list(
    "fit", None, "LOG[,LOG...], report on runs of other programs: CSV, JSONL or TensorBoard files"
)
GOAL = flags.DEFINE_float("goal", None, "with --fit: of the metric of loss curves")
BETTER = flags.DEFINE_string("better", "lower", "with --fit: lower or higher than the goal")
METRIC = flags.DEFINE_string("metric", "", "with --fit: the column that the goal is about")
BY = flags.DEFINE_string("by", "", "with --fit: the column that tells studies apart")
UNIT = flags.DEFINE_string(
    "unit", "examples", "with --fit: what a batch size counts, examples, sequences or tokens"
)
REFERENCE = flags.DEFINE_integer(
    "reference", None, "with --fit: also find the batch that takes 20% more examples than this", 1
)
OF_FIT = (GOAL, BETTER, METRIC, BY, UNIT, REFERENCE)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the resolved plan and train nothing")


def main(_) -> None:
    say = lambda text: print(text, flush=True)
    workdir = None if WORKDIR.value is None else user_path(WORKDIR.value, "--workdir")
    if REPORT.value is not None:
        given = [user_path(path, "--report") for path in REPORT.value or [""]]
        workdirs = [workdir for path in given for workdir in workdirs_in(path)]
        write_report(workdirs, workdir or report_folder(given), say)
        return
    if FIT.value is not None:
        from scaling.studies.steps_to_target.logs import Asked, record_logs

        asked = Asked(**{flag.name: flag.value for flag in OF_FIT})
        workdir = workdir or Path(default_workdir())
        logs = [user_path(path, "--fit") for path in FIT.value or [""]]
        write_report(record_logs(logs, workdir, asked), workdir, say)
        return
    config = CONFIG.value
    set_up_jax(DEVICES.value)
    from scaling.train.threads import fit_threads, split_by_core, use_onednn

    use_onednn(config)
    if HOSTS.value is not None:
        find_hosts(config)
    from scaling.studies.running import (
        check_changes,
        check_workdir,
        one_per_core,
        points_of,
        run_study,
        study_of,
    )  # devices are set

    flag = flags.FLAGS["config"]
    check_changes(config, flag.parser.written, config_flags.get_override_values(flag))
    points = points_of(config, POINTS.value)
    if one_per_core(config.study):  # the same numbers with any number of workers
        os.environ.setdefault("PJRT_NPROC", "1")
    elif not DEVICES.value and HOSTS.value is None:
        fit_threads(points.values())
        if config.study == "train":
            split_by_core(points.values())
    if DRY_RUN.value:
        study = study_of(config)
        for point in points.values() if hasattr(study, "check_values") else ():
            study.check_values(point)
        say(study.dry_run(points))
        return
    workdir = workdir or Path(default_workdir())
    if WORKER.value:
        reported = stop_with_parent() and ON.value is None  # an engine reports what a task says
        run_study(config, workdir, POINTS.value, say, worker=True, reported=reported)
        return
    hosts.by_leader(check_workdir)(config, workdir)
    if ON.value is not None:
        run_on_engine(config, points, workdir, say)
        write_report([workdir], workdir, say)
        return
    workers = workers_for(config, workdir)
    if workers > 1:
        for point in points.values():
            study_of(config).check(point)
        run_workers(workers, [sys.executable, *sys.argv, "--worker"], say)
    # Runs the points that workers did not finish, so that errors appear as without workers.
    quiet = lambda text: None if workers > 1 and "already finished" in text else say(text)
    run_study(config, workdir, POINTS.value, quiet)
    if DEVICES.value:
        say(f"On {DEVICES.value} simulated devices: times are not those of real devices.")
    hosts.leader_only(write_report)([workdir], workdir, say)


def find_hosts(config) -> None:
    """The other processes of a run over several hosts, which are to do the same."""
    from scaling.record import provenance
    from scaling.studies.running import points_of
    from scaling.train.point import data_info

    if config.study != "train":
        raise UserError(
            f"--hosts is for one run over several hosts, and a point of the {config.study} study "
            "is for one machine; leave --hosts out, or spread the points with --on=ray."
        )
    if config.sharpness.track:
        raise UserError(
            "sharpness.track measures on the devices of one machine, and --hosts is for several; "
            "leave one of them out."
        )
    points = points_of(config, POINTS.value)
    known = {name: data_info(point.data) for name, point in points.items()}
    own, code = provenance(), hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    facts = {
        "code": f"{own['git_revision']}, {code.hexdigest()[:8]}",
        "packages": own["packages"],
        "flags": [flag.value for flag in (POINTS, DRY_RUN)],
        "config": json.loads(config.to_json_best_effort()),
        "data": {name: [info.sizes, info.files] for name, info in known.items()},
    }
    hosts.start(HOSTS.value, facts)


def run_on_engine(config, points: dict[str, ConfigDict], workdir: Path, say) -> None:
    """The unfinished points on the engine of --on, the largest batch first."""
    from scaling.fleet import run_on_ray
    from scaling.studies.running import points_of, study_of, unfinished

    engine, _, address = ON.value.partition(":")
    if engine != "ray":
        raise UserError(f"--on={ON.value} is no engine; write --on=ray or --on=ray:HOST:PORT.")
    for point in points.values():
        study_of(config).check(point)
    places, workdir = list(points_of(config)), workdir.resolve()
    commands = {}
    for name in reversed(unfinished(config, workdir, POINTS.value)):
        i = places.index(name)
        own = (f"--points={i}:{i + 1}", f"--workdir={workdir}", "--worker")  # the last flags count
        commands[name] = [sys.executable, *sys.argv, *own]
    if config.title:
        say(config.title)
    if commands:
        share = {"gpus": GPUS_PER_POINT.value, "cpus": CPUS_PER_POINT.value}
        run_on_ray(address or None, commands, workdir, say, **share, retries=RETRIES.value)


def workdirs_in(path: Path) -> list[Path]:
    """The path itself or, where it has no records but folders in it do, those."""
    inner = sorted({found.parents[1] for found in path.glob("*/*/result.json")})
    return inner if inner and not any(path.glob("*/result.json")) else [path]


def report_folder(workdirs: list[Path]) -> Path:
    """The workdir of a single study; for several, a new folder beside the first."""
    first, *others = [workdir.resolve() for workdir in workdirs]
    names = "+".join(workdir.name for workdir in (first, *others))
    return first.with_name(names[:200]) if others else workdirs[0]


def workers_for(config, workdir: Path) -> int:
    """The number of processes that share the points: one per core if JAX has only the CPU."""
    import jax

    from scaling.studies.running import one_per_core, unfinished

    if not one_per_core(config.study) or DEVICES.value or jax.default_backend() != "cpu":
        return 1
    return min(WORKERS.value or cores(), len(unfinished(config, workdir, POINTS.value)))


def set_up_jax(devices: int | None) -> None:
    """Set up simulated devices, 32-bit numbers and the compilation cache."""
    import jax

    from scaling.data.directories import cache_dir
    from scaling.train.threads import split_cpu

    if devices:
        split_cpu(devices)
        jax.config.update("jax_platforms", "cpu")
    # Training is in float32 by design, also under JAX_ENABLE_X64.
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def arguments(argv: list[str]) -> list[tuple[str, str]]:
    """(name, value) of every flag, written --name=value or --name value."""
    pairs, rest = [], list(argv[1:])
    while rest:
        name, equals, value = rest.pop(0).lstrip("-").partition("=")
        if not equals and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        pairs.append((name, value))
    return pairs


def default_workdir() -> str:
    """runs/FILE-task-OVERRIDES, so that the same command resumes the same run."""
    parts = []
    for name, value in arguments(sys.argv):
        if name == "config":
            path, _, task = value.partition(":")
            parts.insert(0, "-".join(filter(None, (Path(path).stem, task))))
        elif name.startswith("config."):
            parts.append(f"{name.removeprefix('config.')}={value}")
        elif name.startswith("noconfig."):
            parts.append(f"{name.removeprefix('noconfig.')}=False")
        elif name == "devices":
            parts.append(f"simulated{value}")
        elif name == "fit":
            parts.insert(0, "+".join(Path(path).stem for path in value.split(",")))
        elif name in [flag.name for flag in OF_FIT]:
            parts.append(f"{name}={value}")
    return "runs/" + re.sub(r"[^\w.=-]+", "_", "-".join(parts))


def load_config(argument: str) -> ConfigDict:
    """The config returned by `get_config` of FILE[:task].

    Raises:
      UserError: no such file, or one that is not a config file.
      UserCodeError: an exception in the file's code.
    """
    file, _, task = argument.partition(":")
    if not file:
        raise UserError(f"--config={argument} has no file. {_configs()}")
    path = user_path(file, "--config")
    if re.fullmatch(r"\w+", file) and not path.exists():
        path = _own_configs() / f"{file}.py"
    if path.is_dir():
        raise UserError(f"--config={argument} is a folder; name a file. {_configs()}")
    if not path.is_file():
        raise UserError(f"There is no config file {file!r}: {_configs(path.stem)}")
    name = "config_file"
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    try:
        code = loader.get_code(name)
    except (OSError, SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        reason = f"{error.msg} in line {line}" if line else error
        raise UserError(
            f"{file} cannot be read ({reason}); use a Python file with a function get_config."
        ) from None
    sys.modules[name] = module  # for dataclasses and pickle
    call_users(f"config file {file}", exec, code, module.__dict__)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(
            f"{file} has no function get_config; add one that returns a ConfigDict, as in "
            "configs/quickstart.py."
        )
    return _call_get_config(get_config, file, task)


def _call_get_config(get_config, file, task):
    """The config of a task, "" for none."""
    given = [task] * bool(task)
    try:
        inspect.signature(get_config).bind(*given)
    except TypeError as error:
        if task:
            raise UserError(f"{file} has no tasks; remove :{task}.") from None
        raise UserError(
            f"get_config of {file} cannot be called without a task ({error}); name one, as in "
            f"--config={file}:TASK, or give the argument a default."
        ) from None
    config = call_users(f"config file {file}", get_config, *given)
    plain = isinstance(config, ConfigDict) and not isinstance(config, FrozenConfigDict)
    if not (plain and "study" in config):
        kind = "a ConfigDict without the keys of a study" if plain else type(config).__name__
        raise UserError(
            f"get_config of {file} returns {kind}; return a ConfigDict created by "
            "scaling.config.default_config()."
        )
    return config


class _ConfigFile(flags.ArgumentParser):
    """`load_config` instead of ml_collections' loader, whose errors are tracebacks."""

    def parse(self, argument):
        config = load_config(argument).lock()
        self.written = config.copy_and_resolve_references()  # without flags
        return config


flags.FLAGS["config"].parser = _ConfigFile()


def parse_flags(argv: list[str]) -> list[str]:
    """Parse absl's flags, with all errors as one sentence.

    Raises:
      UserError: unknown flag, config file, task or key, or a value of the wrong type.
      UserCodeError: see `load_config`.
    """
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown_flag(error.flagname)) from None
    except flags.Error as error:
        raise UserError(_wrong_type(str(error), argv) or f"{str(error).rstrip('.')}.") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        unknown = _unknown_key(argv)
        if unknown is None and not isinstance(error, ValueError):
            raise  # a bug
        raise UserError(unknown or f"{error}.") from None
    named = [f for f in (CONFIG, REPORT, FIT) if f.value is not None]
    if len(named) > 1:
        raise UserError(f"--{named[1].name} runs nothing; remove --{named[0].name}.")
    if FIT.value is None and (unread := [f.name for f in OF_FIT if f.present]):
        raise UserError(f"--{unread[0]} is about the logs of --fit=FILE; remove it.")
    if ON.value is None and (unread := [f.name for f in OF_ENGINE if f.present]):
        raise UserError(f"--{unread[0]} is about the cluster of --on=ray; remove it.")
    if HOSTS.value is not None:
        others = (REPORT, FIT, ON, WORKERS, WORKER)
        if unread := [f.name for f in others if f.present]:
            raise UserError(f"--hosts is for one run over several hosts; remove --{unread[0]}.")
    if not named:
        raise UserError(f"There is no config; name one with --config=FILE[:task]. {_configs()}")
    if len(rest) > 1:
        raise UserError(f"Unknown argument {rest[1]!r}; flags start with --.")
    return rest


def _wrong_type(message, argv):
    """The error for a value of --config.KEY that has another type; None: it is not that."""
    found = re.match(r"flag --config\.([\w.]+)=(.*?): ", message)
    if not found:
        return None
    path, value = found.groups()
    *sections, key = path.split(".")
    keys = load_config(dict(arguments(argv))["config"])
    for section in sections:
        keys = keys[section]
    kind = keys.get_type(key)
    words = {int: "a whole number", float: "a number", bool: "True or False"}.get(kind)
    return words and f"--config.{path} is {value!r}; it must be {words}."


def _unknown_flag(name):
    """The error for a flag outside --config, or for --config.KEY without --config."""
    first = name.partition(".")[0]
    if first == "config":
        return f"--{name} sets a key of a config, and there is none; name one with --config=FILE."
    config = flags.FLAGS["config"].value  # CONFIG.value raises after a parsing error
    if config is not None and first in config:
        return f"Unknown flag --{name}; set keys of the config with --config.{name}."
    known = [f"--{flag.name}" for flag in _flags()]
    return f"Unknown flag --{name}: {nearest(f'--{first}', known)}"


def _flags():
    """The flags of this program, without those of absl."""
    return flags.FLAGS.get_key_flags_for_module(flags.FLAGS.find_module_defining_flag("workdir"))


def _unknown_key(argv):
    """The error for the first --config.KEY that the config does not have, None if it has all."""
    pairs = arguments(argv)
    config = load_config(dict(pairs)["config"])
    for name, value in pairs:
        if not name.removeprefix("no").startswith("config."):
            continue
        keys = config
        for key in name.partition(".")[2].split("."):
            if not hasattr(keys, "keys") or key not in keys:
                known = nearest(key, keys.keys()) if hasattr(keys, "keys") else "It has no keys."
                return f"Unknown config key {key!r} in --{name}={value}: {known}"
            keys = keys[key]
    return None


def _own_configs() -> Path:
    """The folder of the packaged configs, which import each other as `configs`."""
    here = Path(__file__).parent
    if (here.parent / "configs" / "quickstart.py").exists():  # a checkout
        return here.parent / "configs"
    if importlib.util.find_spec("configs") is None:
        sys.modules["configs"] = importlib.import_module("scaling.configs")
    return here / "configs"


def _configs(name: str = ""):
    """The packaged configs, for a message, the one nearest to `name` first."""
    files = sorted(_own_configs().glob("*.py"))
    runnable = [path.stem for path in files if "def get_config" in path.read_text()]
    return nearest(name, runnable)


def cli() -> None:
    """The program, with its exit code."""
    app.define_help_flags()
    for flag in _flags():  # --help lists the flags of the called program
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    code, text, agreed = 0, "", False
    try:
        parse_flags(sys.argv)
        main(sys.argv)
        agreed = True
    except UserError as error:
        code, text = 2, f"error: {error}"
        if isinstance(error, UserCodeError):
            text += f"\n{error.traceback}"
    except Interrupted as error:
        code, text = error.exit_code, f"{error} Run the same command again to resume."
        agreed = True
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
        text = "Interrupted. Run the same command again to resume."
    except BrokenPipeError:  # what reads the output has ended, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except Exception as error:
        if not hosts.several():
            raise
        lost = hosts.lost(error)
        code, text = (hosts.LOST, lost) if lost else (1, traceback.format_exc())
    if code > 128 and WORKER.value:
        text = ""  # its parent process prints it
    hosts.leave(code, text, agreed)
