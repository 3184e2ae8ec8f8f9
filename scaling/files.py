"""Writing a file in one piece, and the sentence for when that fails."""

import errno
import os
from pathlib import Path

from scaling.errors import UserError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `path` so that it holds all of `content` or what it held before, never a part."""
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
    """The sentence for a write that failed under `path`; `rescue` says what a full disk spares."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"The disk of {path} is full; {rescue}")
    return UserError(
        f"Cannot write to {path}: {error.strerror or error}; choose another --workdir."
    )
