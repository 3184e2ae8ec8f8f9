"""What a config comes to on this machine, before anything is compiled."""

import jax
import pytest

from scaling.config import default_config
from scaling.errors import UserError
from scaling.train.point import resolve


def test_a_run_of_several_processes_is_refused(monkeypatch):
    resolve(default_config())
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"one of 2 JAX processes.*; start it alone"):
        resolve(default_config())
