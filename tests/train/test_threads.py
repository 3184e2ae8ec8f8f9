"""What a CPU is told before JAX starts."""

import os

import jax
import pytest

from scaling.config import default_config, model_config
from scaling.train import threads


@pytest.mark.parametrize(
    ("model", "version", "flags", "told"),
    [
        ("resnet", (0, 12, 1), "--a=b", f"--a=b {threads.ONEDNN}"),
        ("mlp", (0, 12, 1), "--a=b", "--a=b"),
        ("resnet", (0, 10, 2), "--a=b", "--a=b"),
        ("resnet", (0, 13, 0), "--a=b", "--a=b"),  # it may lack the flags, and would not start
        ("resnet", (0, 12, 1), "--xla_cpu_use_onednn=false", "--xla_cpu_use_onednn=false"),
    ],
)
def test_convolutions_by_onednn(monkeypatch, model, version, flags, told):
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setenv("XLA_FLAGS", flags)
    config = default_config()
    config.model = model_config(model)
    threads.use_onednn(config)
    assert os.environ["XLA_FLAGS"] == told
