"""Steps to 14% validation error on Fashion-MNIST, an MLP 784-64-64-64-10, batch 8 to 8,192.

    python -m scaling.data.prepare fashion_mnist
    python launch.py --config=configs/fashion_mlp.py

The study of configs/quickstart.py on a real task: 64 trials of learning rate and momentum at each
of eleven batch sizes (Shallue 2018). About a quarter of an hour on two CPU cores.
"""

from scaling.config import default_config, model_config


def get_config():
    c = default_config("steps_to_target")
    c.title = "Steps to 14% validation error on Fashion-MNIST, an MLP 64-64-64"
    c.batch_sizes = tuple(2**i for i in range(3, 14))
    c.data.name = "fashion_mnist"
    c.model = model_config("mlp", widths=(64, 64, 64))
    c.optim.name = "nesterov"
    c.search.trials = 64
    c.search.space = {
        "learning_rate": ("log", 1e-3, 1.0),
        "momentum": ("reverse_log", 0.7, 0.99),
    }
    c.target.goal = 0.14
    c.target.budget = ("1000 steps", "5 epochs")
    return c
