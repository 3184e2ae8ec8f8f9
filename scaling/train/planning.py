"""Where the trials of a population go, and what an update costs, by the compiler and the clock.

Two ways to use several devices:

    trials   every device trains trials of its own: no communication.
    batch    all devices hold all trials and share the batch of each, as in `step`: for a single
             run, and for batches or models that one device could not hold.

On a device, trials go in blocks: those of a block advance side by side, and block after block runs
through all updates of a call. On a CPU a block is as large as fits the cache
(benchmarks/results/population_blocks.json); on other devices it is all trials, if memory allows.
Of the layouts to be tried, the first that fits the memory is taken.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scaling import flops, hosts
from scaling.batch import BatchPlan, plan_by_hand, plans
from scaling.errors import UserError
from scaling.train.memory import memory_limit
from scaling.train.point import Point, activations_of, inputs_of
from scaling.train.program import Layout, Program, compile_program, program_bytes

# Weights, gradients and optimizer state of a block, and its activations, should fit what a core has
# of the second- and third-level cache.
CPU_CACHE_BYTES = 3 * 2**20
# Examples of a microbatch with convolutions on a CPU: their activations should fit the cache, but
# each adds a gradient of all weights, so that nets whose weights outnumber the activations of an
# example that many times take more (benchmarks/microbatches.py).
CPU_MICRO_BATCH, WITH_MANY_WEIGHTS, MANY_WEIGHTS = 32, 64, 16
# Ways to compute convolutions of several trials at once: as grouped ones, or patch by patch as
# batched matrix products. Which is faster depends on the device and the model, so both are timed.
SIDE_BY_SIDE_METHODS = ("xla", "patches")


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
    tried = [layout_of(point, count, block)]
    while tried[-1].block > 1:
        tried.append(_in_blocks(tried[-1], tried[-1].block // 2))
    devices, alone = len(point.devices), tried[-1:]
    if tried[-1].spread == "trials" and devices > 1:
        with contextlib.suppress(UserError):  # a batch that does not divide
            alone.append(Layout("batch", devices, count, 1, count, _plan(point, devices)))
    tried += alone[1:]
    if point.config.micro_batch is None:
        for layout in alone:
            tried += _in_microbatches(point, layout)
    return tried


def _in_microbatches(point, layout):
    """The same with smaller microbatches, each of half the one before or less."""
    smaller = []
    for plan in plans(point.global_batch, layout.plan.devices, point.ghost_batch):
        if 2 * plan.micro_batch <= layout.plan.micro_batch:
            layout = dataclasses.replace(layout, plan=plan)
            smaller.append(layout)
    return smaller


def _in_blocks(layout, block):
    """The same trials, at most `block` side by side, in blocks of nearly equal size."""
    blocks = -(-layout.each // min(block, layout.each))
    return dataclasses.replace(layout, blocks=blocks, block=-(-layout.each // blocks))


def _plan(point, sharing):
    """One trial's batch over `sharing` devices; UserError if it does not divide."""
    micro_batch = point.config.micro_batch
    if micro_batch is not None:
        return plan_by_hand(point.global_batch, sharing, micro_batch, point.ghost_batch)
    return for_the_cache(point, plans(point.global_batch, sharing, point.ghost_batch))


def working_set(point: Point, plan: BatchPlan) -> int:
    """Bytes that one trial goes through in an update: three times its weights, and the inputs and
    outputs of its layers forward and backward."""
    return 4 * (3 * point.parameter_count + 2 * plan.micro_batch * activations_of(point.task))


def placement_of(point: Point, layout: Layout, method: str | None) -> dict[str, Any]:
    """How a population is computed: what the order of its additions depends on, JSON."""
    return {
        "kind": point.devices[0].device_kind,
        "devices": layout.devices,
        "spread": layout.spread,
        "block": layout.block,
        "micro_batch": layout.plan.micro_batch,
        "conv_method": method,
    }


def stacked(point: Point, values: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The hyperparameters of trials by name, [K, ...]: the point's, but for each one's own."""
    hparams = [point.hparams | trial for trial in values]
    return {name: np.asarray([h[name] for h in hparams]) for name in point.hparams}


def choose(point: Point) -> Program:
    """The program of a single run, see `fitting`."""
    (program,) = fitting(point, 1)
    return program


def fitting(
    point: Point,
    count: int,
    block: int | None = None,
    placement: Mapping[str, Any] | None = None,
    hparams: Mapping[str, Any] | None = None,
    **options,
) -> list[Program]:
    """The programs of the first layout that fits the memory, one for every method for convolutions
    that is worth timing.

    Args:
      placement: of an earlier launch: tried first, because a resumed run adds its
        numbers in the same order.
      hparams: see `compile_program`, as are the `options`; None: all trials have the point's.

    Raises:
      UserError: no layout divides the batch or fits the memory.
    """
    candidates = layouts(point, count, block)
    method = (placement or {}).get("conv_method")
    known = [each for each in candidates if placement_of(point, each, method) == placement]
    hparams = stacked(point, [{}] * count) if hparams is None else hparams
    limit, per_example, needs = memory_limit(point), 0.0, {}
    for layout in known + candidates:
        # Memory grows with the examples at most in proportion: what cannot fit is not compiled.
        too_large = per_example * layout.examples_at_once > limit
        if layout in needs or (too_large and layout is not candidates[-1]):
            continue
        methods = (method,) if layout in known else _methods(point, layout)
        programs = [compiled(point, layout, hparams, each, **options) for each in methods]
        need = [max(hosts.everyones(needed_bytes(program, limit))) for program in programs]
        if fit := [p for p, bytes_ in zip(programs, need, strict=True) if bytes_ <= limit]:
            return fit
        needs[layout] = min(need)
        if math.isfinite(needs[layout]):
            per_example = max(per_example, needs[layout] / layout.examples_at_once)
    layout = min(needs, key=needs.get)
    raise _does_not_fit(point, layout, needs[layout], limit)


def compiled(*args, **options):
    """A program; None if it is too large even to be compiled."""
    try:
        return compile_program(*args, **options)
    except jax.errors.JaxRuntimeError as error:
        if exhausts_memory(error):
            return None
        raise


def exhausts_memory(error: Exception) -> bool:
    """Whether it says that the memory does not suffice."""
    return "RESOURCE_EXHAUSTED" in str(error)


def needed_bytes(program: Program | None, limit: float = math.inf) -> float:
    """Memory that one device needs for a program; what evaluates several trials is looked at where
    what trains them is within the limit."""
    if program is None:
        return math.inf
    need = program.step_bytes
    # Timing a program, and restoring a checkpoint, hold the trials once more.
    if program.layout.count > 1 and need + program.state_bytes <= limit:
        need = max(need, program_bytes(program.evaluate))
    return need + program.state_bytes


def _methods(point, layout):
    """Ways to compute convolutions that are worth timing."""
    auto = getattr(point.task.model, "conv_method", None) == "auto"
    return SIDE_BY_SIDE_METHODS if auto and layout.block > 1 else (None,)


def _does_not_fit(point, layout, need, limit):
    config, several = point.config, layout.count > 1
    advice = ["use a smaller model, more memory or more devices"]
    if several:
        advice = ["search fewer trials, use a smaller model or more devices"]
    if "adaptive" in config:
        advice = ["use a larger adaptive.parts, or smaller batches"]
    elif config.micro_batch is not None:
        advice.append("leave micro_batch None")
    if config.memory_limit_gib is not None:
        advice.append("raise memory_limit_gib")
    what = f"{layout.count} trials of batch" if several else "Batch"
    least = f"{layout.block} at a time in " if several else ""
    shared = f" with the batch shared by {layout.devices} devices" * (layout.plan.devices > 1)
    return UserError(
        f"{what} {point.global_batch:,} do{'es' * (not several)} not fit: the least of what was "
        f"tried, {least}microbatches of {layout.plan.micro_batch}{shared}, needs "
        f"{need / 2**30:.3g} GiB on each device, which may use {limit / 2**30:.3g} GiB; "
        f"{', or '.join(advice)}."
    )


def for_the_cache(point: Point, plans: list[BatchPlan]) -> BatchPlan:
    """The plan that runs fastest: on CPU, small microbatches for convolutions; else the fewest."""
    if point.devices[0].platform != "cpu" or not _has_convolutions(point):
        return plans[0]
    many = point.parameter_count > MANY_WEIGHTS * activations_of(point.task)
    size = WITH_MANY_WEIGHTS if many else CPU_MICRO_BATCH
    return min(plans, key=lambda plan: abs(plan.micro_batch - size))


def flops_per_example(point: Point) -> int:
    """Floating-point operations of one example in training, see `scaling.flops`."""
    return flops.TRAINING * flops.forward(point.task.model, inputs_of(point.task))


def matrix_flops(device, dtype: str, size: int = 2048) -> float:
    """Floating-point operations per second of matrix products on a device, measured."""
    matrix = jax.device_put(np.ones((size, size), np.float32), device).astype(dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / least_seconds(lambda: product(matrix))


def least_seconds(call: Callable, repeats: int = 3) -> float:
    """The fastest of some calls, after one that may compile."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times[1:])


def run_once(function: Callable, *args):
    """`function(*args)`, compiled quickly: LLVM's optimisation of many random numbers would take
    seconds on a CPU and save milliseconds."""
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function).lower(*args).compile(compiler_options=quick)(*args)


def _has_convolutions(point: Point) -> bool:
    return any(leaf.ndim == 4 for leaf in jax.tree.leaves(point.variables()[0]))
