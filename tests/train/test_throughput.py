"""What a device can do, in this process."""

import jax
import numpy as np
import pytest

from scaling import comms
from scaling.config import default_config, model_config
from scaling.errors import UserError
from scaling.train import throughput


def _config(**changes):
    c = default_config()
    c.global_batch, c.model = 64, model_config("mlp", widths=(16,))
    c.update_from_flattened_dict(changes)
    return c


def test_memory_grows_until_it_does_not_fit():
    rows = throughput.memory(_config(memory_limit_gib=0.0005), 2**20)
    assert [row.per_device_batch for row in rows] == [2**i for i in range(len(rows))]
    assert [row.fits for row in rows] == [True] * (len(rows) - 1) + [False]
    assert rows[-1].bytes > 0.0005 * 2**30 >= rows[-2].bytes
    # One example of digits is an index, an image, two layers and their gradients.
    assert rows[-1].bytes - rows[-2].bytes > rows[-2].per_device_batch * 64 * 4


def test_memory_ends_where_asked():
    rows = throughput.memory(_config(), 9)
    assert [row.per_device_batch for row in rows] == [1, 2, 4, 8] and rows[-1].fits


def test_memory_begins_where_batch_norm_has_enough_values():
    config = _config(**{"model.norm": "batch"})
    assert [row.per_device_batch for row in throughput.memory(config, 16)] == [4, 8, 16]


def test_memory_begins_where_a_ghost_batch_is_whole():
    config = _config(**{"model.norm": "ghost", "model.ghost_batch": 8})
    assert [row.per_device_batch for row in throughput.memory(config, 32)] == [8, 16, 32]
    with pytest.raises(UserError, match="is 4 and the smallest 8"):
        throughput.memory(config, 4)


def test_speeds_are_of_the_data_set_itself():
    rows = throughput.speeds(_config(), [1, 64], 0.01)
    assert [row.per_device_batch for row in rows] == [1, 64]
    for row in rows:
        assert row.examples_per_second == pytest.approx(row.per_device_batch / row.seconds)
        assert row.spread >= 0


def test_a_batch_that_runs_out_of_memory_ends_the_list(monkeypatch):
    plain = throughput.Racer

    def full(point, *args):
        if point.global_batch > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return plain(point, *args)

    monkeypatch.setattr(throughput, "Racer", full)
    rows = throughput.speeds(_config(), [2, 4, 8, 16], 0.01)
    assert [row.per_device_batch for row in rows] == [2, 4]
    with pytest.raises(jax.errors.JaxRuntimeError):
        throughput.speeds(_config(), [8, 16], 0.01)


def test_contestants_take_turns_and_the_first_round_is_dropped():
    order = []

    def call(name):
        order.append(name)
        return float(len(order))

    found = throughput.rounds({name: lambda name=name: call(name) for name in "ab"}, 3)
    assert order == list("ababab")
    assert found == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_streamed_sets_are_timed_without_their_input(set_sizes):
    set_sizes("imagenet", 100, 10, 10)
    config = _config(**{"data.name": "imagenet"})
    config.model = model_config("mlp", widths=(2,))
    (row,) = throughput.speeds(config, [2], 0.01)
    assert row.seconds > 0


@pytest.mark.parametrize("devices", [1, 2])
def test_the_input_alone_is_the_input_of_the_run(devices, monkeypatch):
    point = throughput.alone(_config(), 8, devices=devices)
    racer = throughput.Racer(point, 0.001)
    held, plain, asked = racer.population, racer.population.input, []
    monkeypatch.setattr(held, "input", lambda *args: asked.append(args[:2]) or plain(*args))
    assert racer.input() > 0 and racer.both() > 0 and held.step > 0
    steps, counts = zip(*asked, strict=True)
    assert list(steps) == [i * counts[0] for i in range(len(steps))] and len(set(counts)) == 1
    index = np.asarray(plain(0, 1)["index"])
    assert index.shape[0] == devices and index.size == 8 * devices * held.program.capacity


def test_the_all_reduce_is_timed_and_fitted():
    """On simulated devices the numbers mean nothing, but they have the right shape."""
    found = throughput.all_reduce_seconds(jax.devices()[:2], (2**8, 2**20))
    assert [size for size, _ in found] == [2**10, 2**22]
    sizes, seconds = zip(*found, strict=True)
    assert min(seconds) > 0
    assert isinstance(comms.fit_link([1e3, 1e9], [1e-5, 1e-1], 2), comms.Link)
    assert np.isfinite(sizes).all()
