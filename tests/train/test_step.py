"""The training step against its invariants, on one to eight simulated devices."""

import functools
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scaling.batch import plan_by_hand, plans
from scaling.data.resident import EpochOrder, make_preprocess, synthetic
from scaling.models import build_model, ghost_batch_of
from scaling.models.layers import Dropout
from scaling.tasks import Classification
from scaling.train.program import Layout, Trial, make_train
from scaling.train.step import (
    AXIS,
    gradient_noise,
    init_state,
    noise_parts,
    replicate,
)

BATCH, STEPS, SHAPE, SIZE = 96, 4, (8, 8, 3), 150
HPARAMS = {"rate": 0.02, "label_smoothing": 0.1}


def _task(model, kind=Classification):
    return kind(model, {"image": (SHAPE, "float32"), "label": ((), "int32")}, 10)


def _make_optimizer(hparams):
    rate = lambda step: hparams["rate"] / (1.0 + step)
    return optax.sgd(rate, momentum=0.9), rate


def make_chunk(task, make_optimizer, plan, preprocess, devices, noise=None):
    """A population's program, of one trial and without the axes of trials."""
    point = SimpleNamespace(
        task=task,
        make_optimizer=make_optimizer,
        preprocess=preprocess,
        devices=devices,
        info=SimpleNamespace(streaming=False),
        config=SimpleNamespace(noise_scale=noise is not None, noise_every=noise),
    )
    program = make_train(point, Layout("batch", len(devices), 1, 1, 1, plan))
    lead = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf)[None, None], tree)
    alone = lambda tree: jax.tree.map(lambda leaf: leaf[0, 0], tree)

    def chunk(state, data, batches, count, *fixed):
        trials, fixed = replicate(lead((Trial(state, True), fixed)), devices)
        batches = {"index": batches["index"][:, None, None]}
        trials, rows = program(trials, fixed, data, batches, count)
        return alone(trials.state), alone(rows)

    chunk.program = program
    return chunk


def _train(
    model,
    devices,
    micro,
    batch=BATCH,
    steps=STEPS,
    cuts=(),
    augment="crop_flip",
    noise=None,
    kind=Classification,
):
    """(metrics, state) after `steps` updates, in chunks cut at `cuts`."""
    if not isinstance(model, nn.Module):
        model = build_model(**{"num_classes": 10, "axis_name": AXIS} | model)
    task = _task(model, kind)
    plan = plan_by_hand(batch, devices, micro, ghost_batch_of(model, batch))
    chosen = jax.devices()[:devices]
    preprocess = make_preprocess((0.5,) * 3, (0.3,) * 3, augment)
    chunk = make_chunk(task, _make_optimizer, plan, preprocess, chosen, noise)
    data = replicate(synthetic(1, SIZE, SHAPE, 10), chosen)
    state = replicate(init_state(task, _make_optimizer, HPARAMS, jax.random.key(0)), chosen)
    initial = jax.tree.map(jnp.copy, state.params)
    order, rows = EpochOrder(0, SIZE), []
    for start, stop in zip((0, *cuts), (*cuts, steps), strict=True):
        index = np.zeros((steps, *plan.layout), np.int32)
        for i, step in enumerate(range(start, stop)):
            index[i] = order[step * batch : (step + 1) * batch].reshape(plan.layout)
        batches = {"index": np.moveaxis(index, 2, 0)}
        count = np.int32(stop - start)
        state, metrics = chunk(state, data, batches, count, HPARAMS, jax.random.key(7), initial)
        rows.append({k: np.asarray(v)[: stop - start] for k, v in metrics.items()})
    return {k: np.concatenate([row[k] for row in rows]) for k in rows[0]}, jax.device_get(state)


class WithDropout(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, *, train, positions=None):
        x = nn.relu(nn.Dense(16)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes)(Dropout(0.5)(x, train=train, positions=positions))


MODELS = {
    "ghost within a device": {"name": "mlp", "widths": (16,), "norm": "ghost", "ghost_batch": 4},
    "ghost across devices": {"name": "mlp", "widths": (16,), "norm": "ghost", "ghost_batch": 48},
    "batch": {"name": "mlp", "widths": (16,), "norm": "batch"},
    "dropout": WithDropout(),
}
# (devices, examples in a microbatch): every pair of model, number of devices, and one microbatch or
# several that there is, once.
LAYOUTS = {
    "ghost within a device": [(1, 24), (2, 48), (3, 8), (8, 4)],
    "ghost across devices": [(2, 24), (4, 24), (8, 6)],
    "batch": [(3, 32), (8, 12)],
    "dropout": [(1, 32), (4, 12), (8, 12)],
}


def _cases():
    """`LAYOUTS`, and as slow tests more of those that fit, on every number of devices."""
    for name, few in LAYOUTS.items():
        yield from ((name, *layout) for layout in few)
        ghost = None if name == "dropout" else MODELS[name].get("ghost_batch", BATCH)
        for devices in (1, 2, 3, 4, 8):
            for micro in [plan.micro_batch for plan in plans(BATCH, devices, ghost)][:3]:
                if (devices, micro) not in few:
                    yield pytest.param(name, devices, micro, marks=pytest.mark.slow)


@functools.cache
def _reference(name):
    return _train(MODELS[name], 1, BATCH)


@pytest.mark.parametrize("name, devices, micro", list(_cases()))
def test_the_layout_changes_nothing(name, devices, micro):
    """Same examples, losses, norms, weights and running statistics on any layout."""
    metrics, state = _train(MODELS[name], devices, micro)
    expected, expected_state = _reference(name)
    for key in ("loss", "error", "grad_sq_norm", "learning_rate", "weight_distance"):
        np.testing.assert_allclose(metrics[key], expected[key], rtol=2e-4, atol=2e-6, err_msg=key)
    for leaf, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=2e-5)


REGRESSION = {"name": "mlp", "widths": ()}  # softmax regression


def _regression():
    """In float64: inputs [SIZE, 192], labels, smoothed targets [SIZE, 10], initial kernel."""
    data = jax.device_get(synthetic(1, SIZE, SHAPE, 10))
    x = (np.float64(data["image"]) / 255 - 0.5).reshape(SIZE, -1) / 0.3
    one = np.eye(10)[data["label"]]
    task = _task(build_model(num_classes=10, **REGRESSION))
    w = np.float64(task.init(jax.random.key(0))[0]["Dense_0"]["kernel"])
    return x, data["label"], one * 0.9 + (1 - one) * 0.1 / 9, w


def _loss_and_gradient(w, b, x, target):
    """(logits, mean loss, [x^T (p - t) / B, mean of p - t]), written out."""
    logits = x @ w + b
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -(target * np.log(p)).sum(1).mean()
    return logits, loss, [x.T @ (p - target) / len(x), (p - target).mean(0)]


def test_one_update_is_the_formula():
    """Momentum SGD on the whole batch in float64, from the gradient of the written-out loss."""
    metrics, state = _train(REGRESSION, 2, 12, steps=3, augment="none")
    x, label, target, w = _regression()
    b, velocity = np.zeros(10), [0.0, 0.0]
    order = EpochOrder(0, SIZE)
    for step in range(3):
        rows = order[step * BATCH : (step + 1) * BATCH]
        logits, loss, grads = _loss_and_gradient(w, b, x[rows], target[rows])
        error = (logits.argmax(1) != label[rows]).mean()
        velocity = [0.9 * v + g for v, g in zip(velocity, grads, strict=True)]
        w, b = (a - 0.02 / (1 + step) * v for a, v in zip((w, b), velocity, strict=True))
        np.testing.assert_allclose(metrics["loss"][step], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["error"][step], error, rtol=1e-6)
        norm = sum(np.sum(g**2) for g in grads)
        np.testing.assert_allclose(metrics["grad_sq_norm"][step], norm, rtol=1e-5)
    np.testing.assert_allclose(state.params["Dense_0"]["kernel"], w, rtol=1e-4, atol=1e-5)


class Weighted(Classification):
    """An example of class k counts k / 4."""

    def score(self, outputs, batch, smoothing=0.0):
        scores, _ = super().score(outputs, batch, smoothing)
        weights = batch["label"] / 4
        return {name: value * weights for name, value in scores.items()}, weights


@pytest.mark.parametrize("devices, micro", [(1, 96), (1, 8), (2, 24), (4, 12), (4, 24)])
def test_weights_of_examples_have_one_denominator(devices, micro):
    """Sum of weighted losses over the sum of weights, of the global batch: not a mean of the
    microbatches' means, whatever they weigh. So the gradient, and the norms of its parts."""
    metrics, _ = _train(REGRESSION, devices, micro, steps=1, augment="none", noise=1, kind=Weighted)
    x, label, target, w = _regression()
    order = EpochOrder(0, SIZE)[0:BATCH]
    z = x[order] @ w
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    weights = label[order] / 4
    each = weights * -(target[order] * np.log(p)).sum(1)
    wrong = weights * (z.argmax(1) != label[order])
    errors = weights[:, None] * (p - target[order])

    def norm(rows):
        g = np.concatenate([x[order][rows].T @ errors[rows], errors[rows].sum(0)[None]])
        return np.square(g / len(rows) / weights.mean()).sum()

    np.testing.assert_allclose(metrics["loss"][0], each.sum() / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["error"][0], wrong.sum() / weights.sum(), rtol=1e-5)
    whole = np.arange(BATCH)
    np.testing.assert_allclose(metrics["grad_sq_norm"][0], norm(whole), rtol=1e-5)
    parts = whole.reshape(-1, micro if micro < BATCH else BATCH // 2)
    expected = np.mean([norm(part) for part in parts])
    np.testing.assert_allclose(metrics["part_grad_sq_norm"][0], expected, rtol=1e-5)
    by_device = whole.reshape(-1, devices, micro).swapaxes(0, 1).reshape(devices, -1)
    expected = [norm(rows) for rows in by_device]
    np.testing.assert_allclose(metrics["local_grad_sq_norm"][0], expected, rtol=1e-5)


def test_where_a_run_is_cut_leaves_no_trace():
    """Bit-identical numbers from chunks of any length: what resuming rests on."""
    whole, state = _train(MODELS["ghost within a device"], 2, 12)
    cut, cut_state = _train(MODELS["ghost within a device"], 2, 12, cuts=(1, 3))
    for key in whole:
        np.testing.assert_array_equal(whole[key], cut[key])
    jax.tree.map(np.testing.assert_array_equal, state, cut_state)


def test_device_norms_average_to_the_two_batch_identity():
    """E|G_small|^2 exceeds |G_big|^2, and with equal data on every device all are equal."""
    metrics, _ = _train(MODELS["ghost within a device"], 4, 12)
    assert metrics["local_grad_sq_norm"].shape == (STEPS, 4)
    assert (metrics["local_grad_sq_norm"].mean(1) >= metrics["grad_sq_norm"]).all()
    one, _ = _train(MODELS["ghost within a device"], 1, 12)
    np.testing.assert_allclose(one["local_grad_sq_norm"][:, 0], one["grad_sq_norm"], rtol=1e-6)


def test_the_norm_of_each_device_is_that_of_its_examples():
    metrics, _ = _train(REGRESSION, 2, 12, steps=1, augment="none")
    order = EpochOrder(0, SIZE)[0:BATCH].reshape(-1, 2, 12)
    x, _, target, w = _regression()
    for device in range(2):
        rows = order[:, device].ravel()
        _, _, grads = _loss_and_gradient(w, np.zeros(10), x[rows], target[rows])
        norm = sum(np.sum(g**2) for g in grads)
        np.testing.assert_allclose(metrics["local_grad_sq_norm"][0, device], norm, rtol=1e-5)


def test_a_batch_larger_than_the_data_set():
    metrics, _ = _train(MODELS["ghost within a device"], 2, 60, batch=240, steps=2)
    assert np.isfinite(metrics["loss"]).all()


def test_one_program_and_one_all_reduce():
    """Chunks of every length run one compiled program, and its mean over devices is fused."""
    model = build_model("mlp", 10, AXIS, widths=(16, 16))
    task, plan, chosen = _task(model), plan_by_hand(48, 4, 6), jax.devices()[:4]
    traces = []

    def counted(hparams):
        traces.append(1)
        return _make_optimizer(hparams)

    preprocess = make_preprocess((0.5,) * 3, (0.3,) * 3, "none")
    chunk = make_chunk(task, counted, plan, preprocess, chosen)
    data = replicate(synthetic(1, SIZE, SHAPE, 10), chosen)
    state = replicate(init_state(task, _make_optimizer, HPARAMS, jax.random.key(0)), chosen)
    batches = {"index": np.zeros((4, 5, *plan.layout[::2]), np.int32)}
    arguments = lambda count: (data, batches, np.int32(count), HPARAMS, jax.random.key(1), None)
    for count in (1, 5, 3, 2):
        state, _ = chunk(state, *arguments(count))
        traces.append("call")
    assert traces[traces.index("call") :] == ["call"] * 4  # nothing was traced again
    lead = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf)[None, None], tree)
    data, batches, count, *fixed = arguments(1)
    args = (
        lead(Trial(state, True)),
        lead(tuple(fixed)),
        data,
        {"index": batches["index"][:, None, None]},
        count,
    )
    text = chunk.program.lower(*args).compile().as_text()
    assert text.count(" all-reduce(") == 1


@pytest.mark.parametrize(
    "devices, micro, part", [(1, 24, 24), (2, 24, 24), (4, 24, 24), (1, 96, 48)]
)
def test_norms_of_the_parts_of_a_batch(devices, micro, part):
    metrics, _ = _train(REGRESSION, devices, micro, steps=1, augment="none", noise=1)
    x, _, target, w = _regression()
    rows = EpochOrder(0, SIZE)[0:BATCH].reshape(-1, part)
    gradients = [_loss_and_gradient(w, np.zeros(10), x[r], target[r])[2] for r in rows]
    norms = [sum(np.sum(g**2) for g in grads) for grads in gradients]
    np.testing.assert_allclose(metrics["part_grad_sq_norm"][0], np.mean(norms), rtol=1e-5)
    np.testing.assert_array_equal(metrics["part_batch"], part)


def test_halves_are_measured_now_and_then_and_change_nothing():
    metrics, _ = _train(MODELS["batch"], 1, BATCH, noise=3)
    np.testing.assert_array_equal(np.isfinite(metrics["part_grad_sq_norm"]), [1, 0, 0, 1])
    plain = _reference("batch")[0]
    for name in ("loss", "grad_sq_norm"):
        np.testing.assert_allclose(metrics[name], plain[name], rtol=1e-5)


def test_unequal_halves():
    """|g|^2 of halves of 2 and 3 examples exceeds |G|^2 by tr(Sigma) over their harmonic mean."""
    small = noise_parts(plan_by_hand(5, 1, 5))[1]
    assert small == pytest.approx(2 / (1 / 2 + 1 / 3))


@pytest.mark.parametrize("devices, micro", [(1, 96), (1, 24), (4, 12)])
def test_gradient_noise_multiplies_each_examples_gradient(devices, micro):
    """Hoffer 2017, section 4: (1/M) sum of g_n z_n, on any layout, the reported loss without z."""
    model = build_model(num_classes=10, name="mlp", widths=(16,), axis_name=AXIS)
    task, key, variance = _task(model), jax.random.key(7), 4.0
    plan = plan_by_hand(BATCH, devices, micro, None)
    chosen = jax.devices()[:devices]
    preprocess = make_preprocess((0.5,) * 3, (0.3,) * 3, "none")
    chunk = make_chunk(task, _make_optimizer, plan, preprocess, chosen)
    hparams = HPARAMS | {"gradient_noise": variance}
    data = synthetic(1, SIZE, SHAPE, 10)
    state = init_state(task, _make_optimizer, hparams, jax.random.key(0))
    params = jax.tree.map(jnp.copy, state.params)
    index = EpochOrder(0, SIZE)[0:BATCH]
    batches = {"index": np.moveaxis(index.reshape(1, *plan.layout), 2, 0)}
    args = replicate(state, chosen), replicate(data, chosen), batches, np.int32(1)
    new, metrics = chunk(*args, hparams, key, None)

    at_zero = jax.random.fold_in(jax.random.fold_in(key, 0), 2)
    keys = jax.vmap(lambda place: jax.random.fold_in(at_zero, place))(jnp.arange(BATCH))
    z = 1 + np.sqrt(variance) * np.asarray(jax.vmap(jax.random.normal)(keys))
    batch = preprocess(data, {"index": index})

    def losses(params):
        logits = model.apply({"params": params}, batch["image"], train=True)
        true = jax.nn.one_hot(batch["label"], 10)
        target = 0.9 * true + 0.1 * (1 - true) / 9
        return -(target * jax.nn.log_softmax(logits)).sum(-1)

    each = jax.jacrev(losses)(params)
    gradient = jax.tree.map(lambda g: np.tensordot(z, np.asarray(g), 1) / BATCH, each)
    rate = HPARAMS["rate"]
    expected = jax.tree.map(lambda w, g: w - rate * g, params, gradient)
    for a, b in zip(*map(jax.tree.leaves, (jax.device_get(new.params), expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"][0], losses(params).mean(), rtol=1e-5)


def test_gradient_noise_has_the_asked_moments():
    z = np.asarray(gradient_noise(jax.random.key(3), jnp.arange(200_000), 9.0))
    assert abs(z.mean() - 1) < 0.03 and abs(z.var() / 9 - 1) < 0.02
