"""Goals of the training loss, and the noise of the best trial, in this process on digits."""

import itertools
import json

import numpy as np
import pytest

from scaling.config import default_config, model_config
from scaling.errors import UserError
from scaling.record import read_metrics
from scaling.studies.pareto import measure as pareto
from scaling.studies.running import run_study

GOALS = (1.5, 0.8, 1.0)


def _config(**changes):
    c = default_config("pareto")
    c.batch_sizes, c.devices, c.eval.batch, c.eval.test = (16, 64), 1, 100, False
    c.model = model_config("mlp", widths=(8,))
    c.optim.name = "sgd"
    c.search.trials, c.search.space = 4, {"learning_rate": ("log", 0.1, 1.0)}
    c.target.budget, c.target.resolution, c.target.margin = ("120 steps",), 0.02, 1.0
    c.pareto.goals = GOALS
    c.update_from_flattened_dict(changes)
    return c


def _run(config, workdir):
    """The results by name."""
    run_study(config, workdir, None, lambda text: None)
    paths = sorted(workdir.glob("*/result.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pareto")
    return workdir, _run(_config(), workdir)


def test_goals_follow_from_the_record(study):
    workdir, results = study
    for name, result in results.items():
        rows = read_metrics(workdir / name, "train")
        assert [entry["goal"] for entry in result["goals"]] == [1.5, 1.0, 0.8]
        for entry in result["goals"]:
            below = [r["step"] for r in rows if r["loss"] is not None and r["loss"] < entry["goal"]]
            assert entry["steps"] == min(below)
            assert entry["examples"] == min(below) * result["global_batch"]
            assert entry["before"] < entry["steps"]
        assert result["goals"][-1]["steps"] == result["steps_to_target"]


def test_the_tracked_run_is_the_best_trial_again(study):
    """Its training losses average to what the search recorded of that trial."""
    workdir, results = study
    for name, result in results.items():
        best, last = result["best_trial"], result["steps_to_target"]
        recorded = [r for r in read_metrics(workdir / name, "train") if r["trial"] == best]
        losses = [r["loss"] for r in read_metrics(workdir / name / "tracked", "train")]
        assert len(losses) == last
        steps = [r["step"] for r in recorded if r["step"] <= last]
        for before, after in itertools.pairwise(steps):
            (row,) = (r for r in recorded if r["step"] == after)
            assert np.mean(losses[before:after]) == pytest.approx(row["train_loss"], rel=1e-4)
        assert result["tracked"]["source"] == "microbatches"
        assert result["tracked"]["b_big"] == result["global_batch"]


def test_hyperparameters_that_were_searched_are_those_of_the_tracked_run():
    space = {
        "learning_rate": ("log", 0.1, 1.0),
        "momentum": ("linear", 0.1, 0.9),
        "label_smoothing": ("linear", 0.0, 0.1),
        "warmup_steps": ("integer", 1, 5),
        "decay_share": ("linear", 0.5, 1.0),
    }
    c = _config(**{"optim.name": "momentum", "schedule.name": "linear"})
    c.search.space = space
    (point, _) = pareto.points(c)
    best = {"learning_rate": 0.3, "momentum": 0.7, "label_smoothing": 0.05, "warmup_steps": 3}
    best |= {"decay_share": 0.5, "effective_learning_rate": 1.0}
    result = {"best_trial": 1, "best": best, "steps_to_target": 40, "trials": [{}, {"seed": 8}]}
    tracked = pareto.tracked_config(point, result)
    assert (tracked.optim.base_lr, tracked.optim.momentum, tracked.seed) == (0.3, 0.7, 8)
    assert (tracked.loss.label_smoothing, tracked.schedule.warmup) == (0.05, "3 steps")
    assert tracked.duration == "60 steps"  # the end of its schedule, half of 120
    assert tracked.micro_batch == 2


def test_a_batch_above_the_training_set_has_steps_and_no_noise(tmp_path):
    c = _config(**{"batch_sizes": (64,), "data.train_size": 60, "pareto.goals": (2.2,)})
    (result,) = _run(c, tmp_path).values()
    assert result["status"] == "reached" and result["goals"][0]["steps"] > 0
    assert result["tracked"] is None and not (tmp_path / "bs64" / "tracked").exists()


def test_a_batch_of_one_and_a_goal_not_reached(tmp_path):
    c = _config(
        **{"batch_sizes": (1,), "pareto.goals": (2.2, 1e-9), "target.budget": ("30 steps",)}
    )
    (result,) = _run(c, tmp_path).values()
    assert result["tracked"] is None and result["status"] == "target_not_reached"
    assert result["goals"][1]["steps"] is None


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"pareto.goals": ()}, "pareto.goals is empty"),
        ({"pareto.goals": (-1.0,)}, "pareto.goals contains -1.0"),
        ({"target.goal": 0.2}, "pareto.goals; set those instead"),
        ({"pareto.goals": (0.5, 2.3, 1.0)}, r"pareto.goals: 2\.3 takes no learning.* loss 2\.284"),
        ({"target.metric": "error", "pareto.goals": (0.2, 0.9)}, r"0\.9 takes no .* error 0\.8667"),
    ],
)
def test_bad_goals(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        run_study(_config(**changes), tmp_path, None, lambda text: None)


def test_several_devices_and_a_warmup(tmp_path):
    """The tracked run takes the devices that divide its batch, and lasts as long as its warmup."""
    changes = {"batch_sizes": (6,), "devices": 4, "schedule.warmup": "90 steps"}
    c = _config(**changes, **{"pareto.goals": (2.2,), "schedule.warmup_init": 0.5})
    (result,) = _run(c, tmp_path).values()
    assert result["status"] == "reached" and result["tracked_status"] == "complete"
    assert result["steps_to_target"] < 90
    assert result["tracked"]["windows"][-1]["last_step"] == 90
    assert json.loads((tmp_path / "bs6/tracked/resolved.json").read_text())["plan"]["devices"] == 2
