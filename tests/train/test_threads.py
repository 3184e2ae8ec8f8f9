"""What a CPU is told before JAX starts."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from program import ROOT

from scaling.config import default_config, model_config
from scaling.studies.throughput import measure as throughput
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


TRAINING = """
import sys
import jax
import numpy as np
from scaling.config import default_config, model_config
from scaling.studies.throughput import measure as throughput
from scaling.train import threads
config = default_config()
config.model = model_config("resnet", depth=8, norm="batch")
config.data.name, config.data.train_size, config.data.image_shape = "synthetic", 256, (32, 32, 3)
config.data.num_classes, config.global_batch, config.optim.base_lr = 10, 32, 0.01
jax.config.update("jax_compilation_cache_dir", sys.argv[2] + ".cache")
if sys.argv[1] == "onednn":
    threads.use_onednn(config)
from scaling.train.point import resolve
from scaling.train.population import Population
population = Population(resolve(config), [{}], [0])
while population.step < 3:
    population.advance(3)
np.savez(sys.argv[2], *map(np.asarray, jax.tree.leaves(population.variables(0))))
"""


@pytest.mark.skipif(
    jax.__version_info__[:2] not in threads.ONEDNN_IN, reason="oneDNN is left to other versions"
)
def test_onednn_changes_weights_by_rounding(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    weights = []
    for way in ("onednn", "xla"):
        command = [sys.executable, "-c", TRAINING, way, tmp_path / f"{way}.npz"]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        assert "Warning" not in done.stderr
        with np.load(tmp_path / f"{way}.npz") as file:
            weights.append([file[name] for name in file])
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("largest", "told"),
    [(64, "1"), (4096, None)],  # an MLP of 4,810 weights: 6 x 4,810 x 4,096 FLOPs are above 2^26
)
def test_throughput_has_the_threads_of_its_largest_batch(monkeypatch, largest, told):
    monkeypatch.setenv("PJRT_NPROC", "")
    monkeypatch.delenv("PJRT_NPROC")
    config = default_config("throughput")
    config.model = model_config("mlp", widths=(64,))
    config.throughput.per_device_batches = (8, largest)
    threads.fit_threads(throughput.points(config))
    assert os.environ.get("PJRT_NPROC") == told
