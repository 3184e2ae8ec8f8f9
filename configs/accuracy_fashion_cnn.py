"""The accuracy a small CNN loses at large batches on Fashion-MNIST, and which rule recovers it.

    python -m scaling.data.prepare fashion_mnist
    python launch.py --config=configs/accuracy_fashion_cnn.py              # two CPU cores
    python launch.py --config=configs/accuracy_fashion_cnn.py:full         # for a GPU
    python launch.py --config=configs/accuracy_fashion_cnn.py:full_tuned

Shallue 2018's narrow Simple CNN, without batch norm (like the AlexNet that You 2017 could train at
large batches only with LARS), ten epochs with polynomial decay. `small` trains on the first 2,500
images. `full_tuned` tunes the rate of momentum, LARS and others at every batch.
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up

RULES = (
    "naive",
    "sqrt",
    "linear",
    "linear+constant_warmup",
    "linear+warmup",
    "noise",
    "smoothing",
    "lars+warmup+poly",
)
TUNED = ("naive", "linear+warmup", "smoothing", "lars+warmup+poly", "adamw+warmup+poly")
TASKS = {
    "small": ("naive", "sqrt", "linear", "linear+warmup", "lars+warmup+poly"),
    "full": RULES,
    "full_tuned": TUNED,
}


def get_config(task: str = "small"):
    c = default_config("accuracy")
    c.recipes.names = look_up("task", task, TASKS)
    c.title = f"Large batches on Fashion-MNIST, the narrow Simple CNN, {task}"
    c.batch_sizes = (128, 1024, 4096, 8192, 16384)
    c.data.name = "fashion_mnist"
    if task == "small":
        c.data.train_size, c.batch_sizes = 2500, (128, 1024)
    c.model = model_config("simple_cnn", size="narrow")
    c.optim.name, c.optim.momentum, c.optim.weight_decay = "momentum", 0.9, 1e-4
    c.optim.base_lr, c.optim.base_batch = 0.02, 128
    c.schedule.name = "polynomial"
    c.duration, c.recipes.warmup = "10 epochs", "1 epoch"
    if task == "full_tuned":
        c.accuracy.trials = c.recipes.seeds
    return c
