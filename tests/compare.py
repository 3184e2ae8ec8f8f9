"""Stopping runs, and comparing their directories."""

import json
import signal

import jax
import numpy as np
import pytest

from scaling.record import read_metrics
from scaling.signals import Signals
from scaling.train.checkpoint import Checkpoints


class Killed(BaseException):
    """As if the process was killed there."""


def killed_at(monkeypatch, count, of, name, run):
    """`run()` until the `count`-th call of a function of a class or module."""
    called, original = [0], getattr(of, name)

    def wrapped(*args, **kwargs):
        called[0] += 1
        if called[0] == count:
            raise Killed
        return original(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(of, name, wrapped)
        run()


class StopAfter(Signals):
    """As if a signal came once it was looked at so often, such as after each call of a program."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def received(self):
        self.looks -= 1
        return signal.SIGUSR1 if self.looks < 0 else None


def weights(run):
    """Every array of the newest checkpoint."""
    checkpoints = Checkpoints(run / "checkpoints", keep=2)
    step = max(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit())
    arrays = checkpoints._manager().restore(step)["state"]
    checkpoints.close()
    return jax.tree.map(np.asarray, arrays)


def same_runs(a, b):
    """Bit-identical weights and curves."""
    jax.tree.map(np.testing.assert_array_equal, weights(a), weights(b))
    for split in ("train", "validation", "test"):
        assert read_metrics(a, split) == read_metrics(b, split)
    ours, theirs = (json.loads((run / "result.json").read_text()) for run in (a, b))
    for timing in ("seconds", "examples_per_second", "clock", "reached"):
        ours.pop(timing, None), theirs.pop(timing, None)
    assert ours == theirs
