"""The study of branches, on a tiny net in this process."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from compare import StopAfter

from configs.branch import get_config
from scaling.config import default_config, model_config
from scaling.errors import UserError
from scaling.noise_exact import exact_noise
from scaling.record import RunDir
from scaling.report.records import read_workdir
from scaling.signals import Interrupted, Signals
from scaling.studies.branch import measure as branch
from scaling.studies.branch.report import KIND
from scaling.studies.running import points_of, run_study
from scaling.train.feed import ResidentFeed
from scaling.train.point import resolve
from scaling.train.population import Population


def _config(**changes):
    c = default_config("branch")
    c.devices, c.global_batch, c.data.train_size = 1, 8, 256
    c.optim.name, c.optim.base_lr, c.optim.scaling_rule, c.optim.base_batch = (
        "sgd",
        0.1,
        "linear",
        8,
    )
    c.model = model_config("mlp", widths=(8,))
    b = c.branch
    b.snapshots, b.factors, b.window, b.seeds = (
        ("4 steps", "12 steps"),
        (1, 2, 8),
        "128 examples",
        2,
    )
    b.rates, b.tolerance = (0.5, 1.0), 0.05
    c.update_from_flattened_dict(changes)
    return c


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    run_study(_config(), path, None, lambda text: None)
    return path


def _trained(point, trials, steps, seeds):
    """The losses of a population that goes on from other trials."""
    population = Population(point, [{}] * len(seeds), seeds)
    packed = jax.tree.map(lambda leaf: np.repeat(leaf, len(seeds) // len(leaf), 0), trials)
    population.restore(0, packed)
    while population.step < steps:
        population.advance(steps)
    return population.evaluate()["loss"], population


def test_branches_are_the_run_trained_on_by_hand(studied):
    (point,) = KIND.read(read_workdir(studied)).points
    config = _config()
    run = Population(resolve(branch.run_of(config)), [{}], [config.seed])
    for snapshot in point.snapshots:
        while run.step < snapshot.step:
            run.advance(snapshot.step)
        assert snapshot.loss == pytest.approx(run.evaluate()["loss"][0], rel=1e-5)
        for factor in (1, 8):
            at = resolve(branch.branch_of(config, factor))
            (found,) = (b for b in snapshot.branches if b.factor == factor and b.rate == 1.0)
            losses, _ = _trained(at, run.packed(), found.steps, [1, 2])
            assert found.losses == pytest.approx(losses.tolist(), rel=1e-5)
            assert found.learning_rate == pytest.approx(0.1 * factor)
            assert found.steps * found.global_batch == point.window == 128


def test_the_noise_scale_is_that_of_the_weights(studied):
    """A learning rate of 0 leaves them as they are: the gradients of all examples, one by one."""
    (point,) = KIND.read(read_workdir(studied)).points
    at = resolve(branch.run_of(_config()))
    run = Population(at, [{}], [0])
    while run.step < 12:
        run.advance(12)
    params, data = run.variables(0)[0], ResidentFeed(at).data

    def loss(params, example):
        batch = at.preprocess(None, jax.tree.map(lambda leaf: leaf[None], example))
        return at.task.sums(params, {}, batch, np.ones(1))["loss"]

    exact, found = (
        exact_noise(loss, params, data, 64, 2, jax.random.key(0)),
        point.snapshots[1].noise,
    )
    assert found.low < exact.noise_scale < found.high
    assert found.noise_scale == pytest.approx(exact.noise_scale, rel=0.3)


def test_the_warmup_trains_the_batches_that_it_says(studied):
    (point,) = KIND.read(read_workdir(studied)).points
    config, trials = _config(), None
    assert point.constant.steps == 12 and point.constant.schedule == [(0, 8)]
    at = resolve(branch.branch_of(config, 1, 96))
    run = Population(at, [{}] * 2, [1, 2])
    while run.step < 12:
        run.advance(12)
    assert point.constant.losses == pytest.approx(run.evaluate()["loss"].tolist(), rel=1e-5)
    steps, places = 0, [place for place, _ in point.warmup.schedule] + [96]
    for (place, size), end in zip(point.warmup.schedule, places[1:], strict=True):
        at = resolve(branch.branch_of(config, size // 8, end - place))
        part = Population(at, [{}] * 2, [1, 2])
        if trials is not None:
            part.restore(0, trials, place)
        while part.step < at.total_steps:
            part.advance(at.total_steps)
        trials, steps = part.packed(), steps + at.total_steps
    assert point.warmup.steps == steps
    assert point.warmup.losses == pytest.approx(part.evaluate()["loss"].tolist(), rel=1e-5)


def test_what_is_left_are_records(studied):
    names = {path.name for path in (studied / "bs8").iterdir()}
    assert not any(name.endswith(".npz") for name in names)
    assert KIND.answer(KIND.read(read_workdir(studied))).startswith(
        "On digits with an MLP, the crit"
    )


@pytest.mark.parametrize("looks", [1, 3, 6, 10, 14])
def test_stopped_anywhere_it_resumes_to_the_same_result(studied, tmp_path, looks):
    (config,) = points_of(_config()).values()
    results = []
    for signals in (StopAfter(looks), Signals()):
        with RunDir(tmp_path / "bs8") as run:
            run.begin(json.loads(config.to_json_best_effort()))
            try:
                record = branch.measure(config, run, "bs8", signals)
            except Interrupted:
                continue
            results.append(dataclasses.asdict(record))
    expected = json.loads((studied / "bs8/result.json").read_text())
    (found,) = json.loads(json.dumps(results))
    for result in (found, expected):
        del result["seconds"]
    assert found == expected


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"branch.factors": (2, 4)}, "and 1, to which the others are compared"),
        ({"branch.factors": (1, 2, 2)}, "name each factor once"),
        ({"branch.snapshots": ()}, "branch.snapshots is empty"),
        ({"branch.snapshots": ("0 steps",), "branch.warmup": True}, "name a later one"),
        ({"branch.window": "20 examples"}, "make the window 64 examples"),
        ({"schedule.name": "cosine"}, "leave it 'constant'"),
        ({"schedule.warmup": "5 steps"}, "within the warmup of 5 steps"),
        ({"branch.seeds": 1}, "branch.seeds"),
        ({"branch.tolerance": 0.0}, "branch.tolerance"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        run_study(_config(**changes), tmp_path, None, lambda text: None)
    assert not any(tmp_path.iterdir())


def test_dry_run_prices_all_trainings():
    text = branch.dry_run(points_of(_config()))
    # The run and twice two seeds of it, 96 examples each; 2 x 3 x 2 x 2 branches of 128.
    assert f"{5 * 96 + 24 * 128:.3g} examples" in text and "4 steps, 12 steps" in text


@pytest.mark.parametrize("task", ["digits", "fashion_mnist"])
def test_the_configs_can_be_used(task):
    for config in points_of(get_config(task)).values():
        largest = max(config.branch.factors) * config.global_batch
        assert branch.window_of(config) % largest == 0  # whole updates of every branch
        noise = resolve(branch.noise_of(config))
        assert noise.total_steps >= branch.BATCHES[0] and noise.config.noise_scale
