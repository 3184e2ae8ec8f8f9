"""Logs of runs made by other programs: CSV, JSON Lines or TensorBoard event files, as rows."""

import csv
import importlib.util
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.limits import Limits

# What a column can mean, and its names, preferred first. Case does not matter, nor what separates
# words; of a tag such as train/lr the last part is enough.
NAMES = {
    "batch": "global_batch global_batch_size total_batch_size batch batch_size bs",
    "steps": "steps steps_to_target steps_to_goal steps_to_result",
    "examples": "examples examples_to_target examples_to_goal examples_to_result",
    "censored": "censored",
    "trials": "trials n_trials num_trials",
    "lower": "lower steps_lower low",
    "upper": "upper steps_upper high",
    "step": "step global_step iteration iter update steps",
    "metric": "val_loss validation_loss valid_loss eval_loss test_loss loss",
    "run": "run run_id run_name trial",
    "seed": "seed",
    "study": "study model",
    "tokens": "tokens train_tokens training_tokens data data_size",
    "parameters": "parameters params n_params num_params model_size",
    "tokens_per_example": "tokens_per_example sequence_length seq_len context_length",
    "learning_rate": "learning_rate lr peak_lr max_lr base_lr eta",
    "momentum": "momentum",
    "weight_decay": "weight_decay wd",
    "b2": "b2 beta2",
    "warmup_steps": "warmup_steps warmup",
}
HYPERPARAMETERS = ("learning_rate", "momentum", "weight_decay", "b2", "warmup_steps")
# Of the names of a run's folders: bs256_lr0.1, batch_size=8k.
SETTING = r"(?:^|[^a-z]){}[=_-]?(\d[\d.]*(?:e[+-]?\d+)?)(k?)(?![a-z\d])"
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
DT_FLOAT = 1  # TensorFlow's


@dataclass(frozen=True)
class Row:
    """One row; `place` is where it stands, such as "line 7 of runs.csv"."""

    place: str
    values: dict[str, Any]

    def has(self, column: str | None) -> bool:
        """Whether it has a value in a column."""
        return self.values.get(column) not in (None, "")

    def text(self, column: str) -> str:
        """What a column says; UserError where it says nothing."""
        if not self.has(column):
            raise UserError(f"{self.place} has no {column}; fill it in, or remove the row.")
        return str(self.values[column])

    def flag(self, column: str) -> bool:
        """Whether a column says yes; UserError where it says neither yes nor no."""
        text = self.text(column).lower()
        if text not in YES + NO:
            raise UserError(f"{self.place}: {column} is {text!r}; write 1 for yes, 0 for no.")
        return text in YES

    def number(self, column: str, limits: Limits | None = None, whole: bool = False) -> float:
        """The number in a column, within limits if there are any, or else perhaps not finite.

        Raises:
          UserError: there is no such number.
        """
        value = self.text(column)
        try:
            number = float(value)
        except ValueError:
            raise UserError(f"{self.place}: {column} is {value!r}, which is no number.") from None
        if limits:
            limits.check(f"{self.place}: {column} is {value}", number)
        if whole and number != int(number):
            raise UserError(f"{self.place}: {column} is {value}; it must be a whole number.")
        return number


@dataclass(frozen=True, eq=False)
class Log:
    """The rows of a file, or of a folder of event files."""

    path: Path
    rows: list[Row]

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in order."""
        return list(dict.fromkeys(name for row in self.rows for name in row.values))

    def find(self, meaning: str) -> str | None:
        """The column with a meaning of `NAMES`, if there is one."""
        return column_of(self.columns, meaning)

    def need(self, meaning: str) -> str:
        """The same; UserError where there is none."""
        column = self.find(meaning)
        if column is None:
            first, *others = NAMES[meaning].split()
            also = f" (or {', '.join(others)})" if others else ""
            hint = {
                "steps": "; for curves of a metric set --goal",
                "step": "; where it has tokens, divide them by those of a batch",
            }.get(meaning, "")
            raise UserError(
                f"{self.path} has no column {first}{also}; its columns are "
                f"{', '.join(self.columns)}{hint}."
            )
        return column


def column_of(columns: list[str], meaning: str) -> str | None:
    """The column with a meaning of `NAMES`, if there is one."""
    plain = lambda name: re.sub(r"\W+", "_", name.strip().lower())
    for part in (plain, lambda name: plain(re.split(r"[/.]", name)[-1])):
        named = {part(column): column for column in reversed(columns)}
        for name in NAMES[meaning].split():
            if name in named:
                return named[name]
    return None


def read_log(path: Path) -> Log:
    """A CSV file with a line of names; a .jsonl file, an object on each line; an event file of
    TensorBoard, or a folder of runs with such files. Lines that begin with # are comments.

    Raises:
      UserError: it cannot be read, or has no rows.
    """
    try:
        if path.is_dir() or "tfevents" in path.name:
            rows = list(_runs(path))
        else:
            rows = list((_objects if path.suffix == ".jsonl" else _csv)(_lines(path)))
    except FileNotFoundError:
        raise UserError(f"There is no log {path}; name a file, or a folder of runs.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); name a CSV or JSONL file.") from None
    if not rows and path.is_dir():
        raise UserError(
            f"{path} is a folder without event files of TensorBoard; name the CSV or JSONL files."
        )
    if not rows:
        raise UserError(f"{path} has no rows; name a log with runs in it.")
    return Log(path, rows)


def _lines(path: Path) -> list[tuple[str, str]]:
    """(place, text) of the lines with content."""
    lines = enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1)
    return [(f"line {n} of {path}", s) for n, s in lines if s.strip() and s.lstrip()[0] != "#"]


def _csv(lines: list[tuple[str, str]]) -> Iterator[Row]:
    reader = csv.reader(text for _, text in lines)
    names: list[str] = []
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{lines[reader.line_num - 1][0]} cannot be read ({error}).") from None
        if cells is None:
            return
        place, _ = lines[reader.line_num - 1]  # where it ends: a quoted cell may have several
        if not names:
            names = [cell.strip() for cell in cells]
            continue
        if len(cells) != len(names):
            raise UserError(f"{place} has {len(cells)} values under {len(names)} column names.")
        yield Row(place, dict(zip(names, map(str.strip, cells), strict=True)))


def _objects(lines: list[tuple[str, str]]) -> Iterator[Row]:
    for place, text in lines:
        try:
            values = json.loads(text)
        except json.JSONDecodeError:
            values = None
        if not isinstance(values, dict):
            raise UserError(f"{place} is not a JSON object; write one run or step on each line.")
        yield Row(place, values)


def _runs(path: Path) -> Iterator[Row]:
    """A row for each step of each run. A run is a folder with event files; numbers that its path
    names, and scalars of `NAMES` with one value in all of it, hold at every step."""
    files = sorted(path.rglob("*tfevents*")) if path.is_dir() else [path]
    for folder in dict.fromkeys(file.parent for file in files):
        name = str(folder.relative_to(path)) if path.is_dir() else folder.name
        steps: dict[int, dict[str, float]] = {}
        for file in (file for file in files if file.parent == folder):
            for step, tag, value in _scalars(file):
                steps.setdefault(step, {})[tag] = value
        tags = list(dict.fromkeys(tag for scalars in steps.values() for tag in scalars))
        constant = _settings(name if path.is_dir() else str(path.resolve()))
        for tag in tags:
            found = {scalars[tag] for scalars in steps.values() if tag in scalars}
            if len(found) == 1 and any(column_of([tag], m) for m in NAMES if m not in CURVE):
                constant[tag] = found.pop()
        for step, scalars in sorted(steps.items()):
            place = f"step {step} of {folder}"
            yield Row(place, {"run": name, "step": step, **constant, **scalars})


CURVE = ("step", "steps", "metric", "lower", "upper")  # meanings of columns that vary in a run


def _settings(name: str) -> dict[str, float]:
    """The numbers that a run's name gives, by meaning."""
    found = {}
    for meaning in ("batch", *HYPERPARAMETERS):
        for alias in sorted(NAMES[meaning].split(), key=len, reverse=True):
            pattern = SETTING.format(alias.replace("_", "[_-]?"))
            if match := re.search(pattern, name.lower()):
                found[meaning] = float(match[1].rstrip(".")) * (1024 if match[2] else 1)
                break
    return found


def _scalars(path: Path) -> Iterator[tuple[int, str, float]]:
    """(step, tag, value) of the scalars of an event file, up to where it is complete.

    A file is a sequence of records: length (uint64), its checksum (4 bytes), an Event, its checksum
    (4 bytes).
    """
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError(f"{path} is an event file; pip install tensorboardX to read it.")
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event

    data, place = path.read_bytes(), 0
    while place + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        content = data[place + 12 : place + 12 + length]
        if len(content) < length:
            return
        place += length + 16
        try:
            event = Event.FromString(content)
        except DecodeError:
            raise UserError(f"{path} is not an event file of TensorBoard.") from None
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                yield event.step, value.tag, value.simple_value
            elif value.tensor.dtype == DT_FLOAT:
                packed = value.tensor.tensor_content
                numbers = [*value.tensor.float_val, *struct.unpack(f"<{len(packed) // 4}f", packed)]
                if len(numbers) == 1:
                    yield event.step, value.tag, numbers[0]
