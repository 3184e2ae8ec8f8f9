"""Training on a stream of images: one example order, whatever the devices and interruptions."""

import json
import signal

import jax
import numpy as np
import pytest
from compare import same_runs
from ml_collections import ConfigDict

from scaling.batch import plans
from scaling.config import default_config
from scaling.data import sources
from scaling.record import RunDir, read_metrics
from scaling.signals import Interrupted
from scaling.train.feed import ResidentFeed, evaluation_shapes, make_feed
from scaling.train.point import resolve
from scaling.train.single import train_point


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


def test_resident_data_is_read_when_it_is_asked_for(monkeypatch):
    """A test of trained weights does not load the training set."""
    load, asked = sources.load, []
    monkeypatch.setattr(sources, "load", lambda *args: asked.append(args[1]) or load(*args))
    c = default_config()
    c.global_batch, c.devices, c.eval.batch = 8, 2, 100
    point = resolve(c)
    feed = ResidentFeed(point)
    ((data, rows),) = feed.evaluation("test")
    assert asked == ["test"] and rows["mask"].sum() == len(data["label"]) == 300
    for sharing in (None, 1):  # the training split: the first examples, and no second copy
        ((data, rows),) = feed.evaluation("train", sharing)
        assert data is feed.data and rows["index"].shape[0] == (sharing or 2)
        seen = rows["index"][rows["mask"] > 0]
        assert sorted(seen.tolist()) == list(range(300))
        assert evaluation_shapes(point, "train", sharing) == _shapes((data, rows))
    assert asked == ["test", "train"]


def test_evaluation_shapes_of_a_stream(config):
    config.devices, config.global_batch = 2, 8
    point = resolve(config)
    feed = make_feed(point, plans(8, 2)[0])
    for pair in feed.evaluation("train"):
        assert evaluation_shapes(point, "train") == _shapes(pair)


def _shapes(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
