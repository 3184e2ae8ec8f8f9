"""JSON to dataclasses, by their annotations."""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from scaling.errors import UserError

T = TypeVar("T")


class RecordError(ValueError):
    """JSON that does not match its dataclass; the message has the path."""


def from_json(kind: type[T], value: Any, place: str = "") -> T:
    """A value as `kind`: a dataclass, a plain type, or a list, tuple, dict or union of such.

    Keys that are not fields of a dataclass are ignored, and fields with a default may be missing.
    Values that are already of `kind` are unchanged.

    Args:
      place: path of the value in the record, for the error.

    Raises:
      RecordError: a missing key, or a value of another type: "lacks runs[2].seed".
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in inner:
            return None
        exact = [option for option in inner if type(value) is option]
        first = next(option for option in inner if option is not types.NoneType)
        return from_json(exact[0] if exact else first, value, place)
    if origin is list and isinstance(value, list | tuple):
        return [from_json(inner[0], item, f"{place}[{i}]") for i, item in enumerate(value)]
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [inner[0]] * len(value) if inner[-1] is ... else inner
        if len(kinds) == len(value):
            items = zip(kinds, value, strict=True)
            return tuple(from_json(k, item, f"{place}[{i}]") for i, (k, item) in enumerate(items))
    if origin is dict and isinstance(value, dict):
        return {key: from_json(inner[1], item, f"{place}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _dataclass(kind, value, place)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, kind):
        return value
    name = getattr(kind, "__name__", kind) if origin is None else kind
    raise RecordError(f"has {place} = {str(value)[:60]}, which is not of type {name}")


def _dataclass(kind, value, place):
    fields = {}
    for name, (inner, required) in _fields(kind).items():
        where = f"{place}.{name}".lstrip(".")
        if name in value:
            fields[name] = from_json(inner, value[name], where)
        elif required:
            raise RecordError(f"lacks {where}")
    return kind(**fields)


@functools.cache
def _fields(kind):
    """Name -> (type, whether it is required)."""
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is field.default_factory is missing)
        for field in dataclasses.fields(kind)
    }


def jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file, none if it does not exist; a truncated last line is left out.

    Raises:
      UserError: a line before the last that is not JSON.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            if number < len(lines):
                raise UserError(f"Line {number} of {path} is not valid JSON.") from None
