"""The gradient noise scale of a tuned run and its dependences (McCandlish 2018, Fig. 14, 15).

    python launch.py --config=configs/noise_scale.py:digits
    python launch.py --config=configs/noise_scale.py:fashion_mnist

The run; the same at other learning rates, at other batch sizes of equal temperature, and with
narrower and wider models; and the temperature test, which divides the learning rate by 16 for half
an epoch. Plain SGD, as in the paper's MNIST and SVHN runs. The learning rates are the best of
configs/pareto.py at these batch sizes. On two CPU cores digits takes half a minute, Fashion-MNIST a
few minutes.
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up


def _digits(c):
    c.model = model_config("mlp", widths=(64,))
    c.global_batch, c.micro_batch = 64, 8
    c.noise.batches = (32, 128)
    c.optim.base_lr = 0.3
    c.duration, c.eval.every = "20 epochs", "1 epoch"
    c.noise.models = {"narrow": {"widths": (16,)}, "wide": {"widths": (256,)}}
    c.noise.dip_from, c.noise.dip_to = "5 epochs", "10 epochs"  # an epoch has only 19 updates


def _fashion_mnist(c):
    c.data.name = "fashion_mnist"
    c.model = model_config("mlp", widths=(64, 64, 64))
    c.global_batch, c.micro_batch = 128, 16
    c.noise.batches = (64, 256)
    c.optim.base_lr = 0.1
    c.duration, c.eval.every = "6 epochs", "0.5 epochs"
    c.noise.models = {"narrow": {"widths": (16,) * 3}, "wide": {"widths": (256,) * 3}}


TASKS = {"digits": _digits, "fashion_mnist": _fashion_mnist}


def get_config(task: str = "digits"):
    c = default_config("noise_scale")
    c.title = f"The gradient noise scale on {task}"
    c.optim.name = "sgd"
    c.noise.rates = (0.25, 0.5, 2.0, 4.0)
    c.noise.exact = True
    look_up("task", task, TASKS)(c)
    # Constant temperature, rate / batch, at other batch sizes.
    c.optim.scaling_rule, c.optim.base_batch = "linear", c.global_batch
    return c
