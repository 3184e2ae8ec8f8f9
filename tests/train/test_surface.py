"""Surfaces against weights moved by hand and evaluated in one piece."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from scaling.config import default_config
from scaling.directions import line, random_direction, shifted
from scaling.errors import UserError
from scaling.train.feed import ResidentFeed
from scaling.train.point import resolve
from scaling.train.population import Population
from scaling.train.surface import Surface

PLACES = np.array([[0.0, 0.0], [0.3, -0.5], [-1.0, 1.0], [0.7, 0.2], [1.0, 0.0]])


def trained(devices=1, norm="batch", seed=0, **options):
    """(point, params, batch statistics) of a net on digits after a few updates."""
    config = default_config()
    config.global_batch, config.duration, config.devices = 64, "20 steps", devices
    config.eval.batch, config.optim.base_lr = 100, 0.1
    config.model = ConfigDict({"name": "mlp", "widths": (12,), "norm": norm} | options)
    point = resolve(config)
    population = Population(point, [{}], [seed])
    while population.step < 20:
        population.advance(20)
    return point, *population.variables(0)


@pytest.fixture(scope="module")
def net():
    return trained()


def by_hand(point, params, batch_stats, count, train=False):
    """(loss, error) on the first examples of the training set, in one piece."""
    task, data = point.task, ResidentFeed(point).data
    batch = point.preprocess(data, {"index": np.arange(count)})
    model = task.model.clone(axis_name=None)
    variables, rest = {"params": params, "batch_stats": batch_stats}, {"train": train}
    if train:
        rest |= {"mutable": ["batch_stats"]}
    outputs = model.apply(variables, task.inputs(batch), **rest)
    scores, _ = task.score(outputs[0] if train else outputs, batch)
    return float(scores["loss"].mean()), float(scores["error"].mean())


def directions(params):
    return [random_direction(jax.random.key(i), params) for i in (1, 2)]


@pytest.mark.parametrize(
    "statistics, own", [("recomputed", True), ("recomputed", False), ("frozen", False)]
)
def test_a_plane(net, statistics, own):
    """In one pass where the examples are those that statistics are recomputed over, or in two."""
    point, params, batch_stats = net
    along = directions(params)
    trees = [params, *along]
    surface = Surface(
        point, "plane", trees, [batch_stats], statistics=statistics, examples=250, group=250
    )
    assert surface.own == (statistics == "recomputed")
    surface.own = own
    found = surface.evaluate(PLACES)
    for place, loss, error in zip(PLACES, found["loss"], found["error"], strict=True):
        moved = shifted(params, along, place)
        # Recomputed over all examples of the split: the forward pass of training, of all of them.
        train = statistics == "recomputed"
        expected = by_hand(point, moved, batch_stats, 250, train)
        assert (loss, error) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_statistics_are_of_a_fixed_group(net):
    """Whatever is evaluated; and they differ from the frozen ones."""
    point, params, batch_stats = net
    trees = [params, *directions(params)]
    few, all_ = (
        Surface(point, "plane", trees, [batch_stats], "validation", group=group).evaluate(PLACES)
        for group in (50, 5000)
    )
    assert few["loss"] != pytest.approx(all_["loss"], rel=1e-3)


def test_devices_and_blocks_change_no_number(net):
    _, params, batch_stats = net
    trees, found = [params, *directions(params)], []
    for devices, block in ((1, 4), (8, 4), (8, 1), (1, 2)):
        config = net[0].config.copy_and_resolve_references()
        config.devices = devices
        surface = Surface(resolve(config), "plane", trees, [batch_stats], block=block, examples=200)
        found.append(surface.evaluate(PLACES)["loss"])
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-6)


def test_a_surface_goes_on_where_it_was_stopped(net):
    point, params, batch_stats = net
    trees = [params, *directions(params)]
    surface = Surface(point, "plane", trees, [batch_stats], block=2, examples=200)
    whole = surface.evaluate(PLACES)["loss"]
    done, first = next(surface.blocks(PLACES))
    rest = [metrics["loss"] for _, metrics in surface.blocks(PLACES, done)]
    assert done == 2 and np.array_equal(whole, np.concatenate([first["loss"], *rest]))


def test_a_line_between_two_nets(net):
    point, params, batch_stats = net
    _, other, stats = trained(seed=1)
    trees, both = [params, other], [batch_stats, stats]
    for statistics in ("interpolated", "frozen"):
        surface = Surface(point, "line", trees, both, statistics=statistics, examples=250)
        places = np.array([[0.0], [0.25], [1.0]])
        found = surface.evaluate(places)["loss"]
        for (share,), loss in zip(places, found, strict=True):
            used = line(*both, share) if statistics == "interpolated" else batch_stats
            expected, _ = by_hand(point, line(*trees, share), used, 250)
            assert loss == pytest.approx(expected, rel=1e-4)
    between = Surface(point, "line", trees, both, statistics="interpolated", examples=250)
    for share in (-0.1, 1.5):
        with pytest.raises(UserError, match=f"cannot be interpolated at {share:g}"):
            between.evaluate([[0.5], [share]])
    beyond = Surface(point, "line", trees, both, examples=250).evaluate([[-0.5], [1.5]])
    assert np.isfinite(beyond["loss"]).all()


@pytest.mark.parametrize("norm", ["none", "ghost"])
def test_other_norms(norm):
    """Without batch statistics there are none to recompute; ghost batches become one group."""
    options = {"ghost_batch": 16} if norm == "ghost" else {}
    point, params, batch_stats = trained(norm=norm, **options)
    along = directions(params)
    surface = Surface(
        point,
        "plane",
        [params, *along],
        [batch_stats],
        examples=96,
        group=96,
        statistics="recomputed",
    )
    found = surface.evaluate(PLACES[:2])["loss"]
    if norm == "ghost":
        model = point.task.model.clone(norm="batch", ghost_batch=None)
        point = dataclasses.replace(point, task=dataclasses.replace(point.task, model=model))
    for place, loss in zip(PLACES, found, strict=False):
        moved = shifted(params, along, place)
        expected, _ = by_hand(point, moved, batch_stats, 96, train=norm == "ghost")
        assert loss == pytest.approx(expected, rel=1e-4)


class Own(nn.Module):
    """Flax's batch norm, whose averages start at 0 and 1 and are not corrected."""

    num_classes: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, *, train, positions=None):
        x = nn.Dense(6)(x.reshape(len(x), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(self.num_classes)(x)


def test_batch_norm_of_another_kind(net):
    point = dataclasses.replace(net[0], task=dataclasses.replace(net[0].task, model=Own(10)))
    params, batch_stats = point.task.init(jax.random.key(3))
    trees = [params, *directions(params)]
    surface = Surface(point, "plane", trees, [batch_stats], examples=96, group=96)
    for place, loss in zip(PLACES, surface.evaluate(PLACES)["loss"], strict=True):
        expected, _ = by_hand(point, shifted(params, trees[1:], place), batch_stats, 96, train=True)
        assert loss == pytest.approx(expected, rel=1e-4)
