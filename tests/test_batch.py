import pytest

from scaling.batch import BatchPlan, plan_by_hand, plans
from scaling.errors import UserError


def test_every_layout_keeps_the_global_batch():
    for global_batch in (1, 6, 96, 1000):
        for devices in (d for d in (1, 2, 3, 4, 8) if global_batch % d == 0):
            layouts = plans(global_batch, devices)
            assert all(p.accum_steps * p.devices * p.micro_batch == global_batch for p in layouts)
            per_device = global_batch // devices
            divisors = [m for m in range(per_device, 0, -1) if per_device % m == 0]
            assert [p.micro_batch for p in layouts] == divisors


@pytest.mark.parametrize("devices, ghost", [(1, 8), (2, 8), (3, 8), (4, 24), (8, 24), (8, 96)])
def test_microbatches_hold_whole_ghost_batches(devices, ghost):
    for plan in plans(96, devices, ghost):
        rows = plan.micro_batch
        # No group may straddle the edge of a device's rows or of a microbatch.
        edges = {d * rows for d in range(devices + 1)}
        for start in range(0, devices * rows, ghost):
            inside = [e for e in edges if start < e < start + ghost]
            assert start + ghost <= devices * rows
            assert not inside or (all((e - start) % rows == 0 for e in inside) and start in edges)


def test_batch_norm_over_the_global_batch_is_one_microbatch():
    assert plans(96, 4, 96) == [BatchPlan(96, 4, 1, 24)]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((100, 3), ("100", "3 devices", "99 and 102")),
        ((2, 3), ("are 3",)),
        ((0, 1), ("global batch is 0", "at least 1")),
        ((8, 0), ("device count is 0",)),
        ((100, 1, 32), ("Ghost batch 32", "20 and 25")),
        ((96, 1, 0), ("ghost batch is 0",)),
    ],
)
def test_what_does_not_divide_names_what_does(arguments, words):
    with pytest.raises(UserError) as error:
        plans(*arguments)
    assert all(word in str(error.value) for word in words), error.value


def test_by_hand():
    assert plan_by_hand(96, 2, 12) == BatchPlan(96, 2, 4, 12)
    assert plan_by_hand(96, 2, 12).per_device_batch == 48
    with pytest.raises(UserError, match=r"Microbatch 10 .* are 12 and 8"):
        plan_by_hand(96, 2, 10)
