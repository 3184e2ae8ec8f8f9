"""The accuracy study in this process, on digits."""

import itertools
import json
import re
import signal
import statistics

import numpy as np
import pytest

from scaling.config import default_config, model_config
from scaling.errors import UserError
from scaling.record import RunDir, read_metrics
from scaling.signals import Interrupted
from scaling.studies.accuracy.measure import dry_run
from scaling.studies.recipe_records import Trial
from scaling.studies.running import points_of, run_study
from scaling.studies.shared import single_run
from scaling.studies.tuning import beyond, tuning_of
from scaling.train.single import train_point

QUIET = lambda text: None
RECIPES = ("naive", "sqrt", "sqrt+gbn", "sqrt+gbn+adapt")


def _config(**changes):
    c = default_config("accuracy")
    c.batch_sizes, c.optim.base_batch, c.devices = (48, 192), 48, 1
    c.duration, c.eval.every, c.eval.batch = "4 epochs", "2 epochs", 300
    c.model = model_config("mlp", widths=(16,), norm="batch")
    c.optim.name, c.optim.base_lr = "momentum", 0.05
    c.recipes.names, c.recipes.seeds = RECIPES, 3
    c.update_from_flattened_dict(changes)
    return c


def measured(config, workdir, say=QUIET):
    """Results by point, in the order of the study."""
    run_study(config, workdir, None, say)
    return {n: json.loads((workdir / n / "result.json").read_text()) for n in points_of(config)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(config, workdir, results, what was said) of the four recipes."""
    config, workdir, said = _config(), tmp_path_factory.mktemp("accuracy"), []
    return config, workdir, measured(config, workdir, said.append), said


def test_points_and_what_they_stand_for(study):
    *_, results, _ = study
    assert list(results) == ["bs48_naive", *(f"bs192_{name}" for name in RECIPES)]
    assert results["bs48_naive"]["recipes"] == list(RECIPES)
    steps = {name: result["steps"] for name, result in results.items()}
    assert steps["bs192_naive"] == round(4 * 1197 / 192) == 25
    assert steps["bs192_sqrt+gbn+adapt"] == steps["bs48_naive"] == 100
    assert results["bs192_sqrt"]["learning_rate"] == pytest.approx(0.1)
    assert results["bs192_sqrt+gbn"]["settings"] == {
        "optim.scaling_rule": "sqrt",
        "model.norm": "ghost",
        "model.ghost_batch": "48",
    }


def test_every_run_is_the_run_that_its_config_says(study, tmp_path):
    """A seed of a population is the same recipe trained alone, to its test error."""
    config, _, results, _ = study
    for name in ("bs48_naive", "bs192_sqrt+gbn"):
        alone = single_run(points_of(config)[name])
        alone.seed = 1
        with RunDir(tmp_path / name) as run:
            run.begin(json.loads(alone.to_json_best_effort()))
            expected = train_point(alone, run, "alone")
        found = results[name]["runs"][1]
        assert found["seed"] == 1
        for split in ("validation", "test"):
            for key in ("error", "loss"):
                assert found[split][key] == pytest.approx(expected[split][key], rel=2e-3), split


def test_numbers_follow_from_the_metrics_alone(study):
    """By a reading of metrics.jsonl that shares nothing with the study."""
    _, workdir, results, _ = study
    for name, result in results.items():
        lines = (workdir / name / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        for split in ("validation", "train", "test"):
            last = {r["trial"]: r["error"] for r in rows if r["split"] == split}
            found = [run[split]["error"] for run in result["runs"]]
            assert found == pytest.approx([last[k] for k in range(3)], rel=1e-8)
        steps = [r["step"] for r in rows if r["split"] == "validation" and r["trial"] == 0]
        assert steps[0] == 0 and steps[-1] == result["steps"] and steps == sorted(set(steps))
        ends = [r["step"] for r in rows if r["split"] == "test"]
        assert ends == [result["steps"]] * 3  # read once, after the last update


def test_seeds_are_the_same_for_all_recipes(study):
    """Before any training every recipe has the same weights, seed by seed."""
    _, workdir, results, _ = study
    first = {
        name: [row["loss"] for row in read_metrics(workdir / name, "validation")[:3]]
        for name in results
    }
    values = list(first.values())
    assert all(losses == pytest.approx(values[0], rel=1e-5) for losses in values)
    assert len(set(values[0])) == 3


def test_a_finished_point_is_one_line(study):
    *_, results, said = study
    errors = [run["test"]["error"] for run in results["bs192_sqrt"]["runs"]]
    mean, deviation = 100 * statistics.mean(errors), 100 * statistics.stdev(errors)
    [line] = [line for line in said if line.startswith("bs192_sqrt: batch")]
    assert f"test error {mean:.2f}% ± {deviation:.2f}, seeds 3" in line


def test_a_second_launch_measures_nothing_and_a_recipe_may_be_added(study):
    config, workdir, results, _ = study
    more = config.copy_and_resolve_references()
    more.recipes.names = ("naive", "linear")
    said = []
    again = measured(more, workdir, said.append)
    assert list(again) == ["bs48_naive", "bs192_naive", "bs192_linear"]
    for name in ("bs48_naive", "bs192_naive"):
        assert again[name] == results[name]
        assert any(f"{name}: already finished" in line for line in said)
    recorded = json.loads((workdir / "bs48_naive/config.json").read_text())
    assert recorded["recipes"]["names"] == ["naive", "linear"]


def _without_times(result):
    return {k: v for k, v in result.items() if k != "seconds"}


@pytest.mark.parametrize("after", [3, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 5))])
def test_stopped_anywhere_it_goes_on_bit_for_bit(tmp_path, monkeypatch, after):
    """Interrupted at one call after another: tuning, runs, between them."""
    config = _config(**{"accuracy.trials": 2, "accuracy.widen": 1, "batch_sizes": (192,)})
    config.recipes.names = ("sqrt+gbn",)
    whole = measured(config, tmp_path / "whole")

    from scaling.train import population as population_module

    plain = population_module.Population.advance
    monkeypatch.setattr(population_module, "CALL_SECONDS", 0.0)  # an update a call

    for launch in itertools.count():
        calls = itertools.count()

        def advance(self, *args, calls=calls):
            if next(calls) == after * 4:
                signal.raise_signal(signal.SIGTERM)
            return plain(self, *args)

        monkeypatch.setattr(population_module.Population, "advance", advance)
        try:
            cut = measured(config, tmp_path / "cut")
            break
        except Interrupted:
            assert launch < 60
    assert launch >= 2
    name = "bs192_sqrt+gbn"
    assert _without_times(cut[name]) == _without_times(whole[name])
    texts = [(tmp_path / w / name / "metrics.jsonl").read_text() for w in ("whole", "cut")]
    assert texts[0] == texts[1]
    assert not any((tmp_path / "cut" / name / "checkpoints").glob("*/*"))


def test_killed_after_training_the_ends_are_evaluated_again(tmp_path, monkeypatch):
    """Nothing is lost or written twice where the program dies before the record is written."""
    config = _config(**{"batch_sizes": (192,)})
    config.recipes.names = ("naive",)
    whole = measured(config, tmp_path / "whole")
    save = RunDir.save_json

    def dies(self, name, content):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDir, "save_json", dies)
    with pytest.raises(KeyboardInterrupt):
        measured(config, tmp_path / "cut")
    monkeypatch.setattr(RunDir, "save_json", save)
    cut = measured(config, tmp_path / "cut")
    assert _without_times(cut["bs192_naive"]) == _without_times(whole["bs192_naive"])
    texts = [(tmp_path / w / "bs192_naive/metrics.jsonl").read_text() for w in ("whole", "cut")]
    assert texts[0] == texts[1]


# The weights grow by 10^10 at every update.
GROWING = {"optim.base_lr": 1e4, "optim.weight_decay": 1e6}


def test_an_infinite_loss_at_the_end_is_a_result(tmp_path):
    """Weights that are finite, and logits that are not."""
    config = _config(**{"model.norm": "none", "batch_sizes": (48,), **GROWING})
    config.duration, config.optim.momentum = "2 steps", 0.0
    config.recipes.names = ("naive",)
    result = measured(config, tmp_path)["bs48_naive"]
    for run in result["runs"]:
        assert run["status"] == "diverged" or run["test"]["error"] <= 1


def test_diverged_runs_are_results(tmp_path):
    """All runs of one recipe diverge, and nothing is read from the test split."""
    config = _config(**{"model.norm": "none", "batch_sizes": (48,), **GROWING})
    config.recipes.names = ("naive",)
    result = measured(config, tmp_path)["bs48_naive"]
    assert result["status"] == "diverged"
    assert [run["status"] for run in result["runs"]] == ["diverged"] * 3
    assert all(run["test"] is None and run["diverged_at"] for run in result["runs"])


def test_a_batch_that_grows_on_the_way(tmp_path):
    """Two epochs at batch 48, and two at four times that; the rates that are tried fall alike."""
    changes = {"schedule.name": "step", "schedule.boundaries": ("2 epochs",), "batch_sizes": (48,)}
    changes |= {"schedule.decay_factor": 0.25, "recipes.names": ("naive", "seesaw")}
    changes |= {"recipes.seeds": 2, "accuracy.trials": 2, "eval.every": "1 epoch"}
    config = _config(**changes)
    assert "bs48_seesaw: 62 steps" in dry_run(points_of(config))
    result = measured(config, tmp_path)["bs48_seesaw"]
    assert (result["steps"], result["epochs"]) == (62, pytest.approx(4, abs=0.1))
    assert result["settings"]["schedule.batch_factors"] == "(4.0,)"
    assert [run["status"] for run in result["runs"]] == ["complete"] * 2
    rows = read_metrics(tmp_path / "bs48_seesaw", "validation")
    assert [row["step"] for row in rows if row["trial"] == 1] == [0, 25, 50, 54, 60, 62]
    # Read once, after the last part.
    assert [row["step"] for row in read_metrics(tmp_path / "bs48_seesaw", "test")] == [62, 62]
    assert len(result["tuning"]["trials"]) >= 2


@pytest.mark.slow
def test_tuning_gives_every_recipe_the_same(tmp_path):
    config = _config(**{"accuracy.trials": 3, "accuracy.span": (0.5, 2.0), "accuracy.widen": 0})
    config.recipes.names = ("naive", "smoothing")
    results = measured(config, tmp_path)
    for result in results.values():
        tuning = result["tuning"]
        rates = [trial["learning_rate"] for trial in tuning["trials"]]
        assert rates == pytest.approx([0.025, 0.05, 0.1])
        errors = [trial["validation_error"] for trial in tuning["trials"]]
        assert tuning["best"] == errors.index(min(errors))
        assert result["learning_rate"] == rates[tuning["best"]]
        edge = {0: "low", 1: None, 2: "high"}[tuning["best"]]
        assert tuning["at_edge"] == edge
    lines = [json.loads(x) for x in (tmp_path / "bs192_naive/metrics.jsonl").open()]
    last = {x["trial"]: x["error"] for x in lines if x["split"] == "tuning"}
    tuning = results["bs192_naive"]["tuning"]
    found = [trial["validation_error"] for trial in tuning["trials"]]
    assert found == pytest.approx([last[k] for k in range(3)], rel=1e-8)


def test_where_every_rate_diverges_nothing_is_run(tmp_path):
    changes = {"model.norm": "none", "batch_sizes": (48,), **GROWING}
    config = _config(**changes, **{"accuracy.trials": 2, "accuracy.widen": 1})
    config.recipes.names = ("naive",)
    result = measured(config, tmp_path)["bs48_naive"]
    assert result["status"] == "diverged" and result["runs"] == []
    assert result["learning_rate"] is None and result["tuning"]["best"] is None
    assert len(result["tuning"]["trials"]) == 3 and result["tuning"]["at_edge"] == "low"


def _tuning(rates, errors):
    statuses = ["diverged" if error is None else "complete" for error in errors]
    return tuning_of(list(map(Trial, rates, errors, statuses)), widened=0)


def test_rates_go_on_beyond_the_edge_spaced_alike():
    rates = np.geomspace(0.1, 10, 4)
    low, middle, high = (_tuning(rates, abs(np.log(rates / best))) for best in (0.01, 0.5, 50))
    assert (low.at_edge, middle.at_edge, high.at_edge) == ("low", None, "high")
    assert (low.best, middle.best, high.best) == (0, 1, 3) and low.range == (0.1, 10)
    ratio = 100 ** (1 / 3)
    assert beyond(low, 2) == pytest.approx([0.1 / ratio, 0.1 / ratio**2])
    assert beyond(high, 2) == pytest.approx([10 * ratio, 10 * ratio**2])


def test_a_tie_goes_to_the_lower_rate_and_divergence_searches_lower():
    assert _tuning([2.0, 1.0, 3.0], [0.5, 0.5, None]).best == 1
    lost = _tuning([1.0, 2.0], [None, None])
    assert (lost.best, lost.at_edge) == (None, "low")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"recipes.seeds": 0}, "recipes.seeds is 0; it must be at least 1"),
        ({"accuracy.span": (2.0, 1.0)}, "accuracy.span is (2.0, 1.0); give the lowest"),
        ({"accuracy.span": (0.1, "a")}, "accuracy.span contains 'a'; it must be a number"),
        ({"accuracy.trials": 1}, "accuracy.trials is 1, which is no choice"),
        (
            {"accuracy.tolerance": -1.0},
            "accuracy.tolerance is -1.0; it must be at least 0 and at most 1",
        ),
        ({"accuracy.widen": -1}, "accuracy.widen is -1; it must be at least 0 and at most 100"),
        ({"noise_scale": True}, "noise_scale is of single runs"),
        ({"recipes.warmup": "9 epochs", "recipes.names": ("linear+warmup",)}, "The warmup of"),
        ({"batch_sizes": (48, 100), "recipes.names": ("gbn",)}, "Ghost batch 48 does not"),
    ],
)
def test_wrong_values_are_one_sentence_before_anything_starts(tmp_path, changes, words):
    with pytest.raises(UserError, match=re.escape(words)):
        run_study(_config(**changes), tmp_path / "runs", None, QUIET)
    assert not (tmp_path / "runs").exists()


def test_the_dry_run_says_what_it_would_cost(study):
    config, *_ = study
    text = dry_run(points_of(config))
    assert "bs48_naive: 100 steps" in text and "also sqrt, sqrt+gbn, sqrt+gbn+adapt" in text
    examples = 3 * 100 * 48 + 3 * (3 * 25 * 192) + 3 * 100 * 192
    assert re.search(rf"total  {examples:.3g} examples".replace("+", r"\+"), text), text


@pytest.mark.slow
def test_streamed_images(tmp_path, imagenet):
    config = _config(**{"data.name": "imagenet", "data.dir": str(imagenet.parents[1])})
    config.model = model_config("mlp", widths=(4,))
    config.batch_sizes, config.optim.base_batch = (4, 8), 4
    config.duration, config.eval.every, config.eval.batch = "2 epochs", "1 epoch", 6
    config.recipes.names, config.recipes.seeds = ("naive",), 2
    results = measured(config, tmp_path / "runs")
    for result in results.values():
        assert all(0 <= run["test"]["error"] <= 1 for run in result["runs"])
