"""The accuracy an MLP loses at large batches on Fashion-MNIST, and which recipe recovers it.

    python -m scaling.data.prepare fashion_mnist
    python launch.py --config=configs/accuracy_fashion_mlp.py              # two CPU cores
    python launch.py --config=configs/accuracy_fashion_mlp.py:tuned
    python launch.py --config=configs/accuracy_fashion_mlp.py:f1           # for a GPU
    python launch.py --config=configs/accuracy_fashion_mlp.py:f1_tuned

F1 of Keskar 2016 and Hoffer 2017, five hidden layers with batch norm, at Hoffer's learning rate for
batch 128, with polynomial decay (You 2017). At a fixed number of epochs a batch of 16,384 has 128
times fewer updates. `small` is 128 units wide instead of 512.

The recipes of `small` and `f1` are scaling rules of the learning rate. Those of `tuned` and
`f1_tuned` differ in more than the rate, which is tuned for each of them at every batch size
(Shallue 2018 discusses why that matters); there `naive` is tuning alone.
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up

RULES = (
    "naive",
    "sqrt",
    "sqrt+warmup",
    "linear",
    "linear+constant_warmup",
    "linear+warmup",
    "sqrt+gbn",
    "linear+warmup+gbn",
    "noise",
)
MEANS = (
    "naive",
    "linear+warmup",
    "gbn",
    "linear+warmup+gbn",
    "noise",
    "smoothing",
    "lars+warmup+poly",
)
OPTIMIZERS = tuple(f"{name}+warmup+poly" for name in ("larc", "lamb", "novograd", "adamw", "muon"))


def _rules(c, width):
    c.title = f"Large batches on Fashion-MNIST by rule, F1 with {width} units"
    c.recipes.names = RULES


def _tuned(c, width):
    c.title = f"Large batches on Fashion-MNIST, every recipe's rate tuned, F1 with {width} units"
    c.recipes.names = MEANS + OPTIMIZERS
    c.accuracy.trials = c.recipes.seeds


def _small_tuned(c, width):
    _tuned(c, width)
    c.recipes.names, c.batch_sizes = MEANS, (128, 1024, 8192)


# Task -> units per layer, seeds, and the comparison.
TASKS = {
    "small": (128, 5, _rules),
    "tuned": (128, 5, _small_tuned),
    "f1": (512, 6, _rules),
    "f1_tuned": (512, 6, _tuned),
}


def get_config(task: str = "small"):
    width, seeds, compare = look_up("task", task, TASKS)
    c = default_config("accuracy")
    c.batch_sizes = (128, 1024, 4096, 8192, 16384)
    c.data.name = "fashion_mnist"
    c.model = model_config("mlp", widths=(width,) * 5, norm="batch")
    c.optim.name, c.optim.momentum, c.optim.weight_decay = "momentum", 0.9, 1e-4
    c.optim.base_lr, c.optim.base_batch = 0.1, 128
    c.schedule.name = "polynomial"
    c.duration = "10 epochs" if width < 512 else "15 epochs"
    c.recipes.warmup, c.recipes.seeds = "2 epochs", seeds
    compare(c, width)
    return c
