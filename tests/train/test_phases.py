"""Batches that change on the way, against training written out and against runs cut to pieces."""

import dataclasses
import itertools
import json
import signal

import jax
import numpy as np
import pytest

from scaling import noise
from scaling.config import default_config, model_config
from scaling.crossings import next_evaluation
from scaling.data import sources
from scaling.data.resident import EpochOrder
from scaling.errors import UserError
from scaling.record import RunDir, read_metrics
from scaling.signals import Interrupted, Signals
from scaling.train import phases, planning, population
from scaling.train.phases import (
    Rules,
    next_batch,
    parts_of,
    train_parts,
    train_phases,
)
from scaling.train.point import resolve
from scaling.train.population import Population
from scaling.train.single import train_point
from scaling.train.step import init_state

FOLLOW = Rules(16, (1.0, 0.2), 0.2, 20_000, r=100.0, largest=128, memory=20.0)
STAY = dataclasses.replace(FOLLOW, r=None, goals=(1e-9,), budget=16 * 40)


def _config(batch, rate=0.004, **changes):
    c = default_config()
    c.global_batch, c.micro_batch, c.devices = batch, batch // 4, 1
    c.noise_scale, c.noise_every, c.eval.test = True, 1, False
    c.model = model_config("mlp", widths=(8,))
    c.optim.name, c.optim.base_lr = "sgd", rate * batch
    c.update_from_flattened_dict(changes)
    return c


def point_at(batch, **changes):
    return resolve(_config(batch, **changes))


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Programs are compiled once for all tests whose points do not differ."""
    plain, known = planning.fitting, {}

    def fitting(point, *args, **options):
        key = point.config.to_json()
        if key not in known:
            known[key] = plain(point, *args, **options)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "fitting", fitting)
        yield


def _train(path, rules, seeds=(3,), at=point_at, signals=None):
    with RunDir(path) as run:
        return train_phases(at, rules, seeds, run, "test", signals)


def _schedule(outcome):
    return outcome.observed[0]["schedule"]


def _numbers(outcomes):
    """All but times."""
    return [dataclasses.replace(outcome, seconds={}) for outcome in outcomes]


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """(run directory, outcomes) of two seeds that follow the noise scale."""
    path = tmp_path_factory.mktemp("followed")
    return path, _train(path, FOLLOW, (3, 4))


@pytest.mark.parametrize(
    "octaves, found",
    [(0.74, 64), (-0.74, 64), (0.76, 128), (-0.76, 32), (2.4, 256), (9.0, 1024), (-9.0, 4)],
)
def test_the_batch_moves_to_the_nearest_power_of_two(octaves, found):
    """Unless it is within three quarters of an octave."""
    rules = Rules(16, (1.0,), 0.1, 1, r=50.0, smallest=3, largest=1500)
    scale = (64 * 2**octaves) ** 2 / 50.0
    assert next_batch(64, scale, rules) == found
    assert next_batch(64, None, rules) == 64
    assert next_batch(64, scale, dataclasses.replace(rules, r=None)) == 64


def test_a_batch_that_stays_trains_as_every_run_does(tmp_path):
    """The same numbers as those of a single run, augmentation included."""
    augmented = {"data.augment": "crop_flip"}
    _train(tmp_path / "a", STAY, at=lambda batch: point_at(batch, **augmented))
    config = _config(16, seed=3, duration="40 steps", **augmented)
    with RunDir(tmp_path / "b") as run:
        run.begin(json.loads(config.to_json_best_effort()))
        train_point(config, run, "test")
    ours, theirs = (read_metrics(tmp_path / name, "train") for name in "ab")
    assert len(ours) == 40
    assert [{k: v for k, v in row.items() if k not in ("trial", "batch")} for row in ours] == theirs


def test_softmax_regression_through_changes_of_the_batch(tmp_path, monkeypatch):
    """SGD in float64 on the consecutive examples of the order, at every batch's own rate."""
    wanted = iter([16, 16, 64, 64, 64, 24, 24, 200])
    monkeypatch.setattr(phases, "next_batch", lambda batch, *_: next(wanted, 200))
    at = lambda batch: point_at(batch, **{"model.widths": ()})
    rules = dataclasses.replace(FOLLOW, goals=(1e-9,), budget=1_500, resolution=0.3)
    (outcome,) = _train(tmp_path, rules, at=at)
    assert [batch for _, batch in _schedule(outcome)] == [16, 64, 24, 200]

    rows = read_metrics(tmp_path, "train")
    steps = range(1, len(rows) + 1)
    batches = [[b for first, b in _schedule(outcome) if first <= step][-1] for step in steps]
    losses, examples = _softmax_regression(at(16), batches)
    np.testing.assert_allclose([row["loss"] for row in rows], losses, rtol=1e-4)
    assert [row["step"] for row in rows] == list(steps)
    assert examples[-1] <= 1_500 < examples[-1] + 200
    seen = {row["step"]: row["examples"] for row in read_metrics(tmp_path, "train_eval")}
    assert seen == {0: 0} | {step: examples[step - 1] for step in seen if step}


def _softmax_regression(point, batches):
    """(losses, examples read by then) of SGD in float64 from seed 3, at the rate 0.004 batch."""
    key, _ = jax.random.split(jax.random.key(3))
    state = init_state(point.task, point.make_optimizer, point.hparams, key)
    (layer,) = jax.tree.map(lambda a: np.asarray(a, np.float64), state.params).values()
    weights, bias = layer["kernel"], layer["bias"]
    split, info = sources.load("digits", "train", None), point.info
    images = (split["image"].reshape(1197, -1) / 255 - info.mean[0]) / info.std[0]
    order, start, losses, examples = EpochOrder(3, 1197), 0, [], []
    for batch in batches:
        chosen = order[start : start + batch]
        start += batch
        logits = images[chosen] @ weights + bias
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        target = np.eye(10)[split["label"][chosen]]
        losses.append(-np.log((share * target).sum(1)).mean())
        gradient = (share - target) / batch
        weights = weights - 0.004 * batch * images[chosen].T @ gradient
        bias = bias - 0.004 * batch * gradient.sum(0)
        examples.append(start)
    return losses, examples


# Twelve updates of 16; four of 64; the rest of 1,197 examples, 11, of 64 too at half the rate.
GROWING = {
    "global_batch": 16,
    "duration": "1 epoch",
    "eval.every": "1 steps",
    "schedule.name": "step",
    "schedule.boundaries": ("12 steps", "448 examples"),
    "schedule.decay_factors": (4.0, 0.5),
    "schedule.batch_factors": (4.0, 1.0),
}


def _in_parts(path, signals=None, ends=(), **changes):
    """(outcome, evaluations, bytes of metrics.jsonl) of two trials, the second at half the rate."""
    config = _config(16, noise_scale=False, micro_batch=None, noise_every=None)
    config.update_from_flattened_dict(changes)
    points = [resolve(part, ("peak",)) for part in parts_of(config)]
    values = [{"peak": points[0].peak}, {"peak": points[0].peak / 2}]
    look = {"lines": 0, "signals": signals or Signals(), "label": "test", "ends": ends}
    with RunDir(path) as run:
        outcome = train_parts(points, values, [3, 3], run, "runs", "validation", 0, **look)
    text = (path / "metrics.jsonl").read_bytes()
    return outcome, read_metrics(path, "validation"), text


def test_softmax_regression_in_parts(tmp_path):
    """The batch grows fourfold after 12 updates; every update's loss, and that of a trial at half
    of all rates is another."""
    changes = GROWING | {"schedule.boundaries": ("12 steps",), "model.widths": ()}
    changes |= {"schedule.decay_factors": (4.0,), "schedule.batch_factors": (4.0,)}
    outcome, rows, _ = _in_parts(tmp_path, ends=("test",), **changes)
    batches = [16] * 12 + [64] * 15
    losses, _ = _softmax_regression(point_at(16, **{"model.widths": ()}), batches)
    assert outcome.steps == 27 and [len(each) for each in outcome.ends.values()] == [2]
    for trial in (0, 1):
        assert [row["step"] for row in rows if row["trial"] == trial] == list(range(28))
    found = [row["train_loss"] for row in rows if row["trial"] == 0]
    np.testing.assert_allclose(found[1:], losses, rtol=1e-4)
    assert abs(rows[-1]["loss"] - rows[-2]["loss"]) > 1e-3
    assert not list(tmp_path.glob("*.npz"))


def test_parts_of_one_batch_are_the_step_schedule(tmp_path):
    """Momentum, warmup and average are handed on."""
    changes = GROWING | {"optim.name": "nesterov", "schedule.warmup": "3 steps"}
    changes |= {"duration": "20 steps", "eval.every": "4 steps", "schedule.batch_factors": (1, 1)}
    changes |= {
        "schedule.decay_factors": (0.5, 4.0),
        "schedule.boundaries": ("9 steps", "13 steps"),
    }
    changes |= {"optim.ewa_half_life": "50 examples"}
    _, parts, _ = _in_parts(tmp_path / "parts", **changes)
    _, whole, _ = _in_parts(tmp_path / "whole", **changes | {"schedule.batch_factors": ()})
    at_ends = [row for row in parts if row["step"] % 4 == 0]
    assert len(at_ends) == len(whole) == 12 and len(parts) == 16
    for row, other in zip(at_ends, whole, strict=True):
        assert row.keys() == other.keys()
        for name in ("step", "loss", "error", "ewa_loss"):
            assert row[name] == pytest.approx(other[name], rel=1e-4)


def test_stopped_in_any_part_it_goes_on_bit_for_bit(tmp_path, monkeypatch):
    changes = GROWING | {"optim.name": "nesterov"}
    expected, _, text = _in_parts(tmp_path / "whole", **changes)
    monkeypatch.setattr(population, "CALL_SECONDS", 0.0)  # one update in each
    stops = 0
    while True:
        left = itertools.chain([None] * 5, itertools.repeat(signal.SIGTERM))
        signals = Signals()
        monkeypatch.setattr(Signals, "received", property(lambda _, left=left: next(left)))
        try:
            outcome, _, again = _in_parts(tmp_path / "pieces", signals, **changes)
            break
        except Interrupted:
            stops += 1
    assert stops > 3 and again == text and outcome.histories == expected.histories


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"schedule.batch_factors": (2.0,)}, "of one length"),
        ({"schedule.name": "constant"}, "at the boundaries of the schedule 'step'"),
        ({"schedule.boundaries": ("12 steps", "13 steps")}, "'0 steps' is no step"),
    ],
)
def test_parts_that_cannot_be(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        _in_parts(tmp_path, **GROWING | changes)


def test_the_batch_follows_the_recorded_norms(followed):
    """The schedule from metrics.jsonl alone: A.2, averages, and the rule, written out."""
    path, outcomes = followed
    assert max(len(_schedule(outcome)) for outcome in outcomes) > 2
    rows, evaluations = read_metrics(path, "train"), read_metrics(path, "train_eval")
    for trial, outcome in enumerate(outcomes):
        square = trace = weight = 0.0
        batch, schedule, found, updates = 16, [[1, 16]], [], {}
        for row in (r for r in rows if r["trial"] == trial):
            updates[row["step"]] = row
        ends = [r["step"] for r in evaluations if r["trial"] == trial]
        for before, end in itertools.pairwise([0, *ends]):
            for step in range(before + 1, end + 1):
                row = updates[step]
                assert row["batch"] == batch
                small, big = row["part_grad_sq_norm"], row["grad_sq_norm"]
                part = batch / 4
                weight = 0.95 * weight + 0.05
                square = 0.95 * square + 0.05 * (batch * big - part * small) / (batch - part)
                trace = 0.95 * trace + 0.05 * (small - big) / (1 / part - 1 / batch)
            resolved = end >= noise.FEWEST and square > 0 and trace > 0
            found.append(trace / square if resolved else None)
            if resolved and end != ends[-1]:
                wanted = np.log2(100 * trace / square) / 2
                if abs(wanted - np.log2(batch)) > 0.75:
                    batch = int(2 ** np.clip(np.round(wanted), 1, 7))
                    schedule.append([end + 1, batch])
        assert _schedule(outcome) == schedule and len(schedule) > 1
        (history,) = outcome.histories
        assert history.columns["step"] == ends
        measured = history.columns["noise_scale"]
        assert [value is None for value in measured] == [value is None for value in found]
        numbers = [[v for v in values if v is not None] for values in (measured, found)]
        np.testing.assert_allclose(*numbers, rtol=1e-4)


def test_evaluations_are_on_the_grid_and_goals_strictly_below(tmp_path, monkeypatch):
    losses = iter([2.0, 1.5, 1.0, 0.6, 0.5, 0.5, 0.49, 0.2])
    evaluate = lambda self: {"loss": np.array([next(losses)]), "error": np.zeros(1)}
    monkeypatch.setattr(Population, "evaluate", evaluate)
    rules = dataclasses.replace(STAY, goals=(1.0, 0.7, 0.5))
    (outcome,) = _train(tmp_path, rules)
    grid = [0]
    while len(grid) < 7:
        grid.append(next_evaluation(grid[-1], 0.2))
    assert [row["step"] for row in read_metrics(tmp_path, "train_eval")] == grid
    (history,) = outcome.histories
    found = [rules.crossing(history, goal)[1] for goal in rules.goals]
    assert found == [grid[3], grid[3], grid[6]]
    assert outcome.steps == grid[6] == len(read_metrics(tmp_path, "train"))


def test_the_loss_of_an_evaluation_is_that_of_the_first_examples(tmp_path):
    (outcome,) = _train(tmp_path, dataclasses.replace(STAY, budget=0))
    assert outcome.steps == 0
    point = point_at(16)
    key, _ = jax.random.split(jax.random.key(3))
    state = init_state(point.task, point.make_optimizer, point.hparams, key)
    split = sources.load("digits", "train", None)
    batch = point.preprocess(None, {"image": split["image"][:300], "label": split["label"][:300]})
    loss = point.task.sums(state.params, {}, batch, np.ones(300))["loss"] / 300
    (row,) = read_metrics(tmp_path, "train_eval")
    assert row["loss"] == pytest.approx(float(loss), rel=1e-5) and row["noise_scale"] is None


def test_an_exhausted_budget(tmp_path):
    (outcome,) = _train(tmp_path, dataclasses.replace(STAY, budget=16 * 25 + 15))
    (history,) = outcome.histories
    assert history.diverged_at is None and outcome.steps == history.columns["step"][-1] == 25
    assert [row["examples"] for row in read_metrics(tmp_path, "train_eval")][-1] == 400


def test_divergence_ends_one_seed_and_not_the_next(tmp_path):
    # Weights grow by 10^4 at every update: the loss overflows between the evaluations at 4 and 8.
    at = lambda batch: point_at(batch, **{"optim.weight_decay": 1e4 / (0.004 * 16)})
    found = _train(tmp_path, dataclasses.replace(STAY, resolution=1.0), (3, 4), at)
    rows = read_metrics(tmp_path, "train")
    for trial, outcome in enumerate(found):
        own = [row for row in rows if row["trial"] == trial]
        assert outcome.histories[0].diverged_at == outcome.steps == len(own) < 8
        norms = lambda row: [row["loss"], row["grad_sq_norm"], *row["local_grad_sq_norm"]]
        assert None in norms(own[-1]) and not any(None in norms(row) for row in own[:-1])


def test_an_evaluation_that_is_not_finite_is_divergence(tmp_path, monkeypatch):
    losses = iter([2.0, 1.5, np.nan])
    evaluate = lambda self: {"loss": np.array([next(losses)]), "error": np.zeros(1)}
    monkeypatch.setattr(Population, "evaluate", evaluate)
    (outcome,) = _train(tmp_path, STAY)
    assert outcome.histories[0].diverged_at == outcome.steps == 2


def test_one_program_for_every_batch_size(tmp_path, monkeypatch):
    compiled, fitting = [], planning.fitting

    def counting(point, *args, **options):
        compiled.append(point.global_batch)
        return fitting(point, *args, **options)

    monkeypatch.setattr(planning, "fitting", counting)
    found = _train(tmp_path, FOLLOW, (3, 4))
    used = {batch for outcome in found for _, batch in _schedule(outcome)}
    assert sorted(compiled) == sorted(used) and len(used) > 2


def test_a_batch_beyond_the_memory_is_refused(tmp_path):
    def at(batch):
        point = point_at(batch, memory_limit_gib=1e-5)
        with point.config.unlocked():
            point.config.adaptive = {"parts": 4}
        return point

    with pytest.raises(UserError, match=r"Batch 16 .* microbatches of 4, needs .* larger adaptive"):
        _train(tmp_path, STAY, at=at)


class StopAt:
    """A signal that comes when it is looked for the `looks`-th time."""

    def __init__(self, looks):
        self._looks = itertools.count(1)
        self._stop = looks

    @property
    def received(self):
        return signal.SIGTERM if next(self._looks) >= self._stop else None


@pytest.mark.parametrize("every", [1, 25, 45])
def test_stopped_anywhere_a_run_goes_on_as_if_never_stopped(followed, tmp_path, monkeypatch, every):
    """Also where calls are cut otherwise."""
    path, expected = followed
    if every == 45:
        monkeypatch.setattr(population, "CALL_SECONDS", 1e-9)  # one update per call
    for launches in itertools.count(1):
        # The first stop of the first case is before anything was done.
        signals = StopAt(launches if every == 1 else every)
        try:
            found = _train(tmp_path, FOLLOW, (3, 4), signals=signals)
            break
        except Interrupted as error:
            assert "progress is saved" in str(error)
    assert launches > 2
    assert _numbers(found) == _numbers(expected)
    assert (tmp_path / "metrics.jsonl").read_text() == (path / "metrics.jsonl").read_text()


@pytest.mark.parametrize("appends", [9, 45])
def test_killed_anywhere_a_run_goes_on_as_if_never_killed(followed, tmp_path, monkeypatch, appends):
    """The metrics are ahead of the checkpoint, and their last line is cut off."""
    path, expected = followed
    at = lambda batch: point_at(batch, **{"checkpoint.every_seconds": 0.0})
    appended, plain = itertools.count(1), RunDir.append

    def append(self, lines):
        if next(appended) == appends:
            plain(self, lines[: len(lines) // 2])
            raise KeyboardInterrupt
        plain(self, lines)

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "append", append)
        with pytest.raises(KeyboardInterrupt):
            _train(tmp_path, FOLLOW, (3, 4), at)
    assert _numbers(_train(tmp_path, FOLLOW, (3, 4))) == _numbers(expected)
    assert (tmp_path / "metrics.jsonl").read_text() == (path / "metrics.jsonl").read_text()


def test_two_devices_change_nothing_but_rounding(followed, tmp_path):
    """The parts whose gradients differ are the same examples: so is the noise, and the batch."""
    path, expected = followed
    at = lambda batch: point_at(batch, devices=2)
    found = _train(tmp_path, dataclasses.replace(FOLLOW, goals=(1e-9,), budget=1_000), at=at)
    rows = read_metrics(tmp_path, "train")
    same = [row for row in read_metrics(path, "train") if row["trial"] == 0][: len(rows)]
    for name in ("loss", "grad_sq_norm", "part_grad_sq_norm", "batch"):
        values = ([row[name] for row in each] for each in (rows, same))
        np.testing.assert_allclose(*values, rtol=2e-3)
    schedule = _schedule(found[0])
    assert len(schedule) > 1 and schedule == _schedule(expected[0])[: len(schedule)]


def test_a_batch_that_the_budget_has_no_room_for_is_not_moved_to(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "next_batch", lambda batch, *_: 128)
    (outcome,) = _train(tmp_path, dataclasses.replace(FOLLOW, goals=(1e-9,), budget=100))
    assert _schedule(outcome) == [[1, 16]] and outcome.steps == 100 // 16


def test_seconds_are_of_every_phase(tmp_path, monkeypatch):
    """By a clock on which every call takes one; the batch doubles once."""
    calls, plain = itertools.count(1), Population.advance

    def timed(self, *args):
        before, rows = self.seconds["train"], plain(self, *args)
        self.seconds["train"], timed.calls = before + 1.0, next(calls)
        return rows

    monkeypatch.setattr(Population, "advance", timed)
    rules = dataclasses.replace(FOLLOW, goals=(1e-9,), budget=200)
    grow = iter([16, 16, 32])
    monkeypatch.setattr(phases, "next_batch", lambda batch, *_: next(grow, 32))
    with RunDir(tmp_path) as run:
        (outcome,) = train_phases(point_at, rules, [3], run, "test")
    assert len(_schedule(outcome)) == 2 and outcome.seconds["train"] == timed.calls
