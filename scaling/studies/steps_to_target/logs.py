"""Runs that another program made, as the records of a search: the trials at each batch size.

A row of a log is the outcome of a run (batch size, steps to the goal) or, where a goal is given, an
evaluation of one (batch size, step, metric). Runs of one batch size are told apart by their name
or, where the log names none, by seed and hyperparameters. A run's hyperparameter is the largest
value in its rows: the peak, where the learning rate follows a schedule.
"""

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scaling import search
from scaling.crossings import Metric, best_of, better_than
from scaling.errors import UserError, look_up
from scaling.files import json_text, write_atomically, write_error
from scaling.limits import AMOUNT, COUNT, FINITE, Limits
from scaling.logs import HYPERPARAMETERS, Log, Row, read_log
from scaling.record import provenance
from scaling.report.wording import listed, number, parameter_text

POSITIVE = Limits(0)
UNITS = ("examples", "sequences", "tokens")
LEAST = 3  # batch sizes of a curve
Points = dict[Path, dict[str, Any]]  # name of a file -> content, by folder


@dataclass(frozen=True)
class Asked:
    """What the command line says of the logs.

    Attributes:
      goal: of the metric; None: the logs have the steps to it.
      better: "lower" or "higher", the side of the goal that is better.
      metric: the column of the metric, "" for the first that is a loss.
      by: the column that tells studies apart, "" for one called study.
      unit: what a batch size counts.
      reference: a batch size, see `fits.StepsFit.overhead_batch`.
    """

    goal: float | None = None
    better: str = "lower"
    metric: str = ""
    by: str = ""
    unit: str = "examples"
    reference: int | None = None

    def __post_init__(self):
        look_up("--better", self.better, dict.fromkeys(("lower", "higher")))
        look_up("--unit", self.unit, dict.fromkeys(UNITS))


@dataclass(eq=False)
class Run:
    """One run.

    Attributes:
      rows: of the log, by step; of its outcome at 0.
      crossing: the last step known before the goal, and the first known beyond it.
      interval: of the steps to the goal, where the log has one.
      stopped: the step at which it ended without, of an outcome.
      tried: trials that it is the best of, where the log says.
    """

    values: dict[str, float] = field(default_factory=dict)
    rows: dict[int, Row] = field(default_factory=dict)
    evaluations: dict[int, float] = field(default_factory=dict)  # of the metric, by step
    crossing: tuple[int, int] | None = None
    interval: tuple[int, int] | None = None
    stopped: int = 0
    tried: int = 1

    def place(self, step: int, row: Row) -> None:
        """Take a row; UserError where there is one of that step."""
        if step in self.rows:
            raise UserError(
                f"{row.place} repeats {self.rows[step].place}, with the same batch size, "
                "hyperparameters and step; remove one of them, tell runs apart in a column run, "
                "name the column that tells studies apart with --by=COLUMN or, for curves of a "
                "metric, set --goal."
            )
        self.rows[step] = row

    def trial(self, number: int, asked: Asked) -> dict[str, Any]:
        """Its `record.Trial`. Finds the crossing in its evaluations."""
        rows = sorted(self.evaluations.items())
        known = list(itertools.takewhile(lambda row: math.isfinite(row[1]), rows))
        for (before, _), (step, value) in itertools.pairwise([(0, math.nan), *known]):
            if not self.crossing and better_than(value, asked.goal, asked.better):
                self.crossing = before, step
        last = [step for step, _ in known] or self.crossing or [self.stopped]
        missed = "missed" if len(known) == len(rows) else "infeasible"
        return {
            "trial": number,
            "seed": 0,
            "values": self.values,
            "outcome": "reached" if self.crossing else missed,
            "steps_to_target": self.crossing and self.crossing[1],
            "stopped_at_step": last[-1],
            "best_metric": best_of((value for _, value in known), asked.better),
            "last_train_loss": None,
        }


def record_logs(paths: Sequence[Path], workdir: Path, asked: Asked) -> list[Path]:
    """Record the runs in logs; returns the work directories, one for each study.

    Nothing is written before everything is read and checked.

    Args:
      workdir: of a single study; the parent of those of several.

    Raises:
      UserError: a log or row that cannot be used, too few batch sizes, a goal that no run reached,
        or records of other runs in `workdir`.
    """
    points: Points = {}
    launches = [provenance()]
    for (log, name), rows in _studies(paths, asked).items():
        folder = workdir / re.sub(r"[^\w.=+-]+|^\.+", "_", name)
        if folder in {path.parent for path in points}:
            raise UserError(f"Study {name!r} of {log.path} has a name like another; rename one.")
        metric = "" if asked.goal is None else asked.metric or log.need("metric")
        config = {
            "title": ", ".join(filter(None, [name, log.path.name])),
            "study": "steps_to_target",
            "data": {"name": log.path.name},
            "model": {"name": name},
            "optim": {"name": ""},
            "log": {"path": str(log.path), **asdict(asked)},
        }
        runs = _runs(log, rows, metric)
        common = {"metric": metric or "goal", "goal": asked.goal, "better": asked.better}
        common |= {"log": _about(log, rows, asked)}
        words = Metric(parameter_text(common["metric"]), asked.better)
        task = {"unit": asked.unit, "metrics": {common["metric"]: words._asdict()}}
        for batch, result in _results(runs, asked).items():
            points[folder / f"bs{batch}"] = {
                "config.json": config,
                "resolved.json": {"task": task, "launches": launches},
                "metrics.jsonl": _lines(runs[batch], metric),
                "result.json": common | result,
            }
    _check(points, paths, workdir, asked)
    try:
        for folder, files in points.items():
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                text = content if isinstance(content, str) else json_text(content) + "\n"
                write_atomically(folder / name, text)
    except OSError as error:
        raise write_error(workdir, error, "free some space and run the command again.") from error
    return list(dict.fromkeys(folder.parent for folder in points))


def _studies(paths: Sequence[Path], asked: Asked) -> dict[tuple[Log, str], list[Row]]:
    """The rows of each study, by its log and name: the value of a column and, where there are
    several logs, the name of the log."""
    studies: dict[tuple[Log, str], list[Row]] = {}
    for log in map(read_log, paths):
        for flag in ("by", "metric"):
            if column := getattr(asked, flag):
                look_up(f"--{flag} column", column, dict.fromkeys(log.columns))
        by = asked.by or log.find("study")
        for row in log.rows:
            parts = [log.path.stem] * (len(paths) > 1) + ([row.text(by)] if by else [])
            studies.setdefault((log, ", ".join(parts)), []).append(row)
    return studies


def _runs(log: Log, rows: Sequence[Row], metric: str) -> dict[int, list[Run]]:
    """The runs of a study by batch size, in rising order."""
    columns = {name: column for name in HYPERPARAMETERS if (column := log.find(name))}
    examples = None if metric or log.find("steps") else log.find("examples")
    batch_column, steps = log.need("batch"), examples or log.need("step" if metric else "steps")
    name, seed, lower, upper = map(log.find, ("run", "seed", "lower", "upper"))
    censored, tried = map(log.find, ("censored", "trials"))
    runs: dict[tuple, Run] = {}
    for row in rows:
        if metric and not row.has(metric):
            continue  # it was not evaluated at this step
        batch = int(row.number(batch_column, COUNT, whole=True))
        values = {n: row.number(c, FINITE) for n, c in columns.items() if row.has(c)}
        own = [row.values.get(name)] if name else [row.values.get(seed), *values.items()]
        run = runs.setdefault((batch, *own), Run())
        run.values |= {n: max(v, run.values.get(n, v)) for n, v in values.items()}
        if metric:
            step = int(row.number(steps, AMOUNT, whole=True))
            run.place(step, row)
            run.evaluations[step] = row.number(metric)
            continue
        run.place(0, row)
        amount = row.number(steps, COUNT) / (batch if examples else 1)
        step = max(1, round(amount))  # a mean over seeds is not whole
        if row.has(tried):
            run.tried = int(row.number(tried, COUNT, whole=True))
        if row.has(censored) and row.flag(censored):
            run.stopped = step
            continue
        run.crossing = step - 1, step
        if row.has(lower) and row.has(upper):
            low, high = (row.number(column, COUNT) for column in (lower, upper))
            run.interval = math.floor(min(low, step)), math.ceil(max(high, step))
    batches = sorted({batch for batch, *_ in runs})
    return {size: [run for (batch, *_), run in runs.items() if batch == size] for size in batches}


def _lines(runs: Sequence[Run], metric: str) -> str:
    """metrics.jsonl"""
    rows = [
        {"step": step, "split": "", "trial": k, metric: value if math.isfinite(value) else None}
        for k, run in enumerate(runs)
        for step, value in sorted(run.evaluations.items())
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def _about(log: Log, rows: Sequence[Row], asked: Asked) -> dict[str, Any]:
    """A `record.Log`. A size is a column with one number in all rows of the study."""
    sizes = {}
    for meaning in ("tokens", "parameters", "tokens_per_example"):
        column = log.find(meaning)
        numbers = {row.number(column) for row in rows if row.has(column)}
        if len(numbers) == 1:
            sizes[meaning] = next(r for r in rows if r.has(column)).number(column, POSITIVE)
        elif numbers and meaning == "parameters":
            raise UserError(
                f"{log.path} has runs of {len(numbers)} sizes in {column} in one study; name the "
                f"column that tells studies apart, such as --by={column}."
            )
    each = sizes.pop("tokens_per_example", None)
    told = {"unit": asked.unit, "reference": asked.reference, "sizes": sizes}
    return told | {"tokens_per_example": each if asked.unit != "tokens" else None}


def _results(runs: dict[int, list[Run]], asked: Asked) -> dict[int, dict[str, Any]]:
    """result.json by batch size, a `record.Record` but for what all of the study share."""
    every = [run.values for some in runs.values() for run in some]
    names = [name for name in HYPERPARAMETERS if all(name in values for values in every)]
    varied = [name for name in names if len({values[name] for values in every}) > 1]
    return {batch: _result(batch, some, varied, asked) for batch, some in runs.items()}


def _result(batch: int, runs: list[Run], varied: list[str], asked: Asked) -> dict[str, Any]:
    trials = [run.trial(number, asked) for number, run in enumerate(runs)]
    outcomes = [trial["outcome"] for trial in trials]
    reached = [trial for trial in trials if trial["outcome"] == "reached"]
    best = min(reached, key=lambda trial: trial["steps_to_target"], default=None)
    step = best and best["steps_to_target"]
    status = "met_at_start" if step == 0 else "reached" if best else "target_not_reached"
    if outcomes.count("infeasible") == len(outcomes):
        status = "all_diverged"
    ranges = {}
    for name in varied:
        values = [run.values[name] for run in runs]
        ranges[name] = ["log" if min(values) > 0 else "linear", min(values), max(values)]
    wide = {name: ends for name, ends in ranges.items() if ends[1] < ends[2]}
    ended = [t["stopped_at_step"] for t in trials if t["outcome"] != "infeasible"]
    last = max(ended, default=0)
    return {
        "study": "steps_to_target",
        "status": status,
        "global_batch": batch,
        "train_size": None,
        "split": "",
        "steps_to_target": step,
        "resolution": runs[best["trial"]].crossing if step else None,
        "interval": runs[best["trial"]].interval if step else None,
        # The run that would have reached it first may be the one that was ended first.
        "censored_at": min(ended) if status == "target_not_reached" else None,
        "budget_steps": last,
        "stopped_at_step": last,
        "margin": None,
        "trial_steps": sum(trial["stopped_at_step"] for trial in trials),
        "trial_steps_saved": 0,
        "best_trial": best["trial"] if step else None,
        "best": best["values"] if step else None,
        "at_edge": search.edges(wide, best["values"]) if step else [],
        "widened": 0,
        "ranges": ranges,
        "counts": {kind: outcomes.count(kind) for kind in ("reached", "missed", "infeasible")},
        "trials": trials,
        "tried": max(len(runs), *(run.tried for run in runs)),
        "repeats": [],
        "test": None,
        "seconds": {},
        "trial_steps_per_second": 0.0,
        "devices": {},
    }


def _check(points: Points, paths: Sequence[Path], workdir: Path, asked: Asked) -> None:
    """UserError where no study can have a curve, or `workdir` has other records."""
    logs = listed([str(path) for path in paths])
    most = max(Counter(folder.parent for folder in points).values(), default=0)
    if most < LEAST:
        raise UserError(
            f"{logs} has runs of {most} batch size{'s' * (most != 1)}; a curve takes {LEAST}."
        )
    results = [files["result.json"] for files in points.values()]
    if all(result["steps_to_target"] is None for result in results):
        if asked.goal is None:
            raise UserError(f"Every run in {logs} is censored; log runs that reached the goal.")
        values = [trial["best_metric"] for result in results for trial in result["trials"]]
        best = best_of([value for value in values if value is not None], asked.better)
        side = "above" if asked.better == "higher" else "below"
        raise UserError(
            f"No run in {logs} has a {results[0]['metric']} {side} {asked.goal:g}, the best is "
            f"{'not finite' if best is None else number(best)}; set a --goal that runs reach."
        )
    for path in [*workdir.glob("*/config.json"), *workdir.glob("*/*/config.json")]:
        files = points.get(path.parent)
        if not files or json.loads(path.read_text()) != files["config.json"]:
            raise UserError(
                f"{path.parent} has a record of other runs; delete {workdir}, or choose another "
                "--workdir."
            )
