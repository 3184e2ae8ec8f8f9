"""Where the trials of a population go: on which devices, how many at once, in what microbatches.

Two ways to use several devices:

    trials   every device trains trials of its own: no communication.
    batch    all devices hold all trials and share the batch of each, as in `step`; for batches or
             models that one device could not hold.

On a device, trials go in blocks: those of a block advance side by side, and block after block runs
through all updates of a call. On a CPU a block is as large as fits the cache
(benchmarks/results/population_blocks.json); on other devices it is all trials, if memory allows.
"""

import contextlib
import dataclasses
import math

import jax
import jax.numpy as jnp

from scaling.batch import BatchPlan, plan_by_hand, plans
from scaling.errors import UserError
from scaling.train import planning
from scaling.train.point import Point

# Weights, gradients and optimizer state of a block, and its activations, should fit what a core has
# of the second- and third-level cache.
CPU_CACHE_BYTES = 3 * 2**20


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the trials are: `devices` x `blocks` x `block`, the first only if they are spread.

    Attributes:
      spread: "trials" or "batch", see above.
      count: trials asked for; the places beyond it hold copies that never count.
      plan: of one trial's batch, over the devices that share it.
    """

    spread: str
    devices: int
    blocks: int
    block: int
    count: int
    plan: BatchPlan

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading axes of everything that every trial has of its own."""
        inner = (self.blocks, self.block)
        return (self.devices, *inner) if self.spread == "trials" else inner

    @property
    def each(self) -> int:
        """Trials on every device."""
        return -(-self.count // self.devices) if self.spread == "trials" else self.count

    @property
    def examples_at_once(self) -> int:
        """What activations are held of, on each device."""
        return self.block * self.plan.micro_batch


def layout_of(point: Point, count: int, block: int | None = None) -> Layout:
    """How `count` trials go on the point's devices, if memory allows.

    Args:
      block: trials side by side; None: all of them, or on a CPU those that fit its cache.

    Raises:
      UserError: the batch cannot be laid out.
    """
    devices = len(point.devices)
    spread, plan = "trials", None
    if count < devices:
        # Where the batch does not divide over the devices, some of them train copies instead.
        with contextlib.suppress(UserError):
            spread, plan = "batch", _plan(point, devices)
    plan = plan or _plan(point, 1)
    if block is None:
        on_cpu = point.devices[0].platform == "cpu"
        block = max(1, CPU_CACHE_BYTES // working_set(point, plan)) if on_cpu else count
    return _in_blocks(Layout(spread, devices, 1, count, count, plan), block)


def layouts(point: Point, count: int, block: int | None = None) -> list[Layout]:
    """`layout_of`, and what to do where that does not fit the memory, in the order to be tried:
    fewer trials side by side, down to one; devices that share the batch of each; unless the config
    sets `micro_batch`, more microbatches.

    Raises:
      UserError: the batch cannot be laid out.
    """
    found = [layout_of(point, count, block)]
    while found[-1].block > 1:
        found.append(_in_blocks(found[-1], found[-1].block // 2))
    devices, alone = len(point.devices), found[-1:]
    if found[-1].spread == "trials" and devices > 1:
        with contextlib.suppress(UserError):  # a batch that does not divide
            alone.append(Layout("batch", devices, count, 1, count, _plan(point, devices)))
    found += alone[1:]
    if point.config.micro_batch is None:
        for layout in alone:
            found += _in_microbatches(point, layout)
    return found


def _in_microbatches(point, layout):
    """The same with smaller microbatches, each of half the one before or less."""
    found = []
    for plan in plans(point.global_batch, layout.plan.devices, point.ghost_batch):
        if 2 * plan.micro_batch <= layout.plan.micro_batch:
            layout = dataclasses.replace(layout, plan=plan)
            found.append(layout)
    return found


def _in_blocks(layout, block):
    """The same trials, at most `block` side by side, in blocks of nearly equal size."""
    blocks = -(-layout.each // min(block, layout.each))
    return dataclasses.replace(layout, blocks=blocks, block=-(-layout.each // blocks))


def _plan(point, sharing):
    """One trial's batch over `sharing` devices; UserError if it does not divide."""
    if point.config.micro_batch is not None:
        return plan_by_hand(
            point.global_batch, sharing, point.config.micro_batch, point.ghost_batch
        )
    return planning.for_the_cache(point, plans(point.global_batch, sharing, point.ghost_batch))


def working_set(point: Point, plan: BatchPlan) -> int:
    """Bytes that one trial goes through in an update: three times its weights, and the inputs and
    outputs of its layers forward and backward."""
    params, batch_stats = point.variables()
    image = jax.ShapeDtypeStruct((1, *point.info.image_shape), jnp.float32)

    def activations(params, batch_stats, image):
        variables = {"params": params, "batch_stats": batch_stats}
        return point.task.model.apply(variables, image, train=False, capture_intermediates=True)[1]

    outputs = jax.eval_shape(activations, params, batch_stats, image)
    size = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
    return 4 * (3 * size(params) + 2 * plan.micro_batch * (size(image) + size(outputs)))
