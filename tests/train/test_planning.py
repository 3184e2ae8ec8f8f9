import dataclasses

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from scaling.batch import BatchPlan
from scaling.config import default_config
from scaling.errors import UserError
from scaling.train import planning
from scaling.train.point import resolve


def _point(model, **changes):
    c = default_config()
    c.global_batch, c.duration, c.devices = 64, "3 steps", 1
    c.model = ConfigDict(model)
    c.update_from_flattened_dict(changes)
    return resolve(c)


MLP = {"name": "mlp", "widths": (4,)}
CNN = {"name": "simple_cnn", "size": "narrow"}  # where nothing is compiled


@pytest.fixture
def uncompiled(monkeypatch):
    """No program is compiled; one needs a KiB per example of a microbatch."""

    def compile_plan(point, plan):
        return planning.Compiled(plan, None, 1, 2**10 * plan.micro_batch, 0.0)

    monkeypatch.setattr(planning, "compile_plan", compile_plan)


def test_flops_are_the_closed_form():
    """A dense layer: 2 n_in n_out forward, as much for dW, and for dx except in the first."""
    point = _point({"name": "mlp", "widths": (100, 50)})
    plan = BatchPlan(64, 1, 4, 16)
    layers = [(64, 100), (100, 50), (50, 10)]
    expected = sum(2 * a * b * (2 if i == 0 else 3) for i, (a, b) in enumerate(layers)) * 64
    assert planning.step_flops(point, plan) == pytest.approx(expected, rel=0.1)
    assert planning.step_flops(point, plan) > expected


def test_convolution_flops_do_not_depend_on_how_they_are_computed():
    counts = [
        planning.step_flops(_point(CNN | {"conv_method": m}), BatchPlan(64, 1, 1, 64))
        for m in ("forward_only", "patches", "xla")
    ]
    assert counts[0] == counts[1] == counts[2]


def test_memory_decides_the_number_of_microbatches(uncompiled):
    """The largest that fits; what a program really needs is in the last test."""
    limited = lambda kib: _point(MLP, global_batch=4096, memory_limit_gib=kib / 2**20)
    assert planning.choose(limited(4096)).plan == BatchPlan(4096, 1, 1, 4096)
    assert planning.choose(limited(4095)).plan == BatchPlan(4096, 1, 2, 2048)
    assert planning.choose(limited(300)).plan == BatchPlan(4096, 1, 16, 256)
    with pytest.raises(UserError, match="use more memory"):
        planning.choose(limited(0.9))


def test_by_hand_and_as_recorded(uncompiled):
    assert planning.choose(_point(CNN, micro_batch=8)).plan == BatchPlan(64, 1, 8, 8)
    recorded = BatchPlan(64, 1, 2, 32)
    point = _point(MLP)
    assert planning.choose(point, recorded).plan == recorded
    other_devices = dataclasses.replace(recorded, devices=2, accum_steps=1)
    assert planning.choose(point, other_devices).plan == BatchPlan(64, 1, 1, 64)


def test_convolutions_on_cpu_get_the_microbatch_that_timed_fastest(
    uncompiled, monkeypatch, tmp_path
):
    monkeypatch.setenv("SCALING_CACHE_DIR", str(tmp_path))
    timed = []

    def seconds(point, plan):
        timed.append(plan.micro_batch)
        return 1.0 if plan.micro_batch == 16 else 2.0

    monkeypatch.setattr(planning, "_seconds_per_example", seconds)
    assert planning.choose(_point(CNN)).plan.micro_batch == 16
    assert sorted(timed) == [16, 32]
    assert planning.choose(_point(CNN)).plan.micro_batch == 16
    assert len(timed) == 2  # remembered
    assert planning.choose(_point(CNN | {"norm": "batch"}), timing=False).plan.micro_batch == 64
    assert planning.choose(_point(CNN), timing=False).plan.micro_batch == 16  # also for a dry run
    other = _point(CNN | {"norm": "group"})
    assert planning.choose(other, timing=False).plan.micro_batch == 32
    assert planning.would_time(other) and not planning.would_time(_point(CNN))


def test_timing_really_runs(tiny_cnn):
    assert planning._seconds_per_example(_point(tiny_cnn), BatchPlan(64, 1, 4, 16)) > 0


def test_calls_are_long_for_small_batches_and_short_for_large_ones():
    capacity = lambda batch: planning.capacity_of(
        _point({"name": "mlp", "widths": ()}, global_batch=batch, duration="9999 steps")
    )
    assert capacity(1) == planning.MAX_CHUNK
    assert capacity(32768) == planning.MAX_CHUNK_EXAMPLES // 32768
    assert capacity(2**24) == 1


def test_compiled_program_is_the_one_that_runs():
    """Ahead-of-time shapes fit what the loop passes: no second compilation is possible."""
    point = _point({"name": "mlp", "widths": (500,)})
    program = planning.compile_plan(point, BatchPlan(64, 1, 1, 64))
    assert program.seconds > 0
    shapes = planning.shapes_of(point, program.plan)
    assert jax.tree.leaves(shapes[2])[0].shape == (1, 3, 1, 64)
    assert np.dtype(jax.tree.leaves(shapes[2])[0].dtype) == np.int32
    # Activations of 16 examples are held instead of 64, of 500 numbers at least.
    less = planning.compile_plan(point, BatchPlan(64, 1, 4, 16))
    assert program.step_bytes - less.step_bytes > 48 * 500 * 4
