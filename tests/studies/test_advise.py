"""Advice from measurements of this machine, in this process, on digits."""

import math
import signal
from types import SimpleNamespace

import pytest

from scaling.advice import CriticalBatch, Curve, Throughput
from scaling.comms import PERFECT
from scaling.config import default_config, model_config
from scaling.errors import UserError
from scaling.noise import Window
from scaling.report.contents import read_kinds
from scaling.report.records import read_workdir
from scaling.signals import Interrupted
from scaling.studies.advise import measure as advise_measure
from scaling.studies.advise.report import KIND, read
from scaling.studies.running import run_study

MEASURE = advise_measure._device


def _config(**changes):
    c = default_config("advise")
    c.global_batch, c.devices = 64, 1
    c.duration, c.eval.every, c.eval.test = "80 steps", "5 steps", False
    c.model = model_config("mlp", widths=(8,))
    c.optim.base_lr = 0.05
    c.advise.largest, c.advise.seconds, c.advise.devices = 64, 0.01, (1, 2, 4)
    c.advise.goal, c.advise.rule, c.advise.price = 0.3, "linear", 3.0
    c.update_from_flattened_dict(changes)
    return c


def _advice(workdir, **changes):
    """The study that was measured."""
    run_study(_config(**changes), workdir, None, lambda text: None)
    return read(read_workdir(workdir))


@pytest.fixture(scope="module", autouse=True)
def _measured_once():
    """What the device can do with a model is measured once, not in every test."""
    measure, known = advise_measure._device, {}

    def device(config, *args):
        if str(config.model) not in known:
            known[str(config.model)] = measure(config, *args)
        return known[str(config.model)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advise_measure, "_device", device)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return _advice(tmp_path_factory.mktemp("advise"))


def test_what_was_measured(study):
    point, sizes = study.point, [1, 2, 4, 8, 16, 32, 64]
    assert [row.per_device_batch for row in point.memory] == sizes
    assert [row.per_device_batch for row in point.throughput] == sizes
    assert all(row.fits and row.bytes < point.limit_bytes for row in point.memory)
    critical = point.critical["noise_scale"]
    assert critical.low < critical.value and critical.range == (64, 64)
    assert point.critical["fit"] is None and point.goal == "30% validation error"
    text = KIND.answer(study)
    assert "by the noise scale" in text and "EUR" not in text and " USD, at learning rate" in text


def test_options_are_the_formula(study):
    """T(B, n) = S_min (1 + B_crit / B) x step, S(64) being the steps of the tracked run."""
    b_crit, s_min = study.point.critical["noise_scale"].value, study.point.s_min
    options = study.point.options
    assert {o.devices for o in options} == {1, 2, 4}
    assert {o.global_batch for o in options} == {2**i for i in range(11)}
    (steps,) = {o.steps for o in options if o.global_batch == 64}
    assert steps == pytest.approx(round(steps)) and steps % 5 == 0
    for option in options:
        batch = option.global_batch
        assert option.steps == pytest.approx(s_min * (1 + b_crit / batch))
        hours = option.steps * option.step_seconds / 3600
        assert option.hours == pytest.approx(hours)
        assert option.cost == pytest.approx(hours * option.devices * 3.0)
        assert option.learning_rate == pytest.approx(0.05 * batch / 64)
        assert any("64 of the noise scale" in r for r in option.extrapolated) == (batch != 64)
        gap = [r for r in option.extrapolated if "where 1 was measured: efficiency" in r]
        assert len(gap) == (option.devices > 1)


def test_a_curve_from_records(tmp_path):
    study = default_config("steps_to_target")
    study.batch_sizes, study.devices, study.model = (
        (8, 32, 128),
        1,
        model_config("mlp", widths=(8,)),
    )
    study.search.trials, study.search.space = 4, {"learning_rate": ("log", 0.02, 0.5)}
    study.target.goal, study.target.budget, study.target.repeats = 0.5, ("200 steps",), 0
    run_study(study, tmp_path / "steps", None, lambda text: None)
    found = _advice(tmp_path / "advice", **{"advise.records": (str(tmp_path / "steps"),)})
    [(_, [recorded])] = read_kinds([tmp_path / "steps"])
    assert found.point.critical["fit"] == CriticalBatch.of_fit(recorded.fit)
    assert recorded.fit.measured == (8, 128)
    assert found.point.goal == "50% validation error"
    assert "by the fit" in KIND.answer(found)
    # Those of the best trials, and on a line of logs between them.
    best = {p.global_batch: p.best["learning_rate"] for p in recorded.points}
    rates = {o.global_batch: o.learning_rate for o in found.point.options}
    assert found.point.searched == ["learning_rate"]
    assert [rates[batch] for batch in (1, 8, 32, 128, 1024)] == pytest.approx(
        [best[8], best[8], best[32], best[128], best[128]]
    )
    assert rates[16] == pytest.approx(math.sqrt(best[8] * best[32]))
    other = {"advise.records": (str(tmp_path / "steps"),), "data.name": "synthetic"}
    with pytest.raises(UserError, match=r"another task than this config \(data.name"):
        _advice(tmp_path / "other", **other)


def test_records_of_several_goals_or_widths(tmp_path):
    study = default_config("steps_to_target")
    study.batch_sizes, study.devices, study.model = (8,), 1, model_config("mlp", widths=(8,))
    study.search.trials, study.search.space = 1, {"learning_rate": ("log", 0.02, 0.5)}
    study.target.budget, study.target.repeats = ("10 steps",), 0
    for goal in (0.5, 0.6):
        study.target.goal = goal
        run_study(study, tmp_path / str(goal), None, lambda text: None)
    both = {"advise.records": tuple(str(tmp_path / goal) for goal in ("0.5", "0.6"))}
    with pytest.raises(UserError, match=r"steps to 50% validation error and to 60%"):
        _advice(tmp_path / "advice", **both)
    wide = {"advise.records": both["advise.records"][:1], "model.widths": (9,)}
    with pytest.raises(UserError, match=r"another task than this config \(model.widths"):
        _advice(tmp_path / "advice", **wide)
    other = {"advise.records": both["advise.records"][:1], "optim.name": "sgd"}
    with pytest.raises(
        UserError, match=r"another task than this config \(optim.name: 'nesterov' th"
    ):
        _advice(tmp_path / "advice", **other)
    with pytest.raises(UserError, match=r"0 batch sizes reached"):
        _advice(tmp_path / "advice", **{"advise.records": both["advise.records"][:1]})


def test_rates_start_from_what_the_run_trained_with(tmp_path):
    changes = {"optim.scaling_rule": "sqrt", "optim.base_batch": 256, "optim.base_lr": 0.1}
    for option in _advice(tmp_path, **changes).point.options:
        assert option.learning_rate == pytest.approx(0.1 / 2 * option.global_batch / 64)


def test_a_limit_that_nothing_keeps_within(tmp_path):
    found = _advice(tmp_path, **{"advise.max_hours": 1e-15})
    assert found.point.options and found.point.recommended["knee"] is None
    assert "no option keeps within the limits" in KIND.answer(found)


@pytest.mark.parametrize(
    "changes", [{"advise.goal": None}, {"advise.goal": 1e-6, "advise.max_cost": 1.0}]
)
def test_without_steps_to_a_goal_times_are_relative(tmp_path, changes):
    found = _advice(tmp_path, **changes)
    assert not found.point.unit_hours and found.point.s_min is None
    assert "for each step of S_min" in KIND.answer(found)
    assert any("max_cost were not applied" in sentence for sentence in KIND.cautions(found))


def test_ghost_batches_are_whole_in_every_option(tmp_path):
    changes = {"model.norm": "ghost", "model.ghost_batch": 16, "advise.devices": (1, 3, 4)}
    found = _advice(tmp_path, **changes)
    assert [row.per_device_batch for row in found.point.memory] == [16, 32, 64]
    assert {o.global_batch % (16 * o.devices) for o in found.point.options} == {0}
    assert any("batch norm couples" in sentence for sentence in KIND.cautions(found))


def test_a_noise_scale_that_is_not_resolved(tmp_path):
    changes = {"duration": "5 steps", "eval.every": "5 steps", "advise.goal": None}
    found = _advice(tmp_path, **changes)
    assert found.point.options == [] and found.point.recommended["knee"] is None
    assert "nothing is recommended" in KIND.answer(found)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"advise.network": "nvlink44"}, "nvlink4"),
        ({"advise.latency": 1e-6}, "give both"),
        ({"advise.devices": ()}, "advise.devices is empty"),
        ({"advise.devices": (0,)}, "advise.devices contains 0; it must be at least 1"),
        ({"advise.devices": ("two",)}, "contains 'two'"),
        ({"advise.goal": None, "advise.max_hours": 1.0}, "need steps to a goal"),
        ({"advise.goal": 0.9}, "advise.goal: 0.9 takes no learning"),
        ({"global_batch": 1}, "global_batch is 1"),
        ({"advise.rule": "cube"}, "linear"),
        ({"advise.records": ("nowhere",)}, "There is no workdir"),
        ({"advise.price": -1.0}, "price"),
        ({"advise.seconds": 0.0}, "above 0"),
        ({"batch_sizes": (1, 2)}, "advise.batches"),
        ({"noise_scale": False}, "leave it True"),
        ({"advise.overlap": 2.0}, "overlap"),
        ({"advise.devices": (7,), "advise.batches": (8,)}, "multiples of a device count"),
    ],
)
def test_bad_configs_are_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        _advice(tmp_path, **changes)
    assert not any(tmp_path.iterdir())


def test_batch_norm_is_offered_no_microbatches():
    """Training would refuse them: its statistics need a device's share in one piece."""

    for norm, accumulated in (("none", {1, 2, 4, 8, 16}), ("batch", {1})):
        config = _config(**{"model.norm": norm})
        curve = Curve(CriticalBatch(1.0, None, None, (1, 1)))
        given = advise_measure._point(config), curve, Throughput((4, 64), (1.0, 1.0)), PERFECT
        options = advise_measure._options(config, *given)
        assert {option.accum_steps for option in options} == accumulated


def test_the_noise_scale_is_that_up_to_the_goal():

    of = lambda first, scale: Window(
        1.0, scale, scale, scale, scale, True, 8, first_step=first, last_step=first + 9, loss=1.0
    )
    run = SimpleNamespace(windows=[of(1, 10.0), of(11, 100.0)], b_big=64, whole=None)
    assert advise_measure._by_noise(run, reached=5).value == 10.0
    assert advise_measure._by_noise(run, reached=None).value == 55.0


def test_a_signal_ends_the_timings():
    asked = SimpleNamespace(received=signal.SIGINT)
    with pytest.raises(Interrupted, match="while timing advice, which then starts anew"):
        MEASURE(_config(), asked, "advice")


def test_no_batch_is_timed_that_no_option_has():
    config = _config(**{"advise.devices": (2, 4), "advise.batches": (16, 64)})
    fits, speeds = MEASURE(config, SimpleNamespace(received=None), "advice")
    sizes = [1, 2, 4, 8, 16, 32]
    assert [row.per_device_batch for row in fits] == sizes
    assert [row.per_device_batch for row in speeds] == sizes
