"""What is known of each data set, without opening its files."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling.durations import to_steps
from scaling.errors import look_up

Example = Mapping[str, tuple[tuple[int, ...], Any]]  # name -> (shape, dtype) of one example


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """Metadata of a data set, without opening files.

    Attributes:
      example: name -> (shape, dtype) of the arrays of one example.
      num_classes: numbers that a model gives: classes, labels, vocabulary.
      sizes: split name -> number of examples.
      mean, std: per channel, of uint8 training images ("image") on the 0..1 scale.
      streaming: whether the set does not fit on a device and is read by `streaming`.
      task: in `tasks.TASKS`.
      options: of the task.
      folder: of tokens, or of `deepcam`.
      files: what a run records of its files, which may differ under the same name.
    """

    name: str
    example: Example
    num_classes: int
    sizes: dict[str, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    streaming: bool = False
    task: str = "classification"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    files: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def bytes_each(self) -> int:
        """Of one example."""
        kinds = self.example.values()
        return sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in kinds)

    @property
    def amounts(self) -> dict[str, int]:
        """What an example has of units other than examples, such as {"tokens": 128}."""
        return task_class(self.task).amounts(self.example)

    def amount_text(self, examples: int) -> str:
        """1,024 examples; 1,024 examples = 131,072 tokens"""
        units = {"examples": 1} | self.amounts
        return " = ".join(f"{examples * each:,} {unit}" for unit, each in units.items())

    def steps(self, duration: str, batch: int) -> int:
        """`durations.to_steps` on the training set; UserError as there."""
        return to_steps(duration, batch, self.sizes["train"], self.amounts)


def task_class(name: str) -> Any:
    """The task of that name; UserError if there is none. Reading data does not need JAX."""
    from scaling.tasks import TASKS

    return look_up("task", name, TASKS)


Split = dict[str, np.ndarray]  # arrays of a split in host memory by name, [N, ...]


def sizes_of(train: int, validation: int, test: int) -> dict[str, int]:
    return {"train": train, "validation": validation, "test": test}


def images(shape: Sequence[int]) -> Example:
    """An example that is an image and its class."""
    return {"image": (tuple(shape), "uint8"), "label": ((), "int32")}


_GREY, _COLOUR = images((28, 28, 1)), images((32, 32, 3))


def maps(name: str, height: int, width: int, *sizes: int) -> DataInfo:
    """Of maps with the class of every pixel, see `climate`. `deepcam` tells the frequencies of the
    classes. Those of `synthetic_climate` at 96x144 are within 5% of them, of cyclones within 15%;
    smaller maps have fewer rivers, at 32x48 none."""
    example = {"image": ((height, width, 16), "float32"), "label": ((height, width), "uint8")}
    options = {"frequencies": (0.98627, 0.00046, 0.01327)}
    return DataInfo(name, example, 3, sizes_of(*sizes), task="segmentation", options=options)


INFOS = {
    info.name: info
    for info in (
        DataInfo("digits", images((8, 8, 1)), 10, sizes_of(1_197, 300, 300), (0.3058,), (0.3755,)),
        DataInfo("mnist", _GREY, 10, sizes_of(55_000, 5_000, 10_000), (0.1307,), (0.3081,)),
        DataInfo("fashion_mnist", _GREY, 10, sizes_of(55_000, 5_000, 10_000), (0.2860,), (0.3530,)),
        DataInfo(
            "cifar10",
            _COLOUR,
            10,
            sizes_of(45_000, 5_000, 10_000),
            (0.4914, 0.4822, 0.4465),
            (0.2470, 0.2435, 0.2616),
        ),
        DataInfo(
            "cifar100",
            _COLOUR,
            100,
            sizes_of(45_000, 5_000, 10_000),
            (0.5071, 0.4865, 0.4409),
            (0.2673, 0.2564, 0.2762),
        ),
        DataInfo(
            "imagenet",
            images((224, 224, 3)),
            1000,
            sizes_of(1_231_167, 50_000, 50_000),
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
            streaming=True,
        ),
        # Version 4, the images with boxes, of at most 300,000 pixels; statistics of ImageNet.
        DataInfo(
            "open_images",
            {"image": ((224, 224, 3), "uint8"), "label": ((7_186,), "uint8")},
            7_186,
            sizes_of(1_743_042, 41_620, 125_436),
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
            streaming=True,
            task="multi_label",
        ),
        DataInfo(
            "openclipart",
            {"image": ((32, 32, 3), "uint8"), "label": ((22,), "uint8")},
            22,
            sizes_of(5_483, 706, 492),
            (0.8457, 0.8351, 0.8086),
            (0.2727, 0.2762, 0.3109),
            task="multi_label",
        ),
        maps("synthetic_climate", 96, 144, 320, 64, 64),
        maps("deepcam", 768, 1152, 121_266, 15_158, 15_158),
    )
}

OWN = (*INFOS, "synthetic")
GENERATED = ("synthetic", "synthetic_climate")
SPLITS = ("train", "validation", "test")
