"""What changes the largest useful batch of a language model? On the King James Bible.

One study per choice, then one report over the compared ones, the first being the reference:

    python -m scaling.data.prepare kjv
    python launch.py --config=configs/kjv_comparisons.py:adam
    python launch.py --config=configs/kjv_comparisons.py:muon
    python launch.py --report=runs/kjv_comparisons-adam,runs/kjv_comparisons-muon

    optimizer    sgd, nesterov, adam, muon
    averaging    adam_average: the goal is for an average of the weights
    model size   adam, narrow (42,144 parameters), wide (463,488)
    goal         goal_4.5, goal_4.2, adam (3.9), goal_3.7

The study of configs/kjv_lm.py at five batch sizes from 2 to 128 rows.
"""

from configs.kjv_lm import SMALL
from configs.kjv_lm import get_config as base
from scaling.config import model_config
from scaling.errors import look_up

GOALS = (4.5, 4.2, 3.7)


def _momentum(c, name):
    c.optim.name = name
    c.search.space = {"learning_rate": ("log", 1e-2, 3.0)}
    if name == "nesterov":
        c.search.trials = 32
        c.search.space = {
            "learning_rate": ("log", 1e-2, 1.0),
            "momentum": ("reverse_log", 0.7, 0.98),
        }


def _muon(c):
    c.optim.name = "muon"


def _average(c):
    c.optim.ewa_half_life = "4096 tokens"
    c.target.metric = "ewa_loss"


def _size(c, width):
    c.model = model_config("transformer", **SMALL | {"width": width, "ffn": 4 * width})


def _wide(c):
    _size(c, 128)
    c.search.space = {"learning_rate": ("log", 3e-4, 1e-2)}  # its best ones are lower


def _goal(c, goal):
    c.target.goal = goal


CHOICES = {
    "adam": lambda c: None,
    "sgd": lambda c: _momentum(c, "sgd"),
    "nesterov": lambda c: _momentum(c, "nesterov"),
    "muon": _muon,
    "adam_average": _average,
    "narrow": lambda c: _size(c, 32),
    "wide": _wide,
    **{f"goal_{goal:g}": lambda c, goal=goal: _goal(c, goal) for goal in GOALS},
}


def get_config(choice: str = "adam"):
    c = base()
    c.batch_sizes = (2, 8, 32, 64, 128)
    look_up("choice", choice, CHOICES)(c)
    c.title = f"King James Bible, comparisons: {choice}"
    return c
