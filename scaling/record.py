"""A run directory: the record of one point, complete enough to resume it and to report it.

config.json      what was asked for
resolved.json    what it came to: steps, learning rate, batch plan, parameters, provenance
metrics.jsonl    one line per update and per evaluation, every step once
result.json      written last, in one piece; its presence means the point is finished
shorter.json     the result before the duration was raised, until there is one of the longer run
checkpoints/     see train/checkpoint.py
"""

import contextlib
import datetime
import fcntl
import functools
import importlib.metadata
import io
import json
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling import hosts
from scaling.config import completed, differences, without_logistics
from scaling.errors import UserError
from scaling.files import json_text, write_atomically, write_error

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "ml-collections")


def _write_errors(method):
    """Turn a failed write into the one sentence that a user needs."""

    @functools.wraps(method)
    def wrapped(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            raise run_error(self.path, error) from error

    return wrapped


def run_error(path: Path, error: OSError) -> UserError:
    """The sentence for a write that failed under a run directory's `path`."""
    rescue = (
        "what was recorded before is intact: free some space and run the same command again to "
        "resume."
    )
    return write_error(path, error, rescue)


class InUse(UserError):
    """Another process holds the run directory."""


# (run, its recorded duration) -> whether a run with another duration goes on from it; a UserError
# says why it cannot.
GoesOn = Callable[["RunDir", str], bool]


class RunDir:
    """One point's directory, held exclusively while open. Where several hosts make one run it is
    the leader's, and what is read of it all get.

    Raises:
      UserError: it cannot be written.
      InUse: another process holds it.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._lock = None
        self._metrics = None

    def __enter__(self) -> "RunDir":
        self._hold()
        return self

    @hosts.leader_only
    @_write_errors
    def _hold(self):
        self.path.mkdir(parents=True, exist_ok=True)
        # The kernel drops the lock with the process, however it ends.
        self._lock = open(self.path / "lock", "a+")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            raise InUse(
                f"{self.path} is in use by {holder}; wait for it, or choose another --workdir."
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()

    @hosts.leader_only
    def __exit__(self, *_) -> None:
        with contextlib.suppress(OSError):  # what could not be written was told when it happened
            if self._metrics:
                self._metrics.close()
        self._lock.close()

    @property
    def result(self) -> dict[str, Any] | None:
        """What the finished point came to, or None."""
        return self._read("result.json")

    @property
    def resolved(self) -> dict[str, Any] | None:
        """What an earlier launch resolved the config to, or None."""
        return self._read("resolved.json")

    @hosts.by_leader
    @_write_errors
    def continues(self, config: dict[str, Any], goes_on: GoesOn | None = None) -> bool:
        """Whether this is a longer run than an earlier launch recorded here. Writes nothing.

        Args:
          goes_on: what decides where configs differ in their duration alone; None: not allowed.

        Raises:
          UserError: the directory holds a run of another config.
        """
        recorded = self._read("config.json")
        if recorded is None:
            return False
        both = completed(recorded), completed(_as_json(config))
        old, new = map(without_logistics, both)
        changed = differences(old, new)
        if changed and goes_on and old | {"duration": new.get("duration")} == new:
            return goes_on(self, recorded["duration"])
        if changed:
            raise UserError(
                f"{self.path} holds a run of another config ({'; '.join(changed[:3])}"
                f"{'; ...' if changed[3:] else ''}); choose another --workdir or delete it."
            )
        return False

    @hosts.leader_only
    @_write_errors
    def begin(self, config: dict[str, Any], goes_on: GoesOn | None = None) -> None:
        """Record the config, or that the run here becomes a longer one; see `continues`."""
        if self.continues(config, goes_on):
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.path / "result.json", self.path / "shorter.json")
        if self._read("config.json") != _as_json(config):
            self._write("config.json", _as_json(config))

    @hosts.leader_only
    @_write_errors
    def resolve(self, resolved: dict[str, Any]) -> None:
        """Record what the config came to on these devices."""
        self._write("resolved.json", resolved)

    @hosts.leader_only
    def launched(self, resolved: dict[str, Any]) -> None:
        """Record what the config came to, its "devices" among it, and this launch after those
        before.

        Raises:
          UserError: see `check_files`.
        """
        self.check_files(resolved.get("data", {}))
        before = (self.resolved or {}).get("launches", [])
        launch = provenance() | {"devices": resolved["devices"]}
        self.resolve(resolved | {"launches": [*before, launch]})

    def check_files(self, data: Mapping[str, Any]) -> None:
        """The points here were measured on the same data.

        Args:
          data: "name", and "files" where it is known what they hold.

        Raises:
          UserError: one was measured on other files of the same name.
        """
        if not data.get("files"):
            return
        for path in sorted(self.path.parent.glob("*/resolved.json")):
            there = json.loads(path.read_text()).get("data", {})
            if there.get("name") != data["name"] or there.get("files") == data["files"]:
                continue
            name, changed = data["name"], differences(there.get("files", {}), data["files"])
            raise UserError(
                f"{path.parent} was measured on other files of {name} ({'; '.join(changed[:2])}), "
                f"and losses cannot be compared; prepare {name} as it was, or choose another "
                "--workdir."
            )

    @hosts.leader_only
    @_write_errors
    def truncate(self, lines: int) -> None:
        """Keep the first `lines` lines of the metrics: what follows is written again.

        Raises:
          UserError: there are fewer, as after a power failure.
        """
        path = self.path / "metrics.jsonl"
        kept = path.read_text().splitlines(keepends=True)[:lines] if path.exists() else []
        if len(kept) != lines:
            raise UserError(
                f"{path} holds {len(kept):,} of the {lines:,} lines before the checkpoint; delete "
                f"{self.path} to start this run anew."
            )
        if self._metrics:
            self._metrics.close()
        write_atomically(path, "".join(kept))
        self._metrics = open(path, "a")  # noqa: SIM115

    @hosts.by_leader
    def rows(self, split: str, first: int = 0, last: int | None = None) -> list[dict[str, Any]]:
        """The rows of a split among lines `first` to `last` of the metrics."""
        lines = (self.path / "metrics.jsonl").read_text().splitlines()[first:last]
        return [json.loads(line) for line in lines if f'"split":"{split}"' in line]

    @hosts.leader_only
    @_write_errors
    def save_json(self, name: str, content: Any) -> None:
        """Write `content` as NAME.json, in one piece."""
        self._write(f"{name}.json", content)

    def load_json(self, name: str) -> Any | None:
        """What `save_json` wrote under that name, or None."""
        return self._read(f"{name}.json")

    @hosts.leader_only
    @_write_errors
    def save_arrays(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Write arrays, at most 10,000, as NAME.npz, in one piece."""
        content = io.BytesIO()
        np.savez(content, **{f"{i:04d}": array for i, array in enumerate(arrays)})
        write_atomically(self.path / f"{name}.npz", content.getvalue())

    def load_arrays(self, name: str) -> list[np.ndarray]:
        """What `save_arrays` wrote under that name."""
        with np.load(self.path / f"{name}.npz") as arrays:
            return [arrays[key] for key in sorted(arrays)]

    @hosts.leader_only
    @_write_errors
    def append(self, lines: str) -> None:
        """Add whole lines to metrics.jsonl; they are with the operating system on return."""
        self._metrics.write(lines)
        self._metrics.flush()

    @hosts.leader_only
    @_write_errors
    def sync(self) -> None:
        """Return when the metrics are on disk: a checkpoint must never be ahead of them."""
        os.fsync(self._metrics.fileno())

    @hosts.leader_only
    @_write_errors
    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json; the point is finished once it stands."""
        if self._metrics:
            self.sync()
        self._write("result.json", result)
        (self.path / "shorter.json").unlink(missing_ok=True)

    @hosts.by_leader
    def _read(self, name):
        path = self.path / name
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except json.JSONDecodeError:
            raise UserError(
                f"{path} is not valid JSON; delete it to start this run anew."
            ) from None

    def _write(self, name, content):
        write_atomically(self.path / name, json_text(content) + "\n")


def _as_json(config):
    """As it is read back: lists for tuples."""
    return json.loads(json.dumps(config))


def read_metrics(path: str | os.PathLike, split: str) -> list[dict[str, Any]]:
    """The rows of one split in `path`/metrics.jsonl, in order of step."""
    lines = (Path(path) / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def metric_lines(
    split: str, first_step: int, metrics: dict[str, np.ndarray], trial: int | None = None
) -> str:
    """JSON lines of consecutive steps; 9 digits give every float32 back exactly.

    Args:
      first_step: number of the first row, updates done after it.
      metrics: name -> [rows] or [rows, n].
      trial: number of the trial whose metrics these are, where there are several.
    """
    columns, form = [], []
    for name, values in metrics.items():
        values = np.asarray(values)
        one = "%.9g" if values.ndim == 1 else f"[{','.join(['%.9g'] * values.shape[1])}]"
        form.append(f'"{name}":{one}')
        columns.append(values.reshape(len(values), -1))
    whose = f'"split":"{split}"' if trial is None else f'"split":"{split}","trial":{trial}'
    template = f'{{"step":%d,{whose},{",".join(form)}}}\n'
    rows = np.concatenate(columns, axis=1).tolist()
    text = "".join(template % (first_step + i, *row) for i, row in enumerate(rows))
    # A diverged run's last row: JSON has no inf and no nan.
    return text if np.isfinite(rows).all() else _NOT_FINITE.sub("null", text)


_NOT_FINITE = re.compile(r"-?\b(?:nan|inf)\b")


def _command():
    """As the user would give it: a worker's ends with a word that says it is one."""
    program, *arguments = sys.argv[:-1] if sys.argv[-1] == "--worker" else sys.argv
    name = Path(program).name
    begin = [name] if name == "scaling" else ["python", program]
    return shlex.join([*begin, *arguments])


def provenance() -> dict[str, Any]:
    """Where a result comes from: code, packages, machine, command."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": _command(),
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(terse=True),
        "cpu_count": os.cpu_count(),
        "cpu_threads": int(os.environ.get("PJRT_NPROC") or os.cpu_count()),
    }


def _git_revision() -> str | None:
    """The commit of this code, with '+' where the working tree differs; None outside git."""
    here = Path(__file__).parent

    def git(*args):
        command = ["git", "-C", str(here), *args]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout

    try:
        revision = git("rev-parse", "HEAD").strip()
        return revision + "+" * bool(git("status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.SubprocessError):
        return None
