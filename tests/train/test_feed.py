"""Training on a stream of images: one example order, whatever the devices and interruptions."""

import json
import signal

import numpy as np
import pytest
from compare import same_runs
from ml_collections import ConfigDict

from scaling.config import default_config
from scaling.record import RunDir, read_metrics
from scaling.signals import Interrupted
from scaling.train.loop import train_point


class StopAfter:
    """Signals that ask to stop after some updates."""

    def __init__(self, updates):
        self._left = updates

    @property
    def received(self):
        self._left -= 1  # the loop asks once before every update
        return signal.SIGINT if self._left < 0 else None


@pytest.fixture
def config(tmp_path, imagenet):
    """Eight updates of 8 of the 20 images: they end in the fourth epoch.

    Groups of 4 share their statistics, so that it matters which images meet in a microbatch.
    """
    c = default_config()
    c.data.name, c.data.dir = "imagenet", str(tmp_path / "tfds")
    c.model = ConfigDict({"name": "mlp", "widths": (4,), "norm": "ghost", "ghost_batch": 4})
    c.global_batch, c.duration, c.devices, c.micro_batch = 8, "8 steps", 1, 4
    c.eval.every, c.eval.batch, c.optim.base_lr = "3 steps", 4, 0.01
    return c


def train(path, config, signals=None):
    with RunDir(path) as run:
        run.begin(json.loads(config.to_json_best_effort()))
        run.finish(train_point(config, run, "test", signals))


def test_a_stream_trains_the_same_on_two_devices(config, tmp_path):
    train(tmp_path / "one", config)
    config.devices, config.micro_batch = 2, 2
    train(tmp_path / "two", config)
    for split, count in (("train", 8), ("validation", 3), ("test", 1)):
        one, two = (read_metrics(tmp_path / run, split) for run in ("one", "two"))
        assert len(one) == len(two) == count
        for key in {"loss", "error", "grad_sq_norm"} & one[0].keys():
            values = [[row[key] for row in rows] for rows in (two, one)]
            np.testing.assert_allclose(*values, rtol=1e-4, err_msg=f"{split} {key}")


def test_a_stream_resumed_in_mid_epoch_is_bit_identical(config, tmp_path):
    train(tmp_path / "whole", config)
    for updates in (4, 1):  # 32 and 40 images: inside the second epoch, and at its end
        with pytest.raises(Interrupted):
            train(tmp_path / "cut", config, StopAfter(updates))
    assert [row["step"] for row in read_metrics(tmp_path / "cut", "train")] == [1, 2, 3, 4, 5]
    train(tmp_path / "cut", config)
    same_runs(tmp_path / "whole", tmp_path / "cut")
