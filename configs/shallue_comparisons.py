"""Shallue 2018, Sections 4.2 to 4.7: what changes the largest useful batch?

One study per choice, then one report over all of them:

    python launch.py --config=configs/shallue_comparisons.py:sgd
    python launch.py --config=configs/shallue_comparisons.py:momentum
    python launch.py --config=configs/shallue_comparisons.py:nesterov
    python launch.py --report=runs/shallue_comparisons-sgd,runs/shallue_comparisons-momentum,...

    optimizer        sgd, momentum, nesterov                   Simple CNN on MNIST (Fig. 4)
    model            fc_64x3, fc_128x3, fc_256x3, fc_512x3, fc_2048x3, fc_1024, fc_1024x2,
                     fc_1024x3, cnn_narrow, cnn_base, cnn_wide     SGD on MNIST (Fig. 3)
    data set         on_mnist, on_fashion_mnist                Simple CNN (Fig. 5)
    data-set size    size_6875, size_13750, size_27500, size_55000   Simple CNN on MNIST (Fig. 6)
    label smoothing  smoothing_0, smoothing_0.01, smoothing_0.1    ResNet-50 on ImageNet

Each report also compares the best effective learning rate with the linear and sqrt heuristics, and
a step budget with an epoch budget. Batch sizes are the paper's; the goals of the MLPs (3%) and of
the data-set comparison, the spaces and the budgets are ours.

All but the data-set sizes run on digits, the MLPs in minutes and the CNNs in hours, with
--config.data.name=digits --config.batch_sizes="(1,4,16,64,256,1024)" --config.target.goal=0.03;
label smoothing with --config.batch_sizes="(32,64,256,1024)" --config.model.depth=8, as its ghost
batches have 32 examples. Each takes minutes with --config.search.trials=4
--config.target.budget="('300 steps','5 epochs')" --config.target.goal=0.1
"""

from configs.shallue import MOMENTUM, POWERS
from configs.shallue import get_config as panel
from scaling.config import model_config
from scaling.errors import look_up

ALL = (*POWERS(0, 15), 55000)  # the paper's 17 batch sizes on MNIST


def _optimizer(name):
    def change(c):
        c.optim.name, c.batch_sizes = name, ALL
        c.search.space = {"learning_rate": ("log", 1e-4, 10.0 if name == "sgd" else 1.0)}
        if name != "sgd":
            c.search.space.momentum = MOMENTUM

    return change


def _fully_connected(*widths):
    def change(c):
        _optimizer("sgd")(c)
        c.model = model_config("mlp", widths=widths)
        c.target.goal = 0.03

    return change


def _cnn(size):
    def change(c):
        _optimizer("sgd")(c)
        c.model = model_config("simple_cnn", size=size)

    return change


def _data(name):
    def change(c):
        c.data.name = name
        c.target.goal = {"mnist": 0.01, "fashion_mnist": 0.10}[name]

    return change


def _size(examples):
    def change(c):
        c.data.train_size = examples
        c.batch_sizes = tuple(b for b in ALL if b <= examples)
        c.batch_sizes += (examples,) * (examples not in c.batch_sizes)
        c.target.goal = 0.02  # reachable with the smallest subset

    return change


def _smoothing(value):
    def change(c):
        del c.search.space["label_smoothing"]
        c.loss.label_smoothing = value

    return change


CHOICES = {
    **{name: _optimizer(name) for name in ("sgd", "momentum", "nesterov")},
    **{f"fc_{w}x3": _fully_connected(w, w, w) for w in (64, 128, 256, 512, 2048)},
    "fc_1024": _fully_connected(1024),
    "fc_1024x2": _fully_connected(1024, 1024),
    "fc_1024x3": _fully_connected(1024, 1024, 1024),
    **{f"cnn_{size}": _cnn(size) for size in ("narrow", "base", "wide")},
    **{f"on_{name}": _data(name) for name in ("mnist", "fashion_mnist")},
    **{f"size_{n}": _size(n) for n in (6875, 13750, 27500, 55000)},
    **{f"smoothing_{value:g}": _smoothing(value) for value in (0.0, 0.01, 0.1)},
}


def get_config(choice: str = "nesterov"):
    c = panel("imagenet_resnet50" if choice.startswith("smoothing") else "mnist_cnn")
    look_up("choice", choice, CHOICES)(c)
    c.title = f"Shallue 2018, comparisons: {choice}"
    return c
