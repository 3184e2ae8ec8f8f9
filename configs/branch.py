"""The critical batch size along a run, measured by branches from it (Merrill et al. 2025).

    python launch.py --config=configs/branch.py:digits
    python launch.py --config=configs/branch.py:fashion_mnist
    python launch.py --config=configs/branch.py:kjv      # a language model, with Adam

From each snapshot of one run, training goes on at 1, 2, 4, ... times its batch size for the same
number of examples, with a learning rate in proportion (SGD) or to the square root (Adam). The
largest batch that ends with no more than 0.01 of extra loss is the critical one there; beside it
the noise scale B_simple, which should predict it. Digits take two minutes on two CPU cores,
Fashion-MNIST about ten; the language model takes longer, see --dry_run.
"""

from configs.kjv_lm import SMALL
from scaling.config import default_config, model_config
from scaling.errors import look_up


def _digits(c):
    c.model = model_config("mlp", widths=(64,))
    c.global_batch, c.optim.base_lr = 8, 0.05
    c.branch.snapshots = ("0 steps", "50 steps", "150 steps", "450 steps", "1350 steps")
    c.branch.factors = (1, 2, 4, 8, 16, 32, 64)
    c.branch.window = "2048 examples"


def _fashion_mnist(c):
    c.data.name = "fashion_mnist"
    c.model = model_config("mlp", widths=(64, 64, 64))
    c.global_batch, c.optim.base_lr = 16, 0.02
    c.branch.snapshots = ("0 steps", "300 steps", "1000 steps", "3000 steps", "10000 steps")
    c.branch.factors = (1, 2, 4, 8, 16, 32, 64, 128)
    c.branch.window = "32768 examples"


def _kjv(c):
    c.data.name, c.data.length, c.data.validation_size = "kjv", 32, 256
    c.model = model_config("transformer", **SMALL)
    c.global_batch = 4
    c.optim.name, c.optim.base_lr, c.optim.scaling_rule = "adam", 0.002, "sqrt"
    c.branch.snapshots = ("0 steps", "100 steps", "300 steps", "900 steps", "2700 steps")
    c.branch.factors = (1, 2, 4, 8, 16, 32, 64)
    c.branch.window = "2048 examples"


TASKS = {"digits": _digits, "fashion_mnist": _fashion_mnist, "kjv": _kjv}


def get_config(task: str = "digits"):
    c = default_config("branch")
    c.title = f"The critical batch size along a run on {task}"
    c.optim.name, c.optim.scaling_rule = "sgd", "linear"
    look_up("task", task, TASKS)(c)
    c.optim.base_batch = c.global_batch
    c.branch.rates = (0.5, 1.0)
    return c
