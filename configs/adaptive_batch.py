"""Adaptive batches that follow the noise scale against fixed batches (McCandlish 2018, Fig. 16).

    python launch.py --config=configs/adaptive_batch.py:digits
    python launch.py --config=configs/adaptive_batch.py:fashion_mnist

Plain SGD, as in the paper's SVHN run: an MLP with 64 hidden units on digits, an MLP 64-64-64 on
Fashion-MNIST. On two CPU cores the digits take a minute, Fashion-MNIST about three.

The learning rates as functions of the batch are rough: at four batch sizes, the fastest of five
rates a factor of two apart, on the training loss and with seeds not used here (10 and 11; 10 for
Fashion-MNIST), smoothed by eye and below rates that diverge.
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up


def _digits(c):
    c.model = model_config("mlp", widths=(64,))
    c.duration = "200 epochs"
    c.adaptive.batches = tuple(2**i for i in range(3, 10))
    c.adaptive.r = (8.0, 32.0, 128.0)
    c.adaptive.goals = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02)
    # A run is a few hundred updates: many seeds, a fine grid, a short memory.
    c.adaptive.seeds, c.adaptive.resolution, c.adaptive.memory = 10, 0.01, 25.0
    c.adaptive.rate_star, c.adaptive.batch_star = 1.0, 24.0


def _fashion_mnist(c):
    c.data.name = "fashion_mnist"
    c.model = model_config("mlp", widths=(64, 64, 64))
    c.duration = "20 epochs"
    c.adaptive.batches = tuple(2**i for i in range(4, 12))
    c.adaptive.r = (16.0, 64.0, 256.0)
    c.adaptive.largest = 4096
    c.adaptive.goals = (1.0, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35)
    c.adaptive.seeds = 5
    c.adaptive.rate_star, c.adaptive.batch_star = 0.22, 64.0


TASKS = {"digits": _digits, "fashion_mnist": _fashion_mnist}


def get_config(task: str = "digits"):
    c = default_config("adaptive_batch")
    c.title = f"Batches that follow the noise scale on {task}"
    c.optim.name = "sgd"
    look_up("task", task, TASKS)(c)
    return c
