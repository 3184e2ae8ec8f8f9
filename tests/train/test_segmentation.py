"""Maps segmented by a small Tiramisu: the same on any layout, weights of classes, bfloat16."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.config import default_config, model_config
from scaling.data import climate, sources
from scaling.errors import UserError
from scaling.record import RunDir, read_metrics
from scaling.train.point import resolve
from scaling.train.single import train_point

SMALL = {"growth": 4, "blocks": (1, 1), "filters": 4, "kernel": 3, "norm": "ghost"}


def _config(**changes):
    c = default_config()
    c.global_batch, c.duration, c.devices, c.eval.every = 16, "3 steps", 1, "3 steps"
    c.data.name, c.data.image_shape = "synthetic_climate", (32, 48, 16)
    c.data.train_size, c.data.validation_size = 24, 8
    c.model = model_config("tiramisu", **SMALL, ghost_batch=8)
    c.loss.weighting, c.optim.name, c.optim.base_lr = "inverse_sqrt", "larc_adam", 0.01
    c.optim.eps = 1e-3  # a smaller one turns the rounding of a zero gradient into a whole step
    c.eval.batch, c.eval.test = 8, False
    c.update_from_flattened_dict(changes)
    return c


def _rows(path, **changes):
    config = _config(**changes)
    with RunDir(path) as run:
        run.begin(json.loads(config.to_json_best_effort()))
        run.finish(train_point(config, run, "test"))
    return read_metrics(path, "train"), read_metrics(path, "validation")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return _rows(tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize(
    "devices, micro_batch, changes",
    [(2, 4, {}), (4, 4, {}), (8, 1, {}), (1, 8, {"model.remat": True})],
)
def test_devices_and_microbatches_change_no_loss(alone, tmp_path, devices, micro_batch, changes):
    """With dropout, and batch norm over 8 examples, on one device or several."""
    found = _rows(tmp_path, devices=devices, micro_batch=micro_batch, **changes)
    for rows, expected in zip(found, alone, strict=True):
        assert len(rows) == len(expected) > 0
        for row, other in zip(rows, expected, strict=True):
            # A pixel near a boundary may change its class, and none its loss.
            shares = {"loss": 1e-4, "grad_sq_norm": 2e-4, "iou": 2e-3, "error": 2e-3}
            for name, share in shares.items():
                if name in other:
                    assert row[name] == pytest.approx(other[name], rel=share), name
    assert {"iou", "error", "loss"} <= found[1][0].keys()


@pytest.mark.slow
def test_maps_read_from_files_are_those_of_the_resident_run(tmp_path):
    h5py = pytest.importorskip("h5py")
    maps = {"train": 24, "validation": 8}
    for seed, (split, count) in enumerate(maps.items()):
        (tmp_path / "deepcam" / split).mkdir(parents=True)
        arrays = climate.synthetic(seed, count, 32, 48)
        for i in range(count):
            with h5py.File(tmp_path / "deepcam" / split / f"data-{i}.h5", "w") as file:
                file["climate/data"] = arrays["image"][i]
                file["climate/labels_0"] = arrays["label"][i]
    with h5py.File(tmp_path / "deepcam/stats.h5", "w") as file:
        file["climate/minval"], file["climate/maxval"] = np.zeros(16), np.ones(16)
    own = {"data.name": "deepcam", "data.image_shape": (), "data.dir": str(tmp_path)}
    own |= {"data.train_size": None, "data.validation_size": None}
    resident = _rows(tmp_path / "resident", **own)
    for i, changes in enumerate(({}, {"devices": 2, "micro_batch": 4})):
        streamed = _rows(tmp_path / f"{i}", **own, **changes, **{"data.streamed": True})
        for rows, expected in zip(streamed, resident, strict=True):
            losses = [[row["loss"] for row in each] for each in (rows, expected)]
            np.testing.assert_allclose(*losses, rtol=5e-3 if changes else 1e-5)


def test_weights_of_classes_are_of_the_sets_frequencies():
    task = resolve(_config()).task
    root = np.sqrt(task.frequencies)
    np.testing.assert_allclose(task.class_weights * root / root[0], task.class_weights[0])
    assert resolve(_config(**{"loss.weighting": None})).task.class_weights == ()


def test_the_loss_is_float32_where_the_model_computes_in_bfloat16():
    task = resolve(_config(**{"model.dtype": "bfloat16", "model.norm": "group"})).task
    params, stats = jax.eval_shape(task.init, jax.random.key(0))
    arguments = task.blank(8), jnp.arange(8), jax.random.key(0), {"label_smoothing": 0.0}
    scores, weights, _ = jax.eval_shape(task.losses, params, stats, *arguments)
    assert scores["loss"].dtype == weights.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, stats)))


def test_what_has_no_frequencies_is_not_weighted(monkeypatch):
    with pytest.raises(UserError, match="digits, for classification, is not registered with freq"):
        resolve(_config(**{"data.name": "digits", "data.image_shape": (), "data.train_size": None}))
    monkeypatch.setattr(sources, "INFOS", dict(sources.INFOS))
    monkeypatch.setattr(sources, "_LOADERS", {})
    example = {"image": ((32, 48, 16), "float32"), "label": ((32, 48), "uint8")}
    sources.register(
        "mine",
        lambda split: {},
        example=example,
        task="segmentation",
        num_classes=3,
        sizes={"train": 24, "validation": 8, "test": 8},
        frequencies=(0.9, 0.1),
    )
    with pytest.raises(UserError, match="mine, for segmentation, is not registered with freq"):
        resolve(_config(**{"data.name": "mine", "data.image_shape": ()}))


@pytest.mark.parametrize(
    "void, change, words",
    [
        (255, {}, None),
        (None, {}, "labels? from 0 to 255; return integers from 0 to 2"),
        (255, {(0, 0, 0): 7}, "labels? from 0 to 7; return integers from 0 to 2"),
        (255, {(3,): 255}, "that are void, 255, in all of row 3; leave out such rows"),
    ],
)
def test_pixels_without_a_class(monkeypatch, tmp_path, void, change, words):
    """The border between objects in Pascal VOC: neither the loss nor a metric counts it."""
    monkeypatch.setattr(sources, "INFOS", dict(sources.INFOS))
    monkeypatch.setattr(sources, "_LOADERS", {})
    sizes = {"train": 24, "validation": 8, "test": 8}

    def load(split):
        rng = np.random.default_rng(0)
        images = rng.standard_normal((sizes[split], 16, 16, 1)).astype(np.float32)
        label = (images[..., 0] > 0).astype(np.uint8)
        label[:, :4] = 255
        for place, value in change.items():
            label[place] = value
        return {"image": images, "label": label}

    example = {"image": ((16, 16, 1), "float32"), "label": ((16, 16), "uint8")}
    options = {} if void is None else {"void": void}
    sources.register(
        "bordered",
        load,
        example=example,
        task="segmentation",
        num_classes=3,
        sizes=sizes,
        **options,
    )
    changes = {"data.name": "bordered", "data.image_shape": (), "data.train_size": None}
    changes |= {"data.validation_size": None, "loss.weighting": None, "duration": "40 steps"}
    if words:
        with pytest.raises(UserError, match=words):
            _rows(tmp_path, **changes)
        return
    _, rows = _rows(tmp_path, **changes)
    assert rows[-1]["error"] < 0.2  # were the border counted, at least a quarter
