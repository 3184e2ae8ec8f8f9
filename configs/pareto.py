"""Steps against examples for several training losses, with the critical batch size and the noise
scale of each (McCandlish 2018, Fig. 7, 14 and Table 1).

    python launch.py --config=configs/pareto.py:digits
    python launch.py --config=configs/pareto.py:digits_cnn
    python launch.py --config=configs/pareto.py:fashion_mnist

At every batch size the learning rate of plain SGD is tuned; the best trial then runs again with
tracking of the gradient noise. Tasks: an MLP with 64 hidden units on digits, the narrow Simple CNN
on digits, an MLP 64-64-64 on Fashion-MNIST.
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up


def _digits(c):
    c.model = model_config("mlp", widths=(64,))
    c.batch_sizes = tuple(2**i for i in range(11))
    c.search.space = {"learning_rate": ("log", 0.01, 10.0)}
    c.target.budget = ("400 steps", "15 epochs")
    c.pareto.goals = (1.0, 0.5, 0.25, 0.15, 0.1)


def _digits_cnn(c):
    _digits(c)
    c.model = model_config("simple_cnn", size="narrow")
    c.search.trials = 16
    c.batch_sizes = tuple(2**i for i in range(2, 11))
    c.search.space = {"learning_rate": ("log", 0.003, 3.0)}


def _fashion_mnist(c):
    c.data.name = "fashion_mnist"
    c.model = model_config("mlp", widths=(64, 64, 64))
    c.batch_sizes = tuple(2**i for i in range(3, 14))
    c.search.space = {"learning_rate": ("log", 0.01, 3.0)}
    c.target.budget = ("1500 steps", "5 epochs")
    c.pareto.goals = (1.0, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35)


TASKS = {"digits": _digits, "digits_cnn": _digits_cnn, "fashion_mnist": _fashion_mnist}


def get_config(task: str = "digits"):
    c = default_config("pareto")
    c.title = f"Steps and examples to training losses, and the noise scale, on {task}"
    c.optim.name = "sgd"
    c.search.trials = 32
    c.target.margin = 1.0
    look_up("task", task, TASKS)(c)
    return c
