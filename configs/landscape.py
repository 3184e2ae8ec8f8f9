"""The loss around and between nets of a small and a large batch (Keskar 2016, Li 2018).

    python launch.py --config=configs/landscape.py:digits        # about a minute on two CPU cores
    python -m scaling.data.prepare fashion_mnist
    python launch.py --config=configs/landscape.py:fashion_mlp   # F1 at a quarter of its width
    python launch.py --config=configs/landscape.py:keskar        # F1, Adam, 256 and a tenth
    python launch.py --config=configs/landscape.py:vgg9          # Li 2018's, on CIFAR-10: a GPU
    python launch.py --config=configs/landscape.py:resnet56
    python launch.py --config=configs/landscape.py --config.landscape.of=RUN,RUN

RUN is the folder of a finished training run of any config, runs/my_config/bs256: nothing is trained
then. Each net is moved along the same random directions, normalised by its own filters; the paths
between two nets go on beyond both.
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up


def _digits(c):
    c.model = model_config("mlp", widths=(32, 32), norm="batch")
    c.batch_sizes, c.landscape.durations = (32, 1024), ("30 epochs", "90 epochs")
    c.landscape.map, c.landscape.map_steps, c.landscape.map_examples = 9, 30, 500
    c.title = "Loss surfaces on digits, an MLP 32-32 with batch norm"


def _fashion_mlp(c):
    c.data.name = "fashion_mnist"
    c.model = model_config("mlp", widths=(128,) * 5, norm="batch")
    c.batch_sizes, c.landscape.durations = (128, 8192), ("20 epochs", "60 epochs")
    c.landscape.plane, c.landscape.map = 51, 11
    c.title = "Loss surfaces on Fashion-MNIST, F1 with 128 units"


def _keskar(c):
    c.data.name = "fashion_mnist"
    c.model = model_config("mlp", widths=(512,) * 5, norm="batch")
    c.optim.name, c.optim.base_lr, c.schedule.name = "adam", 1e-3, "constant"
    c.batch_sizes, c.duration = (256, 5500), "30 epochs"
    c.landscape.weight_decays, c.landscape.trajectory = (0.0,), 0
    c.landscape.directions, c.landscape.line, c.landscape.plane = 2, 25, 1
    c.title = "Loss between nets on Fashion-MNIST, F1 with Adam (Keskar 2016, Fig. 3)"


def _cifar10(c, model, batches):
    c.data.name, c.data.augment = "cifar10", "crop_flip"
    c.model, c.batch_sizes, c.duration = model, batches, "300 epochs"
    c.schedule.name, c.schedule.decay_factor = "step", 0.1
    c.schedule.boundaries = ("150 epochs", "225 epochs", "275 epochs")
    c.landscape.plane, c.landscape.map = 51, 11
    c.title = "Loss surfaces on CIFAR-10 (Li 2018)"


def _vgg9(c):
    _cifar10(c, model_config("vgg", depth=9, norm="batch"), (128, 8192))


def _resnet56(c):
    _cifar10(c, model_config("resnet", depth=56, norm="batch"), (128, 4096))


TASKS = {
    "digits": _digits,
    "fashion_mlp": _fashion_mlp,
    "keskar": _keskar,
    "vgg9": _vgg9,
    "resnet56": _resnet56,
}


def get_config(task: str = ""):
    c = default_config("landscape")
    c.optim.name = "nesterov"
    c.optim.base_lr, c.schedule.name = 0.1, "cosine"
    look_up("task", task or "digits", TASKS)(c)
    if not task:  # of runs that landscape.of may name
        c.title = "Loss surfaces"
    return c
