"""User-supplied paths, JSON text, and atomic writes with their error message."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from scaling.errors import UserError


def user_path(path: str | os.PathLike, name: str) -> Path:
    """A user-supplied path with ~ expanded, which a shell does not do in --workdir=~/runs.

    Args:
      name: of the option, for the message.

    Raises:
      UserError: it is empty, or the home folder in it is unknown.
    """
    if not str(path):
        raise UserError(f"{name} is empty; name a path, or leave {name} out.")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{name} is {path}, an unknown home folder; write the full path.") from None


WIDTH = 300  # characters of a line of JSON


def json_text(value: Any, indent: int = 0) -> str:
    """Readable JSON with few lines: values that fit, and lists of numbers, are on one line.

    Raises:
      ValueError: a number that is not finite.
    """
    line = json.dumps(value, allow_nan=False, ensure_ascii=False)
    pairs = isinstance(value, dict)
    rows = isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value)
    if len(line) <= WIDTH or not (pairs or rows):
        return line
    space = "\n" + " " * (indent + 2)
    items = (
        f"{json.dumps(str(key))}: {json_text(v, indent + 2)}" if pairs else json_text(v, indent + 2)
        for key, v in (value.items() if pairs else enumerate(value))
    )
    first, last = "{}" if pairs else "[]"
    return f"{first}{space}{f',{space}'.join(items)}\n{' ' * indent}{last}"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `path` so that it contains all of `content` or its previous content, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_error(path: Path, error: OSError, rescue: str) -> UserError:
    """The error for a failed write under `path`; `rescue` is the advice for a full disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"The disk of {path} is full; {rescue}")
    return UserError(
        f"Cannot write to {path}: {error.strerror or error}; choose another --workdir."
    )
