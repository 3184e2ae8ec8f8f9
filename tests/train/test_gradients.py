"""Batch sharpness along single runs, against dense Hessians, one for each batch."""

import json

import jax
import numpy as np
import pytest
from compare import StopAfter, same_runs
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict

from scaling import hosts
from scaling.config import default_config, model_config
from scaling.curvature import flatten, hessian_product
from scaling.data import sources
from scaling.data.resident import EpochOrder
from scaling.errors import UserError
from scaling.record import RunDir, read_metrics
from scaling.signals import Interrupted
from scaling.train import gradients
from scaling.train.losses import loss_over
from scaling.train.point import resolve
from scaling.train.population import Population
from scaling.train.single import train_point

NAMES = "batch_sharpness", "batch_sharpness_error", "edge_small_batch", "edge_large_batch"


def _config(**changes):
    c = default_config()
    c.global_batch, c.duration, c.devices, c.eval.every = 64, "12 steps", 1, "4 steps"
    c.model = model_config("mlp", widths=(6,), norm="batch")
    c.optim.name, c.optim.base_lr, c.sharpness.track = "momentum", 0.05, True
    c.update_from_flattened_dict(changes)
    return c


def _train(path, config, signals=None):
    with RunDir(path) as run:
        run.begin(json.loads(config.to_json_best_effort()))
        run.finish(train_point(config, run, "test", signals))
    return read_metrics(path, "validation")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return _train(tmp_path_factory.mktemp("run"), _config())


def test_it_is_that_of_the_dense_hessians_of_the_next_batches(rows):
    """With batch norm over each batch, as in training."""
    point = resolve(_config())
    population = Population(point, [{}], [0])
    while population.step < 8:
        population.advance(8)
    params, stats = population.variables(0)
    x, restore = ravel_pytree(params)
    model, data = point.task.model.clone(axis_name=None), sources.load("digits", "train")
    order, tops, bottoms = EpochOrder(0, len(data["label"])), [], []
    for step in range(8, 8 + gradients.MOST):
        index = order[step * 64 : (step + 1) * 64]
        image = point.preprocess({k: v[index] for k, v in data.items()}, {"index": np.arange(64)})
        label = data["label"][index]

        def loss(x, image=image["image"], label=label):
            variables = {"params": restore(x), "batch_stats": stats}
            logits, _ = model.apply(variables, image, train=True, mutable=["batch_stats"])
            return -jax.nn.log_softmax(logits)[np.arange(64), label].mean()

        g = np.asarray(jax.grad(loss)(x), float)
        tops.append(g @ np.asarray(jax.hessian(loss)(x), float) @ g)
        bottoms.append(g @ g)
    row = next(row for row in rows if row["step"] == 8)
    assert row["batch_sharpness"] == pytest.approx(np.mean(tops) / np.mean(bottoms), rel=1e-3)
    assert np.ptp(np.divide(tops, bottoms)) > 0.05 * row["batch_sharpness"]
    assert 0 < row["batch_sharpness_error"] < row["batch_sharpness"]


@pytest.mark.parametrize(
    "name, large", [("sgd", 2 / 0.05), ("momentum", 3.8 / 0.05), ("nesterov", 3.8 / 2.8 / 0.05)]
)
def test_the_edges_are_those_of_the_optimizer(tmp_path, name, large):
    changes = {"optim.name": name, "duration": "4 steps", "schedule.name": "cosine"}
    (row,) = _train(tmp_path, _config(**changes))
    rate = read_metrics(tmp_path, "train")[-1]["learning_rate"]
    small = 2 / 0.05 if name == "sgd" else 0.2 / 0.05
    assert row["edge_small_batch"] == pytest.approx(small * 0.05 / rate, rel=1e-5)
    assert row["edge_large_batch"] == pytest.approx(large * 0.05 / rate, rel=1e-5)


def test_gradient_descent_settles_at_the_edge(tmp_path):
    """Cohen 2021, with smoothed labels, which keep the loss away from 0, where it is flat."""
    changes = {"optim.name": "sgd", "optim.base_lr": 0.5, "loss.label_smoothing": 0.2}
    changes |= {"global_batch": 256, "data.train_size": 256}
    changes |= {"duration": "400 steps", "eval.every": "20 steps"}
    changes |= {"model.norm": "none", "model.widths": (16,)}
    rows = _train(tmp_path, _config(**changes))
    late = [row["batch_sharpness"] for row in rows if row["step"] > 100]
    assert np.mean(late) == pytest.approx(4.0, rel=0.05)
    assert rows[0]["batch_sharpness"] < 2 and rows[0]["edge_small_batch"] == 4
    assert max(row["batch_sharpness_error"] for row in rows) < 1e-3


@pytest.mark.parametrize("changes", [{"devices": 4}, {"micro_batch": 16, "model.norm": "none"}])
def test_any_layout_gives_the_same_numbers(tmp_path, rows, changes):
    if "micro_batch" in changes:
        rows = _train(tmp_path / "whole", _config(**{"model.norm": "none"}))
    found = _train(tmp_path / "parts", _config(**changes))
    for ours, theirs in zip(found, rows, strict=True):
        assert [ours[n] for n in NAMES] == pytest.approx([theirs[n] for n in NAMES], rel=2e-3)


def test_convolutions_are_differentiated_twice(tmp_path, tiny_cnn):
    """Whatever the way that they are computed in training; so in products with a Hessian."""
    found, products = [], []
    for method, devices in (("auto", 2), ("xla", 1)):
        model = ConfigDict(tiny_cnn | {"conv_method": method})
        config = _config(duration="1 steps", devices=devices, model=model)
        found.append(_train(tmp_path / method, config)[0]["batch_sharpness"])
        point = resolve(config)
        loss, _, chunks = loss_over(point, 32, recomputed=True)
        variables = point.task.init(jax.random.key(0))
        x, _ = flatten(variables)
        vector = np.random.default_rng(0).standard_normal(x.size)
        products.append(hessian_product(loss, variables, chunks)(vector))
    assert found[0] == pytest.approx(found[1], rel=2e-3)
    np.testing.assert_allclose(*products, atol=1e-3 * np.abs(products[1]).max())


def test_it_changes_nothing_else_and_resumes_bit_for_bit(tmp_path, rows):
    with pytest.raises(Interrupted):
        _train(tmp_path / "cut", _config(), StopAfter(2))
    assert _train(tmp_path / "cut", _config()) == rows
    _train(tmp_path / "whole", _config())
    same_runs(tmp_path / "cut", tmp_path / "whole")
    plain = _train(tmp_path / "plain", _config(**{"sharpness.track": False}))
    assert plain == [{k: v for k, v in row.items() if k not in NAMES} for row in rows]


def test_several_hosts_cannot_track(monkeypatch):
    monkeypatch.setattr(hosts, "several", lambda: True)
    with pytest.raises(UserError, match=r"is measured by one process, .* run it on one host, or"):
        resolve(_config(devices=None))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"optim.name": "adam"}, "is 'adam', .*; use sgd, momentum or nesterov without a lag, or"),
        ({"optim.lag": 1}, "optim.lag 1; use sgd"),
        ({"data.name": "imagenet"}, "imagenet is streamed; use a data set in memory, or set"),
    ],
)
def test_what_cannot_be_tracked(changes, words):
    with pytest.raises(UserError, match=words):
        resolve(_config(**changes))
