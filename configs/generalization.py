"""Distance from initialisation by batch size (Hoffer 2017, Fig. 1 and 2), and layer-wise norms of
weights and gradients (You 2017, Table 2).

    python -m scaling.data.prepare fashion_mnist
    python launch.py --config=configs/generalization.py                 # two CPU cores
    python launch.py --config=configs/generalization.py:f1              # F1 itself, for a GPU
    python launch.py --config=configs/generalization.py:hoffer_resnet44 # the paper's, CIFAR-10

A constant learning rate, as in the initial phase of the paper; the same at every batch size, and
with sqrt scaling and ghost batch norm.
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up


def _f1(width):
    def change(c):
        c.data.name = "fashion_mnist"
        c.model = model_config("mlp", widths=(width,) * 5, norm="batch")
        c.duration = "20 epochs"
        c.title = f"Distance from initialisation on Fashion-MNIST, F1 with {width} units"

    return change


def _resnet44(c):
    c.data.name, c.data.augment = "cifar10", "crop_flip"
    c.model = model_config("resnet", depth=44, norm="batch")
    c.duration = "81 epochs"  # the learning rate's first phase
    c.batch_sizes = (128, 256, 512, 1024, 2048)
    c.title = "Distance from initialisation on CIFAR-10, ResNet-44 (Hoffer 2017, Fig. 2)"


def _digits(c):
    c.model = model_config("mlp", widths=(32, 32), norm="batch")
    c.batch_sizes, c.optim.base_batch = (32, 128, 512), 32
    c.duration, c.recipes.seeds = "50 epochs", 3
    c.title = "Distance from initialisation on digits, an MLP 32-32 with batch norm"


TASKS = {"small": _f1(128), "f1": _f1(512), "hoffer_resnet44": _resnet44, "digits": _digits}


def get_config(task: str = "small"):
    c = default_config("generalization")
    c.batch_sizes = (128, 512, 2048, 8192)
    c.optim.name, c.optim.momentum, c.optim.weight_decay = "momentum", 0.9, 1e-4
    c.optim.base_lr, c.optim.base_batch = 0.1, 128
    c.recipes.names = ("naive", "sqrt+gbn")
    look_up("task", task, TASKS)(c)
    return c
