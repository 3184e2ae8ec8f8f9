"""Which batch plan to use, and what a step costs: asked of the compiler and the clock."""

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from scaling.batch import BatchPlan, largest_that_fits, plan_by_hand, plans
from scaling.data import sources
from scaling.train.memory import memory_limit
from scaling.train.point import Point
from scaling.train.step import init_state, make_chunk, make_gradient, noise_parts, on_devices

# Updates per call: enough that a call takes a while even for a tiny model, as long as the indices
# of all its examples stay small.
MAX_CHUNK, MAX_CHUNK_EXAMPLES = 4096, 2**20
# Updates per measurement of the gradient noise, so that it costs less than 2% of the time. A batch
# in one piece is cut in halves, which nearly doubles the time of that update; the norms of
# microbatches take a pass over the weights for each; those of devices are there anyway.
NOISE_EVERY = {"halves": 64, "microbatches": 32}
# Microbatches worth timing on CPU: convolutions run fastest when their activations fit the cache.
CPU_MICRO_BATCHES = (16, 32)
ASSUMED_CPU_MICRO_BATCH = 32  # where nothing may be timed


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compiled training program of one plan.

    Attributes:
      chunk: see `scaling.train.step.make_chunk`.
      capacity: the most updates it can do in one call.
      step_bytes: memory that one device needs while it runs, data set included.
      seconds: that compilation took.
    """

    plan: BatchPlan
    chunk: Callable
    capacity: int
    step_bytes: int
    seconds: float


def capacity_of(point: Point) -> int:
    """Updates per call."""
    if point.info.streaming:
        return 1
    return max(1, min(MAX_CHUNK, MAX_CHUNK_EXAMPLES // point.global_batch, point.total_steps))


def shapes_of(point: Point, plan: BatchPlan) -> tuple[Any, ...]:
    """Shapes of what `chunk` takes."""
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(
        lambda key: init_state(point.task, point.make_optimizer, point.hparams, key), key
    )
    rows = (plan.devices, capacity_of(point), plan.accum_steps, plan.micro_batch)
    data, batches = None, {"index": jax.ShapeDtypeStruct(rows, np.int32)}
    label = jax.ShapeDtypeStruct(rows, np.int32)
    if point.info.streaming:
        image = jax.ShapeDtypeStruct((*rows, *point.info.image_shape), np.uint8)
        batches = {"image": image, "label": label}
    else:
        size = point.info.sizes["train"]
        data = {
            "image": jax.ShapeDtypeStruct((size, *point.info.image_shape), np.uint8),
            "label": jax.ShapeDtypeStruct((size,), np.int32),
        }
    initial = state.params if point.config.metrics.weight_distance else None
    count = jax.ShapeDtypeStruct((), np.int32)
    return state, data, batches, count, point.hparams, key, initial


def compile_plan(point: Point, plan: BatchPlan) -> Compiled:
    """Compile the training program of one plan, without any data."""
    start = time.perf_counter()
    chunk = make_chunk(
        point.task,
        point.make_optimizer,
        plan,
        point.preprocess,
        point.devices,
        noise_every(point.config, plan),
    )
    compiled = chunk.lower(*shapes_of(point, plan)).compile()
    seconds = time.perf_counter() - start
    return Compiled(plan, compiled, capacity_of(point), program_bytes(compiled), seconds)


def noise_every(config: ConfigDict, plan: BatchPlan) -> int | None:
    """How often an update measures the gradient noise; None: never."""
    if not config.noise_scale:
        return None
    source = noise_parts(plan)[0]
    if source == "devices":
        return 1
    return config.noise_every or NOISE_EVERY[source]


def program_bytes(compiled) -> int:
    """Memory of one device that a compiled program needs while it runs, arguments included."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def choose(point: Point, recorded: BatchPlan | None = None, timing: bool = True) -> Compiled:
    """The plan to train with, compiled.

    By hand if the config sets `micro_batch`; else what an earlier launch of this run recorded, for
    a resumed run adds its numbers in the same order; else on one CPU the microbatch that times
    fastest if the model has convolutions; else the fewest microbatches that fit the memory.

    Args:
      recorded: plan of an earlier launch, of any number of devices.
      timing: whether programs may be run to be timed.

    Raises:
      UserError: no plan divides the batch or fits the memory.
    """
    config, devices = point.config, len(point.devices)
    if config.micro_batch is not None:
        plan = plan_by_hand(point.global_batch, devices, config.micro_batch, point.ghost_batch)
        return compile_plan(point, plan)
    if recorded is not None and recorded.devices == devices:
        return compile_plan(point, recorded)
    layouts = plans(point.global_batch, devices, point.ghost_batch)
    if point.devices[0].platform == "cpu" and _has_convolutions(point):
        fastest = _for_the_cache(point, layouts, timing and devices == 1)
        layouts = [plan for plan in layouts if plan.micro_batch <= fastest.micro_batch]
    programs = {}

    def step_bytes(plan):
        try:
            programs[plan] = compile_plan(point, plan)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):  # too large even to be compiled
                return math.inf
            raise
        return programs[plan].step_bytes

    return programs[largest_that_fits(layouts, step_bytes, memory_limit(point))]


def for_the_cache(point: Point, layouts: list[BatchPlan]) -> BatchPlan:
    """The layout that may be assumed to run fastest, nothing timed: on CPU, small microbatches for
    convolutions, whose activations should fit the cache; else the fewest."""
    if point.devices[0].platform == "cpu" and _has_convolutions(point):
        return _nearest(layouts, ASSUMED_CPU_MICRO_BATCH)
    return layouts[0]


def would_time(point: Point) -> bool:
    """Whether `choose` would run programs to find the plan."""
    if point.config.micro_batch is not None or len(point.devices) > 1:
        return False
    if point.devices[0].platform != "cpu" or not _has_convolutions(point):
        return False
    candidates = _candidates(plans(point.global_batch, 1, point.ghost_batch))
    return len(candidates) > 1 and _Memory(point, sorted(candidates)).answer not in candidates


def step_flops(point: Point, plan: BatchPlan) -> float:
    """Floating-point operations of the gradients of one update, over all devices.

    XLA's own count for one microbatch before optimisation, times the number of microbatches; a
    loop's body would be counted once.
    """
    model = point.task.model
    if hasattr(model, "conv_method"):  # the operations of the model, not of a way to compute it
        model = model.clone(conv_method="xla")
    if hasattr(model, "ghost_batch"):  # one device stands for all: no group may span several
        model = model.clone(ghost_batch=None)
    one = dataclasses.replace(plan, accum_steps=1, devices=1)
    task = dataclasses.replace(point.task, model=model)
    mapped, shapes = _gradient_program(dataclasses.replace(point, task=task), one)
    cost = mapped.lower(*shapes).cost_analysis()
    return cost["flops"] * plan.accum_steps * plan.devices


def flops_per_example(point: Point) -> float:
    """Floating-point operations of one example's gradient."""
    rows = min(32, point.global_batch)
    return step_flops(point, BatchPlan(rows, 1, 1, rows)) / rows


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


def _gradient_program(point, plan):
    """One microbatch's gradient on one device: the function, and the shapes of its arguments."""
    gradient = make_gradient(point.task, plan, point.preprocess)
    state, data, batches, _, hparams, key, _ = shapes_of(point, plan)
    batch = jax.tree.map(lambda s: jax.ShapeDtypeStruct((1, *s.shape[2:]), s.dtype), batches)
    mapped = on_devices(gradient, point.devices[:1], (None, None, None, 0, None, None, None))
    return mapped, (state.params, state.batch_stats, data, batch, key, hparams, state.step)


def _has_convolutions(point: Point) -> bool:
    return any(leaf.ndim == 4 for leaf in jax.tree.leaves(point.variables()[0]))


def _nearest(layouts, size):
    return min(layouts, key=lambda plan: abs(plan.micro_batch - size))


def _candidates(layouts):
    """Layouts worth timing on CPU, by microbatch."""
    near = [_nearest(layouts, size) for size in CPU_MICRO_BATCHES]
    return {plan.micro_batch: plan for plan in near}


def _for_the_cache(point, layouts, timing):
    """On CPU, the layout whose microbatch runs fastest per example.

    Timed on two sizes, once per model and machine: the answer is kept on disk.
    """
    candidates = _candidates(layouts)
    memory = _Memory(point, sorted(candidates))
    if memory.answer in candidates:
        return candidates[memory.answer]
    if len(candidates) == 1 or not timing:
        return _nearest(layouts, ASSUMED_CPU_MICRO_BATCH)
    seconds = {m: _seconds_per_example(point, plan) for m, plan in candidates.items()}
    memory.keep(min(seconds, key=seconds.get))
    return candidates[memory.answer]


def _seconds_per_example(point, plan):
    """Of one microbatch's gradient, on made-up numbers."""
    one = dataclasses.replace(plan, global_batch=plan.micro_batch, accum_steps=1)
    mapped, (params, batch_stats, data, batch, _, hparams, _) = _gradient_program(point, one)
    fill = lambda tree: jax.tree.map(lambda s: np.full(s.shape, 0.01, s.dtype), tree)
    arrays = [fill(tree) for tree in (params, batch_stats, data, batch)]
    args = *arrays, jax.random.key(0), hparams, np.int32(0)
    return least_seconds(lambda: mapped(*args)) / plan.micro_batch


class _Memory:
    """The fastest microbatch as timed before, on this machine with these versions."""

    def __init__(self, point, candidates):
        identity = [
            repr(point.task),
            candidates,
            point.config.data.augment,
            jax.__version__,
            os.cpu_count(),
        ]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        self._path = Path(sources.cache_dir()) / "microbatch" / f"{name}.json"
        try:
            self.answer = json.loads(self._path.read_text())
        except (OSError, json.JSONDecodeError):
            self.answer = None

    def keep(self, answer):
        self.answer = answer
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(answer))
        except OSError:
            pass  # timed again next time
