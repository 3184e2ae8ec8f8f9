"""Small images of our own, as JPEG files."""

import cv2
import numpy as np

SHAPES = [(40, 56), (56, 40), (24, 24), (90, 33)]


def photo(i):
    """A smooth RGB image of its own, so that JPEG keeps it."""
    rng = np.random.default_rng(i)
    height, width = SHAPES[i % len(SHAPES)]
    return cv2.resize(rng.integers(0, 256, (3, 3, 3), np.uint8), (width, height))


def jpeg(image):
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
