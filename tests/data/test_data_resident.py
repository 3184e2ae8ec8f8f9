import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.data import resident
from scaling.data.resident import (
    EpochOrder,
    crop_and_flip,
    make_preprocess,
    normalize,
    synthetic,
    synthetic_labels,
)

GOLDEN = [0, 7, 8, 6, 9, 5, 1, 3, 2, 4, 9, 4, 2, 1, 0, 7, 8, 5, 3, 6]


def test_every_epoch_is_a_fresh_permutation():
    order = EpochOrder(seed=3, size=50)
    epochs = order[0:200].reshape(4, 50)
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_order_is_a_function_of_seed_and_position():
    whole = EpochOrder(3, 50)[0:333]
    again = EpochOrder(3, 50)
    pieces = [again[start:stop] for start, stop in ((120, 333), (0, 7), (7, 120), (5, 5))]
    np.testing.assert_array_equal(np.concatenate([pieces[1], pieces[2], pieces[0]]), whole)
    assert len(pieces[3]) == 0
    assert not np.array_equal(EpochOrder(4, 50)[0:333], whole)
    # Fixed for good: a run must resume in the same order after NumPy or this code has changed.
    assert EpochOrder(0, 10)[0:20].tolist() == GOLDEN


def test_normalized_images_have_mean_zero_and_deviation_one():
    images = np.random.RandomState(0).randint(0, 256, (64, 8, 8, 3)).astype(np.uint8)
    scaled = images / 255.0
    mean, std = scaled.mean((0, 1, 2)), scaled.std((0, 1, 2))
    np.testing.assert_allclose(normalize(images, mean, std), (scaled - mean) / std, atol=1e-5)


def _crop_one(image, top, left, flip):
    """Pad, crop and mirror one image, pixel by pixel."""
    height, width, _ = image.shape
    out = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            row = i + top - resident.PAD
            column = (width - 1 - j if flip else j) + left - resident.PAD
            if 0 <= row < height and 0 <= column < width:
                out[i, j] = image[row, column]
    return out


def test_every_image_is_one_of_the_crops_and_all_crops_occur():
    rng = np.random.RandomState(0)
    image = rng.randn(6, 7, 2).astype(np.float32)
    choices = 2 * resident.PAD + 1
    crops = {
        _crop_one(image, top, left, flip).tobytes(): (top, left, flip)
        for top in range(choices)
        for left in range(choices)
        for flip in (False, True)
    }
    count = 4000
    batch = jnp.broadcast_to(image, (count, *image.shape))
    out = np.asarray(crop_and_flip(jax.random.key(0), batch, jnp.arange(count)))
    drawn = [crops[one.tobytes()] for one in out]  # KeyError: not a crop
    for i, values in enumerate(zip(*drawn, strict=True)):
        counts = np.bincount(values)
        expected = count / (2 if i == 2 else choices)
        assert len(counts) == (2 if i == 2 else choices)
        # Chi-square far above its 0.1% points of 10.8 and 26.1 would mean a biased draw.
        assert np.sum((counts - expected) ** 2 / expected) < 30


def test_augmentation_depends_on_the_position_alone():
    images = jnp.asarray(np.random.RandomState(0).randn(12, 8, 8, 1), jnp.float32)
    key, positions = jax.random.key(1), jnp.arange(12)
    whole = crop_and_flip(key, images, positions)
    parts = [crop_and_flip(key, images[i::3], positions[i::3]) for i in range(3)]
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(part, whole[i::3])
    assert not np.array_equal(crop_and_flip(jax.random.key(2), images, positions), whole)


def test_preprocess_gathers_and_augments_only_in_training():
    data = synthetic(1, 30, (8, 8, 1), 10)
    preprocess = make_preprocess((0.5,), (0.25,), "crop_flip")
    index = jnp.array([4, 4, 29])
    plain = preprocess(data, {"index": index})
    expected = (np.float64(data["image"])[index] / 255 - 0.5) / 0.25
    np.testing.assert_allclose(plain["image"], expected, atol=1e-5)
    np.testing.assert_array_equal(plain["label"], data["label"][index])
    images = {"image": data["image"][index], "label": data["label"][index]}
    np.testing.assert_array_equal(preprocess(None, images)["image"], plain["image"])
    moved = preprocess(data, {"index": index}, jax.random.key(0), jnp.arange(3))
    assert not np.array_equal(moved["image"][0], moved["image"][1])  # one example, two places


@pytest.mark.parametrize("shape, classes", [((8, 8, 1), 10), ((5, 7, 3), 4)])
def test_synthetic_images_of_any_shape_can_be_learned(shape, classes):
    train, other = (synthetic(seed, 400, shape, classes) for seed in (1, 2))
    assert train["image"].shape == (400, *shape) and train["image"].dtype == jnp.uint8
    assert not np.array_equal(train["image"], other["image"])
    # Nearest class mean of one split classifies the other: the classes are the same in both.
    flat = lambda split: np.float64(split["image"]).reshape(400, -1)
    labels = np.asarray(train["label"])
    means = np.stack([flat(train)[labels == c].mean(0) for c in range(classes)])
    distance = ((flat(other)[:, None] - means) ** 2).sum(-1)
    assert (distance.argmin(1) == other["label"]).mean() > 0.9


def test_synthetic_labels_are_those_of_the_images():
    whole = synthetic(3, 50, (4, 4, 1), 7)["label"]
    np.testing.assert_array_equal(synthetic_labels(3, 50, 7), whole)
    assert len(set(whole.tolist())) == 7
