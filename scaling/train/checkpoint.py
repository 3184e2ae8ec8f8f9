"""Checkpoints with Orbax: asynchronous, newest valid one wins.

The order of examples is a function of (seed, step), so the state and its step number are all there
is to save. A digest travels with every checkpoint: one that was cut short or altered is noticed
whatever the storage format noticed, and the one before it is used.
"""

import contextlib
import functools
import hashlib
import logging
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scaling import hosts
from scaling.errors import UserError
from scaling.record import RunDir, run_error


class Checkpoints:
    """The checkpoints of one run.

    Args:
      path: directory, made when first written.
      keep: how many to keep, newest first.
    """

    def __init__(self, path: Path, keep: int):
        import orbax.checkpoint as ocp  # heavy, and not needed to print a plan

        # Orbax reports every phase of every save, and warns of numpy arrays' missing shardings.
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp = ocp
        self._path = path.absolute()
        self._damaged = self._path.with_name(f"{path.name}.damaged")
        self._keep = keep
        self._opened = None

    def save(self, step: int, state: Any, extra: dict[str, Any]) -> None:
        """Start saving `state` (a pytree of arrays) and `extra` (JSON); returns before it is done.
        Where several hosts make one run, the leader saves.

        Raises:
          UserError: the disk is full or not writable; possibly of the save before this one.
        """
        if not hosts.leads():
            return
        # A copy: training donates the state's buffers to its next call while Orbax still writes.
        host = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)
        leaves = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(host)}
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(leaves),
            extra=self._ocp.args.JsonSave(extra | {"digest": _digest(leaves)}),
        )
        with self._writing():
            self._manager().save(step, args=args)

    def wait(self) -> None:
        """Return when everything saved is on disk."""
        if self._opened:
            with self._writing():
                self._opened.wait_until_finished()

    def close(self) -> None:
        """Finish writing and let go."""
        self.wait()
        if self._opened:
            self._opened.close()
            self._opened = None

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """(step, state, extra) of the newest valid checkpoint, None if there is none.

        Damaged ones are warned of and moved out of the way.

        Args:
          like: a pytree with the structure, shapes and dtypes of the state.

        Raises:
          UserError: there are checkpoints and none can be read. That is more likely a changed
            program than so much damage, so nothing is moved and nothing starts anew by itself.
        """
        if not hosts.several():
            return self._newest(like)
        found = hosts.leader_only(self._newest)(like)
        known = hosts.from_leader(found and [found[0], found[2]])
        state = known and hosts.arrays_from_leader(found[1] if found else like)
        return known and (known[0], state, known[1])

    def _newest(self, like):
        if not self._path.exists():
            return None
        _ignore_reads_given_up()
        damaged = {}
        for step in sorted(self._manager().all_steps(), reverse=True):
            try:
                found = step, *self._read(step, like)
            except Exception as error:  # whatever a damaged file makes a reader raise
                damaged[step] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                continue
            for step, reason in damaged.items():
                self._set_aside(step)
                print(
                    f"warning: The checkpoint of step {step} is damaged ({reason[:200]}) and was "
                    f"moved to {self._damaged}; using the one before it.",
                    file=sys.stderr,
                    flush=True,
                )
            return found
        if damaged:
            raise UserError(
                f"None of the checkpoints in {self._path} can be read "
                f"({next(iter(damaged.values()))[:200]}); delete that folder to start from step 0."
            )
        return None

    def _set_aside(self, step):
        """Out of Orbax's way, so that the run can save at this step again, but not deleted."""
        self._damaged.mkdir(exist_ok=True)
        shutil.rmtree(self._damaged / str(step), ignore_errors=True)
        (self._path / str(step)).rename(self._damaged / str(step))
        self._manager().reload()

    def _read(self, step, like):
        flat, structure = jax.tree.flatten_with_path(like)
        target = {_name(path): jax.ShapeDtypeStruct(a.shape, a.dtype) for path, a in flat}
        target = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), target)
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardRestore(target), extra=self._ocp.args.JsonRestore()
        )
        restored = self._manager().restore(step, args=args)
        leaves, extra = restored["state"], dict(restored["extra"])
        if extra.pop("digest") != _digest(leaves):
            raise ValueError("its digest does not match its content")
        return jax.tree.unflatten(structure, [leaves[_name(path)] for path, _ in flat]), extra

    def _manager(self):
        if self._opened is None:
            alone = self._ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="leader"
            )
            options = self._ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                create=False,
                cleanup_tmp_directories=True,
                multiprocessing_options=alone,
            )
            with self._writing():
                self._path.mkdir(parents=True, exist_ok=True)
                self._opened = self._ocp.CheckpointManager(self._path, options=options)
        return self._opened

    @contextlib.contextmanager
    def _writing(self):
        """Turn a failed write into the sentence that a user needs."""
        try:
            yield
        except OSError as error:
            raise run_error(self._path, error) from error
        except ValueError as error:  # TensorStore's, which names the system's error in its text
            code = re.search(r"os_error_code='?(\d+)", str(error))
            if not code:
                raise
            error = OSError(int(code[1]), os.strerror(int(code[1])))
            raise run_error(self._path, error) from error


def folder_of(run: RunDir, name: str) -> Path:
    """Where one of several trainings of a point has its checkpoints."""
    return run.path / "checkpoints" / name


def forget(folder: Path) -> None:
    """Delete the checkpoints of a training whose outcome is recorded."""
    shutil.rmtree(folder, ignore_errors=True)


def saved_steps(run: RunDir) -> list[int]:
    """The steps of a run's checkpoints, whether they can be read or not."""
    return sorted(int(path.name) for path in run.path.glob("checkpoints/*") if path.name.isdigit())


@functools.cache
def _ignore_reads_given_up() -> None:
    """Orbax gives a checkpoint up at the first array that it cannot read. TensorStore's threads go
    on with the others, and each would print a traceback when it finds nobody waiting."""
    plain = sys.unraisablehook

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            plain(unraisable)

    sys.unraisablehook = hook


def _name(path) -> str:
    """A leaf's place in the state as one flat key."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _digest(leaves: dict[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(leaves):
        leaf = leaves[name]
        digest.update(f"{name}:{leaf.dtype}:{leaf.shape};".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
    return digest.hexdigest()
