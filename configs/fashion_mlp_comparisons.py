"""Shallue 2018, Sections 4.2 to 4.6, for two CPU cores: what changes the largest useful batch?

One study per choice, then one report over the compared studies, the first being the reference:

    python -m scaling.data.prepare fashion_mnist
    python launch.py --config=configs/fashion_mlp_comparisons.py:sgd
    python launch.py --config=configs/fashion_mlp_comparisons.py:momentum
    python launch.py --config=configs/fashion_mlp_comparisons.py:nesterov
    python launch.py --report=runs/fashion_mlp_comparisons-sgd,runs/...

    optimizer        sgd, momentum, nesterov
    depth            fc_64, fc_64x2, sgd (64x3)               SGD, as in the paper
    width            fc_32x3, sgd (64x3), fc_128x3            SGD
    data-set size    size_6875, size_13750, size_27500, size_55000     Nesterov, to 17%
    label smoothing  nesterov (none), smoothing_0.01, smoothing_0.1    Nesterov

The study of configs/fashion_mlp.py with half as many trials at six batch sizes from 4 to 4,096, 5
to 20 minutes each. Those of the paper, for accelerators, are in configs/shallue_comparisons.py.
"""

from configs.fashion_mlp import get_config as base
from scaling.errors import look_up

SIZES = (6875, 13750, 27500, 55000)


def _sgd(c, widths=(64, 64, 64)):
    c.optim.name, c.model.widths = "sgd", widths
    # Nesterov's best effective rates are 0.009 to 2.3 at these batch sizes.
    c.search.space = {"learning_rate": ("log", 3e-3, 10.0)}


def _momentum(c):
    c.optim.name = "momentum"


def _size(c, examples):
    c.data.train_size = examples
    c.target.goal = 0.17  # reachable with the smallest subset
    c.target.budget = ("1000 steps", "275000 examples")  # 5 epochs of all images


def _smoothing(c, value):
    c.loss.label_smoothing = value


CHOICES = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": lambda c: None,
    "fc_64": lambda c: _sgd(c, (64,)),
    "fc_64x2": lambda c: _sgd(c, (64, 64)),
    **{f"fc_{w}x3": lambda c, w=w: _sgd(c, (w, w, w)) for w in (32, 128)},
    **{f"size_{n}": lambda c, n=n: _size(c, n) for n in SIZES},
    **{f"smoothing_{s:g}": lambda c, s=s: _smoothing(c, s) for s in (0.01, 0.1)},
}


def get_config(choice: str = "nesterov"):
    c = base()
    c.title = f"Fashion-MNIST, an MLP, comparisons: {choice}"
    c.batch_sizes = (4, 16, 64, 256, 1024, 4096)
    c.search.trials = 32
    look_up("choice", choice, CHOICES)(c)
    return c
