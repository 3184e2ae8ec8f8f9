"""Device-resident data sets: gathered, augmented and normalised inside the step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

PAD = 4  # pixels on each side before the random crop (He et al. 2015, section 4.2)


def synthetic(seed: int, size: int, image_shape: tuple[int, int, int], num_classes: int):
    """{"image": uint8 [size, H, W, C], "label": int32 [size]}, generated on the device.

    Every class has its own pattern under the noise, so that the error of a working run decreases.
    """
    return _synthetic(jax.random.key(seed), size, tuple(image_shape), num_classes)


def synthetic_labels(seed: int, size: int, num_classes: int) -> jax.Array:
    """The labels of `synthetic`, without its images."""
    return _labels(jax.random.key(seed), size, num_classes)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _labels(key, size, num_classes):
    return jax.random.randint(jax.random.split(key)[0], (size,), 0, num_classes, jnp.int32)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _synthetic(key, size, image_shape, num_classes):
    # The patterns depend only on the shape: train, validation and test share them.
    patterns = jax.random.uniform(jax.random.key(0), (num_classes, *image_shape), maxval=128.0)
    label = _labels(key, size, num_classes)
    noise = jax.random.bits(jax.random.split(key)[1], (size, *image_shape), jnp.uint8) // 2
    return {"image": patterns.astype(jnp.uint8)[label] + noise, "label": label}


def normalize(image: jax.Array, mean, std) -> jax.Array:
    """uint8 [..., C] on 0..255 to float32, standardised by the data set's mean and deviation."""
    scale = 1.0 / (255.0 * np.asarray(std, np.float32))
    offset = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
    return image.astype(jnp.float32) * scale - offset


def crop_and_flip(key: jax.Array, image: jax.Array, positions: jax.Array) -> jax.Array:
    """Pad with zeros, crop at random and flip half of the images (He et al. 2015, section 4.2).

    Args:
      key: of this update.
      image: [N, H, W, C], normalised, so that zero is the mean colour.
      positions: [N] indices in the global batch. A crop depends only on (key, position), so it is
        the same on any number of devices.
    """
    n, height, width, _ = image.shape
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(positions)
    bits = jax.vmap(lambda k: jax.random.bits(k, (3,)))(keys)
    choices = 2 * PAD + 1
    top, left = (bits[:, i] % choices for i in (0, 1))
    flip = bits[:, 2] % 2 == 1

    padded = jnp.pad(image, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    rows = top[:, None] + jnp.arange(height)
    columns = left[:, None] + jnp.where(flip[:, None], jnp.arange(width)[::-1], jnp.arange(width))
    return padded[jnp.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


class EpochOrder:
    """The example at each position of a run, a pure function of (seed, position).

    Position p belongs to epoch p // size, and every epoch is a fresh permutation of the whole set
    (Goyal 2017, Remark 4: one shuffle per epoch, split across workers). A batch may span several
    epochs.
    """

    def __init__(self, seed: int, size: int):
        self.seed = seed
        self.size = size
        self._permutation = functools.lru_cache(maxsize=4)(self._permute)

    def _permute(self, epoch: int) -> np.ndarray:
        generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        return generator.permutation(self.size).astype(np.int32)

    def __getitem__(self, positions: slice) -> np.ndarray:
        """int32 example indices at positions start to stop - 1."""
        parts, start = [], positions.start
        while start < positions.stop:
            epoch, offset = divmod(start, self.size)
            parts.append(self._permutation(epoch)[offset : offset + positions.stop - start])
            start += len(parts[-1])
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def batches(self, first: int, count: int, size: int, echo: int = 1) -> np.ndarray:
        """int32 [count, size], what `count` updates read of which the first begins at position
        `first`: a batch each, or one for every `echo` of them in a row."""
        if echo == 1:
            return self[first : first + count * size].reshape(count, size)
        starts = range(first, first + count * size, size)
        starts = [start // (echo * size) * size for start in starts]
        return np.stack([self[start : start + size] for start in starts])


def make_preprocess(mean, std, augment: str):
    """The function from a batch of indices or raw examples to what a task takes.

    The result is called as `preprocess(data, batch, key, positions)`: `batch` contains "index" [N]
    into `data`, or the arrays themselves; without a key there is no augmentation, for evaluation.
    A uint8 "image" is normalised, other arrays stay as they are.
    """

    def preprocess(data, batch, key=None, positions=None):
        if "index" in batch:
            batch = {name: array[batch["index"]] for name, array in data.items()}
        if "image" not in batch:
            return batch
        image = batch["image"]
        if image.dtype == jnp.uint8:
            image = normalize(image, mean, std)
        if key is not None and augment == "crop_flip":
            image = crop_and_flip(key, image, positions)
        return batch | {"image": image}

    return preprocess


def preprocessed(example):
    """name -> (shape, dtype) of an example after `preprocess`."""
    shape, kind = example.get("image", ((), ""))
    return {**example} | ({"image": (shape, "float32")} if kind == "uint8" else {})
