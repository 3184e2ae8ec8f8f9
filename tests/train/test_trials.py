"""Trainings against written-out answers, and against the same training cut to pieces.

Most run on a stand-in for the population, whose metrics are a known function of trial and step.
"""

import contextlib
import itertools
import json
import math
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from scaling import crossings
from scaling.config import default_config
from scaling.crossings import next_evaluation
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.signals import Interrupted
from scaling.train import population as population_module
from scaling.train import trials
from scaling.train.checkpoint import Checkpoints, folder_of, forget
from scaling.train.point import resolve
from scaling.train.trials import FirstCrossing, Observer, ToTheEnd, Training

GOAL, BUDGET, RATIO = 0.5, 400, 0.03
CALL = 9  # updates that the stand-in makes in one call


class Known:
    """A population whose error and loss of trial k after step s are `metric(k, s)`.

    Its state is what it is judged by, so resuming from a wrong one would show. A metric of None is
    a training loss that was not finite at that step or before.
    """

    per_step = 0.0

    def __init__(self, metric, count):
        self._metric, self._count = metric, count
        self.step, self.evaluations, self.placement = 0, [], {}
        self.seconds = dict.fromkeys(("compile", "train", "eval", "input_wait"), 0.0)
        self.trials = {"steps": np.zeros(count, np.int32)}

    def _metrics(self):
        values = [self._metric(k, int(s)) for k, s in enumerate(self.trials["steps"])]
        return np.float32([math.nan if value is None else value for value in values])

    @property
    def alive(self):
        return np.isfinite(self._metrics())

    def advance(self, limit, then, meanwhile):
        meanwhile()
        count = min(limit - self.step, CALL)
        assert count > 0 and (then > limit or then in (0, limit, BUDGET))
        steps = self.trials["steps"]
        assert (steps == self.step).all()
        self.step += count
        self.trials = {"steps": steps + count}
        losses = [1.0 / step for step in range(self.step - count + 1, self.step + 1)]
        return {"loss": np.float32([losses] * self._count)}

    def evaluate(self):
        self.evaluations.append(self.step)
        # What a model with NaN for weights has: an error, and no loss.
        error = np.nan_to_num(self._metrics(), nan=0.0)
        return {"error": np.float64(error), "loss": np.float64(self._metrics())}

    def variables(self, trial, kind=""):
        return {"w": np.int32([trial, self.step])}, {}

    def packed(self):
        return self.trials

    def like(self):
        return self.trials, self.variables(0)

    def restore(self, step, packed, examples=None):
        self.step, self.trials = step, dict(packed)


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


def _rule(**changes):
    rule = {"metric": "error", "goal": GOAL, "resolution": RATIO, "budget": BUDGET, "margin": 1.5}
    return FirstCrossing(**rule | changes)


def first_crossing(outcome, goal=GOAL):
    """(step, trial) of a training's first crossing."""
    return crossings.first_crossing(outcome.histories, "error", goal)


def crossing(history):
    """(before, step) of one trial."""
    return history.crossing("error", GOAL)


def outcomes(outcome, goal=GOAL):
    return [history.outcome("error", goal) for history in outcome.histories]


@pytest.fixture
def point():
    config = default_config("steps_to_target")
    config.devices = 1
    return resolve(config, ("peak",))


@pytest.fixture
def race(point, tmp_path, monkeypatch):
    """race(metric, count, **rule) -> (outcome, the training, rows), in a new run directory."""
    numbers = itertools.count()

    def race(
        metric,
        count,
        signals=None,
        path=None,
        first_trial=0,
        split="validation",
        rule=None,
        **changes,
    ):
        monkeypatch.setattr(population_module, "Population", lambda *_, **__: Known(metric, count))
        rule, values = rule or _rule(**changes), [{}] * count
        with RunDir(path or tmp_path / str(next(numbers))) as run:
            training = Training(point, rule, values, range(count), run, "r", split, first_trial)
            outcome = training.train(0, signals or Signals(), "test")
            forget(training.path)
            text = (run.path / "metrics.jsonl").read_text()
        return outcome, training, [json.loads(line) for line in text.splitlines()]

    return race


def falling(*at):
    """Trial k falls linearly from 1 and is below GOAL from step at[k] on; None: never."""

    def metric(k, step):
        return 0.9 if at[k] is None else 1.0 - (GOAL + 1e-3) * step / at[k]

    return metric


def grid(last, ratio=RATIO):
    """The steps at which a race looks that ends at step `last`."""
    steps = [0]
    while steps[-1] < last:
        steps.append(min(last, next_evaluation(steps[-1], ratio)))
    return steps


def seen(true_step, ratio=RATIO):
    """(look before, look) at which a trial is first seen that is below the goal from a step on."""
    at = next(i for i, step in enumerate(grid(BUDGET, ratio)) if step >= true_step)
    return tuple(grid(BUDGET, ratio)[at - 1 : at + 1])


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
    at, (true_step, true_trial) = FIELDS[name]
    answers = set()
    for margin in (1.0, 1.5, 1e6):
        outcome, _, rows = race(falling(*at), len(at), margin=margin)
        step, trial = first_crossing(outcome)
        before, _ = crossing(outcome.histories[trial])
        answers.add((step, trial, before))
        assert (before, step) == seen(true_step) and trial == true_trial
        assert min(row["step"] for row in rows if row["error"] < GOAL) == step
        assert outcome.steps == min(BUDGET, math.floor(step * margin))
        np.testing.assert_array_equal(outcome.winner[0]["w"], [trial, step])
    assert len(answers) == 1


@pytest.mark.parametrize("resolution", [0.001, 0.03, 0.2])
def test_one_grid_wherever_the_crossing_is(race, resolution):
    for at in (1, 2, 3, 16, 33, 34, 77, 150, 263, 399):
        outcome, known, rows = race(falling(at, 400), 2, resolution=resolution, margin=1.0)
        before, step = crossing(outcome.histories[0])
        assert (before, step) == seen(at, resolution)
        recorded = [row["step"] for row in rows if row["trial"] == 0]
        assert recorded == known.population.evaluations == grid(step, resolution)


def test_a_dip_is_seen_where_there_is_a_look_and_nowhere_else(race):
    """A trial that is below the goal at some steps only."""
    looks = grid(BUDGET)
    for dip in range(100, 200, 7):
        metric = lambda k, step, dip=dip: 0.4 if dip <= step < dip + 3 or step >= 300 else 0.9
        first = next(step for step in looks if metric(0, step) < GOAL)
        outcome, *_ = race(metric, 1)
        assert crossing(outcome.histories[0]) == (looks[looks.index(first) - 1], first)
        np.testing.assert_array_equal(outcome.winner[0]["w"], [0, first])


def test_the_winner_is_kept_as_it_was_at_its_crossing(race):
    """Whoever crosses later, and with whatever number."""
    outcome, *_ = race(falling(None, 150, 140, 144), 4, margin=1e6)
    assert first_crossing(outcome) == (seen(140)[1], 2) and outcome.steps == BUDGET
    np.testing.assert_array_equal(outcome.winner[0]["w"], [2, seen(140)[1]])


def test_within_bounds_a_race_and_changes_no_answer(race):
    """A later round: it stops where it cannot win any more, and finds what is better."""
    for margin in (1.0, 1.5):
        outcome, *_ = race(falling(None, None), 2, within=100, margin=margin)
        assert outcomes(outcome) == ["missed"] * 2 and outcome.winner is None
        assert outcome.steps == next(s for s in grid(BUDGET) if s >= 100 * margin)
    for within, at in itertools.product((50, 101), (20, *range(45, 102, 3))):
        if at > within:
            continue
        answers = set()
        for margin in (1.0, 1.5, 1e6):
            outcome, *_ = race(falling(None, at), 2, within=within, margin=margin)
            answers.add(first_crossing(outcome))
        assert answers == {(seen(at)[1], 1)}


# ---- Ends ----


def test_a_goal_met_before_training(race):
    outcome, _, rows = race(falling(300, 300), 2, goal=1.1)
    assert first_crossing(outcome, 1.1) == (0, 0)
    assert (outcome.steps, outcome.trial_steps) == (0, 0)
    assert [(row["step"], row["train_loss"]) for row in rows] == [(0, None)] * 2


def test_no_trial_reaches_the_goal(race):
    outcome, known, rows = race(falling(None, None), 2)
    assert outcomes(outcome) == ["missed"] * 2
    assert (outcome.steps, outcome.trial_steps, outcome.winner) == (BUDGET, 2 * BUDGET, None)
    assert rows[-1]["step"] == BUDGET == known.population.evaluations[-1]


def test_all_trials_diverge(race):
    metric = lambda k, step: None if step > 30 + k else 0.9
    outcome, _, rows = race(metric, 2)
    assert outcomes(outcome) == ["infeasible"] * 2 and outcome.winner is None
    assert outcome.steps < 40
    for trial in (0, 1):
        *before, last = (row for row in rows if row["trial"] == trial)
        assert (last["error"], last["loss"], last["train_loss"]) == (None, None, None)
        assert all(row["error"] == pytest.approx(0.9) for row in before)


def test_divergence_after_the_crossing(race):
    """It has reached the goal, and its rows end."""
    metric = lambda k, step: falling(100, None)(k, step) if k or step < 110 else None
    outcome, _, rows = race(metric, 2)
    assert outcomes(outcome) == ["reached", "missed"]
    *_, last = (row for row in rows if row["trial"] == 0)
    assert last["error"] is None and 110 <= last["step"] < rows[-1]["step"]


def test_a_model_of_nan_has_not_reached_the_goal(race):
    """Its error is a number all the same: that of always guessing the first class."""
    outcome, _, rows = race(lambda k, step: None if step > 50 else 0.9, 1)
    assert outcomes(outcome) == ["infeasible"]
    assert not [row for row in rows if row["error"] is not None and row["error"] < GOAL]


def test_repeats_run_until_each_has_crossed(race):
    changes = {"margin": None, "split": "repeat"}
    outcome, known, rows = race(falling(90, 200, 85), 3, **changes)
    assert known.population.evaluations == grid(outcome.steps)  # that of the search
    assert [crossing(h) for h in outcome.histories] == [seen(at) for at in (90, 200, 85)]
    assert outcome.steps == crossing(outcome.histories[1])[1] and outcome.winner is None
    assert {row["split"] for row in rows} == {"repeat"}
    outcome, *_ = race(falling(90, None), 2, **changes)
    assert outcome.steps == BUDGET and outcomes(outcome) == ["reached", "missed"]


# ---- Records ----


def test_every_evaluation_of_every_trial_is_recorded_once(race):
    outcome, _, rows = race(falling(None, 211), 2, first_trial=64)
    assert len(rows) == outcome.lines
    recorded = [(row["step"], row["trial"]) for row in rows]
    assert len(set(recorded)) == len(recorded) and {trial for _, trial in recorded} == {64, 65}
    steps = [step for step, trial in recorded if trial == 64]
    # Means of 1/step over the updates since the row before.
    for row, (before, step) in zip(rows[2::2], itertools.pairwise(steps), strict=True):
        mean = sum(1.0 / s for s in range(before + 1, step + 1)) / (step - before)
        assert row["train_loss"] == pytest.approx(mean, rel=1e-5)
    assert outcome.trial_steps == 2 * outcome.steps


def test_a_longer_way_to_the_end(race):
    """Every trial's, evaluated where the rule says and at the end."""
    metric = lambda k, step: None if k == 1 and step > 60 else falling(70, None)(k, step)
    rule = ToTheEnd(100, lambda step: step - step % 30 + 30)
    outcome, known, rows = race(metric, 2, rule=rule)
    assert known.population.evaluations == [0, 30, 60, 90, 100] and outcome.steps == 100
    assert [row["step"] for row in rows if row["trial"] == 1] == [0, 30, 60, 90]
    assert [history.diverged_at for history in outcome.histories] == [None, 90]
    assert outcome.histories[0].last["error"] == rows[-1]["error"]
    _, known, _ = race(metric, 2, rule=ToTheEnd(100, rule.after, begin=30))
    assert known.population.evaluations == [30, 60, 90, 100]


RULES = {
    "search": _rule(resolution=0.3, budget=170),
    "repeats": _rule(resolution=0.3, budget=170, margin=None),
    "to the end": ToTheEnd(170, lambda step: step - step % 40 + 40),
}


@pytest.mark.parametrize("name", RULES)
def test_stopped_after_every_call_nothing_is_different(race, tmp_path, name):
    """Several calls from look to look."""
    metric = lambda k, step: None if k == 1 and step > 60 else falling(None, 100, 143, 150)(k, step)
    expected, _, _ = race(metric, 4, path=tmp_path / "whole", rule=RULES[name])
    between = []
    for launches in itertools.count(1):  # noqa: B007
        try:
            signals = after(1)
            outcome, _, _ = race(metric, 4, signals, tmp_path / "pieces", rule=RULES[name])
            break
        except Interrupted:
            newest = max(int(p.name) for p in tmp_path.glob("pieces/checkpoints/r/[0-9]*"))
            extra = tmp_path / f"pieces/checkpoints/r/{newest}/extra/metadata"
            state = json.loads(extra.read_text())
            between.append(newest > state["state"]["evaluated"])
    assert launches > 20 and any(between)
    assert outcome.histories == expected.histories
    for field in ("steps", "trial_steps", "lines"):
        assert getattr(outcome, field) == getattr(expected, field)
    jax.tree.map(np.testing.assert_array_equal, outcome.winner, expected.winner)
    assert (outcome.winner is not None) == (name == "search")
    whole, pieces = (tmp_path / name / "metrics.jsonl" for name in ("whole", "pieces"))
    assert pieces.read_bytes() == whole.read_bytes()
    assert not list((tmp_path / "pieces" / "checkpoints").iterdir())


class Counting(Observer):
    """Its state is how many evaluations it saw, and whether the end."""

    state = 0

    def columns(self, population):
        self.state += 1
        return {"seen": np.float64([self.state, self.state])}

    def end(self, population):
        self.state = [self.state]


def test_an_observer_and_a_record_that_is_read_again(point, tmp_path, monkeypatch):
    """Interrupted twice; then the record says the same as the training did."""
    population = lambda *_, **__: Known(falling(50, None), 2)
    monkeypatch.setattr(population_module, "Population", population)
    values, found = [{}] * 2, []
    for signals in (after(9), after(5), Signals(), Signals()):
        with RunDir(tmp_path) as run, contextlib.suppress(Interrupted):
            observers = [Counting()]
            rule = RULES["to the end"]
            make = Training(point, rule, values, range(2), run, "r", "s", observers=observers)
            found.append(make.run(0, signals, "test"))
    first, again = found
    assert first.histories[0].columns["seen"] == list(range(1, first.observed[0][0] + 1))
    keys = ("histories", "steps", "ends", "observed", "lines", "seconds")
    assert [getattr(first, key) for key in keys] == [getattr(again, key) for key in keys]


def test_what_an_older_version_left_is_refused_in_a_sentence(point, tmp_path, monkeypatch):
    population = lambda *_, **__: Known(falling(50, None), 2)
    monkeypatch.setattr(population_module, "Population", population)
    with RunDir(tmp_path) as run:
        training = Training(point, _rule(), [{}] * 2, range(2), run, "r", "s")
        run.save_json("r", {"curves": [], "stopped_at": 5})
        with pytest.raises(UserError, match=r"r\.json is from an older version .* delete"):
            training.run(0, Signals(), "test")
        (tmp_path / "r.json").unlink()
        checkpoints = Checkpoints(folder_of(run, "r"), 2)
        checkpoints.save(3, {"now": np.zeros(2), "winner": np.zeros(3)}, {"curves": []})
        checkpoints.close()
        with pytest.raises(UserError, match=r"None of the checkpoints in .* delete that folder"):
            training.run(0, Signals(), "test")


# ---- With a population ----

VALUES = [{"peak": peak} for peak in (0.02, 0.2, 0.6, 1e30)]


def _real(path, stop=lambda race: Signals(), devices=1, metric="error"):
    """(outcome, bytes of the metrics): an MLP on digits until it is wrong on a fifth of them."""
    config = default_config("steps_to_target")
    config.global_batch, config.duration, config.devices = 12, "200 steps", devices
    config.model = ConfigDict({"name": "mlp", "widths": (8,)})
    config.optim.ewa_half_life = "60 examples" if metric == "ewa_error" else None
    point = resolve(config, ("peak",))
    with RunDir(path) as run:
        rule = _rule(metric=metric, goal=0.2, budget=200)
        race = Training(point, rule, VALUES, range(4), run, "r", "validation")
        outcome = race.run(0, stop(race), "test")
        return outcome, (run.path / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("metric", ["error", "ewa_error"])
def test_a_population_stopped_and_resumed_is_bit_identical(tmp_path, monkeypatch, metric):
    """Between two looks, after the first crossing, and however the work was cut into calls."""
    expected, rows = _real(tmp_path / "whole", metric=metric)
    step, _ = crossings.first_crossing(expected.histories, metric, 0.2)
    assert step in grid(200) and 40 < step < 200
    assert outcomes(expected, 0.2)[3] == "infeasible"
    monkeypatch.setattr(population_module, "CALL_SECONDS", 0.0)  # one update in each

    def between_two_looks(race):
        return Signals(lambda: race.step > (race.evaluated or 0) > 40)

    def after_the_first_crossing(race):
        return Signals(lambda: race.first is not None)

    for stop in (lambda _: after(9), between_two_looks, after_the_first_crossing):
        with pytest.raises(Interrupted):
            _real(tmp_path / "pieces", stop, metric=metric)
    outcome, again = _real(tmp_path / "pieces", metric=metric)
    recorded, _ = _real(tmp_path / "pieces", metric=metric)
    jax.tree.map(np.testing.assert_array_equal, recorded.winner, expected.winner)
    assert again == rows and outcome.histories == expected.histories
    jax.tree.map(np.testing.assert_array_equal, outcome.winner, expected.winner)


@pytest.mark.slow
def test_a_race_goes_on_with_another_number_of_devices(tmp_path):
    expected, _ = _real(tmp_path / "whole")
    for devices in (3, 6):
        with pytest.raises(Interrupted):
            _real(tmp_path / "moved", lambda _: after(12), devices)
    outcome, _ = _real(tmp_path / "moved")
    assert outcomes(outcome, 0.2) == outcomes(expected, 0.2)
    for history, other in zip(outcome.histories, expected.histories, strict=True):
        if step := other.crossing("error", 0.2):
            assert history.crossing("error", 0.2)[1] == pytest.approx(step[1], rel=0.1)
            assert history.best("error") == pytest.approx(other.best("error"), abs=0.02)


# ---- Against an evaluation after every update ----


@pytest.mark.parametrize("batch, steps", [(4, 300), (16, 130), (128, 60)])
def test_steps_are_those_of_an_evaluation_after_every_update_on_the_grid(tmp_path, batch, steps):
    """A second population of the same trials is looked at after every update. Every trial's steps
    are the first step of the grid at which that whole curve is below the goal, and looking more
    often changes no weight and no metric."""
    ratio, goal, count = 0.08, 0.4, 12
    config = default_config("steps_to_target")
    config.global_batch, config.duration, config.devices = batch, f"{steps} steps", 1
    config.model = ConfigDict({"name": "mlp", "widths": (8,)})
    point = resolve(config, ("peak",))
    values = [{"peak": 0.002 * 1.7**k} for k in range(count)]
    with RunDir(tmp_path / "race") as run:
        rule = _rule(goal=goal, budget=steps, resolution=ratio, margin=1e6)
        race = Training(point, rule, values, range(count), run, "r", "validation")
        outcome = race.run(0, Signals(), "test")
        rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    population = population_module.Population(point, values, range(count))
    every, (first, best) = [], first_crossing(outcome, goal)
    for step in range(steps + 1):
        if step:
            population.advance(step)
        every.append(population.evaluate()["error"])
        if step == first:
            weights = population.variables(best)
            jax.tree.map(np.testing.assert_array_equal, outcome.winner, weights)
    for row in rows:
        if row["error"] is not None:
            assert row["error"] == pytest.approx(every[row["step"]][row["trial"]], rel=1e-8)
    looks = grid(steps, ratio)
    assert {row["step"] for row in rows} == set(looks)
    on_grid = [next((s for s in looks if every[s][k] < goal), None) for k in range(count)]
    found = [history.crossing("error", goal) for history in outcome.histories]
    assert [each and each[1] for each in found] == on_grid
    at_all = [next((s for s in range(steps) if every[s][k] < goal), None) for k in range(count)]
    assert at_all != on_grid and sum(step is not None for step in on_grid) >= count // 2


def test_seconds_are_of_all_launches(point, tmp_path, monkeypatch):
    """Of a training whose every call takes one, stopped twice."""

    class Timed(Known):
        def advance(self, *args):
            self.seconds["train"] += 1.0
            return super().advance(*args)

    monkeypatch.setattr(population_module, "Population", lambda *_, **__: Timed(falling(None), 1))
    rule = ToTheEnd(10 * CALL, lambda step: 10 * CALL)
    for signals in (after(3), after(4), Signals()):
        with RunDir(tmp_path) as run, contextlib.suppress(Interrupted):
            training = Training(point, rule, [{}], [0], run, "r", "s")
            outcome = training.run(0, signals, "test")
    assert outcome.seconds["train"] == 10.0


def test_it_saves_every_so_many_seconds_and_keeps_so_many(tmp_path, monkeypatch):
    """On a clock by which a call takes a second."""

    config, known = default_config("steps_to_target"), Known(falling(None), 1)
    config.devices, config.checkpoint.every_seconds, config.checkpoint.keep = 1, 10.0, 3
    monkeypatch.setattr(population_module, "Population", lambda *_, **__: known)
    clock = SimpleNamespace(perf_counter=lambda: known.step / CALL)
    monkeypatch.setattr(trials, "time", clock)
    saved, save = [], Checkpoints.save
    noted = lambda self, step, *rest: (saved.append(step), save(self, step, *rest))
    monkeypatch.setattr(Checkpoints, "save", noted)
    rule = ToTheEnd(BUDGET, lambda step: BUDGET)
    with RunDir(tmp_path) as run:
        training = Training(resolve(config, ("peak",)), rule, [{}], [0], run, "r", "s")
        training.train(0, Signals(), "test")
        kept = {int(path.name) for path in training.path.iterdir()}
    assert saved == [99, 198, 297, 396] and kept == {198, 297, 396}


def test_metrics_are_on_disk_before_a_checkpoint_that_counts_them(race, monkeypatch):
    """After a power failure it could not be resumed from otherwise."""
    calls = []
    for kind, name in ((RunDir, "sync"), (Checkpoints, "save")):
        plain = getattr(kind, name)
        noted = lambda *args, name=name, plain=plain: (calls.append(name), plain(*args))[1]
        monkeypatch.setattr(kind, name, noted)
    with pytest.raises(Interrupted):
        race(falling(50, None), 2, after(4))
    assert calls == ["sync", "save"]
