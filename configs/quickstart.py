"""How far can the batch size grow? The main study, in a minute on two CPU cores.

    python launch.py --config=configs/quickstart.py

An MLP 64-64-10 trains on scikit-learn's handwritten digits with Nesterov momentum to a validation
error below 2.5%. At every batch size from 1 to all 1,197 training images, 64 pairs of learning rate
and momentum are tried (Shallue 2018); the report shows the steps against the batch size, and where
larger batches stop saving steps.
"""

from scaling.config import default_config, model_config


def get_config():
    c = default_config("steps_to_target")
    c.title = "Steps to 2.5% validation error on digits, an MLP with 64 hidden units"
    c.batch_sizes = (*(2**i for i in range(11)), 1197)
    c.data.name = "digits"
    c.model = model_config("mlp", widths=(64,))
    c.optim.name = "nesterov"
    c.search.trials = 64
    c.search.space = {
        "learning_rate": ("log", 3e-3, 1.0),
        "momentum": ("reverse_log", 0.7, 0.98),
    }
    c.target.goal = 0.025
    c.target.margin = 3.0  # enough crossings for an interval of the minimum
    c.target.budget = ("200 steps", "20 epochs")
    return c
