r"""Which batch size, on how many devices, how long and at what cost?

    python launch.py --config=configs/advise.py:digits
    python launch.py --config=configs/advise.py:digits \
        --config.advise.records=runs/quickstart

Measures memory and throughput over per-device batch sizes on this machine, trains one run with
tracking of the gradient noise scale (McCandlish 2018), and reports a table, a figure of time
against cost, and a recommendation. With the records of a finished steps-to-target study of the same
task, steps are those of its fitted curve. Set your price and network: --config.advise.price=2.5
--config.advise.network=dgx-h100.

    digits         the MLP of configs/quickstart.py; two minutes on two CPU cores
    fashion_mnist  the MLP of configs/fashion_mlp.py
    mnist, cifar10, imagenet  the ResNets of configs/resnet.py at batch 256; for a GPU
"""

from configs import resnet
from scaling.config import default_config, model_config
from scaling.errors import look_up


def _digits(c):
    c.model = model_config("mlp", widths=(64,))
    c.global_batch = 64
    c.optim.base_lr, c.optim.momentum = 0.05, 0.9
    c.duration, c.eval.every = "20 epochs", "10 steps"
    c.advise.goal = 0.04


def _fashion_mnist(c):
    c.data.name = "fashion_mnist"
    c.model = model_config("mlp", widths=(64, 64, 64))
    c.global_batch = 128
    c.optim.base_lr, c.optim.momentum = 0.02, 0.9
    c.duration, c.eval.every = "5 epochs", "50 steps"
    c.advise.goal = 0.14


def _resnet(task):
    def change(c):
        recipe = resnet.recipe(256, task)
        for key in ("data", "model", "optim", "schedule", "eval", "duration"):
            c[key] = recipe[key]
        c.global_batch = 256

    return change


TASKS = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    **{task: _resnet(task) for task in ("mnist", "cifar10", "imagenet")},
}


def get_config(task: str = "digits"):
    c = default_config("advise")
    c.title = f"Which batch size on how many devices, {task}"
    look_up("task", task, TASKS)(c)
    c.advise.rule = "sqrt"
    return c
