from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from scaling.batch import BatchPlan, plans
from scaling.config import default_config
from scaling.errors import UserError
from scaling.train import planning
from scaling.train.point import activations_of, resolve
from scaling.train.program import (
    MAX_CALL_EXAMPLES,
    MAX_CALL_STEPS,
    Layout,
    capacity_of,
    compile_program,
    shapes_of,
)


def _point(model, **changes):
    c = default_config()
    c.global_batch, c.duration, c.devices = 64, "3 steps", 1
    c.model = ConfigDict(model)
    c.update_from_flattened_dict(changes)
    return resolve(c)


MLP = {"name": "mlp", "widths": (4,)}
CNN = {"name": "simple_cnn", "size": "narrow"}  # where nothing is compiled
RESNET = {"name": "resnet", "depth": 8, "norm": "group"}


@pytest.fixture
def uncompiled(monkeypatch):
    """No program is compiled; one needs a KiB per example of a microbatch."""
    monkeypatch.setattr(planning, "compile_program", lambda point, layout, *_, **__: layout)
    need = lambda layout, limit=0: 2**10 * layout.plan.micro_batch
    monkeypatch.setattr(planning, "needed_bytes", need)


def test_flops_are_the_closed_form():
    """A dense layer: 2 n_in n_out forward, as much for dW and for dx."""
    point = _point({"name": "mlp", "widths": (100, 50)})
    layers = [(64, 100), (100, 50), (50, 10)]
    assert planning.flops_per_example(point) == sum(6 * a * b for a, b in layers)


def test_convolution_flops_do_not_depend_on_how_they_are_computed():
    methods = ("forward_only", "patches", "xla")
    counts = [planning.flops_per_example(_point(CNN | {"conv_method": m})) for m in methods]
    assert counts[0] == counts[1] == counts[2]


def test_memory_decides_the_number_of_microbatches():
    model = {"name": "mlp", "widths": (500, 500)}
    point = _point(model, global_batch=4096)
    free = planning.choose(point)
    assert free.plan == BatchPlan(4096, 1, 1, 4096)
    tight = _point(model, global_batch=4096, memory_limit_gib=free.step_bytes / 2**30 * 0.6)
    chosen = planning.choose(tight)
    assert chosen.plan.accum_steps > 1 and chosen.plan.global_batch == 4096
    assert chosen.step_bytes <= planning.memory_limit(tight)
    larger = [p for p in plans(4096, 1) if p.micro_batch > chosen.plan.micro_batch][-1]
    too_large = _program(tight, Layout("trials", 1, 1, 1, 1, larger))
    assert planning.needed_bytes(too_large) > planning.memory_limit(tight)
    with pytest.raises(UserError, match=r"Batch 64 does not fit: .* microbatches of"):
        planning.choose(_point(model, memory_limit_gib=1e-6))


def test_the_first_that_fits(monkeypatch):
    """Of whatever was not known before to be too large; the usual case is one compilation."""
    monkeypatch.setattr(planning, "compile_program", lambda point, layout, *_: layout)
    point, tried = _point({"name": "mlp", "widths": ()}, global_batch=1024), []

    def need(layout, limit):
        tried.append(layout.plan.micro_batch)
        return 100.0 * layout.plan.micro_batch + 1000

    monkeypatch.setattr(planning, "needed_bytes", need)
    for limit in (10**9, 10**5, 5000, 1100):
        tried.clear()
        monkeypatch.setattr(planning, "memory_limit", lambda _, limit=limit: limit)
        best = planning.choose(point).plan
        fit = [p for p in plans(1024, 1) if 100 * p.micro_batch + 1000 <= limit]
        assert best == fit[0] and tried[0] == 1024 and len(tried) <= 6
    monkeypatch.setattr(planning, "memory_limit", lambda _: 1000)
    with pytest.raises(UserError, match=r"Batch 1,024 does not fit: .* microbatches of 1, needs"):
        planning.choose(point)


def test_by_hand():
    assert planning.choose(_point(CNN, micro_batch=8)).plan == BatchPlan(64, 1, 8, 8)


def _program(point, layout):
    return compile_program(point, layout, planning.stacked(point, [{}]))


@pytest.mark.parametrize(
    ("model", "micro_batch"),
    [
        (RESNET, 32),
        (RESNET | {"norm": "batch"}, 128),  # its statistics are those of the whole batch
        (CNN | {"size": "wide"}, 64),
        (MLP, 128),
    ],
)
def test_convolutions_on_cpu_get_small_microbatches_unless_weights_are_many(
    uncompiled, model, micro_batch
):
    assert planning.choose(_point(model, global_batch=128)).plan.micro_batch == micro_batch


def test_activations_are_the_inputs_and_outputs_of_layers():
    point = _point({"name": "mlp", "widths": (100, 50)})
    # Each hidden layer twice, before and after its norm, which does nothing here; the logits of
    # their layer and of the whole model.
    assert activations_of(point.task) == 64 + 2 * (100 + 50 + 10)


def test_calls_are_long_for_small_batches_and_short_for_large_ones():
    def capacity(batch):
        point = _point({"name": "mlp", "widths": ()}, global_batch=batch, duration="9999 steps")
        return capacity_of(point, planning.layout_of(point, 1))

    assert capacity(1) == MAX_CALL_STEPS
    assert capacity(32768) == MAX_CALL_EXAMPLES // 32768
    assert capacity(2**24) == 1


def test_compiled_program_is_the_one_that_runs():
    """Ahead-of-time shapes fit what a population passes: no second compilation is possible."""
    point = _point({"name": "mlp", "widths": ()})
    layout = planning.layout_of(point, 1)
    program = _program(point, layout)
    assert program.step_bytes > 0 and program.seconds > 0
    *_, batches, count = shapes_of(point, layout, planning.stacked(point, [{}]))
    assert batches["index"].shape == (1, 1, 1, 3, 1, 64)
    assert batches["index"].dtype == count.dtype == np.int32


def test_the_memory_holds_the_trials_once_more():
    """While a program is timed, or a checkpoint restored."""

    alone = SimpleNamespace(layout=SimpleNamespace(count=1), step_bytes=10, state_bytes=3)
    assert planning.needed_bytes(alone) == 13


def test_a_matrix_product_has_two_operations_for_each_of_its_terms(monkeypatch):
    monkeypatch.setattr(planning, "least_seconds", lambda call: 0.5)
    assert planning.matrix_flops(jax.devices()[0], "float32", 8) == 2 * 8**3 / 0.5
