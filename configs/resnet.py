"""The ResNet recipe shared by configs/resnet_bs*.py: one model family, nine batch sizes.

Steps, accuracy and images per second as the batch grows from 128 to 32,768 at a fixed number of
epochs. Tasks follow the papers where they have one:

    cifar10        ResNet-8, the default; Shallue 2018's net for CIFAR-10, here with batch norm
    imagenet       ResNet-50 v1.5, 90 epochs, LARS, warmup, polynomial decay (You 2017, Table 4;
                   Goyal 2017's augmentation and zero-initialised residual branches). The learning
                   rate is the paper's 0.6 at 8k, scaled by sqrt elsewhere; the paper tuned 2.5 at
                   16k and 2.9 at 32k: --config.optim.scaling_rule=none --config.optim.base_lr=2.9
    fashion_mnist  ResNet-8
    mnist          ResNet-8
    digits         ResNet-8 on 8x8 images of scikit-learn, without download
    synthetic      ResNet-8 on images generated on the device: throughput without input

The small tasks train with Nesterov momentum, a warmup over the first tenth, polynomial decay, and
the learning rate scaled with the square root of the batch (Hoffer 2017, eq. 7) from 0.1 at 256.
Ghost batch norm shares statistics among 32 examples at every batch size (Hoffer 2017).

    python launch.py --config=configs/resnet_bs8k.py:digits
    python launch.py --config=configs/resnet_sweep.py:digits          # all nine, one after another
"""

from ml_collections import ConfigDict

from scaling.config import default_config, model_config
from scaling.errors import look_up


def recipe(global_batch: int, task: str = "cifar10") -> ConfigDict:
    """The config of one batch size on one task."""
    c = default_config()
    c.title = f"ResNet at global batch {global_batch:,} on {task}"
    c.global_batch = global_batch
    look_up("task", task, TASKS)(c)
    return c


def _small(c, name, epochs, augment="none"):
    c.data.name = name
    c.data.augment = augment
    c.duration = f"{epochs} epochs"
    c.model = model_config("resnet", depth=8, norm="ghost", ghost_batch=32)
    c.optim.name = "nesterov"
    c.optim.base_lr = 0.1
    c.optim.base_batch = 256
    c.optim.scaling_rule = "sqrt"
    c.optim.weight_decay = 1e-4
    c.schedule.name = "polynomial"
    c.schedule.warmup = f"{epochs / 10:g} epochs"
    c.schedule.warmup_init = 0.01  # not zero, which would waste one of few updates
    c.eval.every = f"{epochs / 10:g} epochs"


def _imagenet(c):
    c.data.name = "imagenet"
    c.duration = "90 epochs"
    c.model = model_config("resnet", depth=50, norm="ghost", ghost_batch=32, dtype="bfloat16")
    c.model.zero_init_residual = True
    c.optim.name = "lars"
    c.optim.base_lr = 0.6
    c.optim.base_batch = 8192
    c.optim.scaling_rule = "sqrt"
    c.optim.weight_decay = 1e-4
    c.schedule.name = "polynomial"
    c.schedule.warmup = "5 epochs"
    c.schedule.warmup_init = 0.001
    c.eval.every = "1 epoch"
    c.eval.batch = 2048
    c.checkpoint.every_seconds = 600.0


TASKS = {
    "cifar10": lambda c: _small(c, "cifar10", 30, augment="crop_flip"),
    "imagenet": _imagenet,
    "fashion_mnist": lambda c: _small(c, "fashion_mnist", 15),
    "mnist": lambda c: _small(c, "mnist", 10),
    "digits": lambda c: _small(c, "digits", 250),
    "synthetic": lambda c: _small(c, "synthetic", 10),
}
