"""Races against written-out answers, and against the same race cut to pieces.

Most run on a stand-in for the population, whose metrics are a known function of trial and step.
"""

import itertools
import json
import math
import signal

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from scaling.config import default_config
from scaling.crossings import COARSER, first_crossing
from scaling.record import RunDir
from scaling.signals import Interrupted
from scaling.train import population as population_module
from scaling.train.checkpoint import forget
from scaling.train.point import resolve
from scaling.train.race import Race, Rules

GOAL, BUDGET = 0.5, 400
CALL = 9  # updates that the stand-in makes in one call


class Known:
    """A population whose error and loss of trial k after step s are `metric(k, s)`.

    Its state is what it is judged by, so going back to a wrong one would show. A metric of None is
    a training loss that was not finite at that step or before.
    """

    def __init__(self, metric, count):
        self._metric, self._count = metric, count
        self.step, self.evaluations, self.placement = 0, [], {}
        self.seconds = {"compile": 0.0, "train": 0.0, "eval": 0.0}
        self.trials = {"steps": np.zeros(count, np.int32), "loss": np.zeros(count, np.float32)}

    def _metrics(self):
        values = [self._metric(k, int(s)) for k, s in enumerate(self.trials["steps"])]
        return np.float32([math.nan if value is None else value for value in values])

    @property
    def alive(self):
        return np.isfinite(self._metrics())

    def advance(self, limit):
        count = min(limit - self.step, CALL)
        self.step += count
        steps, loss = self.trials["steps"], self.trials["loss"]
        assert (steps == self.step - count).all()
        loss = loss + np.float32(sum(1.0 / (self.step - i) for i in range(count)))
        evaluated = self.step == limit
        self.trials = {"steps": steps + count, "loss": loss * (not evaluated)}
        if not evaluated:
            return {"loss": loss}, None
        self.evaluations.append(self.step)
        # What a model with NaN for weights has: an error, and no loss.
        error = np.nan_to_num(self._metrics(), nan=0.0)
        return {"loss": loss}, {"error": error, "loss": self._metrics()}

    def variables(self, trial):
        return {"w": np.int32([trial, self.step])}, {}

    def snapshot(self):
        return self.step, {name: leaf.copy() for name, leaf in self.trials.items()}

    def restore(self, snapshot):
        self.step, self.trials = snapshot[0], dict(snapshot[1])

    def packed(self, trials):
        return trials

    def unpacked(self, trials):
        return trials


class Signals:
    """A signal has been received once `asked()` is true; it is asked before every call."""

    def __init__(self, asked=lambda: False):
        self._asked = asked

    @property
    def received(self):
        return signal.SIGTERM if self._asked() else None


def after(calls):
    """A signal that comes after some calls."""
    left = itertools.chain([False] * calls, itertools.repeat(True))
    return Signals(lambda: next(left))


def _rules(**changes):
    rules = {"metric": "error", "goal": GOAL, "resolution": 0.03, "budget": BUDGET, "margin": 1.5}
    return Rules(**rules | changes)


@pytest.fixture
def point():
    config = default_config("steps_to_target")
    config.devices = 1
    return resolve(config, ("peak",))


@pytest.fixture
def race(point, tmp_path, monkeypatch):
    """race(metric, count, **rules) -> (outcome, the race, rows), in a new run directory."""
    numbers = itertools.count()

    def race(metric, count, signals=None, path=None, first_trial=0, split="validation", **changes):
        monkeypatch.setattr(population_module, "Population", lambda *_, **__: Known(metric, count))
        with RunDir(path or tmp_path / str(next(numbers))) as run:
            values, seeds = [{}] * count, range(count)
            race = Race(point, _rules(**changes), values, seeds, run, "r", split, first_trial)
            outcome = race.run(0, signals or Signals(), "test")
            forget(run, "r")
            text = (run.path / "metrics.jsonl").read_text()
        return outcome, race, [json.loads(line) for line in text.splitlines()]

    return race


def falling(*crossings):
    """Trial k falls linearly from 1 and is below GOAL from step crossings[k] on; None: never."""

    def metric(k, step):
        return 0.9 if crossings[k] is None else 1.0 - (GOAL + 1e-3) * step / crossings[k]

    return metric


def _is_fine(before, crossed, resolution=0.03):
    return crossed - before <= max(1, math.floor(resolution * crossed))


# ---- The answer ----

FIELDS = {
    "one clear winner": ((None, 211, 300), (211, 1)),
    "a tie": ((300, 137, 137), (137, 1)),
    "at the first step": ((1, 200), (1, 0)),
    "steps so small that every one is evaluated": ((None, 17), (17, 1)),
    "just before the budget": ((BUDGET - 1, None), (BUDGET - 1, 0)),
    "at the budget": ((BUDGET,), (BUDGET, 0)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_the_margin_changes_no_answer(race, name):
    crossings, (true_step, true_trial) = FIELDS[name]
    answers = set()
    for margin in (1.0, 1.5, 1e6):
        outcome, _, rows = race(falling(*crossings), len(crossings), margin=margin)
        step, trial = first_crossing(outcome.curves)
        before = outcome.curves[trial].before
        answers.add((step, trial, before))
        assert before < true_step <= step and _is_fine(before, step) and trial == true_trial
        assert min(row["step"] for row in rows if row["error"] < GOAL) == step
        assert outcome.stopped_at == min(BUDGET, math.floor(step * margin))
        np.testing.assert_array_equal(outcome.winner[0]["w"], [trial, step])
    assert len(answers) == 1


@pytest.mark.parametrize("resolution", [0.001, 0.03, 0.2])
def test_the_crossing_is_refined_wherever_it_is(race, resolution):
    for crossing in (1, 2, 3, 16, 33, 34, 77, 150, 263, 399):
        outcome, _, rows = race(falling(crossing, 400), 2, resolution=resolution, margin=1.0)
        (curve, _), step = outcome.curves, outcome.curves[0].crossed
        assert curve.before < crossing <= step and _is_fine(curve.before, step, resolution)
        recorded = [row["step"] for row in rows if row["trial"] == 0]
        assert recorded == sorted(set(recorded)) and recorded[-1] == step
        assert recorded[-2] == curve.before


def test_a_crossing_that_is_gone_when_it_is_looked_at_again(race):
    """Not every device repeats itself exactly: the race goes on, and ends."""
    steps = [0]

    def metric(k, step):
        steps.append(step)
        went_back = sorted(steps) != steps
        return 0.4 if step > 100 and not went_back else falling(350)(k, step)

    outcome, *_ = race(metric, 1)
    assert outcome.stopped_at == BUDGET
    assert outcome.curves[0].before < 350 <= outcome.curves[0].crossed


def test_within_bounds_a_race_and_changes_no_answer(race):
    """A later round: it stops where it cannot win any more, and finds what is better."""
    for margin in (1.0, 1.5):
        outcome, *_ = race(falling(None, None), 2, within=100, margin=margin)
        assert [c.outcome for c in outcome.curves] == ["missed"] * 2 and outcome.winner is None
        assert 100 * margin <= outcome.stopped_at <= 100 * margin * (1 + COARSER * 0.03)
    for within, crossing in itertools.product((50, 101), (20, *range(45, 102, 3))):
        if crossing > within:
            continue
        answers = set()
        for margin in (1.0, 1.5, 1e6):
            outcome, *_ = race(falling(None, crossing), 2, within=within, margin=margin)
            answers.add(first_crossing(outcome.curves))
        ((step, _),) = answers
        assert crossing <= step <= crossing * 1.03 + 1


# ---- Ends ----


def test_a_goal_met_before_training(race):
    outcome, _, rows = race(falling(300, 300), 2, goal=1.1)
    assert first_crossing(outcome.curves) == (0, 0)
    assert (outcome.stopped_at, outcome.trial_steps) == (0, 0)
    assert [(row["step"], row["train_loss"]) for row in rows] == [(0, None)] * 2


def test_no_trial_reaches_the_goal(race):
    outcome, known, rows = race(falling(None, None), 2)
    assert [c.outcome for c in outcome.curves] == ["missed"] * 2
    assert (outcome.stopped_at, outcome.trial_steps, outcome.winner) == (BUDGET, 2 * BUDGET, None)
    assert rows[-1]["step"] == BUDGET == known.population.evaluations[-1]


def test_all_trials_diverge(race):
    metric = lambda k, step: None if step > 30 + k else 0.9
    outcome, _, rows = race(metric, 2)
    assert [c.outcome for c in outcome.curves] == ["infeasible"] * 2 and outcome.winner is None
    assert outcome.stopped_at < 40
    for trial in (0, 1):
        *before, last = (row for row in rows if row["trial"] == trial)
        assert (last["error"], last["loss"], last["train_loss"]) == (None, None, None)
        assert all(row["error"] == pytest.approx(0.9) for row in before)


def test_divergence_after_the_crossing(race):
    """It has reached the goal, and its rows end."""
    metric = lambda k, step: falling(100, None)(k, step) if k or step < 110 else None
    outcome, _, rows = race(metric, 2)
    assert [c.outcome for c in outcome.curves] == ["reached", "missed"]
    *_, last = (row for row in rows if row["trial"] == 0)
    assert last["error"] is None and 110 <= last["step"] < rows[-1]["step"]


def test_a_model_of_nan_has_not_reached_the_goal(race):
    """Its error is a number all the same: that of always guessing the first class."""
    outcome, _, rows = race(lambda k, step: None if step > 50 else 0.9, 1)
    assert outcome.curves[0].outcome == "infeasible"
    assert not [row for row in rows if row["error"] is not None and row["error"] < GOAL]
    assert outcome.trial_steps == outcome.stopped_at  # and no crossing was looked for


def test_repeats_run_until_each_has_crossed(race):
    rules = {"margin": None, "fine_from": 80, "split": "repeat"}
    outcome, known, rows = race(falling(90, 200, 85), 3, **rules)
    assert known.population.evaluations[:2] == [0, 80]
    for curve, crossing in zip(outcome.curves, (90, 200, 85), strict=True):
        assert curve.before < crossing <= curve.crossed and _is_fine(curve.before, curve.crossed)
    assert outcome.stopped_at == outcome.curves[1].crossed
    assert {row["split"] for row in rows} == {"repeat"}
    outcome, *_ = race(falling(90, None), 2, **rules)
    assert outcome.stopped_at == BUDGET and outcome.curves[1].outcome == "missed"


# ---- Records ----


def test_every_evaluation_of_every_trial_is_recorded_once(race):
    outcome, known, rows = race(falling(None, 211), 2, first_trial=64)
    assert len(rows) == known.standing.lines
    recorded = [(row["step"], row["trial"]) for row in rows]
    assert len(set(recorded)) == len(recorded) and {trial for _, trial in recorded} == {64, 65}
    steps = [step for step, trial in recorded if trial == 64]
    # Means of 1/step over the updates since the row before, whatever was trained twice.
    for row, (before, step) in zip(rows[2::2], itertools.pairwise(steps), strict=True):
        mean = sum(1.0 / s for s in range(before + 1, step + 1)) / (step - before)
        assert row["train_loss"] == pytest.approx(mean, rel=1e-5)
    assert outcome.trial_steps > 2 * outcome.stopped_at  # an interval was trained again


def _in_pieces(race, path, calls, *args, **rules):
    """The outcome of a race that a signal stops after every so many calls; and where."""
    stops = []
    while True:
        try:
            return *race(*args, path=path, signals=after(calls), **rules), stops
        except Interrupted:
            (standing,) = _standing(path)
            stops.append(standing)


def _standing(path):
    """What the newest checkpoint says."""
    folders = (path / "checkpoints" / "r").glob("[0-9]*")
    newest = max(folders, key=lambda folder: int(folder.name))
    return [json.loads((newest / "extra" / "metadata").read_text())]


@pytest.mark.parametrize("rules", [{}, {"margin": None, "fine_from": 80}])
def test_stopped_after_every_call_nothing_is_different(race, tmp_path, rules):
    metric = lambda k, step: None if k == 1 and step > 60 else falling(None, 100, 143, 150)(k, step)
    expected, _, _ = race(metric, 4, path=tmp_path / "whole", **rules)
    outcome, _, _, stops = _in_pieces(race, tmp_path / "pieces", 1, metric, 4, **rules)
    assert len(stops) > 20
    assert rules or any(stop["refine_until"] for stop in stops)
    assert outcome.curves == expected.curves
    for field in ("stopped_at", "trial_steps"):
        assert getattr(outcome, field) == getattr(expected, field)
    np.testing.assert_array_equal(outcome.winner[0]["w"], expected.winner[0]["w"])
    whole, pieces = (tmp_path / name / "metrics.jsonl" for name in ("whole", "pieces"))
    assert pieces.read_bytes() == whole.read_bytes()
    assert not list((tmp_path / "pieces" / "checkpoints").iterdir())


# ---- With a population ----

VALUES = [{"peak": peak} for peak in (0.02, 0.2, 0.6, 1e30)]


def _real(path, stop=lambda race: Signals(), devices=1):
    """(outcome, bytes of the metrics): an MLP on digits until it is wrong on a fifth of them."""
    config = default_config("steps_to_target")
    config.global_batch, config.duration, config.devices = 12, "200 steps", devices
    config.model = ConfigDict({"name": "mlp", "widths": (8,)})
    point = resolve(config, ("peak",))
    rules = _rules(goal=0.2, budget=200)
    with RunDir(path) as run:
        race = Race(point, rules, VALUES, range(4), run, "r", "validation")
        outcome = race.run(0, stop(race), "test")
        return outcome, (run.path / "metrics.jsonl").read_bytes()


def test_a_population_stopped_and_resumed_is_bit_identical(tmp_path, monkeypatch):
    """Also inside a refinement, and however the work was cut into calls."""
    expected, rows = _real(tmp_path / "whole")
    step, trial = first_crossing(expected.curves)
    assert _is_fine(expected.curves[trial].before, step) and 40 < step < 200
    assert expected.curves[3].outcome == "infeasible"
    monkeypatch.setattr(population_module, "CALL_SECONDS", 0.0)  # one update in each

    def between_two_evaluations_of_a_refinement(race):
        refining = lambda: race.standing.refine_until is not None
        return Signals(lambda: refining() and race.population.step > race.standing.before)

    for stop in (lambda _: after(9), between_two_evaluations_of_a_refinement, lambda _: after(1)):
        with pytest.raises(Interrupted):
            _real(tmp_path / "pieces", stop)
    outcome, again = _real(tmp_path / "pieces")
    assert again == rows and outcome.curves == expected.curves
    jax.tree.map(np.testing.assert_array_equal, outcome.winner, expected.winner)


def test_a_race_goes_on_with_another_number_of_devices(tmp_path):
    expected, _ = _real(tmp_path / "whole")
    for devices in (3, 6):
        with pytest.raises(Interrupted):
            _real(tmp_path / "moved", lambda _: after(12), devices)
    outcome, _ = _real(tmp_path / "moved")
    for curve, other in zip(outcome.curves, expected.curves, strict=True):
        assert curve.outcome == other.outcome
        if other.outcome == "reached":
            assert curve.crossed == pytest.approx(other.crossed, rel=0.1)
            assert curve.best == pytest.approx(other.best, abs=0.02)
