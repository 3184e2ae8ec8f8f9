"""How a program should use the cores of a CPU.

One thread, where handing work over costs more than the work. A device per core, where there are
convolutions: XLA shares one between threads badly, and a batch well (benchmarks/vs_torch.py).
"""

import os
import warnings
from collections.abc import Iterable

import jax
from ml_collections import ConfigDict

from scaling.batch import plans
from scaling.errors import UserError
from scaling.limits import cores
from scaling.models import MODELS, ghost_batch_of
from scaling.train.point import data_info, numbers_in, shapes_of_variables, task_of

# Measured on two cores: below both, one thread is faster (an MLP at batch 8 by 1.75x). An update is
# then made of operations so short that waking another thread takes longer; above, there is enough
# arithmetic or memory traffic for two.
ONE_THREAD_FLOPS = 2**26  # of one update
ONE_THREAD_PARAMETERS = 2**18
SMALLEST_SHARE = 16  # examples per device, below which convolutions run slowly
# Both are needed for XLA to give 3x3 convolutions to oneDNN: 1.2 times the speed of ResNet-8, the
# same for a Simple CNN of 5x5. The versions of jax that were measured; before they have no effect,
# and a version without them would not start.
ONEDNN = "--xla_cpu_use_onednn=true --xla_cpu_experimental_onednn_custom_call=true"
ONEDNN_IN = ((0, 12),)

_split = {"by_core": False}  # whether JAX was told that every core is a device


def threads_for(config: ConfigDict) -> int | None:
    """1 where the model and batch are small, None for as many as there are cores.

    Asks nothing of the devices, so it can be called before JAX starts them.

    Raises:
      UserError: an unknown model or data set.
    """
    task = task_of(config, data_info(config.data))
    if hasattr(task.model, "conv_method"):
        return None
    parameters = numbers_in(shapes_of_variables(task)[0])
    # Forward and backward: three products of two operations per weight and example, or token.
    flops = (
        6 * parameters * config.global_batch * max(task.amounts(task.example).values(), default=1)
    )
    small = parameters <= ONE_THREAD_PARAMETERS and flops <= ONE_THREAD_FLOPS
    return 1 if small else None


def fit_threads(points: Iterable[ConfigDict]) -> None:
    """Give JAX's CPU client one thread if that suits all points; only before JAX has started it.
    Other platforms do not notice.

    Raises:
      UserError: an unknown model or data set.
    """
    if all(threads_for(point) == 1 for point in points):
        os.environ.setdefault("PJRT_NPROC", "1")


def split_by_core(points: Iterable[ConfigDict]) -> None:
    """Make JAX see every core as a device if that suits all points; only before JAX has started.
    Other platforms do not notice.

    Raises:
      UserError: an unknown model or data set.
    """
    points = list(points)
    for devices in range(cores(), 1, -1):
        if all(_divides(point, devices) for point in points):
            split_cpu(devices)
            _split["by_core"] = True
            return


def use_onednn(config: ConfigDict) -> None:
    """Let oneDNN compute a model's convolutions on a CPU, unless XLA_FLAGS says how; only before
    JAX has started. Numbers change by rounding. Other platforms do not notice.

    XLA cannot save such programs in its cache, so each start compiles them again; JAX's warning of
    it is left out.
    """
    flags, model = os.environ.get("XLA_FLAGS", ""), MODELS.get(str(config.model.get("name")))
    known = jax.__version_info__[:2] in ONEDNN_IN and "onednn" not in flags
    if known and hasattr(model, "conv_method"):
        os.environ["XLA_FLAGS"] = f"{flags} {ONEDNN}"
        warnings.filterwarnings("ignore", "Error writing persistent compilation cache.*MemoryError")


def is_simulated() -> bool:
    """Whether this process pretends that one CPU is several devices, other than its cores."""
    several = jax.default_backend() == "cpu" and jax.local_device_count() > 1
    return several and not _split["by_core"]


def split_cpu(devices: int) -> None:
    """Make JAX see the CPU as several devices; only before JAX has started."""
    # All share this machine's cores, and a collective waits for the slowest: the time after which
    # XLA gives up is lifted.
    os.environ["XLA_FLAGS"] = " ".join(
        [
            os.environ.get("XLA_FLAGS", ""),
            f"--xla_force_host_platform_device_count={devices}",
            "--xla_cpu_collective_call_terminate_timeout_seconds=600",
        ]
    )


def _divides(config, devices):
    """Whether a point has convolutions, and a batch that gives every device enough to do."""
    if config.devices is not None or config.micro_batch is not None:
        return False
    if config.global_batch < devices * SMALLEST_SHARE:
        return False
    info = data_info(config.data)
    if info.streaming:  # too much for a CPU: only planned here, which takes one device half as long
        return False
    task = task_of(config, info)
    if not hasattr(task.model, "conv_method"):
        return False
    try:
        plans(config.global_batch, devices, ghost_batch_of(task.model, config.global_batch))
    except UserError:
        return False
    return True
