"""Studies of tasks whose headline is not an error: its words, its unit and its direction."""

import csv
import json
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from mutations import tiny

from scaling.config import model_config
from scaling.data import sources
from scaling.errors import UserError
from scaling.record import read_metrics
from scaling.report import write_report
from scaling.report.contents import read_kinds
from scaling.report.records import read_workdirs
from scaling.report.wording import interval, number
from scaling.studies.running import run_study
from scaling.studies.shared import check_goals, metric_of
from scaling.studies.steps_to_target.analysis import read

SIZES = {"train": 256, "validation": 64, "test": 64}
CLASSES = 12
RESULTS = Path(__file__).resolve().parents[2] / "docs/results"


def _tokens(split):
    """Rows in which a token is often the one before it plus 1."""
    rng = np.random.default_rng(list(SIZES).index(split))
    steps = rng.choice([1, 2, 5], (SIZES[split], 8), p=[0.8, 0.1, 0.1])
    return {"tokens": (steps.cumsum(1) % CLASSES).astype(np.uint16)}


def _labels(split):
    rng = np.random.default_rng(list(SIZES).index(split))
    x = rng.standard_normal((SIZES[split], 6), np.float32)
    return {"x": x, "label": (x[:, :3] > 0.5).astype(np.uint8)}


@pytest.fixture(autouse=True)
def own_sets(monkeypatch):
    monkeypatch.setattr(sources, "INFOS", dict(sources.INFOS))
    monkeypatch.setattr(sources, "_LOADERS", dict(sources._LOADERS))
    like = lambda load: {k: (v.shape[1:], str(v.dtype)) for k, v in load("test").items()}
    sources.register(
        "steps", _tokens, sizes=SIZES, example=like(_tokens), task="language", num_classes=CLASSES
    )
    sources.register("signs", _labels, sizes=SIZES, example=like(_labels), task="multi_label")


def report(config, path):
    """(text of the page, the CSV files by name) of a study that is run."""
    run_study(config, path / "runs", None, print)
    return page_of([path / "runs"], path)


def page_of(workdirs, path):
    """The same, of studies that were run."""
    page = write_report(workdirs, path, print).read_text()
    page = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
    tables = {file.name: file.read_text() for file in (path / "tables").iterdir()}
    return page, tables


def language(study, **changes):
    config = tiny(study, **{"data.name": "steps"} | changes)
    config.model = model_config("transformer", layers=1, width=8, ffn=16, heads=2)
    return config


LANGUAGE = {
    "accuracy": {"recipes.names": ("naive",), "batch_sizes": (8, 32)},
    "generalization": {"recipes.names": ("naive",), "batch_sizes": (8, 32)},
    "advise": {"advise.goal": 2.4},
    "adaptive_batch": {"adaptive.goals": (2.4, 2.2), "adaptive.largest": 64},
    "pareto": {"target.metric": "loss", "pareto.goals": (2.4, 2.2), "batch_sizes": (8, 32)},
}


@pytest.mark.parametrize("study", LANGUAGE)
def test_pages_of_language_models_have_no_error(study, tmp_path):
    page, tables = report(language(study, **LANGUAGE[study]), tmp_path)
    assert "nats per token" in page and "loss" in page
    assert "error" not in page.lower()
    tables.pop("accuracy.csv", None)  # it has all metrics, the token error too
    assert not any("validation_error" in text for text in tables.values())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"metric": "perplexity", "goal": 1.0}, "1 cannot be met, .* never is below 1;"),
        ({"metric": "ap", "goal": 1.0}, "1 cannot be met, .* strictly above it"),
        ({"metric": "ap_macro", "goal": 1.5}, "1.5 cannot be met"),
    ],
)
def test_goals_that_no_model_meets_are_refused(changes, message):
    name = "signs" if "ap" in changes["metric"] else "steps"
    config = language("steps_to_target", **{"data.name": name})
    config.target.update(changes)
    with pytest.raises(UserError, match=f"target.goal: {message}"):
        goals = [2.0 if name == "steps" else 0.5, changes["goal"]]
        check_goals(config, "target.goal", goals, changes["metric"], "test")


def test_tables_count_tokens_where_rows_hold_them(tmp_path):
    page, tables = report(language("train"), tmp_path / "train")
    assert "tokens/s" in page and "tokens per second" in page and "examples" not in page
    [row] = csv.DictReader(tables["runs.csv"].splitlines())
    assert float(row["rate"]) == 8 * float(row["examples_per_second"])
    page, _ = page_of([RESULTS / "kjv_lm/adam"], tmp_path)
    assert "in sequences of 32 tokens" in page and re.search(r"B\s*crit\s*, tokens", page)
    fit = read(*read_workdirs([RESULTS / "kjv_lm/adam"])).fit
    assert number(32 * fit.b_crit) + interval(*(32 * end for end in fit.b_crit_interval)) in page


def test_goals_and_averaged_weights_are_shown_together(tmp_path):
    of = lambda *names: [RESULTS / "comparisons_kjv" / name for name in names]
    assert read_kinds(of("adam", "adam_average"))
    page, _ = page_of(of("adam", "goal_4.5", "goal_4.2", "goal_3.7"), tmp_path)
    assert "studies, which scatter by" in page and "error" not in page.lower()


@pytest.mark.parametrize("metric", ["loss", "bits_per_byte"])
def test_losses_of_other_tokens_are_not_compared(metric, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for path in (here, there):
        shutil.copytree(RESULTS / "kjv_lm/adam", path)
        for file in path.glob("*/result.json"):
            file.write_text(json.dumps(json.loads(file.read_text()) | {"metric": metric}))
    for file in there.glob("*/resolved.json"):
        resolved = json.loads(file.read_text())
        resolved["data"]["files"]["tokenizer_sha256"] = "0" * 64
        file.write_text(json.dumps(resolved))
    if metric == "bits_per_byte":
        assert read_kinds([here, there])
        return
    with pytest.raises(UserError, match=r"512 tokens, checksum eedd.*00000000; report them sep"):
        read_kinds([here, there])


def test_a_metric_of_averaged_weights_needs_an_average():
    config = language("steps_to_target", **{"target.metric": "ewa_loss"})
    with pytest.raises(UserError, match=r"no weights are averaged; set optim\.ewa_half_life"):
        metric_of(config, "ewa_loss")


def test_goals_of_adaptive_batches_are_of_a_metric(tmp_path):
    changes = {"data.name": "signs", "adaptive.metric": "ap", "adaptive.goals": (0.8, 0.6)}
    config = tiny("adaptive_batch", **changes | {"adaptive.r": ()})
    page, _ = report(config, tmp_path)
    assert "a training average precision above 0.8" in page and "error" not in page.lower()
    result = json.loads((tmp_path / "runs/fixed_bs32/result.json").read_text())
    rows = read_metrics(tmp_path / "runs/fixed_bs32", "train_eval")
    found = [(goal["goal"], goal["steps"]) for goal in result["runs"][0]["goals"]]
    above = lambda goal: next(row["step"] for row in rows if row["ap"] > goal)
    assert found == [(goal, above(goal)) for goal in (0.6, 0.8)]


def test_the_higher_the_better(tmp_path):
    config = tiny("accuracy", **{"data.name": "signs", "duration": "20 steps"})
    config.batch_sizes, config.optim.base_batch = (8, 64), 8
    config.recipes.names, config.optim.base_lr = ("naive", "linear"), 0.3
    config.accuracy.trials, config.recipes.seeds = 3, 3
    page, tables = report(config, tmp_path)
    [(_, [study])] = read_kinds([tmp_path / "runs"])
    means = {}
    for path in (tmp_path / "runs").glob("*/result.json"):
        result = json.loads(path.read_text())
        scores = [run["test"]["ap"] for run in result["runs"]]
        held = statistics.mean(run["validation"]["ap"] for run in result["runs"])
        means[path.parent.name] = (held, statistics.mean(scores))
        tried = [trial["validation_error"] for trial in result["tuning"]["trials"]]
        best = max(score for score in tried if score is not None)
        assert tried[result["tuning"]["best"]] == best
    large = {name: mean for name, mean in means.items() if name.startswith("bs64")}
    assert study.choices(64)[0].directory.name == max(large, key=large.get)
    reference = means["bs8_naive"][1]
    for point in study.points_at(64):
        worse = reference - means[point.directory.name][1]
        assert study.added(point).difference == pytest.approx(worse)
    assert "test average precision" in page and "error" not in page.lower()
    rows = list(csv.DictReader(tables["accuracy_summary.csv"].splitlines()))
    assert {"validation_ap_mean", "test_ap_mean", "train_ap_mean"} <= rows[0].keys()
