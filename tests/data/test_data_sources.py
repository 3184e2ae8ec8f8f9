"""Names, splits, the cache, and every way in which a TFDS directory can be incomplete."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from scaling.data import directories, prepare, sources
from scaling.errors import UserCodeError, UserError

RNG = np.random.default_rng(0)
MNIST = RNG.integers(0, 256, (16, 28, 28, 1), np.uint8)  # 12 of train, 4 of test
CIFAR = RNG.integers(0, 256, (16, 32, 32, 3), np.uint8)
LABELS = np.arange(16) % 10


def png(image):
    return cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)[1].tobytes()


def examples(images):
    pairs = [(png(image), int(label)) for image, label in zip(images, LABELS, strict=True)]
    return {"train": pairs[:12], "test": pairs[12:]}


@pytest.fixture
def mnist(tmp_path, set_sizes, write_tfds):
    """A complete directory: 9 training, 3 validation and 4 test images in two shards each."""
    set_sizes("mnist", 9, 3, 4)
    return Path(write_tfds(tmp_path / "tfds", "mnist", examples(MNIST), shards=2))


# ---- Names ----


def test_describe_knows_every_set():
    assert sources.describe("cifar100").num_classes == 100
    assert sources.describe("imagenet").streaming
    for name, info in sources.INFOS.items():
        assert info.name == name
        shape, kind = info.example["image"]
        assert len(info.mean) == len(info.std) == (shape[-1] if kind == "uint8" else 0)
        assert list(info.sizes) == ["train", "validation", "test"]
    sizes = sources.describe("imagenet").sizes
    assert sizes["train"] + sizes["validation"] == 1_281_167


def test_describe_synthetic_takes_its_shape():
    sizes = {"train": 7, "validation": 2, "test": 1}
    info = sources.describe("synthetic", image_shape=[6, 5, 2], num_classes=3, sizes=sizes)
    assert info.example == {"image": ((6, 5, 2), "uint8"), "label": ((), "int32")}
    assert (info.num_classes, info.sizes, len(info.mean)) == (3, sizes, 2)


def test_synthetic_statistics_are_those_of_the_generator():
    from scaling.data import resident

    pixels = np.asarray(resident.synthetic(3, 2000, (8, 8, 3), 500)["image"]) / 255
    info = sources.describe("synthetic")
    np.testing.assert_allclose(pixels.mean((0, 1, 2)), info.mean, atol=0.01)
    np.testing.assert_allclose(pixels.std((0, 1, 2)), info.std, atol=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sources.describe("cifar"), "Unknown data set 'cifar'.*did you mean 'cifar10'"),
        (lambda: sources.describe("mnist", sizes={}), "'mnist' has no option 'sizes'"),
        (lambda: sources.describe("synthetic", size=3), "'synthetic' has no option 'size'"),
        (lambda: sources.check_available("mnits"), "did you mean 'mnist'"),
        (lambda: sources.load("digits", "valid"), "no split 'valid'.*did you mean 'validation'"),
    ],
)
def test_wrong_names_are_told(call, message):
    with pytest.raises(UserError, match=message):
        call()


# ---- digits ----


def test_digits_are_scikit_learns_each_once():
    from sklearn.datasets import load_digits

    splits = [sources.load("digits", name) for name in ("train", "validation", "test")]
    images = np.concatenate([split["image"] for split in splits])
    labels = np.concatenate([split["label"] for split in splits])
    assert [len(split["label"]) for split in splits] == [1197, 300, 300]
    assert (images.dtype, images.shape, labels.dtype) == (np.uint8, (1797, 8, 8, 1), np.int32)

    known = load_digits()
    expected = np.column_stack([known.data * 255 / 16, known.target])
    got = np.column_stack([images.reshape(-1, 64), labels])
    order, known_order = np.lexsort(got.T), np.lexsort(np.round(expected).T)
    np.testing.assert_allclose(got[order], expected[known_order], atol=0.5)


def test_digits_permutation_never_changes():
    first = [
        sources.load("digits", s)["label"][:5].tolist() for s in ("train", "validation", "test")
    ]
    assert first == [[2, 8, 2, 6, 6], [5, 3, 9, 6, 1], [8, 8, 2, 2, 2]]


def test_digits_statistics():
    info, pixels = sources.describe("digits"), sources.load("digits", "train")["image"] / 255
    assert abs(pixels.mean() - info.mean[0]) < 1e-4
    assert abs(pixels.std() - info.std[0]) < 1e-4


# ---- Sets of the user's own ----

OWN = {
    "image_shape": (2, 3, 2),
    "num_classes": 4,
    "sizes": {"test": 1, "train": 5, "validation": 2},
}


@pytest.fixture
def register(monkeypatch):
    """`sources.register`, undone afterwards."""
    known = dict(sources.INFOS)
    for module in (sources, directories):
        monkeypatch.setattr(module, "INFOS", known)
    monkeypatch.setattr(sources, "_LOADERS", {})
    return sources.register


def own_split(split, dtype=np.uint8, shift=0):
    size = OWN["sizes"][split]
    return np.full((size, 2, 3, 2), size, dtype), np.arange(size) % 4 + shift


def test_a_registered_set_is_known_and_loaded_once(register):
    calls = []

    def load(split):
        calls.append(split)
        return own_split(split)

    register("own", load, **OWN)
    info = sources.describe("own")
    assert info.example == {"image": ((2, 3, 2), "uint8"), "label": ((), "int32")}
    assert (info.num_classes, info.streaming, info.task) == (4, False, "classification")
    assert list(info.sizes.items()) == [("train", 5), ("validation", 2), ("test", 1)]
    assert (info.mean, info.std) == ((0.5, 0.5), (0.25, 0.25))
    assert calls == []
    sources.check_available("own")
    for _ in range(2):
        split = sources.load("own", "train")
        np.testing.assert_array_equal(split["image"], np.full((5, 2, 3, 2), 5))
        np.testing.assert_array_equal(split["label"], [0, 1, 2, 3, 0])
        assert (split["image"].dtype, split["label"].dtype) == (np.uint8, np.int32)
    assert calls == ["train", "validation", "test"]
    with pytest.raises(UserError, match="no split 'valid'"):
        sources.load("own", "valid")
    with pytest.raises(UserError, match="did you mean 'own'"):
        sources.describe("owm")


def test_the_newest_registration_counts(register):
    register("own", own_split, **OWN)
    sources.load("own", "test")
    register("own", lambda split: own_split(split, shift=3), **OWN, mean=(0.1, 0.2), std=0.5)
    assert sources.load("own", "test")["label"].tolist() == [3]
    assert sources.describe("own").mean == (0.1, 0.2)
    assert sources.describe("own").std == (0.5, 0.5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_shape": (2, 3)}, r"image_shape \(2, 3\); use \(height, width, channels\)"),
        ({"image_shape": None}, "image_shape None; use"),
        ({"image_shape": (2.0, 3, 2)}, r"image_shape \(2.0, 3, 2\); use"),
        ({"num_classes": 1}, "num_classes 1; use at least 2"),
        ({"num_classes": "10"}, "num_classes '10'; use at least 2"),
        ({"load": None}, "load None; use a function"),
        ({"sizes": (5, 2, 1)}, r"sizes \(5, 2, 1\); use the numbers of examples in train"),
        (
            {"sizes": {"train": "5", "validation": 2, "test": 1}},
            "use the numbers of examples in train",
        ),
        ({"std": None}, "std None; use one number"),
        ({"mean": float("nan")}, "mean nan; use one number"),
        (
            {"sizes": {"train": 5, "test": 2}},
            "use the numbers of examples in train, validation and test",
        ),
        ({"sizes": OWN["sizes"] | {"test": 0}}, "1 or more each"),
        ({"mean": 127.5}, "mean 127.5; use one number or one per channel, on the 0..1 scale"),
        ({"mean": (0.1, 0.2, 0.3)}, "one per channel"),
        ({"std": 0}, "the std above 0"),
        ({"name": "mnist"}, "'mnist' already exists"),
        ({"name": "synthetic"}, "'synthetic' already exists"),
    ],
)
def test_wrong_registrations_are_told(register, changed, message):
    with pytest.raises(UserError, match=message):
        register(**{"name": "own", "load": own_split, **OWN, **changed})


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (
            lambda split: own_split("train"),
            r"split 'validation': load returns images of shape \(5, 2, 3, 2\), and \(2, 2, 3, 2\)",
        ),
        (
            lambda split: (own_split(split)[0], np.eye(4)[:2]),
            r"labels of shape \(2, 4\), and \(2,\)",
        ),
        (lambda split: own_split(split, np.float64), "float64 images; return uint8 from 0 to 255"),
        (
            lambda split: own_split(split, shift=3),
            "labels from 3 to 4; return integers from 0 to 3",
        ),
        (lambda split: own_split(split, shift=-1), "labels from -1 to 0"),
        (lambda split: own_split(split, shift=0.5), "float64 labels"),
        (lambda split: None, r"load returns NoneType; return two arrays, \(images, labels\)"),
        (lambda split: (*own_split(split), 1), "load returns a tuple of 3; return two arrays"),
        (lambda split: own_split(split)[0], "load returns ndarray; return two arrays"),
        (lambda split: dict.fromkeys("ab"), "load returns dict; return two arrays"),
        (lambda split: (own_split(split)[0], None), r"labels of shape \(\), and \(2,\)"),
        (lambda split: ([[1], [2, 3]], [0, 1]), "load returns images that are not an array"),
        (lambda split: (own_split(split)[0], ["a", "b"]), "<U1 labels; return integers"),
        (
            lambda split: (own_split(split)[0], [0, np.nan]),
            "float64 labels from nan to nan; return integers",
        ),
        (
            lambda split: (np.full((2, 2, 3, 2), np.nan), [0, 1]),
            "float64 images; return uint8 from 0 to 255",
        ),
    ],
)
def test_arrays_not_as_registered_are_told(register, load, message):
    register("own", load, **OWN)
    with pytest.raises(UserError, match=message) as caught:
        sources.load("own", "validation")
    assert str(caught.value).startswith("Data set 'own', split 'validation': ")


FORM = {
    "example": {"x": ((3,), "float32"), "more": ((), np.uint8), "y": ((2,), float)},
    "task": "regression",
    "sizes": {"train": 4, "validation": 2, "test": 2},
}


def rows(split):
    size = FORM["sizes"][split]
    return {"x": np.ones((size, 3)), "more": np.arange(size), "y": np.zeros((size, 2), int)}


def test_arrays_of_any_form(register):
    register("own", rows, **FORM)
    info, split = sources.describe("own"), sources.load("own", "train")
    assert info.example["y"] == ((2,), "float64") and info.num_classes == 2 and info.mean == ()
    assert {name: array.dtype.name for name, array in split.items()} == {
        "x": "float32",
        "more": "uint8",
        "y": "float64",
    }


TOKENS = {"example": {"tokens": ((4,), np.uint16)}, "task": "language", "num_classes": 50}


def test_durations_in_the_unit_of_the_task(register):
    sizes = {"train": 100, "validation": 2, "test": 2}
    register("own", rows, sizes=sizes, **TOKENS, bytes_per_token=3.0)
    info = sources.describe("own")
    assert info.steps("2k tokens", 5) == 100 and info.steps("1 epoch", 5) == 20
    assert info.options == {"bytes_per_token": 3.0} and info.bytes_each == 8
    with pytest.raises(UserError, match=r"Unknown unit 'tokens'.*Known: epochs, examples, steps"):
        sources.describe("digits").steps("2k tokens", 5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "regresion"}, "Unknown task 'regresion': did you mean 'regression'"),
        (
            {"example": {"x": ((3,), "float32")}},
            "registered for regression and .* no 'y'; it has x",
        ),
        ({"example": {"x": (3, "float32"), "y": ((), "int8")}}, "example .*; use {name: "),
        ({"example": {"x": ((3,), "text"), "y": ((), "int8")}}, "example .*; use {name: "),
        ({"example": {"x": ((0,), "int8"), "y": ((), "int8")}}, "example .*; use {name: "),
        ({"num_classes": 3}, "num_classes 3; use"),
        ({"bins": 3}, "Task 'regression' does not read 'bins'"),
        (TOKENS | {"num_classes": None}, "num_classes None; use at least 1"),
    ],
)
def test_wrong_examples_are_told(register, changed, message):
    with pytest.raises(UserError, match=message):
        register("own", rows, **FORM | changed)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("x", [[1, 2, np.nan], [1, 2, 3]], "load returns x that are not finite, first in row 0"),
        ("y", [[1, 2], [np.inf, 2]], "y that are not finite, first in row 1; replace or leave out"),
        ("more", [1, 300], "int64 more from 1 to 300; return integers from 0 to 255"),
        ("more", [1.5, 3], "float64 more from 1.5 to 3.0; return integers"),
        ("x", [1, 2], r"x of shape \(2,\), and \(2, 3\) is registered"),
        ("x", [["a"] * 3] * 2, "<U1 x; return numbers"),
        ("z", [1, 2], "load returns dict of x, more, y, z; return a dict of x, more, y"),
    ],
)
def test_arrays_of_another_form_are_told(register, name, values, message):
    register("own", lambda split: rows(split) | {name: np.asarray(values)}, **FORM)
    with pytest.raises(UserError, match=message) as caught:
        sources.load("own", "validation")
    assert str(caught.value).startswith("Data set 'own', split 'validation': ")


def test_tokens_and_weights_out_of_range_are_told(register):
    form = TOKENS | {"example": {**TOKENS["example"], "weights": ((4,), "float32")}}
    arrays = {"tokens": np.ones((2, 4), int), "weights": np.ones((2, 4))}
    load = lambda change: lambda split: {k: change.get(k, v) for k, v in arrays.items()}
    sizes = dict.fromkeys(("train", "validation", "test"), 2)
    for change, message in (
        ({"tokens": np.full((2, 4), 50)}, "tokens from 50 to 50; return integers from 0 to 49"),
        ({"weights": np.eye(2, 4) * [[1], [0]]}, "weights of 0 in all of row 1"),
        ({"weights": np.full((2, 4), -1)}, "no weight below 0"),
    ):
        register("own", load(change), sizes=sizes, **form)
        with pytest.raises(UserError, match=message):
            sources.load("own", "test")


def test_what_load_raises_keeps_its_traceback(register):
    def load(split):
        return [][len(split)]

    register("own", load, **OWN)
    with pytest.raises(UserCodeError) as caught:
        sources.check_available("own")
    assert str(caught.value) == (
        "Your load('train') of data set 'own' raised IndexError: list index out of range; its "
        "traceback follows."
    )
    head, place, *_ = caught.value.traceback.splitlines()
    assert head.startswith("Traceback") and place.startswith(f'  File "{__file__}"')
    assert place.endswith("in load") and "/sources.py" not in caught.value.traceback


def test_a_wrong_test_split_is_told_before_anything_starts(register):
    register("own", lambda split: None if split == "test" else own_split(split), **OWN)
    with pytest.raises(UserError, match="split 'test': load returns NoneType"):
        sources.check_available("own")


# ---- Reading ----


@pytest.mark.parametrize("cached", [False, True])
def test_splits_equal_the_images_written(mnist, cached):
    for name, rows in {
        "train": slice(0, 9),
        "validation": slice(9, 12),
        "test": slice(12, 16),
    }.items():
        split = sources.load("mnist", name)
        if cached:
            split = sources.load("mnist", name)
            assert isinstance(split["image"], np.memmap)
        np.testing.assert_array_equal(split["image"], MNIST[rows])
        np.testing.assert_array_equal(split["label"], LABELS[rows])
        assert (split["image"].dtype, split["label"].dtype) == (np.uint8, np.int32)


def test_colours_are_rgb(tmp_path, set_sizes, write_tfds):
    set_sizes("cifar10", 10, 2, 4)
    write_tfds(tmp_path / "elsewhere", "cifar10", examples(CIFAR))
    split = sources.load("cifar10", "validation", data_dir=tmp_path / "elsewhere")
    np.testing.assert_array_equal(split["image"], CIFAR[10:12])


def test_the_newest_version_is_read(mnist, tmp_path, write_tfds):
    write_tfds(tmp_path / "tfds", "mnist", examples(MNIST[::-1]), version="1.0.10")
    write_tfds(tmp_path / "tfds", "mnist", examples(MNIST), version="1.0.9")
    np.testing.assert_array_equal(sources.load("mnist", "test")["image"], MNIST[::-1][12:])


def test_available_sets_pass(mnist):
    for name in ("mnist", "digits", "synthetic"):
        sources.check_available(name)


# ---- The cache ----


def fail(*args):
    raise AssertionError("read again")


def cached_entry(tmp_path):
    (entry,) = (tmp_path / "cache").iterdir()
    return entry


def test_second_load_reads_no_records(mnist, monkeypatch):
    sources.load("mnist", "test")
    monkeypatch.setattr(directories, "_decode_split", fail)
    sources.load("mnist", "test")
    with pytest.raises(AssertionError, match="read again"):
        sources.load("mnist", "train")


def flip_a_pixel(entry):
    data = bytearray((entry / "image.npy").read_bytes())
    data[-1] ^= 1
    (entry / "image.npy").write_bytes(data)


def cut_short(entry):
    os.truncate(entry / "image.npy", 1000)


def swap_the_split(entry):
    """Whole files, but of another split."""
    np.save(entry / "image.npy", MNIST[:3])
    np.save(entry / "label.npy", LABELS[:3].astype(np.int32))


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_pixel,
        cut_short,
        swap_the_split,
        lambda entry: (entry / "label.npy").unlink(),
        lambda entry: (entry / "label.npy").write_bytes(b""),
        lambda entry: (entry / "crc32.json").write_text("{"),
    ],
)
def test_damaged_cache_is_rebuilt(mnist, tmp_path, monkeypatch, damage):
    sources.load("mnist", "test")
    damage(cached_entry(tmp_path))
    np.testing.assert_array_equal(sources.load("mnist", "test")["image"], MNIST[12:])
    monkeypatch.setattr(directories, "_decode_split", fail)
    np.testing.assert_array_equal(sources.load("mnist", "test")["image"], MNIST[12:])


def test_cache_never_serves_a_set_prepared_again(mnist, tmp_path, write_tfds):
    sources.load("mnist", "test")
    shutil.rmtree(mnist)
    write_tfds(tmp_path / "tfds", "mnist", examples(MNIST[::-1]), shards=2)
    np.testing.assert_array_equal(sources.load("mnist", "test")["image"], MNIST[::-1][12:])


def test_cache_follows_the_split_boundary(mnist, set_sizes):
    sources.load("mnist", "validation")
    set_sizes("mnist", 8, 4, 4)
    np.testing.assert_array_equal(sources.load("mnist", "validation")["image"], MNIST[8:12])


def test_cache_that_can_not_be_written_is_skipped(mnist, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCALING_CACHE_DIR", str(tmp_path / "file" / "cache"))
    np.testing.assert_array_equal(sources.load("mnist", "test")["image"], MNIST[12:])


def test_cache_dir_follows_the_environment(tmp_path, monkeypatch):
    assert directories.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("SCALING_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert directories.cache_dir() == Path("/xdg/scaling")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert directories.cache_dir() == tmp_path / "home/.cache/scaling"


# ---- Missing and incomplete sets ----


def test_missing_set_says_how_to_get_it(tmp_path, monkeypatch):
    with pytest.raises(UserError) as error:
        sources.check_available("fashion_mnist")
    message = str(error.value)
    for part in (
        f"'fashion_mnist' is not in {tmp_path / 'tfds'}",
        "python -m scaling.data.prepare fashion_mnist",
        "--from=DIR",
        "digits",
        "synthetic",
    ):
        assert part in message
    monkeypatch.delenv("TFDS_DATA_DIR")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "home/tensorflow_datasets"))):
        sources.check_available("fashion_mnist")
    with pytest.raises(UserError, match="tfds build imagenet2012 --file_format=array_record"):
        sources.check_available("imagenet")


def edit_info(change):
    def edit(path):
        info = json.loads((path / "dataset_info.json").read_text())
        change(info)
        (path / "dataset_info.json").write_text(json.dumps(info))

    return edit


def shard(path):
    return path / "mnist-train.array_record-00001-of-00002"


def interrupt(path):
    path.rename(path.with_name("incomplete.X1_1.0.0"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "dataset_info.json").unlink(), "it has no dataset_info.json"),
        (lambda path: (path / "features.json").unlink(), "it has no features.json"),
        (lambda path: (path / "dataset_info.json").write_text("{"), "json is unreadable"),
        (edit_info(lambda info: info.pop("splits")), "json is unreadable"),
        (interrupt, "mnist is incomplete: its preparation was interrupted"),
        (lambda path: shard(path).unlink(), "train.array_record-00001-of-00002 is missing"),
        (lambda path: os.truncate(shard(path), 100), "00001-of-00002 has 0 records of 6"),
        (
            edit_info(lambda info: info["splits"][0].update(shardLengths=["7", "5"])),
            "00000-of-00002 has 6 records of 7",
        ),
        (
            edit_info(lambda info: info["splits"][0].update(shardLengths=["6"])),
            "declares 6 train records of 12",
        ),
        (edit_info(lambda info: info["splits"].pop(1)), "declares 0 test records of 4"),
        (edit_info(lambda info: info.update(fileFormat="tfrecord")), "has tfrecord files"),
        (edit_info(lambda info: info.update(fileFormat="parquet")), "has parquet files"),
    ],
)
def test_half_prepared_sets_are_told(mnist, damage, message):
    sources.load("mnist", "train")  # A cache must not hide the damage.
    damage(mnist)
    for call in (sources.check_available, lambda name: sources.load(name, "train")):
        with pytest.raises(UserError, match=message):
            call("mnist")


def test_array_record_beside_another_format_will_do(mnist):
    def convert(info):
        info.update(fileFormat="tfrecord", alternativeFileFormats=["array_record"])

    edit_info(convert)(mnist)
    np.testing.assert_array_equal(sources.load("mnist", "test")["image"], MNIST[12:])


def test_damaged_record_is_told(mnist):
    data = bytearray(shard(mnist).read_bytes())
    middle = data.index(b"IHDR") + 100  # Inside a PNG.
    data[middle : middle + 20] = bytes(20)
    shard(mnist).write_bytes(data)
    with pytest.raises(UserError, match=r"1\.0\.0 is corrupted.*delete it and prepare it again"):
        sources.load("mnist", "train")


def test_a_damaged_test_split_is_told_before_anything_starts(mnist):
    file = mnist / "mnist-test.array_record-00000-of-00002"
    data = bytearray(file.read_bytes())
    middle = data.index(b"IHDR") + 100
    data[middle : middle + 20] = bytes(20)
    file.write_bytes(data)
    for split in ("train", "validation"):
        sources.load("mnist", split)
    with pytest.raises(UserError, match=r"1\.0\.0 is corrupted.*delete it and prepare it again"):
        sources.check_available("mnist")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((b"not a png", 1), "record 1 cannot be decoded"),
        ((png(CIFAR[0]), 1), "record 1 cannot be decoded"),
        ((png(MNIST[0]), 10), "labels go from 2 to 10"),
    ],
)
def test_records_of_something_else_are_told(tmp_path, set_sizes, write_tfds, example, message):
    set_sizes("mnist", 9, 3, 4)
    splits = examples(MNIST)
    splits["test"][1] = example
    write_tfds(tmp_path / "tfds", "mnist", splits, encoding=None)
    with pytest.raises(UserError, match=f"is not mnist: in its test split {message}.*28 x 28 x 1"):
        sources.check_available("mnist")


@pytest.mark.parametrize("inside", ["mnist", "mnist/1.0.0"])
def test_the_folder_of_a_set_is_told_from_the_one_above(mnist, tmp_path, inside, monkeypatch):
    given = tmp_path / "tfds" / inside
    for name in ("mnist", "cifar10"):  # a set of that folder, and another
        for call in (sources.check_available, prepare.prepare):
            with pytest.raises(UserError, match=f"^{given} is .* use {tmp_path / 'tfds'}, that"):
                call(name, given)
    monkeypatch.chdir(given)
    with pytest.raises(UserError, match=f"use {tmp_path / 'tfds'}, that"):
        sources.check_available("mnist", ".")


def test_splits_are_read_once_in_a_process(mnist, monkeypatch):
    sources.check_available("mnist")
    monkeypatch.setattr(sources, "load_prepared", fail)
    sources.check_available("mnist")


# ---- Imports ----


def test_checks_and_cached_loads_import_nothing_heavy(mnist):
    """Launch to first step: TFDS, scikit-learn and OpenCV cost seconds and are not needed."""
    sources.check_available("mnist")
    code = """
import dataclasses, sys
from scaling.data import sources
sizes = {"train": 9, "validation": 3, "test": 4}
sources.INFOS["mnist"] = dataclasses.replace(sources.INFOS["mnist"], sizes=sizes)
sources.check_available("mnist")
sources.load("mnist", "train")
sources.load("digits", "train")
print([m for m in ("tensorflow_datasets", "sklearn", "cv2", "jax") if m in sys.modules])
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert out.stdout.strip() == "[]", out.stderr
