"""Images per second against the batch and the number of devices, and what bounds them.

    python launch.py --config=configs/throughput.py:digits
    python launch.py --config=configs/throughput.py:resnet8 --config.throughput.network=dgx-h100

In images per second a batch and a machine can grow without end (Kurth 2018); this measures how.
Each batch on each number of devices here takes turns, round after round: the devices alone, the
input alone, both. The page has the line T(b) = t0 + b / r, the batch for 90% of the peak rate, the
share of the chip's peak, memory, what microbatches cost, the forecast for more devices, and
published tables beside it. `--devices=4` simulates devices: it shows that it works, and no speed.

    digits       an MLP on scikit-learn's digits; a minute on two CPU cores
    fashion_mlp  the MLP of configs/fashion_mlp.py, on images made on the device
    resnet8      ResNet-8 at CIFAR's size, likewise; four minutes on two CPU cores
    resnet50     ResNet-50 in bfloat16 at ImageNet's size, likewise; for a GPU
    tiramisu, deeplab, deepcam
                 the nets of Kurth 2018 and of MLPerf's DeepCAM in bfloat16, on maps of noise of
                 768x1152 pixels and 16 channels, kept activations and activations computed again;
                 for a GPU
    tiramisu_small, deeplab_small
                 a small Tiramisu and a DeepLabv3+ of an eighth of the width, on maps of 96x144
"""

import numpy as np

from scaling.config import default_config, model_config
from scaling.data import sources
from scaling.errors import look_up


def _digits(c):
    c.model = model_config("mlp", widths=(64,))


def _synthetic(c, shape, classes, size):
    c.data.name, c.data.image_shape = "synthetic", shape
    c.data.num_classes, c.data.train_size = classes, size


def _fashion_mlp(c):
    _synthetic(c, (28, 28, 1), 10, 20_000)
    c.model = model_config("mlp", widths=(64, 64, 64))


def _resnet8(c):
    _synthetic(c, (32, 32, 3), 10, 4096)
    c.model = model_config("resnet", depth=8, norm="group")
    c.throughput.per_device_batches = (32, 64, 128, 256)
    c.throughput.seconds = 0.5


def _resnet50(c):
    _synthetic(c, (224, 224, 3), 1000, 1024)
    c.model = model_config("resnet", depth=50, dtype="bfloat16")
    c.throughput.per_device_batches = tuple(2**i for i in range(3, 10))
    c.throughput.seconds = 0.5


def _maps(model, shape, batches, count, **options):
    """A task on maps of noise with random classes: fast to make, and as slow to train as any."""

    def load(split):
        rng, rows = np.random.default_rng(0), sizes[split]
        return {
            "image": rng.standard_normal((rows, *shape, 16), np.float32),
            "label": rng.integers(0, 3, (rows, *shape), np.uint8),
        }

    sizes = {"train": count, "validation": 1, "test": 1}

    def change(c):
        c.data.name = f"noise_{shape[0]}x{shape[1]}"
        example = {"image": ((*shape, 16), "float32"), "label": (shape, "uint8")}
        options_of_set = {"sizes": sizes, "example": example, "task": "segmentation"}
        sources.register(c.data.name, load, num_classes=3, **options_of_set)
        c.model = model_config(model, **options)
        c.throughput.per_device_batches, c.throughput.microbatches = batches, (1,)
        c.throughput.seconds = 0.5

    return change


_LARGE, _SMALL = (768, 1152), (96, 144)
_FEW = {"growth": 8, "blocks": (2, 2, 2), "filters": 16, "kernel": 3}

TASKS = {
    "digits": _digits,
    "fashion_mlp": _fashion_mlp,
    "resnet8": _resnet8,
    "resnet50": _resnet50,
    "tiramisu": _maps("tiramisu", _LARGE, (1, 2, 4, 8), 16, dtype="bfloat16"),
    "deeplab": _maps("deeplab", _LARGE, (1, 2, 4, 8), 16, norm="none", dtype="bfloat16"),
    "deepcam": _maps("deepcam", _LARGE, (1, 2, 4, 8), 16, dtype="bfloat16"),
    "tiramisu_small": _maps("tiramisu", _SMALL, (1, 2, 4, 8), 64, **_FEW),
    "deeplab_small": _maps("deeplab", _SMALL, (1, 2, 4), 64, width=8, norm="none"),
}


def get_config(task: str = "digits"):
    c = default_config("throughput")
    c.title = f"Images per second, {task}"
    look_up("task", task, TASKS)(c)
    return c
