import jax
import numpy as np
import pytest

from scaling.data.resident import make_preprocess, synthetic
from scaling.models import build_model
from scaling.tasks import Classification
from scaling.train.evaluate import index_batches, make_evaluate, means
from scaling.train.step import replicate

SHAPE = (4, 4, 1)


@pytest.mark.parametrize("size, batch, devices", [(10, 4, 1), (10, 4, 3), (10, 100, 8), (7, 1, 2)])
def test_every_index_once(size, batch, devices):
    batches = index_batches(size, batch, devices)
    index, mask = batches["index"], batches["mask"]
    assert index.shape == mask.shape and index.shape[0] == devices
    assert sorted(index[mask > 0]) == list(range(size))
    assert index.max() < size  # padding is a real index, only masked


@pytest.mark.parametrize("devices, batch", [(1, 7), (3, 7), (8, 100), (2, 3)])
def test_means_do_not_depend_on_batch_or_devices(devices, batch):
    task = Classification(build_model("mlp", 10, widths=(8,)), SHAPE)
    params, stats = task.init(jax.random.key(0))
    preprocess = make_preprocess((0.5,), (0.25,), "crop_flip")
    data = synthetic(1, 23, SHAPE, 10)
    whole = task.eval_metrics(params, stats, preprocess(data, {"index": np.arange(23)}))
    chosen = jax.devices()[:devices]
    evaluate = make_evaluate(task, preprocess, chosen)
    sums = evaluate(*replicate((params, stats, data), chosen), index_batches(23, batch, devices))
    assert float(sums["count"]) == 23
    for name, value in means([sums]).items():
        np.testing.assert_allclose(value, np.float64(whole[name]).mean(), rtol=1e-5)


def test_padding_may_be_nan():
    """A masked example's metrics count for nothing, whatever they are."""

    class Spoiled(Classification):
        def eval_metrics(self, params, batch_stats, batch):
            metrics = super().eval_metrics(params, batch_stats, batch)
            last = np.arange(len(batch["label"])) == len(batch["label"]) - 1
            return {k: jax.numpy.where(last, np.nan, v) for k, v in metrics.items()}

    task = Spoiled(build_model("mlp", 10, widths=()), SHAPE)
    params, stats = task.init(jax.random.key(0))
    data = synthetic(1, 5, SHAPE, 10)
    evaluate = make_evaluate(task, make_preprocess((0.5,), (0.25,), "none"), jax.devices()[:1])
    batches = {"index": np.array([[[0, 1, 2, 3, 4, 4]]]), "mask": np.ones((1, 1, 6), np.float32)}
    batches["mask"][0, 0, -1] = 0
    assert np.isfinite(float(evaluate(params, stats, data, batches)["loss"]))


def test_means_of_several_calls():
    parts = [{"loss": 3.0, "count": 2.0}, {"loss": 5.0, "count": 2.0}]
    assert means(iter(parts)) == {"loss": 2.0}
