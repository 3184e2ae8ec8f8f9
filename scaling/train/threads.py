"""How many CPU threads a program should have: one, where handing work over costs more than it."""

import math
import os
from collections.abc import Iterable

import jax
from ml_collections import ConfigDict

from scaling.models import build_model
from scaling.tasks import Classification
from scaling.train.point import data_info

# Measured on two cores: below both, one thread is faster (an MLP at batch 8 by 1.75x). An update is
# then made of operations so short that waking another thread takes longer; above, there is enough
# arithmetic or memory traffic for two.
ONE_THREAD_FLOPS = 2**26  # of one update
ONE_THREAD_PARAMETERS = 2**18


def threads_for(config: ConfigDict) -> int | None:
    """1 where the model and batch are small, None for as many as there are cores.

    Asks nothing of the devices, so it can be called before JAX starts them.

    Raises:
      UserError: an unknown model or data set.
    """
    info = data_info(config.data)
    options = config.model.to_dict()
    model = build_model(options.pop("name"), info.num_classes, **options)
    if hasattr(model, "conv_method"):
        return None
    key = jax.eval_shape(jax.random.key, 0)
    params, _ = jax.eval_shape(Classification(model, info.image_shape).init, key)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    # Forward and backward: three products of two operations per weight and example.
    flops = 6 * parameters * config.global_batch
    small = parameters <= ONE_THREAD_PARAMETERS and flops <= ONE_THREAD_FLOPS
    return 1 if small else None


def limit_threads(points: Iterable[ConfigDict]) -> None:
    """Give JAX's CPU client the threads that suit all points; only before JAX has started it."""
    if all(threads_for(point) == 1 for point in points):
        os.environ.setdefault("PJRT_NPROC", "1")
