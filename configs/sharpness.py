"""Do large batches find sharp minima (Keskar 2016), and do measures that a rescaled layer leaves
unchanged say the same (Andriushchenko 2023)?

    python launch.py --config=configs/sharpness.py:digits       # two minutes on two CPU cores
    python -m scaling.data.prepare fashion_mnist
    python launch.py --config=configs/sharpness.py:fashion_mlp  # F1 at a quarter of its width
    python launch.py --config=configs/sharpness.py:tuned        # Muon too, every rate tuned
    python launch.py --config=configs/sharpness.py:keskar       # F1, Adam, 256 and a tenth
    python launch.py --config=configs/sharpness.py:along        # and along training (Fig. 6)

Every net is measured where its training loss first is 0.01 or less (`fashion_mlp`: 0.1 too, which
all batch sizes come to), and after the last update.
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up


def _digits(c):
    c.model = model_config("mlp", widths=(32, 32), norm="batch")
    c.batch_sizes, c.optim.base_batch = (32, 128, 512), 32
    c.optim.name, c.optim.base_lr = "nesterov", 0.05
    c.duration, c.recipes.seeds, c.recipes.names = "150 epochs", 3, ("naive", "sqrt+gbn")
    c.title = "Sharpness on digits, an MLP 32-32 with batch norm"


def _fashion_mlp(c):
    c.data.name = "fashion_mnist"
    c.model = model_config("mlp", widths=(128,) * 5, norm="batch")
    c.batch_sizes, c.optim.base_batch = (128, 512, 2048, 8192), 128
    c.optim.name, c.optim.base_lr = "nesterov", 0.1
    c.duration, c.recipes.seeds, c.sharpness.losses = "100 epochs", 3, (0.1, 0.01)
    c.title = "Sharpness on Fashion-MNIST, F1 with 128 units"


def _tuned(c):
    _fashion_mlp(c)
    c.batch_sizes, c.duration, c.recipes.seeds = (128, 2048, 8192), "50 epochs", 5
    c.recipes.names, c.sharpness.trials = ("naive", "sqrt+gbn", "lars", "muon"), 6
    c.title = "Sharpness on Fashion-MNIST, F1 with 128 units, every recipe's rate tuned"


def _keskar(c):
    c.data.name = "fashion_mnist"
    c.model = model_config("mlp", widths=(512,) * 5, norm="batch")
    c.batch_sizes, c.optim.base_batch = (256, 5500), 256
    c.optim.name, c.optim.base_lr = "adam", 1e-3
    c.duration, c.recipes.names = "100 epochs", ("naive",)
    c.title = "Sharpness on Fashion-MNIST, F1 with Adam (Keskar 2016, Tables 2 to 4)"


def _along(c):
    _keskar(c)
    c.duration, c.recipes.seeds = "30 epochs", 2
    c.sharpness.losses = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
    c.sharpness.average_rho, c.sharpness.worst_rho = (), ()  # Metric 2.1 and the Hessian only
    c.title = "Sharpness along training on Fashion-MNIST, F1 with Adam (Keskar 2016, Fig. 6)"


TASKS = {
    "digits": _digits,
    "fashion_mlp": _fashion_mlp,
    "tuned": _tuned,
    "keskar": _keskar,
    "along": _along,
}


def get_config(task: str = "digits"):
    c = default_config("sharpness")
    look_up("task", task, TASKS)(c)
    return c
