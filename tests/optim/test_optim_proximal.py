"""Several updates on every batch with a pull to where it was begun, written out."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compare import StopAfter, same_runs

from scaling.config import default_config, model_config
from scaling.data import sources
from scaling.data.resident import EpochOrder
from scaling.errors import UserError
from scaling.optim.proximal import proximal
from scaling.record import RunDir
from scaling.signals import Interrupted
from scaling.studies.running import points_of
from scaling.train.feed import RowFeed, make_feed
from scaling.train.point import resolve
from scaling.train.population import Population
from scaling.train.single import train_point


def _config(**changes):
    c = default_config()
    c.global_batch, c.duration, c.devices, c.eval.every = 32, "8 steps", 1, "2 steps"
    c.model = model_config("mlp", widths=(6,))
    c.optim.name, c.optim.base_lr, c.optim.echo, c.optim.proximal = "momentum", 0.2, 3, 5.0
    c.update_from_flattened_dict(changes)
    return c


def test_adam_on_sub_problems_in_float64():
    """min_w h_k (w - a_k)^2 / 2 + lambda / 2 (w - w_k)^2, three steps of Adam on each."""
    rng = np.random.default_rng(0)
    hs, targets = rng.uniform(0.5, 2, (4, 5)), rng.standard_normal((4, 5))
    w = rng.standard_normal(5)
    tx, weights = proximal(optax.adam(0.1), jnp.float32(0.7), 3), jnp.float32(w)
    state, m, v, t = tx.init(weights), np.zeros(5), np.zeros(5), 0
    for h, a in zip(hs, targets, strict=True):
        centre = w.copy()
        for _ in range(3):
            steps, state = tx.update(jnp.float32(h) * (weights - jnp.float32(a)), state, weights)
            weights = optax.apply_updates(weights, steps)
            g, t = h * (w - a) + 0.7 * (w - centre), t + 1
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            w = w - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(weights, w, atol=2e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_a_run_is_the_loop_written_out(devices):
    point = resolve(_config(devices=devices))
    population = Population(point, [{}], [0])
    params = jax.tree.map(lambda leaf: leaf[0], population.initial_weights())
    while population.step < 8:
        population.advance(8)
    data, model = sources.load("digits", "train"), point.task.model.clone(axis_name=None)
    order = EpochOrder(0, len(data["label"]))
    centre, velocity = params, jax.tree.map(np.zeros_like, params)
    for step in range(8):
        centre = params if step % 3 == 0 else centre
        index = order[step // 3 * 32 : (step // 3 + 1) * 32]
        image = point.preprocess(data, {"index": index})["image"]

        def loss(params, centre=centre, image=image, label=data["label"][index]):
            log_p = jax.nn.log_softmax(model.apply({"params": params}, image, train=False))
            apart = jax.tree.map(lambda w, c: ((w - c) ** 2).sum(), params, centre)
            return -log_p[np.arange(32), label].mean() + 2.5 * sum(jax.tree.leaves(apart))

        grads = jax.grad(loss)(params)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
        params = jax.tree.map(lambda w, v: w - 0.2 * v, params, velocity)
    found = population.variables(0)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, params)


def test_a_run_resumes_within_a_batch_bit_for_bit(tmp_path):
    def train(path, signals=None):
        with RunDir(path) as run:
            run.begin(json.loads(_config().to_json_best_effort()))
            run.finish(train_point(_config(), run, "test", signals))

    train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", StopAfter(2))  # after 4 of the updates, the first on its batch
    train(tmp_path / "cut")
    same_runs(tmp_path / "whole", tmp_path / "cut")


def test_streamed_images_are_read_once_for_all_updates_on_them(tmp_path, imagenet):
    changes = {"data.name": "imagenet", "data.dir": str(tmp_path / "tfds"), "global_batch": 4}
    changes |= {"optim.proximal": None, "duration": "9 steps"}
    feeds = []
    for echo in (1, 3):
        point = resolve(_config(**changes, **{"optim.echo": echo}))
        feeds.append(make_feed(point, Population(point, [{}], [0]).layout.plan))
    plain = [feeds[0].batches(place)["image"] for place in range(4)]
    for step in (0, 1, 2, 3, 4, 9, 10, 7, 8, 9):
        np.testing.assert_array_equal(feeds[1].batches(step)["image"], plain[step // 3])


def test_streamed_rows_and_resident_examples_are_those_of_the_same_batch():
    order = EpochOrder(0, 1197)
    first, size = 5 * 32, 32
    found = order.batches(first, 5, size, 3)
    for update, index in enumerate(found, 5):
        np.testing.assert_array_equal(index, order[update // 3 * size : (update // 3 + 1) * size])
    np.testing.assert_array_equal(order.batches(first, 5, size).ravel(), order[first : 10 * size])
    point = resolve(_config())
    feed = RowFeed(point, Population(point, [{}], [0]).layout.plan)
    feed._rows = lambda split: lambda places: {"tokens": places}
    for update, index in enumerate(found, 5):
        np.testing.assert_array_equal(feed.batches(update)["tokens"].ravel(), index)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"optim.echo": None}, "optim.proximal is 5, .* and there is one; set optim.echo to 2"),
        ({"noise_scale": True}, "noise_scale is of fresh batches, and optim.echo is 3"),
    ],
)
def test_what_cannot_be_is_told(changes, words):
    with pytest.raises(UserError, match=words):
        resolve(_config(**changes))


def test_studies_of_the_noise_use_every_batch_once():
    c = default_config("branch")
    c.optim.echo = 2
    with pytest.raises(UserError, match="the branch study measures the noise of fresh batches"):
        points_of(c)
