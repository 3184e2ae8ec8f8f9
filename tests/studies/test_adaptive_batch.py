"""The study of batches that follow the noise scale, on a tiny net in this process."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from configs.adaptive_batch import get_config
from scaling.config import default_config, model_config
from scaling.crossings import History
from scaling.errors import UserError
from scaling.fits import fit_steps
from scaling.record import RunDir, read_metrics
from scaling.report.records import read_workdir
from scaling.studies.adaptive_batch import measure
from scaling.studies.adaptive_batch.measure import check, dry_run, point_at
from scaling.studies.adaptive_batch.record import Crossing
from scaling.studies.adaptive_batch.report import KIND
from scaling.studies.adaptive_batch.savings import gamma_of, saving
from scaling.studies.running import points_of, run_study
from scaling.train.trials import Outcome

GOALS = (1.0, 0.5)


def _config(**changes):
    c = default_config("adaptive_batch")
    c.devices, c.duration, c.optim.name = 1, "12 epochs", "sgd"
    c.model = model_config("mlp", widths=(8,))
    a = c.adaptive
    a.batches, a.r, a.seeds, a.goals, a.resolution = (16, 64), (64.0,), 2, GOALS[::-1], 0.1
    a.rate_star, a.batch_star, a.alpha, a.largest = 0.6, 48.0, 0.9, 256
    c.update_from_flattened_dict(changes)
    return c


def _point(**changes):
    (point,) = points_of(_config(**{"adaptive.r": ()} | changes), "0:1").values()
    return point


def _run(config, workdir):
    """name -> point, and what was said."""
    said = []
    run_study(config, workdir, None, said.append)
    return {p.directory.name: p for p in KIND.read(read_workdir(workdir)).points}, said


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """(workdir, points, what was said)."""
    path = tmp_path_factory.mktemp("study")
    return path, *_run(_config(), path)


def test_points_and_their_names():
    config = _config(**{"adaptive.batches": (16, 2048), "adaptive.r": (0.5, 1000.0)})
    named = points_of(config)
    assert list(named) == ["fixed_bs16", "fixed_bs2k", "adaptive_r0.5", "adaptive_r1000"]
    # A point is a study of its own with that one point: adding others does not change it.
    assert list(points_of(named["adaptive_r0.5"])) == ["adaptive_r0.5"]
    assert named["fixed_bs2k"].global_batch == 2048
    assert named["adaptive_r0.5"].global_batch == config.adaptive.first_batch
    with pytest.raises(UserError, match="fixed_bs16 is named twice"):
        points_of(_config(**{"adaptive.batches": (16, 16)}))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"schedule.name": "cosine"}, "schedule.name is 'cosine', but here the learning rate"),
        ({"schedule.warmup": "1 epoch"}, "leave it '0 steps'"),
        ({"optim.scaling_rule": "linear"}, "leave it 'none'"),
        ({"optim.base_lr": 0.2}, "follows from adaptive.rate_star"),
        ({"micro_batch": 4}, "adaptive.parts says"),
        ({"noise_scale": False}, "leave it True"),
        ({"noise_every": 2}, "measured at every update"),
        ({"eval.test": True}, "only training data"),
        ({"metrics.weight_distance": True}, "of the 'train' study"),
        ({"batch_sizes": (8, 16)}, "name fixed batches in adaptive.batches"),
        ({"duration": "500 steps"}, "write it in epochs or examples"),
        ({"adaptive.seeds": 0}, "adaptive.seeds is 0; it must be at least 1"),
        ({"adaptive.memory": 0.5}, "adaptive.memory is 0.5"),
        ({"adaptive.goals": ()}, "at least one training loss"),
        ({"adaptive.goals": (1.0, 0.0)}, "adaptive.goals contains 0.0; it must be above 0"),
        ({"adaptive.goals": (1.0, 2.4)}, "adaptive.goals: 2.4 takes no learning"),
        ({"adaptive.batches": (1,)}, "adaptive.batches contains 1; it must be at least 2"),
        ({"adaptive.r": (-3.0,)}, "adaptive.r contains -3.0; it must be above 0"),
        ({"adaptive.first_batch": 512}, "within adaptive.smallest and adaptive.largest, 2 and 256"),
        ({"adaptive.smallest": 10, "adaptive.largest": 12}, "No power of two lies between"),
        ({"devices": 2, "adaptive.batches": (9,)}, "does not divide over 2 devices"),
        ({"devices": 4, "adaptive.batches": ()}, "Global batch 2 does not divide over 4 devices"),
        ({"data.name": "imagenet"}, "imagenet is streamed"),
        ({"data.train_size": 200}, "come to 256, which holds the 200 training examples more than"),
        ({"adaptive.batches": (1200,)}, "come to 1,200, which holds the 1,197 training examples"),
    ],
)
def test_what_cannot_be_is_told_before_anything_runs(changes, words):
    with pytest.raises(UserError) as error:
        for point in points_of(_config(**changes)).values():
            check(point)
    assert words in str(error.value)


def test_parts_do_not_depend_on_the_devices():
    for devices, batch, accum, micro in (
        (1, 64, 8, 8),
        (2, 64, 4, 8),
        (8, 64, 1, 8),
        (1, 2, 2, 1),
        (1, 12, 6, 2),
    ):
        point = point_at(_point(devices=devices), batch)
        assert point.config.micro_batch == micro == batch // (accum * devices)
        assert point.hparams["peak"] == pytest.approx(0.6 / (1 + 48 / batch) ** 0.9)
    whole = point_at(_point(**{"model.norm": "batch"}), 64)  # its statistics are of all examples
    assert whole.config.micro_batch == 64 and whole.config.noise_every == 1
    images = _point(model=model_config("resnet", depth=8, norm="group"))
    assert point_at(images, 1024).config.micro_batch == 32  # for the cache of a CPU


def test_the_result_follows_from_the_metrics(studied):
    path, points, _ = studied
    for name, point in points.items():
        assert point.goals == list(GOALS) and point.status == "reached"
        assert [run.seed for run in point.runs] == [0, 1]
        rows, evaluations = (read_metrics(path / name, s) for s in ("train", "train_eval"))
        for trial, run in enumerate(point.runs):
            own = [row for row in rows if row["trial"] == trial]
            assert [row["step"] for row in own] == list(range(1, len(own) + 1))
            examples = np.cumsum([0, *(row["batch"] for row in own)])
            judged = [row for row in evaluations if row["trial"] == trial]
            for goal, found in zip(GOALS, run.goals, strict=True):
                step = next(row["step"] for row in judged if row["loss"] < goal)
                assert found == Crossing(goal, step, examples[step])
            assert found.steps == len(own)  # it stops there
            measured = [[row["step"], row["noise_scale"]] for row in judged]
            assert [[s, b and float(f"{b:.9g}")] for s, b in run.noise_scale] == measured
            changes = [(1, own[0]["batch"])]
            for before, row in itertools.pairwise(own):
                if row["batch"] != before["batch"]:
                    changes.append((row["step"], row["batch"]))
            assert run.schedule == changes
            for row in own:
                rate = 0.6 / (1 + 48 / row["batch"]) ** 0.9
                assert row["learning_rate"] == pytest.approx(rate, rel=1e-6)
                assert point.learning_rates[str(row["batch"])] == pytest.approx(rate)
        used = {batch for run in point.runs for _, batch in run.schedule}
        assert set(map(int, point.learning_rates)) == used
    fixed, adaptive = points["fixed_bs64"], points["adaptive_r64"]
    assert (fixed.kind, fixed.global_batch, fixed.r) == ("fixed", 64, None)
    assert (adaptive.kind, adaptive.global_batch, adaptive.r) == ("adaptive", None, 64.0)
    assert fixed.gamma is None and 0 < adaptive.gamma < 1
    assert any(len(run.schedule) > 1 for run in adaptive.runs)


def test_a_second_launch_finds_it(studied):
    path, points, said = studied
    steps = points["fixed_bs16"].steps
    assert any(f"goal 2 of 2, steps (range) {steps:,.3g}" in line for line in said)
    again, said = _run(_config(), path)
    assert again.keys() == points.keys()
    assert sum("already finished" in line for line in said) == 3


@pytest.mark.parametrize(
    "changes, status, reached",
    [
        ({"duration": "40 examples"}, "target_not_reached", "0 of 2"),
        # The weights grow by 10^4 at every update.
        ({"optim.weight_decay": 6e4}, "diverged", "0 of 2, 2 diverged"),
    ],
)
def test_what_did_not_come_to_the_goal_is_a_result(tmp_path, changes, status, reached):
    config = _config(**{"adaptive.batches": (16,), "adaptive.r": ()} | changes)
    [(_, point)] = _run(config, tmp_path)[0].items()
    assert point.status == status == point.runs[1].status
    assert point.runs[0].goals[-1] == Crossing(0.5, None, None)
    study = KIND.read(read_workdir(tmp_path))
    assert reached in KIND.table([study]).cells()[1]


def test_the_worst_seed_gives_the_status(tmp_path, monkeypatch):
    losses = {
        "reached": ([3.0, 0.9 * min(GOALS)], None),
        "target_not_reached": ([3.0, 0.9 * max(GOALS)], None),
        "diverged": ([3.0, 0.9 * max(GOALS)], 9),
    }
    assert min(GOALS) < 0.9 * max(GOALS)
    seeds = []
    for loss, diverged_at in losses.values():
        columns = {"step": [0, 5], "examples": [0, 80], "noise_scale": [None, 7.0], "loss": loss}
        history, observed = History(columns, diverged_at), [{"schedule": [[1, 16]]}]
        seeds.append(Outcome([history], 5, {}, observed, None, 0, {}))
    for count, status in enumerate(losses, 1):
        monkeypatch.setattr(measure, "train_phases", lambda *_, k=count: seeds[:k])
        monkeypatch.setattr(measure, "seconds_of", lambda outcomes: {})
        config = _point(**{"adaptive.seeds": count})
        with RunDir(tmp_path) as run:
            record = measure.measure(config, run, "test", None)
        assert record.status == status
        assert [run.status for run in record.runs] == list(losses)[:count]
        assert record.runs[-1].goals[0] == Crossing(GOALS[0], 5, 80)


def test_gamma_by_hand():
    """(int sqrt(B) ds)^2 / (int ds int B ds) by trapezoids, s from dS / (1 + B_simple / B)."""
    noise_scales = [[0, None], [5, 16.0], [8, None], [20, 48.0], [30, 144.0]]
    schedule = [[1, 16], [21, 72]]
    ds = 15 / (1 + 48 / 16), 10 / (1 + 144 / 72)
    trapezoid = lambda y: ds[0] * (y[0] + y[1]) / 2 + ds[1] * (y[1] + y[2]) / 2
    scales = (16.0, 48.0, 144.0)
    expected = trapezoid([math.sqrt(b) for b in scales]) ** 2 / (sum(ds) * trapezoid(scales))
    assert gamma_of(schedule, noise_scales) == pytest.approx(expected)
    assert gamma_of(schedule, noise_scales[:3]) is None
    assert gamma_of([[1, 16]], [[step, 50.0] for step in (3, 7, 30)]) == pytest.approx(1.0)


def test_the_interval_of_a_saving():
    """Where the fit is exact, Student's t of the logarithms; where it is not, wider by its band."""
    batches = np.array([8, 32, 128, 512])
    exact = fit_steps(batches, 100 + 6_400 / batches)
    ends = [(160, 10_240), (150, 9_600), (170, 10_880)]
    logs = np.log(200 / np.array([160, 150, 170]))
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    found = saving(exact, ends)
    expected = [1 - math.exp(-x) for x in (logs.mean(), low, high)]
    np.testing.assert_allclose([found.share, found.low, found.high], expected, rtol=1e-3)

    rough = fit_steps(batches, (100 + 6_400 / batches) * [1.1, 0.9, 1.1, 0.9])
    wider, same = saving(rough, ends), saving(rough, [ends[0]] * 3)
    assert wider.low < same.low < same.share < same.high < wider.high
    band = np.array([x.item() for x in rough.band(64.0)])
    np.testing.assert_allclose([same.low, same.high], 1 - 160 / band, rtol=1e-9)


@pytest.mark.parametrize("bend", [1.0, 1.5, 2.0])
def test_a_fixed_batch_saves_nothing(bend):
    """Whatever the bend of the curve: intervals of runs that do not adapt hold 0."""
    rng, batches, covered = np.random.default_rng(0), 2.0 ** np.arange(3, 11), []
    of = lambda batch: 100 * (1 + (64 / batch) ** bend) ** (1 / bend)
    noisy = lambda batch: of(batch) * np.exp(rng.normal(0, 0.05, 5))
    for _ in range(40):
        fit = fit_steps(batches, [np.median(noisy(batch)) for batch in batches])
        found = saving(fit, [(steps, 64 * steps) for steps in noisy(64.0)])
        covered.append(found.low <= 0 <= found.high)
    assert np.mean(covered) > 0.9


def test_dry_run_names_what_would_happen():
    text = dry_run(points_of(_config()))
    assert "fixed_bs16: dry run" in text and f"learning rate {0.6 / 4**0.9:.6g}" in text
    assert "sqrt(64 B_simple), 2 to 256" in text
    assert "loss below 1, 0.5; at most 14,364 examples for each of 2 seeds" in text


@pytest.mark.parametrize("task", ["digits", "fashion_mnist"])
def test_the_configs_can_be_used(task):
    points = points_of(get_config(task))
    assert {"fixed", "adaptive"} == {name.split("_")[0] for name in points}
    for point in points.values():
        point.devices = 1
        if task == "digits":  # the other's data may not be there
            check(point)
