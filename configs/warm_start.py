"""Does a small batch only have to begin the work? Large-batch training from the weights of every
few epochs of a small-batch run (Keskar 2016, Fig. 5).

    python launch.py --config=configs/warm_start.py:digits       # about a minute on two CPU cores
    python -m scaling.data.prepare fashion_mnist
    python launch.py --config=configs/warm_start.py:fashion_mlp  # F1 at a quarter of its width
    python launch.py --config=configs/warm_start.py:keskar       # F1, Adam, 256 and a tenth

All starts train as one population. Beside the validation error are Keskar's sharpness and the
largest eigenvalue of the Hessian, of the nets at every start and of those that come from it. With
`--config.warm_start.every="1 epoch"` there are as many starts as in the paper, 100.
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up


def _digits(c):
    c.model = model_config("mlp", widths=(32, 32), norm="batch")
    c.global_batch, c.warm_start.batch = 16, 512
    c.optim.name, c.optim.base_lr = "nesterov", 0.05
    c.duration, c.warm_start.duration, c.warm_start.every = "30 epochs", "30 epochs", "3 epochs"
    c.warm_start.seeds = 5
    c.title = "Warm starts on digits, an MLP 32-32 with batch norm"


def _fashion_mlp(c):
    c.data.name = "fashion_mnist"
    c.model = model_config("mlp", widths=(128,) * 5, norm="batch")
    c.global_batch, c.warm_start.batch = 128, 8192
    c.optim.name, c.optim.base_lr = "nesterov", 0.1
    c.duration, c.warm_start.duration, c.warm_start.every = "20 epochs", "20 epochs", "2 epochs"
    c.title = "Warm starts on Fashion-MNIST, F1 with 128 units"


def _keskar(c):
    c.data.name = "fashion_mnist"
    c.model = model_config("mlp", widths=(512,) * 5, norm="batch")
    c.global_batch, c.warm_start.batch = 256, 5500
    c.optim.name, c.optim.base_lr = "adam", 1e-3
    c.duration, c.warm_start.duration = "100 epochs", "100 epochs"
    c.warm_start.every, c.warm_start.eps = "10 epochs", (1e-3, 5e-4)
    c.title = "Warm starts on Fashion-MNIST, F1 with Adam (Keskar 2016, Fig. 5)"


TASKS = {"digits": _digits, "fashion_mlp": _fashion_mlp, "keskar": _keskar}


def get_config(task: str = "digits"):
    c = default_config("warm_start")
    look_up("task", task, TASKS)(c)
    c.optim.base_batch = c.global_batch
    return c
