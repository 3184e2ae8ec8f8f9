from types import SimpleNamespace

import jax
import numpy as np
import pytest

from scaling.data.resident import make_preprocess, synthetic
from scaling.models import build_model
from scaling.tasks import Classification
from scaling.train.evaluate import metrics_of
from scaling.train.feed import index_batches
from scaling.train.program import make_evaluate
from scaling.train.step import replicate

EXAMPLE = {"image": ((4, 4, 1), "float32"), "label": ((), "int32")}


def _evaluate(task, size, batch, devices, batches=None):
    """(sums [1, ...], parameters, data) of one trial's evaluation."""
    preprocess = make_preprocess((0.5,), (0.25,), "crop_flip")
    chosen = jax.devices()[:devices]
    evaluate = make_evaluate(SimpleNamespace(task=task, devices=chosen, preprocess=preprocess))
    params, stats = task.init(jax.random.key(0))
    data = synthetic(1, size, (4, 4, 1), 10)
    lead = jax.tree.map(lambda leaf: leaf[None, None], (params, stats))
    batches = batches or index_batches(size, batch, devices)
    sums = evaluate(*replicate((lead, data), chosen), batches)
    batch = preprocess(data, {"index": np.arange(size)})
    return {name: value[0] for name, value in sums.items()}, (params, stats), batch


@pytest.mark.parametrize("size, batch, devices", [(10, 4, 1), (10, 4, 3), (10, 100, 8), (7, 1, 2)])
def test_every_index_once(size, batch, devices):
    batches = index_batches(size, batch, devices)
    index, mask = batches["index"], batches["mask"]
    assert index.shape == mask.shape and index.shape[0] == devices
    assert sorted(index[mask > 0]) == list(range(size))
    assert index.max() < size  # padding is a real index, only masked


@pytest.mark.parametrize("devices, batch", [(1, 7), (3, 7), (8, 100), (2, 3)])
def test_means_do_not_depend_on_batch_or_devices(devices, batch):
    task = Classification(build_model("mlp", 10, widths=(8,)), EXAMPLE, 10)
    sums, variables, data = _evaluate(task, 23, batch, devices)
    assert float(sums["weight"][0]) == 23
    whole, _ = task.score(task.outputs(*variables, data), data)
    for name, value in metrics_of(task, [sums]).items():
        np.testing.assert_allclose(value, [np.float64(whole[name]).mean()], rtol=1e-5)


def test_padding_may_be_nan():
    """A masked example's metrics count for nothing, whatever they are."""

    class Spoiled(Classification):
        def score(self, outputs, batch, smoothing=0.0):
            last = np.arange(len(outputs)) == len(outputs) - 1
            spoil = lambda values: jax.numpy.where(last, np.nan, values)
            return jax.tree.map(spoil, super().score(outputs, batch, smoothing))

    task = Spoiled(build_model("mlp", 10, widths=()), EXAMPLE, 10)
    batches = {"index": np.array([[[0, 1, 2, 3, 4, 4]]]), "mask": np.ones((1, 1, 6), np.float32)}
    batches["mask"][0, 0, -1] = 0
    sums, _, _ = _evaluate(task, 5, 6, 1, batches)
    assert np.isfinite(float(sums["loss"][0])) and float(sums["weight"][0]) == 5


def test_metrics_of_several_calls_and_trials():
    task = Classification(build_model("mlp", 10, widths=()), EXAMPLE, 10)
    call = lambda *losses: {"loss": np.array(losses), "weight": np.array([2.0, 4.0])}
    metrics = metrics_of(task, iter([call(3.0, 1.0), call(5.0, 3.0)]))
    np.testing.assert_array_equal(metrics["loss"], [2.0, 0.5])
