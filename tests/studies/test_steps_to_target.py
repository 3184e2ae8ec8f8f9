"""The whole study in this process: three batch sizes of a tiny net on digits."""

import dataclasses
import json
import math
import os
import signal

import jax
import numpy as np
import pytest

from scaling import search
from scaling.config import default_config, model_config
from scaling.crossings import next_evaluation
from scaling.data import sources
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.report import point_line
from scaling.report.reading import from_json
from scaling.signals import Interrupted
from scaling.studies.running import run_study
from scaling.studies.steps_to_target.measure import check
from scaling.studies.steps_to_target.record import Record
from scaling.train import evaluate, planning

GOAL, TRIALS, BUDGET = 0.3, 8, 90
NAMES = ("bs16", "bs64", "bs256")
SPACE = {
    "learning_rate": ("log", 0.02, 1.0),
    "momentum": ("reverse_log", 0.5, 0.95),
    "weight_decay": ("discrete", 0.0, 0.0, 0.0, 1e6),  # some diverge
}
TIMES = ("seconds", "trial_steps_per_second")


def _config(**changes):
    c = default_config("steps_to_target")
    c.batch_sizes, c.devices, c.eval.batch = (16, 64, 256), 1, 100
    c.model = model_config("mlp", widths=(8,))
    c.search.trials, c.search.space = TRIALS, changes.pop("space", SPACE)
    c.target.goal, c.target.budget = GOAL, (f"{BUDGET} steps",)
    c.target.resolution, c.target.repeats = 0.1, 2
    c.update_from_flattened_dict(changes)
    return c


def _one(**changes):
    """A study of one point that does no more than it must."""
    return _config(**{"batch_sizes": (64,), "target.repeats": 0, "eval.test": False} | changes)


def _point(workdir, **changes):
    """The result of `_one`."""
    (result,) = _run(_one(**changes), workdir)[0].values()
    return result


def _run(config, workdir, part=None):
    """The results by name, in the order of batch sizes, and what was said."""
    said = []
    run_study(config, workdir, part, said.append)
    results = [
        (path.parent.name, json.loads(path.read_text())) for path in workdir.glob("*/result.json")
    ]
    return dict(sorted(results, key=lambda pair: pair[1]["global_batch"])), said


def _rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _files(workdir, name):
    """What a point left, but for its times and launches."""
    run = workdir / name
    contents = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file() and p.name != "lock"):
        contents[str(path.relative_to(run))] = path.read_bytes()
    for file in ("result.json", "search0.json", "repeats.json"):
        values = json.loads(contents[file])
        contents[file] = {k: v for k, v in values.items() if k not in TIMES}
    resolved = json.loads(contents["resolved.json"])
    del resolved["launches"]
    return contents | {"resolved.json": resolved}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(workdir, results, what was said) of the study in one go."""
    workdir = tmp_path_factory.mktemp("study")
    return workdir, *_run(_config(), workdir)


def test_the_record_of_a_point(study):
    workdir, results, _ = study
    assert tuple(results) == NAMES
    for name in NAMES:  # nobody reads the repeats' weights
        assert [path.name for path in (workdir / name).glob("*.npz")] == ["search0.npz"]
    for name, batch in zip(NAMES, (16, 64, 256), strict=True):
        result = results[name]
        assert list(result) == [field.name for field in dataclasses.fields(Record)]
        assert (result["study"], result["status"]) == ("steps_to_target", "reached")
        assert (result["global_batch"], result["train_size"]) == (batch, 1197)
        assert (result["metric"], result["goal"], result["margin"]) == ("error", GOAL, 2.0)
        assert result["ranges"] == {name: list(range_) for name, range_ in SPACE.items()}
        assert (result["censored_at"], result["widened"]) == (None, 0)
        before, step = result["resolution"]
        assert step == result["steps_to_target"] == next_evaluation(before, 0.1)
        assert result["budget_steps"] == BUDGET
        assert result["stopped_at_step"] == min(BUDGET, math.floor(2.0 * step))
        low, high = from_json(Record, result).steps_interval or (1, step)
        assert 1 <= low <= step <= high
        assert set(result["seconds"]) == {"compile", "train", "eval"}
        assert set(result["devices"]) == {"kind", "platform", "count", "simulated"}


def test_trials_and_the_best_of_them(study):
    _, results, _ = study
    found = [[t["values"] for t in result["trials"]] for result in results.values()]
    assert len({str(values) for values in found}) == len(found)  # a search of its own for each
    for result in results.values():
        trials = result["trials"]
        drawn = search.sample(SPACE, range(TRIALS), seed=(0, result["global_batch"]))
        assert [t["trial"] for t in trials] == [t["seed"] for t in trials] == list(range(TRIALS))
        assert [t["values"] for t in trials] == drawn
        outcomes = [t["outcome"] for t in trials]
        assert result["counts"] == {
            kind: outcomes.count(kind) for kind in ("reached", "missed", "infeasible")
        }
        assert result["counts"]["infeasible"] > 0
        for trial in trials:
            assert (trial["steps_to_target"] is not None) == (trial["outcome"] == "reached")
            assert trial["stopped_at_step"] <= result["stopped_at_step"]
        reached = [(t["steps_to_target"], t["trial"]) for t in trials if t["outcome"] == "reached"]
        assert (result["steps_to_target"], result["best_trial"]) == min(reached)
        values = trials[result["best_trial"]]["values"]
        effective = values["learning_rate"] / (1 - values["momentum"])
        assert result["best"] == values | {"effective_learning_rate": pytest.approx(effective)}
        edges = search.edges(SPACE, values)
        assert result["at_edge"] == [list(edge) for edge in edges]
        assert len(result["repeats"]) == 2
        assert [r["seed"] for r in result["repeats"]] == [10_100_000, 10_100_001]


def test_steps_follow_from_the_metrics_alone(study):
    """Every trial's and the answer's, recomputed in plain Python."""
    workdir, results, _ = study
    for name, result in results.items():
        rows = _rows(workdir / name)
        for split, count in (("validation", TRIALS), ("repeat", 2)):
            first = {}
            for row in rows:
                if row["split"] == split and row["error"] is not None and row["error"] < GOAL:
                    first[row["trial"]] = min(first.get(row["trial"], BUDGET), row["step"])
            of = result["trials"] if split == "validation" else result["repeats"]
            assert [t["steps_to_target"] for t in of] == [first.get(k) for k in range(count)]
            if split == "validation":
                assert min(first.values()) == result["steps_to_target"]
        for trial in result["trials"]:
            of_trial = [
                r for r in rows if (r["split"], r["trial"]) == ("validation", trial["trial"])
            ]
            known = [row["error"] for row in of_trial if row["error"] is not None]
            assert trial["best_metric"] == pytest.approx(min(known), rel=1e-6)
            if trial["outcome"] == "infeasible":
                assert of_trial[-1]["error"] is None and len(known) == len(of_trial) - 1
        (test,) = (row for row in rows if row["split"] == "test")
        assert (test["step"], test["trial"]) == (result["steps_to_target"], result["best_trial"])
        assert result["test"]["step"] == test["step"]
        assert test["error"] == pytest.approx(result["test"]["error"])
        assert test["error"] < 0.5  # the weights at the crossing, and not those of some other time


def test_what_is_said(study):
    _, results, said = study
    assert [line.split(":")[0] for line in said] == [n for n in reversed(NAMES) for _ in (0, 1)]
    assert said[3].startswith(f"bs64: batch 64, steps (95%) {results['bs64']['steps_to_target']}")


def test_a_second_launch_measures_nothing(study):
    workdir, results, _ = study
    files = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json*")}
    again, said = _run(_config(), workdir)
    assert again == results
    assert all("already finished" in line for line in said) and len(said) == len(NAMES)
    assert files == {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json*")}


@pytest.mark.slow
def test_slices_in_another_order_leave_the_same_files(study, tmp_path):
    workdir, _, _ = study
    for part, names in (("1:2", ("bs64",)), ("0:1", ("bs16",)), ("2:", ("bs256",))):
        before = set(tmp_path.iterdir())
        _run(_config(), tmp_path, part)
        assert tuple(path.name for path in set(tmp_path.iterdir()) - before) == names
    for name in NAMES:
        assert _files(tmp_path, name) == _files(workdir, name)


@pytest.mark.parametrize(
    "moment", ["search0", pytest.param("repeats", marks=pytest.mark.slow), "result"]
)
def test_killed_where_a_race_is_recorded_nothing_is_lost(study, tmp_path, monkeypatch, moment):
    workdir, _, _ = study
    write = RunDir._write

    def killed(self, name, content):
        if name == f"{moment}.json":
            raise MemoryError
        write(self, name, content)

    monkeypatch.setattr(RunDir, "_write", killed)
    with pytest.raises(MemoryError):
        _run(_config(), tmp_path, "1:2")
    monkeypatch.setattr(RunDir, "_write", write)
    assert not (tmp_path / "bs64" / "result.json").exists()
    with open(tmp_path / "bs64" / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "spl')  # what a kill leaves
    _run(_config(), tmp_path, "1:2")
    assert _files(tmp_path, "bs64") == _files(workdir, "bs64")


def test_a_signal_stops_the_study_and_it_is_resumed(study, tmp_path, monkeypatch):
    workdir, _, _ = study
    append = RunDir.append
    count = []

    def signalled(self, lines):
        append(self, lines)
        count.append(1)
        if len(count) in (5, 18):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunDir, "append", signalled)
    for _ in range(2):
        with pytest.raises(Interrupted, match=r"after step .* saved"):
            _run(_config(), tmp_path, "1:2")
    _run(_config(), tmp_path, "1:2")
    assert _files(tmp_path, "bs64") == _files(workdir, "bs64")


# ---- Other ends ----

NOT_REACHED = ("resolution", "best_trial", "best", "test")


def test_a_goal_out_of_reach_is_censored(tmp_path):
    result = _point(tmp_path, space={"learning_rate": ("log", 1e-6, 1e-5)})
    assert (result["status"], result["censored_at"]) == ("target_not_reached", BUDGET)
    assert result["stopped_at_step"] == BUDGET and result["steps_to_target"] is None
    assert all(result[key] is None for key in NOT_REACHED)
    assert result["repeats"] == [] and result["trial_steps_saved"] == 0
    assert "not reached in 90" in point_line(tmp_path / "bs64")


def test_every_trial_diverges(tmp_path):
    space = {"learning_rate": ("log", 5e3, 1e4)}
    result = _point(tmp_path, space=space, **{"optim.weight_decay": 1e6})
    assert (result["status"], result["censored_at"]) == ("all_diverged", None)
    assert result["at_edge"] == [] and "all diverged" in point_line(tmp_path / "bs64")
    assert result["counts"] == {"reached": 0, "missed": 0, "infeasible": TRIALS}
    assert result["steps_to_target"] is None and all(result[key] is None for key in NOT_REACHED)


def test_a_goal_met_before_training(tmp_path):
    """By what a trial happens to begin with: a constant answer has the error 0.867."""
    result = _point(tmp_path, **{"target.goal": 0.86, "target.repeats": 2, "eval.test": True})
    assert (result["status"], result["steps_to_target"]) == ("met_at_start", 0)
    assert all(result[key] is None for key in NOT_REACHED) and result["repeats"] == []
    assert result["trial_steps"] == 0 and result["censored_at"] is None
    assert "met at the start" in point_line(tmp_path / "bs64")


def test_the_loss_as_metric(tmp_path):
    result = _point(tmp_path, **{"target.metric": "loss", "target.goal": 1.2})
    below = [r["step"] for r in _rows(tmp_path / "bs64") if (r["loss"] or 9.0) < 1.2]
    assert result["metric"] == "loss" and result["steps_to_target"] == min(below) > 0


def test_a_goal_of_the_averaged_weights(tmp_path):
    space = {"learning_rate": ("log", 0.3, 3.0), "ewa_decay": ("reverse_log", 0.5, 0.95)}
    changes = {"target.metric": "ewa_error", "optim.ewa_half_life": "1 epoch", "eval.test": True}
    result, path = _point(tmp_path, space=space, **changes), tmp_path / "bs64"
    rows = [row for row in _rows(path) if row["split"] == "validation"]
    below = [row["step"] for row in rows if (row["ewa_error"] or 1.0) < GOAL]
    assert result["metric"] == "ewa_error" and result["steps_to_target"] == min(below) > 0
    assert any(row["ewa_error"] != row["error"] for row in rows)
    # What is tested is the average, so its error is near the goal.
    assert result["test"].keys() == {"step", "error", "loss"}
    assert result["test"]["error"] == pytest.approx(GOAL, abs=0.08)
    metrics = json.loads((path / "resolved.json").read_text())["task"]["metrics"]
    assert metrics["ewa_error"]["words"] == "error of the averaged weights"


def test_a_goal_on_the_training_split(tmp_path):
    """As the validation split, but for what is evaluated; tested on the test split all the same."""
    changes = {"target.split": "train", "target.metric": "loss", "target.goal": 1.2}
    result = _point(tmp_path, **changes, **{"target.repeats": 2, "eval.test": True})
    rows = _rows(tmp_path / "bs64")
    below = [r["step"] for r in rows if r["split"] == "train" and (r["loss"] or 9.0) < 1.2]
    assert result["split"] == "train" and result["steps_to_target"] == min(below) > 0
    assert {row["split"] for row in rows} == {"train", "repeat", "test"}
    assert len(result["repeats"]) == 2 and result["test"]["step"] == min(below)
    # Before any training the loss of a trial is the same in both: only the examples differ.
    held_out = _point(tmp_path / "v", **changes | {"target.split": "validation"})
    assert held_out["split"] == "validation"
    first, other = (_rows(path / "bs64")[0] for path in (tmp_path, tmp_path / "v"))
    assert first["step"] == other["step"] == 0
    assert first["loss"] != other["loss"] == pytest.approx(first["loss"], rel=0.1)


@pytest.mark.slow
def test_streamed_images(tmp_path, imagenet, monkeypatch):
    """To the end; and cut to pieces, the same."""
    images = {"data.name": "imagenet", "data.dir": str(tmp_path / "tfds"), "eval.batch": 4}
    search = {"target.split": "train", "target.metric": "loss", "target.goal": 6.5}
    search |= {"search.trials": 3, "target.budget": ("40 steps",), "target.repeats": 1}
    space = {"learning_rate": ("log", 2e-3, 8e-3)}
    config = _one(**images, **search, space=space, batch_sizes=(8,), **{"eval.test": True})
    config.target.resolution = 0.3
    ((_, result),) = _run(config, tmp_path / "whole")[0].items()
    assert result["status"] == "reached" and 2 < result["steps_to_target"] < 40
    assert result["repeats"][0]["steps_to_target"] and result["test"]["loss"] > 0
    append, count = RunDir.append, []

    def signalled(self, lines):
        append(self, lines)
        count.append(1)
        if len(count) == 6:  # in the middle of an epoch
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunDir, "append", signalled)
    with pytest.raises(Interrupted, match=r"after step .* saved"):
        _run(config, tmp_path / "cut")
    _run(config, tmp_path / "cut")
    assert _files(tmp_path / "cut", "bs8") == _files(tmp_path / "whole", "bs8")


def test_how_a_population_fitted_the_memory_is_kept_when_it_is_resumed(tmp_path, monkeypatch):
    """Whatever would fit by then: smaller blocks add numbers in another order."""
    need = lambda program, limit: program.layout.block * 2**30
    monkeypatch.setattr(planning, "needed_bytes", need)
    config, append = _one(memory_limit_gib=2.5), RunDir.append

    def signalled(self, lines):
        append(self, lines)
        os.kill(os.getpid(), signal.SIGTERM)

    def populations():
        return json.loads((tmp_path / "bs64" / "resolved.json").read_text())["populations"]

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(RunDir, "append", signalled)
        _run(config, tmp_path)
    chosen = populations()["search0"]
    assert (chosen["spread"], chosen["block"], chosen["devices"]) == ("trials", 2, 1)
    config.memory_limit_gib = None
    ((_, result),) = _run(config, tmp_path)[0].items()
    assert result["status"] == "reached" and populations() == {"search0": chosen}


def test_a_subset_of_the_data(tmp_path):
    result = _point(tmp_path, **{"data.train_size": 100, "target.budget": ("4 steps", "10 epochs")})
    assert result["train_size"] == 100 and result["budget_steps"] == 4 + 16  # 10 * 100 / 64
    resolved = json.loads((tmp_path / "bs64" / "resolved.json").read_text())
    assert resolved["data"]["sizes"] == {"train": 100, "validation": 300, "test": 300}


def test_fewer_repeats_than_devices_and_a_batch_that_does_not_divide(tmp_path):
    changes = {"batch_sizes": (30,), "search.trials": 8, "devices": 8, "eval.test": True}
    result = _point(tmp_path, **changes, **{"target.repeats": 1})
    assert result["status"] == "reached" and len(result["repeats"]) == 1 and result["test"]


# ---- Widening ----

NARROW = {"learning_rate": ("log", 0.05, 0.1)}


def test_a_space_that_is_too_narrow_is_widened(tmp_path, monkeypatch):
    tested, replicate = [], evaluate.replicate
    monkeypatch.setattr(
        evaluate, "replicate", lambda tree, to: tested.append(tree) or replicate(tree, to)
    )
    changes = {"search.widen": 2, "target.goal": 0.6, "eval.test": True}
    result = _point(tmp_path, space=NARROW, **changes)
    widened, trials = result["widened"], result["trials"]
    count = (1 + widened) * TRIALS
    assert widened >= 1 and len(trials) == count
    assert [t["trial"] for t in trials] == [t["seed"] for t in trials] == list(range(count))
    assert result["ranges"] != {name: list(range_) for name, range_ in NARROW.items()}
    assert result["best_trial"] >= TRIALS  # found beyond the first ranges
    # All rounds are pooled, in the answer as in the metrics.
    rows = _rows(tmp_path / "bs64")
    assert {row["trial"] for row in rows} == set(range(count))
    first = min((r["step"], r["trial"]) for r in rows if r["error"] < 0.6)
    assert first == (result["steps_to_target"], result["best_trial"])
    assert result["trial_steps"] + result["trial_steps_saved"] == count * BUDGET
    # The test is of the best trial's round.
    with np.load(tmp_path / "bs64" / f"search{result['best_trial'] // TRIALS}.npz") as winner:
        for name, leaf in zip(sorted(winner), jax.tree.leaves(tested), strict=True):
            np.testing.assert_array_equal(winner[name], leaf.reshape(winner[name].shape))
    # What was searched is not searched again.
    assert not any(search.inside(NARROW, trial["values"]) for trial in trials[TRIALS:])


def test_where_no_trial_reaches_the_goal_the_range_of_the_closest_is_widened(tmp_path):
    far = {"target.metric": "loss", "target.goal": 0.01}
    kept = _point(tmp_path / "kept", space=NARROW, **far)
    assert (kept["status"], kept["widened"]) == ("target_not_reached", 0)
    closest = min(kept["trials"], key=lambda t: t["best_metric"])
    assert kept["at_edge"] == [list(edge) for edge in search.edges(NARROW, closest["values"])]
    assert kept["at_edge"] == [["learning_rate", "high"]]
    wide = _point(tmp_path / "wide", space=NARROW, **far, **{"search.widen": 1})
    assert wide["widened"] == 1 and wide["ranges"]["learning_rate"][2] > 0.1


@pytest.mark.parametrize("low", [0.0, 1e-6])
def test_an_edge_with_no_room_behind_it_is_no_error(tmp_path, monkeypatch, low):
    """Where 0 or next to it is the end."""
    monkeypatch.setattr(search, "edges", lambda *_: [("momentum", "low")])
    space = {"learning_rate": ("log", 0.1, 1.0), "momentum": ("linear", low, 0.9)}
    result = _point(tmp_path, space=space, **{"search.widen": 1})
    assert (result["status"], result["widened"]) == ("reached", 0)
    assert result["at_edge"] == [["momentum", "low"]]


# ---- What cannot be ----

BOTH_DECAYS = {"decay_share": ("linear", 0.5, 1.0), "decay_steps": ("integer", 10, 90)}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"space": {}}, "search space is empty"),
        ({"space": {"learning_rat": ("log", 0.1, 1.0)}}, "did you mean 'learning_rate'"),
        ({"space": {"trust_coefficient": ("log", 0.1, 1.0)}}, "trust_coefficient"),
        ({"space": {"learning_rate": ("log", 0.0, 1.0)}}, "must be above 0.0"),
        ({"space": {"learning_rate": ("log", 1.0, 0.1)}}, "write the low bound first"),
        ({"space": {"learning_rate": ("logg", 0.1, 1.0)}}, "did you mean 'log'"),
        ({"space": {"learning_rate": 0.1}}, "write a scale and its bounds"),
        ({"space": {"decay_share": ("linear", 0.5, 1.0)}}, "decay_share"),
        ({"space": BOTH_DECAYS, "schedule.name": "linear"}, "search one of them"),
        ({"search.sampler": "sobel"}, "did you mean 'sobol'"),
        ({"search.trials": 0}, "search.trials is 0"),
        ({"search.widen": -1}, "search.widen is -1"),
        ({"target.metric": "accuracy"}, "target.metric"),
        ({"target.metric": "ewa_error"}, "'ewa_error' and no weights are averaged"),
        ({"space": {"ewa_decay": ("linear", 0.5, 0.9)}}, "ewa_decay"),
        ({"target.goal": 0.0}, "target.goal is 0.0"),
        ({"target.goal": math.nan}, "target.goal is nan"),
        ({"target.margin": 0.5}, "target.margin is 0.5"),
        ({"target.margin": math.inf}, "target.margin is inf"),
        ({"target.resolution": 0.0}, "target.resolution is 0"),
        ({"target.repeats": -1}, "target.repeats is -1"),
        ({"target.budget": ("0 steps",)}, "no step"),
        ({"target.budget": ("many steps",)}, "many steps"),
        ({"target.budget": ("1e12 steps",)}, "use at most 2,147,483,647 steps"),
        ({"batch_sizes": (64, 0)}, "batch_sizes contains 0; it must be at least 1"),
        ({"batch_sizes": ("x",)}, "batch_sizes contains 'x'"),
        ({"batch_sizes": (1.5,)}, "batch_sizes contains 1.5"),
        ({"batch_sizes": (True,)}, "batch_sizes contains True"),
        ({"batch_sizes": (2**31,)}, "batch_sizes contains 2147483648"),
        ({"batch_sizes": (), "global_batch": -4}, "global_batch is -4"),
        ({"model.widths": (64, 0)}, "model.widths contains 0"),
        ({"optim.scaling_rule": "linear"}, "optim.scaling_rule"),
        ({"optim.name": "nesterof"}, "did you mean 'nesterov'"),
        ({"data.train_size": 2000}, "data.train_size is 2000"),
        ({"micro_batch": 7}, "Microbatch 7 does not divide"),
        ({"target.split": "test"}, "target.split"),
        ({"duration": "3 epochs"}, "target.budget"),
        ({"eval.every": "3 steps"}, "target.resolution"),
        ({"space": {"warmup_init": ("linear", 0.0, 0.1)}}, "there is no warmup"),
        ({"space": {"momentum": ("linear", 0.5, 1.0)}}, "momentum must be at least 0 and below 1"),
        ({"metrics.tensorboard": True}, "metrics.tensorboard"),
    ],
)
def test_wrong_values_are_one_sentence_before_anything_starts(tmp_path, changes, words):
    with pytest.raises(UserError) as caught:
        _run(_one(**changes), tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def of_one_class(monkeypatch):
    """A data set of which 92% have one label, 23 of the 25 in each split; in the training split
    that is of the first 25 only, which is as many as an evaluation goes through."""

    def load(split):
        labels = np.zeros(sizes[split], np.int32)
        labels[[3, 11]] = 1, 2
        labels[25:] = 3
        return np.zeros((len(labels), 4, 4, 1), np.uint8), labels

    sizes = {"train": 200, "validation": 25, "test": 25}
    monkeypatch.setattr(sources, "INFOS", dict(sources.INFOS))
    sources.register("lopsided", load, image_shape=(4, 4, 1), num_classes=10, sizes=sizes)
    return {"data.name": "lopsided"}


ENTROPY = 0.92 * math.log(1 / 0.92) + 0.08 * math.log(25)  # 0.334


@pytest.mark.parametrize("split", ["validation", "train"])
@pytest.mark.parametrize("metric, least", [("error", 0.08), ("loss", ENTROPY)])
def test_a_goal_that_a_constant_answer_meets_is_refused(
    tmp_path, of_one_class, metric, least, split
):
    """Whatever the trials are trained with; below what the constant reaches it is a goal."""
    changes = of_one_class | {"target.metric": metric, "target.split": split}
    changes |= {"loss.label_smoothing": 0.5}
    with pytest.raises(UserError) as caught:
        _run(_one(**changes, **{"target.goal": least + 1e-3}), tmp_path)
    message = str(caught.value)
    assert (
        message.startswith(f"target.goal: {least + 1e-3:g} takes no learning")
        and "\n" not in message
    )
    assert f"the {split} split of lopsided" in message and f"the {metric} {least:.4g}" in message
    assert not list(tmp_path.iterdir())
    check(_one(**changes, **{"target.goal": least - 1e-3}))


def test_a_warmup_to_search_the_beginning_of():
    config = _one(space={"warmup_init": ("linear", 0.0, 0.1)}, **{"schedule.warmup": "3 steps"})
    check(config)
    space = {"warmup_init": ("linear", 0.0, 0.1), "warmup_steps": ("integer", 1, 9)}
    check(_one(space=space))
