"""The labs of NVIDIA's course on data parallelism: time to accuracy against batch and devices.

    python -m scaling.data.prepare fashion_mnist
    python launch.py --config=configs/dli.py:sgd           # for GPUs, as all but the last two
    python launch.py --config=configs/dli.py:throughput
    python launch.py --config=configs/dli.py:small

The lab's WideResNet (17,117,466 parameters) trains on Fashion-MNIST until the validation accuracy
is 0.85 in two epochs in a row. Batches 32 to 256 are those of one to eight GPUs at 32 on each; the
learning rate of 0.01 grows with them. The page has the time and accuracy of every epoch.

    sgd, momentum, warmup, novograd   what the third lab adds, one after another; warmup is with
                                      momentum, over five epochs; novograd with both
    throughput   images per second against the batch and the devices, the second lab
    small        the net with a sixteenth of the channels on digits, batches 32 and 128; two minutes
                 on two CPU cores
    small_throughput   its images per second
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from scaling import models
from scaling.config import default_config, model_config
from scaling.errors import look_up
from scaling.models.layers import Conv, Dropout, max_pool_2x2
from scaling.models.norm import make_norm

EPOCHS = 40


class _Block(nn.Module):
    features: int
    dropout: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x, train, positions):
        y = nn.relu(self.norm()(self.conv(self.features)(x), train=train))
        y = Dropout(self.dropout)(y, train=train, positions=positions)
        y = self.norm()(self.conv(self.features)(y), train=train)
        if x.shape[-1] != self.features:
            x = self.conv(self.features, (1, 1), use_bias=True)(x)
        return nn.relu(y + x)


class LabWideResNet(nn.Module):
    """The lab's net: three stages of two blocks at 10, 20 and 40 times 16 channels, max pooling
    between them, no pre-activation, 1x1 convolutions with a bias where channels change."""

    num_classes: int
    channels: int = 160
    dropout: float = 0.01
    norm: str = "ghost"
    ghost_batch: int = 32
    axis_name: str | None = None
    conv_method: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train, positions=None):
        norm = make_norm(self.norm, self.ghost_batch, self.axis_name, self.dtype)
        conv = functools.partial(Conv, method=self.conv_method, dtype=self.dtype)
        x = nn.relu(norm()(conv(16)(x), train=train))
        for stage in range(3):
            if stage:
                x = max_pool_2x2(x)
            for _ in range(2):
                block = _Block(self.channels * 2**stage, self.dropout, conv, norm)
                x = block(x, train, positions)
        return nn.Dense(self.num_classes)(x.mean((1, 2), dtype=jnp.float32))


models.register("lab_wide_resnet", LabWideResNet)


def _recipe(optimizer, momentum=None, warmup=0):
    def change(c):
        c.data.name = "fashion_mnist"
        c.model = model_config("lab_wide_resnet")
        c.batch_sizes = (32, 64, 128, 256)
        c.duration = f"{EPOCHS} epochs"
        c.optim.name, c.optim.base_lr, c.optim.base_batch = optimizer, 0.01, 32
        c.optim.momentum, c.optim.scaling_rule = momentum, "linear"
        c.schedule.warmup = f"{warmup} epochs"
        c.train.goal, c.train.patience = 0.15, 2  # an accuracy of 0.85 in two epochs

    return change


def _small(c):
    _recipe("momentum", 0.9, 1)(c)
    c.data.name, c.duration = "digits", "10 epochs"
    c.model.channels = 10
    c.batch_sizes = (32, 128)


def _throughput(c):
    c.data.name, c.data.image_shape = "synthetic", (28, 28, 1)
    c.data.num_classes, c.data.train_size = 10, 4096
    c.model = model_config("lab_wide_resnet")
    c.throughput.per_device_batches = (32, 64, 128, 256, 512)
    c.throughput.seconds = 0.5


def _small_throughput(c):
    _throughput(c)
    c.model.channels = 10
    c.throughput.per_device_batches = (32, 64, 128)


TASKS = {
    "sgd": _recipe("sgd"),
    "momentum": _recipe("momentum", 0.9),
    "warmup": _recipe("momentum", 0.9, 5),
    "novograd": _recipe("novograd", warmup=5),
    "small": _small,
    "throughput": _throughput,
    "small_throughput": _small_throughput,
}


def get_config(task: str = "sgd"):
    change = look_up("task", task, TASKS)
    c = default_config("throughput" if "throughput" in task else "train")
    c.title = f"Data-parallel training of the lab's WideResNet, {task}"
    change(c)
    return c
