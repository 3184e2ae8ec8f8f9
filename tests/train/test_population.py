"""A population against runs of its own trials, however the trials are laid out."""

import functools
import json
import logging
import math

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from photos import jpeg, photo
from sklearn.metrics import average_precision_score

from scaling.config import default_config
from scaling.data import sources, streaming
from scaling.errors import UserError
from scaling.record import RunDir, read_metrics
from scaling.train import planning, program
from scaling.train import population as population_module
from scaling.train.planning import layout_of
from scaling.train.point import resolve
from scaling.train.population import Population
from scaling.train.single import train_point

BATCH, MIDDLE, END = 24, 3, 6
EWA_ON = {"optim.ewa_half_life": "100 examples"}
MLP = {"name": "mlp", "widths": (8,)}
GHOST = {"name": "mlp", "widths": (8,), "norm": "ghost", "ghost_batch": 6}
# What a trial sets, and where a run of its own has it in its config.
KEYS = {
    "peak": "optim.base_lr",
    "momentum": "optim.momentum",
    "weight_decay": "optim.weight_decay",
    "label_smoothing": "loss.label_smoothing",
    "total_steps": "duration",
}


def _config(model, **changes):
    c = default_config()
    c.global_batch, c.duration, c.devices, c.eval.batch = BATCH, f"{END} steps", 1, 128
    c.model = ConfigDict(model)
    c.update_from_flattened_dict(changes)
    return c


def _population(config, values, seeds=None, block=None):
    point = resolve(config, {name for trial in values for name in trial})
    return Population(point, values, seeds or range(len(values)), block)


def _train(population, *steps):
    """[metrics at each step], with the sum of the training losses before it as "train"."""
    rows = []
    for step in steps:
        total = 0.0
        while population.step < step:
            total = total + population.advance(step)["loss"].sum(1)
        rows.append(population.evaluate() | {"train": total})
    return rows


def _to(population, step):
    while population.step < step:
        population.advance(step)


def _alone(path, config, values, seed):
    """The same of one trial in a run of its own."""
    config = config.copy_and_resolve_references()
    values = values | {"total_steps": f"{values.get('total_steps', END)} steps"}
    config.update_from_flattened_dict({KEYS[name]: value for name, value in values.items()})
    config.seed, config.eval.every, config.eval.test = seed, f"{MIDDLE} steps", False
    with RunDir(path) as run:
        run.begin(json.loads(config.to_json_best_effort()))
        train_point(config, run, "alone")
    losses = [row["loss"] for row in read_metrics(path, "train")]
    held_out = {row["step"]: row for row in read_metrics(path, "validation")}
    sums = sum(losses[:MIDDLE]), sum(losses[MIDDLE:END])
    return [
        {"loss": held_out[step]["loss"], "error": held_out[step]["error"], "train": total}
        for step, total in zip((MIDDLE, END), sums, strict=True)
    ]


ALONE = {
    "simple CNN with dropout, accumulated": (
        {"name": "simple_cnn", "size": "tiny", "dropout": 0.5},
        {"micro_batch": 8},
        [{"peak": 0.02}, {"peak": 0.05}],
    ),
    "ghost batch norm, accumulated": (GHOST, {"micro_batch": 12}, [{"peak": 0.1}, {"peak": 0.5}]),
    "MLP, everything searched": (
        MLP,
        {"data.augment": "crop_flip", "schedule.name": "linear", "duration": "100 steps"},
        [
            {
                "peak": 0.3,
                "momentum": 0.5,
                "weight_decay": 0.01,
                "label_smoothing": 0.2,
                "total_steps": 6,
            },
            {
                "peak": 0.05,
                "momentum": 0.95,
                "weight_decay": 0.1,
                "label_smoothing": 0.0,
                "total_steps": 9,
            },
        ],
    ),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_trial_is_what_a_run_of_its_own_would_be(tmp_path, tiny_cnn, name):
    """Sums of training losses, validation loss and error, to float tolerance."""
    model, changes, values = ALONE[name]
    config, seeds = _config(model, **changes), (5, 11)
    rows = _train(_population(config, values, seeds), MIDDLE, END)
    for k, (trial, seed) in enumerate(zip(values, seeds, strict=True)):
        alone = _alone(tmp_path / str(k), config, trial, seed)
        for row, expected in zip(rows, alone, strict=True):
            for key, value in expected.items():
                np.testing.assert_allclose(row[key][k], value, rtol=2e-4, err_msg=key)


VALUES = [{"peak": 0.05 * (k + 1)} for k in range(9)]


@pytest.fixture(scope="module")
def expected():
    """Rows and weights of nine trials, one after another on one device."""
    config = _config(GHOST, **{"data.augment": "crop_flip"})
    population = _population(config, VALUES, block=1)
    assert population.layout.shape == (1, 9, 1)
    return _train(population, MIDDLE, END), [population.variables(k) for k in range(9)]


@pytest.mark.parametrize(
    "devices, count, block, spread, shape",
    [
        (1, 5, 2, "trials", (1, 3, 2)),
        pytest.param(1, 5, 5, "trials", (1, 1, 5), marks=pytest.mark.slow),
        pytest.param(2, 5, None, "trials", (2, 1, 3), marks=pytest.mark.slow),
        (3, 6, 1, "trials", (3, 2, 1)),
        (8, 9, None, "trials", (8, 1, 2)),
        (8, 5, 2, "batch", (3, 2)),
        (3, 2, 1, "batch", (2, 1)),
    ],
)
def test_the_layout_changes_nothing(expected, devices, count, block, spread, shape):
    config = _config(GHOST, **{"data.augment": "crop_flip", "devices": devices})
    population = _population(config, VALUES[:count], block=block)
    layout = population.layout
    assert (layout.spread, layout.shape) == (spread, shape)
    rows, weights = expected
    for row, other in zip(_train(population, MIDDLE, END), rows, strict=True):
        for key in other:
            assert row[key].shape == (count,)
            np.testing.assert_allclose(row[key], other[key][:count], rtol=2e-4, err_msg=key)
    for k in range(count):
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)
        jax.tree.map(close, population.variables(k), weights[k])


def test_a_batch_that_does_not_divide_over_the_devices_stays_whole():
    """Few trials on many devices: some devices have nothing to do, and that is no error."""
    point = resolve(_config(MLP, devices=8, global_batch=6), ("peak",))
    layout = layout_of(point, 2)
    assert (layout.spread, layout.shape) == ("trials", (8, 1, 1))
    point = resolve(_config(MLP, devices=8, global_batch=64, micro_batch=32), ("peak",))
    assert layout_of(point, 2).spread == "trials"
    assert layout_of(point, 2).plan.micro_batch == 32


def test_a_diverged_trial_is_frozen_and_disturbs_no_other():
    config = _config(MLP)
    values = [{"peak": 0.1}, {"peak": 1e30}, {"peak": 0.2}]
    sick = _population(config, values, block=3)
    well = _population(config, [*values[:1], {"peak": 0.1}, *values[2:]], block=3)
    rows, healthy_rows = _train(sick, 1, MIDDLE, END), _train(well, 1, MIDDLE, END)
    assert sick.alive.tolist() == [True, False, True] and well.alive.all()
    frozen = sick.variables(1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(frozen))
    _train(sick, END + 1)
    jax.tree.map(np.testing.assert_array_equal, sick.variables(1), frozen)
    _train(well, END + 1)
    for k in (0, 2):
        for row, other in zip(rows, healthy_rows, strict=True):
            assert all(row[key][k] == other[key][k] for key in row)
        jax.tree.map(np.testing.assert_array_equal, sick.variables(k), well.variables(k))


@pytest.mark.parametrize(
    "devices, micro_batch, block, spread",
    [(1, None, 3, "trials"), (1, 8, 1, "trials"), (2, None, 2, "trials"), (4, 3, 3, "batch")],
)
def test_averaged_weights_are_those_of_every_update(devices, micro_batch, block, spread):
    """In float64, from the weights after each; those are what they are without an average."""
    values = [{"peak": 0.1, "ewa_decay": 0.5}, {"peak": 1.0, "ewa_decay": 0.9}]
    values += [{"peak": 0.3, "ewa_decay": 0.0}]
    changes = {"devices": devices, "micro_batch": micro_batch}
    population = _population(_config(MLP, **changes, **EWA_ON), values, block=block)
    assert population.layout.spread == spread
    alone = _population(_config(MLP, **changes), [{"peak": v["peak"]} for v in values], block=block)
    before, history = population.evaluate(), []
    assert all((before["ewa_" + name] == before[name]).all() for name in ("loss", "error"))
    while population.step < END:
        population.advance(population.step + 1)
        history.append(population.weights())
    metrics, decays = population.evaluate(), np.asarray([v["ewa_decay"] for v in values])
    _to(alone, END)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, alone.weights(), history[-1])
    for k, decay in enumerate(decays):
        coefficients = decay ** np.arange(END - 1.0, -1.0, -1.0)
        mean = lambda *leaves, k=k, c=coefficients: np.average([w[k] for w in leaves], 0, c)
        expected = jax.tree.map(mean, *history)
        jax.tree.map(close, population.variables(k, "ewa_")[0], expected)
    # The metrics of averaged weights are those that a population with such weights has.
    packed = population.packed()
    state = packed.state.replace(params=packed.state.opt_state.average)
    population.restore(END, packed.replace(state=state))
    for name in ("loss", "error"):
        np.testing.assert_array_equal(population.evaluate()[name], metrics["ewa_" + name])
        assert name != "loss" or (metrics[name][:2] != metrics["ewa_" + name][:2]).all()


def test_one_compilation(caplog):
    """Also of calls of other lengths, of evaluations, and after going back."""
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        population = _population(_config(MLP), VALUES[:2])
        assert "XLA compilation of" in caplog.text  # or this test would find nothing
        population.evaluate()
        population.restore(population.step, population.packed())
        caplog.clear()
        _train(population, 1, 3, 8)
        population.evaluate()
    assert "XLA compilation of" not in caplog.text


def test_going_back_and_where_calls_are_cut_leave_no_trace(monkeypatch):
    """Bit-identical weights and evaluations: what resuming rests on."""
    population = _population(_config(GHOST, devices=2), VALUES[:3])
    _train(population, MIDDLE)
    _to(population, MIDDLE + 2)
    packed = population.packed()
    weights_of = lambda: [population.variables(k) for k in range(3)]
    (whole,), weights = _train(population, 40), weights_of()
    for seconds in (1e9, 0.0):  # as much as fits in a call, and one update in each
        monkeypatch.setattr(population_module, "CALL_SECONDS", seconds)
        population.restore(MIDDLE + 2, packed)
        assert population.step == MIDDLE + 2
        (again,) = _train(population, 40)
        for key in whole:
            # Sums of losses are added in another order, in float32.
            rtol = 1e-6 if key == "train" else 0
            np.testing.assert_allclose(again[key], whole[key], rtol=rtol, err_msg=key)
        jax.tree.map(np.testing.assert_array_equal, weights_of(), weights)


def test_a_batch_above_the_data_set_and_a_subset_of_it():
    config = _config(MLP, **{"data.train_size": 30, "global_batch": 64})
    population = _population(config, VALUES[:2])
    assert population._orders[0].size == 30
    (row,) = _train(population, END)
    assert population.alive.all() and np.isfinite(row["loss"]).all()


# ---- Streamed data ----


def _streamed(tmp_path, **changes):
    """A config on the images of the fixture `imagenet`, evaluated in two batches and a bit."""
    changes = {"global_batch": 8, "eval.batch": 4, "data.dir": str(tmp_path / "tfds")} | changes
    model = {"name": "mlp", "widths": (4,)}
    return _config(model, **{"data.name": "imagenet", **changes})


@pytest.mark.parametrize(
    "devices, block, spread",
    [pytest.param(1, 1, "trials", marks=pytest.mark.slow), (2, 1, "trials"), (3, 2, "batch")],
)
def test_trials_on_a_stream_are_what_runs_of_their_own_would_be(
    tmp_path, imagenet, monkeypatch, devices, block, spread
):
    """All of them read the images in the order of the first one's seed."""
    values, seeds = [{"peak": 0.005}, {"peak": 0.02}], (5, 11)
    config = _streamed(tmp_path, seed=5, devices=devices)
    config.global_batch = 6 if spread == "batch" else 8
    population = _population(config, values, seeds, block)
    assert population.layout.spread == spread and population.program.capacity == 1
    rows = _train(population, MIDDLE, END)
    stream = streaming.ImageStream
    monkeypatch.setattr(streaming, "ImageStream", lambda *a, **k: stream(*a, **k | {"seed": 5}))
    config.devices = 1
    for k, (trial, seed) in enumerate(zip(values, seeds, strict=True)):
        alone = _alone(tmp_path / str(k), config, trial, seed)
        for row, expected in zip(rows, alone, strict=True):
            for key, value in expected.items():
                np.testing.assert_allclose(row[key][k], value, rtol=1e-3, err_msg=key)


def test_going_back_on_a_stream_leaves_no_trace(tmp_path, imagenet):
    population = _population(_streamed(tmp_path), VALUES[:3], block=3)
    _train(population, 2)
    packed = population.packed()
    (whole,), weights = _train(population, 5), population.variables(2)
    population.restore(2, packed)
    *_, again = _train(population, 4, 5)
    for key in ("loss", "error"):
        np.testing.assert_array_equal(again[key], whole[key], err_msg=key)
    jax.tree.map(np.testing.assert_array_equal, population.variables(2), weights)


def test_as_many_errors_as_the_goal_allows_are_not_fewer():
    """6 of 300 are 0.02, which a float32 is not: it is smaller."""
    population = _population(_config(MLP), VALUES[:2])
    (row,) = _train(population, 2)
    for error in row["error"].tolist():
        assert error == round(300 * error) / 300


# ---- The training split ----


@pytest.mark.parametrize("size, count", [(None, 300), pytest.param(40, 40, marks=pytest.mark.slow)])
def test_the_training_split_is_evaluated_as_the_validation_split_is(size, count):
    """On the first examples, as many as the validation split has: by the task's own metrics."""
    config = _config(GHOST, **{"data.augment": "crop_flip", "data.train_size": size})
    point = resolve(config, ("peak", "label_smoothing"))
    values = [{"peak": 0.1, "label_smoothing": 0.3}, {"peak": 0.5, "label_smoothing": 0.0}]
    population = Population(point, values, range(2), split="train")
    (row,) = _train(population, END)
    first = sources.load("digits", "train", None)
    batch = {"image": first["image"][:count], "label": first["label"][:count]}
    for k in range(2):
        outputs = point.task.outputs(*population.variables(k), point.preprocess(None, batch))
        expected, weights = point.task.score(outputs, batch)
        assert weights is None  # each counts 1
        for key, of_each in expected.items():
            np.testing.assert_allclose(row[key][k], of_each.mean(), rtol=1e-5, err_msg=key)


def test_the_training_split_of_a_stream(tmp_path, imagenet):
    """The first 6 of 20 images, at their centres."""
    point = resolve(_streamed(tmp_path), ("peak",))
    population = Population(point, VALUES[:2], range(2), split="train")
    (row,) = _train(population, 1)
    images = np.stack([streaming.centre_crop(_decoded(i), 224) for i in range(6)])
    batch = {"image": images, "label": np.arange(6)}
    for k in range(2):
        outputs = point.task.outputs(*population.variables(k), point.preprocess(None, batch))
        expected, _ = point.task.score(outputs, batch)
        np.testing.assert_allclose(row["loss"][k], expected["loss"].mean(), rtol=1e-4)


def test_several_labels_of_streamed_images(open_images, monkeypatch):
    """Their average precision is scikit-learn's."""
    config = _streamed(open_images, **{"data.name": "open_images", "data.dir": str(open_images)})
    point = resolve(config, ("peak",))
    population = Population(point, VALUES[:1], range(1), split="validation")
    (row,) = _train(population, 1)
    source = streaming.open_jpegs("open_images", "validation", open_images)
    pictures = [source[i] for i in range(4)]
    images = [streaming.centre_crop(streaming._decode(image), 32) for image, _ in pictures]
    batch = {"image": np.stack(images), "label": np.stack([label for _, label in pictures])}
    outputs = point.task.outputs(*population.variables(0), point.preprocess(None, batch))
    expected = average_precision_score(batch["label"].ravel(), np.ravel(outputs))
    np.testing.assert_allclose(row["ap"][0], expected, rtol=1e-3)
    assert batch["label"].mean() < expected < 1


def _decoded(i):
    return streaming._decode(jpeg(photo(i)))


# ---- Memory ----


def _gib(population):
    """What the population's program needs, as it is compared with the limit."""
    return planning.needed_bytes(population.program) / 2**30


@pytest.fixture
def limited(monkeypatch):
    """limited(gib, ...) makes a population of trials that need memory in proportion to their batch,
    and not for the indices of their examples."""
    monkeypatch.setattr(program, "MAX_CALL_EXAMPLES", 2**10)

    def limited(gib, model=MLP, count=8, block=8, placement=None, **changes):
        synthetic = {"data.name": "synthetic", "data.image_shape": (16, 16, 3)}
        synthetic |= {"data.num_classes": 10, "data.train_size": 100, "global_batch": 960}
        config = _config(model, memory_limit_gib=gib, **synthetic | changes)
        point = resolve(config, ("peak",))
        return Population(point, VALUES[:count], range(count), block, placement=placement)

    return limited


@pytest.fixture
def uncompiled(monkeypatch):
    """No program is compiled; one needs a MiB for every example that it holds at once."""

    def compile_program(point, layout, hparams, method=None, **_):
        return planning.Program(layout, method, None, 1, 0, 0, 0.0, None)

    need = lambda program, limit=math.inf: program.layout.examples_at_once * 2**20
    monkeypatch.setattr(planning, "compile_program", compile_program)
    monkeypatch.setattr(planning, "needed_bytes", need)
    monkeypatch.setattr(Population, "_fastest", lambda self, programs: programs[0])


def test_fewer_trials_side_by_side_where_memory_is_short(limited):
    whole = limited(None)
    assert whole.layout.shape == (1, 1, 8)
    part = limited(0.9 * _gib(whole))
    assert part.layout.shape == (1, 2, 4) and part.layout.plan == whole.layout.plan
    for row, other in zip(_train(part, 1, END), _train(whole, 1, END), strict=True):
        np.testing.assert_allclose(row["loss"], other["loss"], rtol=1e-4)


def test_the_batch_is_shared_and_cut_where_one_trial_alone_is_too_large(limited, uncompiled):
    def layout(mib, count=2, devices=2):
        found = limited(mib / 2**10, count=count, devices=devices).layout
        return found.spread, found.shape, found.plan.layout

    assert layout(960, count=8, devices=1) == ("trials", (1, 8, 1), (1, 1, 960))
    assert layout(960) == ("trials", (2, 1, 1), (1, 1, 960))
    assert layout(959) == ("batch", (2, 1), (1, 2, 480))
    assert layout(479) == ("trials", (2, 1, 1), (4, 1, 240))


@pytest.mark.parametrize(
    "changes, words",
    [({}, "raise memory_limit_gib"), ({"micro_batch": 320}, "leave micro_batch None")],
)
def test_more_than_the_memory_is_refused_in_one_sentence(limited, uncompiled, changes, words):
    told = r"^8 trials of batch 960 do not fit: .* needs .* GiB .*; search fewer trials, .*\.$"
    with pytest.raises(UserError, match=told) as caught:
        limited(1e-6, **changes)
    assert words in str(caught.value)


def test_a_way_to_compute_convolutions_that_does_not_fit_is_left_out(
    limited, uncompiled, tiny_cnn, monkeypatch
):
    """Whichever it is."""
    for too_large in planning.SIDE_BY_SIDE_METHODS:
        tried = []

        def need(program, limit, tried=tried, too_large=too_large):
            tried.append(program.method)
            return math.inf if program.method == too_large else 1

        monkeypatch.setattr(planning, "needed_bytes", need)
        population = limited(1.0, tiny_cnn, 2, 2, global_batch=4)
        assert population.layout.block == 2 and set(tried) == {"xla", "patches"}
        assert population.placement["conv_method"] not in (None, too_large)


def test_what_was_chosen_is_chosen_again_on_the_same_devices(limited, uncompiled):
    chosen = limited(0.9 * 8 * 960 / 2**10).placement
    assert (chosen["block"], chosen["devices"], chosen["conv_method"]) == (4, 1, None)
    again = json.loads(json.dumps(chosen))
    assert limited(None, placement=again).layout.block == 4  # though 8 would fit now
    assert limited(None, placement=again, devices=2).layout.shape == (2, 1, 4)
    assert limited(None, placement=again | {"kind": "another"}).layout.block == 8
    assert limited(None, placement=again | {"devices": 2}).layout.block == 8


def test_a_trial_that_diverged_trains_no_more_though_its_loss_be_finite_again():
    """As after a batch with a NaN among its examples, also on resuming."""
    population = _population(_config(MLP), VALUES[:2])
    packed = population.packed()
    population.restore(0, packed.replace(alive=np.array([False, True])))
    _to(population, END)
    assert population.alive.tolist() == [False, True]
    same = lambda a, b: np.array_equal(a[0], b[0])
    now = population.packed().state.params
    assert all(jax.tree.leaves(jax.tree.map(same, now, packed.state.params)))


def test_a_limit_that_comes_nearer_is_not_passed():
    """As where the first crossing cuts a search short: what was prepared then is too much."""
    population = _population(_config(MLP, duration="60 steps"), VALUES[:2])
    population.per_step = 1e-9  # whatever fits
    population.advance(10, then=30)
    population.advance(12)
    assert population.step == 12
