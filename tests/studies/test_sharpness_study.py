"""The sharpness study in this process, on digits; its numbers against dense Hessians."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from compare import killed_at
from jax.flatten_util import ravel_pytree

from scaling.config import default_config, model_config
from scaling.crossings import ERROR, LOSS
from scaling.data import sources
from scaling.errors import UserError
from scaling.report import write_report
from scaling.report.charts import Line
from scaling.studies import gauge
from scaling.studies.measure_records import FLATNESS, Measure
from scaling.studies.running import points_of, run_study
from scaling.studies.sharpness import measure
from scaling.studies.sharpness.analysis import (
    Point,
    Ratio,
    Row,
    Study,
    range_text,
    ratio,
    tau,
    verdict,
)
from scaling.studies.sharpness.record import Net, Run, Spectrum
from scaling.studies.sharpness.report import KIND, WIDTH, along, densities, sections
from scaling.train.point import resolve

QUIET = lambda text: None
EXAMPLES, GOAL = 96, 0.4


def _config(**changes):
    c = default_config("sharpness")
    c.batch_sizes, c.optim.base_batch, c.devices = (48, 192), 48, 1
    c.duration, c.eval.batch = "8 epochs", 300
    c.model = model_config("mlp", widths=(6,), norm="batch")
    c.optim.name, c.optim.base_lr = "momentum", 0.05
    c.recipes.names, c.recipes.seeds = ("naive", "sqrt+gbn"), 2
    s = c.sharpness
    s.losses, s.examples, s.batch, s.subspace, s.draws = (GOAL,), EXAMPLES, 48, 5, 20
    s.steps, s.products, s.eps, s.average_rho, s.worst_rho = 30, 60, (1e-3,), (0.01, 0.2), (0.25,)
    c.update_from_flattened_dict(changes)
    return c


def results_of(config, workdir):
    """Results by point, in the order of the study."""
    run_study(config, workdir, None, QUIET)
    return {n: json.loads((workdir / n / "result.json").read_text()) for n in points_of(config)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(config, workdir, results)"""
    config, workdir = _config(), tmp_path_factory.mktemp("sharpness")
    return config, workdir, results_of(config, workdir)


@pytest.fixture(scope="module")
def dense(study):
    """(net of the record, weights [n], the tree they are of, Hessian [n, n], loss of weights)"""
    config, workdir, results = study
    point = resolve(points_of(config)["bs192_naive"])
    net = results["bs192_naive"]["runs"][1]["nets"][-1]
    with np.load(workdir / "bs192_naive" / "weights1_end.npz") as arrays:
        leaves = [arrays[key] for key in sorted(arrays)]
    params, stats = jax.tree.unflatten(jax.tree.structure(point.variables()), leaves)
    split, model = sources.load("digits", "train"), point.task.model.clone(axis_name=None)
    labels = jnp.asarray(split["label"][:EXAMPLES])
    data = {name: jnp.asarray(array) for name, array in split.items()}
    image = point.preprocess(data, {"index": np.arange(EXAMPLES)})["image"]
    x, restore = ravel_pytree(params)

    @jax.jit
    def loss(x):
        variables = {"params": restore(x), "batch_stats": stats}
        logits, _ = model.apply(variables, image, train=True, mutable=["batch_stats"])
        return -jax.nn.log_softmax(logits)[jnp.arange(EXAMPLES), labels].mean()

    return net, np.asarray(x, float), params, np.asarray(jax.hessian(loss)(x), float), loss


def value(net, name):
    return next(m for m in net["measures"] if m["name"] == name)["value"]


def test_eigenvalues_and_trace_are_those_of_the_dense_hessian(dense):
    net, x, _, hessian, loss = dense
    assert net["loss"] == pytest.approx(float(loss(x)), rel=1e-5)
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert value(net, "largest eigenvalue") == pytest.approx(eigenvalues[-1], rel=1e-3)
    assert value(net, "smallest eigenvalue") == pytest.approx(eigenvalues[0], rel=2e-2)
    found = next(m for m in net["measures"] if m["name"] == "trace")
    assert found["low"] <= np.trace(hessian) <= found["high"]
    assert found["value"] == pytest.approx(np.trace(hessian), rel=5e-2)
    scaled = np.abs(x)[:, None] * hessian * np.abs(x)
    top = np.linalg.eigvalsh(scaled)[-1]
    assert value(net, "largest eigenvalue of |w| H |w|") == pytest.approx(top, rel=1e-3)
    # Small moves: rho^2 / 2 times the trace in units of the weights.
    small = value(net, "average rise, ρ 0.01")
    assert small == pytest.approx(0.01**2 / 2 * np.trace(scaled), rel=0.5)


def test_spectra_end_at_the_outermost_eigenvalues(study):
    for result in study[2].values():
        first, *others = result["runs"]
        assert not any(net["spectrum"] for run in others for net in run["nets"])
        for net in first["nets"]:
            nodes, weights = (np.array(net["spectrum"][key]) for key in ("nodes", "weights"))
            assert nodes.shape == weights.shape == (2, 30)
            assert weights.sum(1) == pytest.approx([1, 1], abs=1e-5)
            top, least = (value(net, f"{end} eigenvalue") for end in ("largest", "smallest"))
            assert nodes.max(1) == pytest.approx([top, top], rel=1e-3)
            assert nodes.min(1) == pytest.approx([least, least], rel=0.3)  # it converges later


def test_relative_flatness_is_its_definition(dense):
    """sum of <w_s, w_s'> tr H_ss', by blocks of the dense Hessian."""
    net, x, params, hessian, _ = dense
    _, restore = ravel_pytree(params)
    places, total = restore(jnp.arange(x.size)), 0.0
    for layer, tensors in params.items():
        if "kernel" not in tensors:
            continue
        w, place = np.asarray(tensors["kernel"], float), np.asarray(places[layer]["kernel"], int)
        for s in range(w.shape[1]):
            for t in range(w.shape[1]):
                total += w[:, s] @ w[:, t] * hessian[place[:, s], place[:, t]].sum()
    assert value(net, FLATNESS) == pytest.approx(total, rel=5e-2)


def test_the_largest_losses_are_no_lower_than_those_of_corners(dense):
    net, x, _, _, loss = dense
    gradient, centre = np.asarray(jax.grad(loss)(x)), float(loss(x))
    corner = x + 1e-3 * (np.abs(x) + 1) * np.sign(gradient)
    phi = 100 * (float(loss(corner)) - centre) / (1 + centre)
    assert phi * (1 - 1e-4) <= value(net, "φ, ε 0.001") <= 3 * phi  # up to rounding
    assert value(net, "φ, ε 0.001, 5 directions") > 0
    # A worst case over moves of this norm is above that of a random one, and above half of the
    # quadratic's along its top eigenvector.
    assert (
        value(net, "worst rise, ρ 0.25")
        > 0.25**2 / 2 * value(net, "largest eigenvalue of |w| H |w|") / 2
    )


def test_places_and_scores(study):
    config, workdir, results = study
    for name, result in results.items():
        rows = [json.loads(line) for line in (workdir / name / "metrics.jsonl").open()]
        for k, run in enumerate(result["runs"]):
            own = {r["step"]: r["loss"] for r in rows if r["split"] == "train" and r["trial"] == k}
            first = next((step for step, loss in own.items() if loss <= GOAL), None)
            places = {net["place"]: net["step"] for net in run["nets"]}
            assert places == {f"loss {GOAL:g}": first, "end": result["steps"]} or first is None
            assert all(net["train_loss"] == own[net["step"]] for net in run["nets"])
            assert all(0 <= net["score"] < 0.6 for net in run["nets"])
    assert any(net["place"] != "end" for r in results.values() for net in r["runs"][0]["nets"])
    assert list(results) == ["bs48_naive", "bs192_naive", "bs192_sqrt+gbn"]
    point = resolve(points_of(config)["bs48_naive"])
    test, task = sources.load("digits", "test"), point.task
    data = {name: jnp.asarray(array) for name, array in test.items()}
    batch = point.preprocess(data, {"index": np.arange(len(test["label"]))})
    with np.load(workdir / "bs48_naive" / "weights0_end.npz") as arrays:
        leaves = [arrays[key] for key in sorted(arrays)]
    params, stats = jax.tree.unflatten(jax.tree.structure(point.variables()), leaves)
    model = task.model.clone(axis_name=None)
    logits = model.apply({"params": params, "batch_stats": stats}, batch["image"], train=False)
    wrong = np.mean(np.asarray(logits).argmax(-1) != np.asarray(test["label"]))
    score = results["bs48_naive"]["runs"][0]["nets"][-1]["score"]
    assert score == pytest.approx(wrong, abs=1e-6)


def test_a_study_that_was_killed_has_the_same_bits(study, tmp_path, monkeypatch):
    """While it trains, while a net is measured, and between two."""
    config = _config(**{"checkpoint.every_seconds": 0.0, "batch_sizes": (192,)})
    config.recipes.names = ("naive",)
    expected = study[2]["bs192_naive"]

    again = lambda: run_study(config, tmp_path, None, QUIET)
    killed_at(monkeypatch, 9, measure._Keep, "_look", again)
    killed_at(monkeypatch, 1, gauge.sharpness, "average", again)
    killed_at(monkeypatch, 2, gauge.Gauge, "measure", again)
    result = results_of(config, tmp_path)["bs192_naive"]
    assert result["runs"] == expected["runs"]
    for place in ("loss_0.4", "end"):
        name = f"weights1_{place}.npz"
        path = tmp_path / "bs192_naive" / name
        assert path.exists() == (study[1] / "bs192_naive" / name).exists()


@pytest.mark.slow
def test_frozen_statistics_are_another_loss(study, tmp_path):
    changes = {"sharpness.statistics": "frozen", "batch_sizes": (192,)}
    config = _config(**changes)
    config.recipes.names = ("naive",)
    result = results_of(config, tmp_path)["bs192_naive"]
    other = study[2]["bs192_naive"]
    assert result["statistics"] == "frozen" and other["statistics"] == "recomputed"
    a, b = (r["runs"][0]["nets"][-1] for r in (result, other))
    assert a["train_loss"] == b["train_loss"] and a["score"] == b["score"]
    assert abs(value(a, "largest eigenvalue") / value(b, "largest eigenvalue") - 1) > 0.05


def test_runs_that_diverge_have_no_nets(tmp_path):
    config = _config(**{"optim.base_lr": 1e4, "optim.weight_decay": 1e6, "batch_sizes": (48,)})
    config.model.norm = "none"
    config.recipes.names = ("naive",)
    result = results_of(config, tmp_path)["bs48_naive"]
    assert result["status"] == "diverged" and result["statistics"] == "none"
    assert all(run["nets"] == [] and run["diverged_at"] for run in result["runs"])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"sharpness.statistics": "running"}, "it must be 'recomputed' or 'frozen'"),
        ({"sharpness.batch": 64}, "set it to at most 48, half of them"),
        ({"sharpness.losses": (0.1, 0.1)}, "sharpness.losses is (0.1, 0.1); name each value once"),
        ({"sharpness.eps": ()}, "sharpness.eps is empty"),
        ({"sharpness.products": 5}, "sharpness.products is 5; it must be at least 6"),
        ({"eval.every": "2 epochs"}, "set sharpness.resolution instead"),
        ({"data.name": "imagenet"}, "imagenet is streamed"),
    ],
)
def test_wrong_values_are_one_sentence_before_anything_starts(tmp_path, changes, words):
    with pytest.raises(UserError, match=re.escape(words)):
        run_study(_config(**changes), tmp_path / "runs", None, QUIET)
    assert not (tmp_path / "runs").exists()


# --- the report ---


def _point(batch, recipe, nets):
    """A point whose seeds have (raw, invariant, test error) each."""
    runs = [
        Run(
            seed,
            "complete",
            None,
            [Net("end", 10, 0.1, 0.1, e, [Measure("R", False, r), Measure("I", True, i)])],
        )
        for seed, (r, i, e) in enumerate(nets)
    ]
    recipe_of = {"data set": "digits", "model": {"name": "mlp"}}
    metrics = {"error": ERROR, "loss": LOSS}
    config = {"sharpness": {"steps": 2, "products": 3, "draws": 4}}
    directory = SimpleNamespace(name=f"bs{batch}", recipe=recipe_of, metrics=metrics, config=config)
    return Point(
        directory=directory,
        order=["naive"],
        study="sharpness",
        status="complete",
        global_batch=batch,
        base_batch=8,
        recipe=recipe,
        recipes=[recipe],
        steps=10,
        epochs=1.0,
        train_size=100,
        optimizer="sgd",
        learning_rate=0.1,
        settings={},
        devices={},
        seconds={},
        split="test",
        places=["end"],
        examples=10,
        statistics="none",
        batch=4,
        parameters=3,
        tuning=None,
        runs=runs,
    )


@pytest.fixture
def by_hand():
    """Raw measures rise with the batch and the error, invariant ones fall."""
    return Study(
        Path("w"),
        [
            _point(8, "naive", [(1.0, 4.0, 0.10), (2.0, 4.0, 0.11), (3.0, 5.0, 0.13)]),
            _point(16, "naive", [(6.0, 3.0, 0.15), (4.0, 3.0, 0.14), (5.0, 3.5, 0.16)]),
            _point(32, "naive", [(8.0, 2.0, 0.20), (9.0, 2.0, 0.19), (12.0, 2.5, 0.18)]),
        ],
        [],
    )


def test_ratios_are_paired_by_seed(by_hand):
    small, _, large = by_hand.points
    found = ratio(large, small, "end", "R")
    logs = np.log([8.0, 4.5, 4.0])
    p = scipy.stats.ttest_1samp(logs, 0.0).pvalue
    assert found == Ratio(pytest.approx(29 / 6), 4.0, 8.0, 3, pytest.approx(p))
    assert ratio(large, small, "loss 1", "R") is None and ratio(None, small, "end", "R") is None


def test_kendalls_tau_by_counting_pairs(by_hand):
    agreement = by_hand.agreement("end", "R")

    def counted(pairs):
        signs = [np.sign((a - c) * (b - d)) for i, (a, b) in enumerate(pairs) for c, d in pairs[:i]]
        return sum(signs) / len(signs)

    groups = [[(n.value("R"), n.score) for n in p.nets("end").values()] for p in by_hand.points]
    assert agreement.every == pytest.approx(counted([pair for group in groups for pair in group]))
    assert agreement.between == 1.0
    # All 3 pairs of the first agree, 2 of the second, none of the third.
    assert [counted(g) for g in groups] == pytest.approx([1, 1 / 3, -1])
    assert agreement.within == pytest.approx(1 / 9)
    assert tau([(1, 1), (2, 2)]) is None and tau([(1, 1), (1, 2), (1, 3)]) is None
    assert by_hand.agreement("end", "I").between == -1.0


def test_the_answer_says_whether_measures_disagree(by_hand):
    few = KIND.answer(by_hand)
    assert "has 4.83 to 4.83 times the sharpness of batch 8 by raw measures" in few
    assert (
        "and 0.5 to 0.5 times by invariant ones" in few and "fewer than 4 seeds are too few" in few
    )
    nets = lambda sharp: [(sharp * r, i / sharp, 0.1) for r, i in ((1, 4), (2, 5), (3, 4), (2, 3))]
    jitter = lambda rows: [
        (r * (1 + k / 9), i * (1 + k / 9), e) for k, (r, i, e) in enumerate(rows)
    ]
    points = [_point(8, "naive", nets(1)), _point(32, "naive", jitter(nets(9)))]
    study = replace(by_hand, points=points)
    text = KIND.answer(study)
    assert "batch 32 (naive) is sharper than batch 8 by raw measures" in text
    assert "and flatter by invariant ones" in text and "they disagree." in text
    assert text.count(". ") <= 2 and "After the last update" not in text
    rows = study.rows("end")
    assert [row.name for row in rows] == ["R", "I"]
    assert verdict(rows, "naive") == "in part sharper, in part flatter"
    assert verdict([], "naive") == "" and range_text([], "naive") == ""
    made = lambda value, p: replace(rows[0], ratios={"naive": Ratio(value, 0.5, 1.5, 5, p)})
    assert verdict([made(0.9, 0.3)], "naive") == "not measurably sharper or flatter"
    assert verdict([made(0.9, 0.3), made(2.0, 0.01)], "naive") == "sharper"
    assert verdict([made(2.0, 0.02)] * 2, "naive") == "not measurably sharper or flatter"  # Holm


def test_no_difference_is_rarely_called_sharper_or_flatter():
    rng = np.random.default_rng(0)
    said = []
    for _ in range(300):
        shared = rng.normal(size=(5, 1))
        logs = 0.3 * (np.sqrt(0.8) * shared + np.sqrt(0.2) * rng.normal(size=(5, 4)))
        p = [scipy.stats.ttest_1samp(column, 0.0).pvalue for column in logs.T]
        found = [
            Ratio(float(np.exp(x.mean())), 0.5, 2.0, 5, q) for x, q in zip(logs.T, p, strict=True)
        ]
        rows = [Row("end", "R", False, None, {"naive": each}, None) for each in found]
        said.append(verdict(rows, "naive") != "not measurably sharper or flatter")
    assert np.mean(said) < 0.05


def test_a_report_of_the_records(study, tmp_path):
    text = write_report([study[1]], tmp_path / "page", QUIET).read_text()
    assert "by raw measures" in text and "largest eigenvalue of |w| H |w|" in text
    lines = (tmp_path / "page" / "tables" / "sharpness.csv").read_text().splitlines()
    nets = [net for r in study[2].values() for run in r["runs"] for net in run["nets"]]
    assert len(lines) == 1 + sum(len(net["measures"]) for net in nets)
    assert all(math.isfinite(m["value"]) for net in nets for m in net["measures"])


def test_the_density_is_drawn_by_batch_and_recipe(by_hand):
    """Half at -1 and half at 3: two kernels of which each holds a half."""
    spectrum = Spectrum([[-1.0, 3.0]], [[0.5, 0.5]])
    nets = lambda run: [replace(net, spectrum=spectrum) for net in run.nets]
    points = [
        replace(point, runs=[replace(point.runs[0], nets=nets(point.runs[0])), *point.runs[1:]])
        for point in by_hand.points[:2]
    ]
    (panel,) = densities(replace(by_hand, points=[*points, by_hand.points[2]]), "end")
    lines = [mark for mark in panel.marks if isinstance(mark, Line)]
    assert [line.label for line in lines] == ["batch 8", "batch 16"] and panel.title == "naive"
    x, y = np.array(lines[0].x), np.array(lines[0].y)
    assert (x[0], x[-1]) == (-1.4, 3.4) and np.isnan(y[np.abs(x - 1) < 1]).all()
    seen = ~np.isnan(y) & (x > 1)
    assert np.trapezoid(y[seen], x[seen]) == pytest.approx(0.5, abs=0.02)
    peak = 0.5 / (WIDTH * 4.8 * math.sqrt(2 * math.pi))
    assert np.nanmax(y) == pytest.approx(peak, rel=0.02)
    assert densities(by_hand, "end") == []


def test_lines_along_training_go_through_the_means_of_each_place(by_hand):
    point, places = by_hand.points[0], ["loss 0.5", "loss 0.2", "end"]
    runs = [
        replace(run, nets=[replace(run.nets[0], place=place, loss=loss) for place, loss in along])
        for run, along in zip(
            point.runs,
            [
                list(zip(places, (0.4, 0.2, 0.1), strict=True)),
                [("loss 0.5", 0.3), ("end", 0.3)],
                [],
            ],
            strict=True,
        )
    ]
    study = replace(by_hand, points=[replace(point, runs=runs, places=places)])
    (raw, _), words = along(study), [section.title for section in sections([study])]
    (line,) = [mark for mark in raw.marks if isinstance(mark, Line)]
    assert line.x == pytest.approx([0.35, 0.2, 0.2]) and line.y == pytest.approx([1.5, 1, 1.5])
    assert "Along training" in words and len(list(sections([by_hand]))) == 2


@pytest.mark.slow
def test_a_tuned_rate_is_that_of_the_runs(tmp_path):
    tuned = {"trials": 2, "span": (0.5, 2.0), "widen": 0}
    changes = {f"sharpness.{key}": value for key, value in tuned.items()}
    config = _config(**changes)
    config.batch_sizes, config.recipes.names, config.recipes.seeds = (192,), ("naive",), 1
    result = results_of(config, tmp_path / "tuned")["bs192_naive"]
    trials = result["tuning"]["trials"]
    best = min(trials, key=lambda trial: trial["validation_error"])
    assert len(trials) == 2 and result["learning_rate"] == best["learning_rate"]
    config.sharpness.trials, config.optim.base_lr = 0, best["learning_rate"]
    alone = results_of(config, tmp_path / "alone")["bs192_naive"]
    assert alone["tuning"] is None and alone["runs"] == result["runs"]
