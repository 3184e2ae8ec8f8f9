"""Steps to 3.9 nats per token on the King James Bible, a Transformer of 133,440 parameters.

    python -m scaling.data.prepare kjv
    python launch.py --config=configs/kjv_lm.py

The study of configs/quickstart.py on a language model: rows of 32 tokens of a vocabulary of 512,
and at each of eight batch sizes from 2 to 256 rows 16 learning rates of Adam; eleven minutes on two
CPU cores. Variants, as in configs/kjv_lm.py:nesterov:

    nesterov    Nesterov momentum as in Shallue 2018, 32 pairs of learning rate and momentum
    averaged    the goal is on averaged weights, whose decay is searched too; 32 trials
    lstm        an LSTM of 107,008 parameters
    modern      rotary positions, RMS norms, normalised queries and keys, no biases
    bytes       a quick one, of 2.3 nats per byte with a smaller model: it needs
                python -m scaling.data.prepare kjv --tokenizer=bytes --name=kjv_bytes
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up
from scaling.models.transformer import MODERN

SMALL = {"layers": 2, "width": 64, "ffn": 256, "heads": 4, "bias": False, "activation": "gelu"}


def _nesterov(c):
    c.optim.name = "nesterov"
    c.search.trials = 32
    c.search.space = {"learning_rate": ("log", 1e-2, 1.0), "momentum": ("reverse_log", 0.7, 0.98)}


def _averaged(c):
    c.optim.ewa_half_life, c.target.metric = "1k tokens", "ewa_loss"
    c.search.trials = 32
    c.search.space = {"learning_rate": ("log", 1e-3, 3e-2), "ewa_decay": ("reverse_log", 0.5, 0.99)}


def _lstm(c):
    c.model = model_config("lstm", width=64, cells=128, tied=True)
    c.search.space = {"learning_rate": ("log", 3e-3, 1e-1)}


def _modern(c):
    c.model = model_config("transformer", **SMALL | MODERN)


def _bytes(c):
    c.data.name = "kjv_bytes"
    c.model = model_config("transformer", **SMALL | {"layers": 1, "width": 32, "ffn": 128})
    c.batch_sizes = (8, 32, 128)
    c.search.trials = 8
    c.target.goal = 2.3


VARIANTS = {
    "adam": lambda c: None,
    "nesterov": _nesterov,
    "averaged": _averaged,
    "lstm": _lstm,
    "modern": _modern,
    "bytes": _bytes,
}


def get_config(variant: str = "adam"):
    c = default_config("steps_to_target")
    c.batch_sizes = tuple(2**i for i in range(1, 9))
    c.data.name, c.data.length, c.data.validation_size = "kjv", 32, 256
    c.model = model_config("transformer", **SMALL)
    c.optim.name = "adam"
    c.search.trials = 16
    c.search.space = {"learning_rate": ("log", 1e-3, 3e-2)}
    c.target.metric, c.target.goal = "loss", 3.9
    c.target.budget = ("1000 steps", "1M tokens")
    look_up("variant", variant, VARIANTS)(c)
    c.title = f"A language model of the King James Bible: {variant}"
    return c
