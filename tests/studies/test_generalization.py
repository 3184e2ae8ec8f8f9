"""The generalization study in this process, on digits."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import curve_fit

from scaling.config import default_config, model_config
from scaling.data import sources
from scaling.data.resident import EpochOrder
from scaling.errors import UserError
from scaling.record import RunDir, read_metrics
from scaling.studies.generalization.measure import fit_range
from scaling.studies.running import points_of, run_study
from scaling.studies.shared import single_run
from scaling.train.point import resolve
from scaling.train.single import train_point
from scaling.train.step import init_state

QUIET = lambda text: None


def _config(**changes):
    c = default_config("generalization")
    c.batch_sizes, c.optim.base_batch, c.devices = (48, 192), 48, 1
    c.duration, c.eval.batch = "6 epochs", 300
    c.model = model_config("mlp", widths=(16,), norm="batch")
    c.optim.name, c.optim.base_lr = "momentum", 0.05
    c.recipes.names, c.recipes.seeds = ("naive", "sqrt+gbn"), 2
    c.generalization.fit_from = "3 steps"
    c.update_from_flattened_dict(changes)
    return c


def measured(config, workdir, say=QUIET):
    """Results by point, in the order of the study."""
    run_study(config, workdir, None, say)
    return {n: json.loads((workdir / n / "result.json").read_text()) for n in points_of(config)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(config, workdir, results, what was said)"""
    config, workdir, said = _config(), tmp_path_factory.mktemp("generalization"), []
    return config, workdir, measured(config, workdir, said.append), said


@pytest.fixture(scope="module")
def alone(study, tmp_path_factory):
    """The second seed of the small batch in a run of its own, every update recorded."""
    config, path = single_run(points_of(study[0])["bs48_naive"]), tmp_path_factory.mktemp("alone")
    config.seed, config.metrics.weight_distance = 1, True
    with RunDir(path) as run:
        run.begin(json.loads(config.to_json_best_effort()))
        train_point(config, run, "alone")
    return read_metrics(path, "train")


def test_the_walk_is_that_of_a_run_of_its_own(study, alone):
    """Distances at each evaluation; root mean square of the norms of the updates in between."""
    curve = study[2]["bs48_naive"]["runs"][1]["curve"]
    steps = curve["step"]
    assert steps[0] == 0 and steps[-1] == len(alone) and curve["weight_distance"][0] == 0
    distances = [alone[step - 1]["weight_distance"] for step in steps[1:]]
    np.testing.assert_allclose(curve["weight_distance"][1:], distances, rtol=2e-3)
    assert curve["grad_norm"][0] is curve["train_loss"][0] is None
    for i in range(1, len(steps)):
        between = alone[steps[i - 1] : steps[i]]
        norm = np.sqrt(np.mean([row["grad_sq_norm"] for row in between]))
        assert curve["grad_norm"][i] == pytest.approx(norm, rel=1e-2)
        loss = np.mean([row["loss"] for row in between])
        assert curve["train_loss"][i] == pytest.approx(loss, rel=1e-2)


def test_fits_follow_from_the_metrics_alone(study):
    _, workdir, results, _ = study
    for name, result in results.items():
        rows = [json.loads(line) for line in (workdir / name / "metrics.jsonl").open()]
        first, last = result["fit_steps"]
        assert first == 3 and last == result["steps"]
        for k, run in enumerate(result["runs"]):
            own = [r for r in rows if r["split"] == "validation" and r["trial"] == k]
            own = [r for r in own if first <= r["step"] <= last]
            t, d = np.array([(r["step"], r["weight_distance"]) for r in own]).T
            slope, intercept = np.polyfit(np.log(t), d, 1)
            fit = run["diffusion"]["log"]
            assert (fit["slope"], fit["intercept"]) == pytest.approx((slope, intercept), rel=1e-5)
            assert fit["r2"] == pytest.approx(np.corrcoef(np.log(t), d)[0, 1] ** 2, rel=1e-5)
            (factor, exponent), _ = curve_fit(lambda t, a, p: a * t**p, t, d, (1.0, 0.3))
            assert run["diffusion"]["power"]["slope"] == pytest.approx(exponent, rel=1e-4)
            assert np.exp(run["diffusion"]["power"]["intercept"]) == pytest.approx(factor, rel=1e-3)


def test_layers_are_those_of_the_next_batch(study):
    """After the first update, by weights and gradients worked out here, mean over the seeds."""
    config, _, results, _ = study
    point = resolve(points_of(config)["bs192_naive"])
    split, task = sources.load("digits", "train"), point.task
    data = {"image": jnp.asarray(split["image"]), "label": jnp.asarray(split["label"])}
    model, norms = task.model.clone(axis_name=None), []

    def loss(params, batch_stats, index):
        batch = point.preprocess(data, {"index": index})
        variables = {"params": params, "batch_stats": batch_stats}
        logits, _ = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
        return -jax.nn.log_softmax(logits)[jnp.arange(192), batch["label"]].mean()

    for seed in (0, 1):
        init_key, _ = jax.random.split(jax.random.key(seed))
        state = init_state(task, point.make_optimizer, point.hparams, init_key)
        params, order = state.params, EpochOrder(seed, 1197)

        first = jax.grad(loss)(params, state.batch_stats, order[0:192])
        step = jax.tree.map(lambda w, g: w - 0.05 * g, params, first)
        grads = jax.grad(loss)(step, state.batch_stats, order[192:384])
        norm = lambda tree: [float(jnp.linalg.norm(x)) for x in jax.tree.leaves(tree)]
        norms.append((norm(step), norm(grads)))
    weights, grads = np.mean(norms, 0)
    layers = results["bs192_naive"]["layers"]
    starts = [layer["start"] for layer in layers]
    np.testing.assert_allclose([s["weight_norm"] for s in starts], weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([s["grad_norm"] for s in starts], grads, rtol=2e-3, atol=1e-6)
    names = [layer["name"] for layer in layers]
    assert "Dense_0.kernel" in names and layers[names.index("Dense_0.kernel")]["size"] == 64 * 16
    assert all(layer["end"]["weight_norm"] > 0 for layer in layers)


def test_points_share_what_is_the_same(study):
    *_, results, _ = study
    assert list(results) == ["bs48_naive", "bs192_naive", "bs192_sqrt+gbn"]
    assert results["bs48_naive"]["recipes"] == ["naive", "sqrt+gbn"]
    assert all(run["test"]["error"] < 1 for r in results.values() for run in r["runs"])


def test_a_finished_point_is_one_line(study):
    *_, results, said = study
    slopes = [run["diffusion"]["log"]["slope"] for run in results["bs192_naive"]["runs"]]
    [line] = [line for line in said if line.startswith("bs192_naive: batch")]
    assert f"slope {np.mean(slopes):.3g} ± {np.std(slopes, ddof=1):.2g}" in line


# Devices that share a batch; that train trials of their own.
@pytest.mark.parametrize("devices", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_the_number_of_devices_changes_nothing(study, tmp_path, devices):
    config = _config(devices=devices, batch_sizes=(192,))
    config.recipes.names = ("naive",)
    result = measured(config, tmp_path)["bs192_naive"]
    expected = study[2]["bs192_naive"]
    for a, b in zip(result["runs"], expected["runs"], strict=True):
        for key in ("weight_distance", "validation_loss"):
            np.testing.assert_allclose(a["curve"][key], b["curve"][key], rtol=5e-3, atol=1e-6)
    for a, b in zip(result["layers"], expected["layers"], strict=True):
        assert a["start"]["grad_norm"] == pytest.approx(b["start"]["grad_norm"], rel=1e-2, abs=1e-6)


def test_a_diverged_run_has_a_curve_and_no_fit(tmp_path):
    config = _config(**{"optim.base_lr": 1e4, "optim.weight_decay": 1e6, "batch_sizes": (48,)})
    config.model.norm = "none"
    config.recipes.names = ("naive",)
    result = measured(config, tmp_path)["bs48_naive"]
    assert result["status"] == "diverged" and result["layers"] is None
    assert all(run["diffusion"] is None and run["curve"]["step"] for run in result["runs"])


def test_the_fit_ends_with_the_first_learning_rate():
    changes = {"schedule.name": "step", "schedule.boundaries": ("2 epochs", "4 epochs")}
    point = points_of(_config(**changes))["bs48_naive"]
    assert fit_range(resolve(point, ("peak",))) == (3, round(2 * 1197 / 48))
    point.schedule.warmup, point.schedule.warmup_init = "8 steps", 0.01
    assert fit_range(resolve(point, ("peak",)))[0] == 8
    point.generalization.fit_to = "30 steps"
    assert fit_range(resolve(point, ("peak",))) == (8, 30)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"schedule.name": "polynomial"}, "changes the learning rate at every step"),
        ({"generalization.fit_from": "5 epochs", "generalization.fit_to": "2 epochs"}, "The fits"),
        ({"generalization.resolution": 0.0}, "generalization.resolution is 0.0; it must be"),
        ({"eval.every": "2 epochs"}, "set generalization.resolution instead"),
        ({"data.name": "imagenet"}, "imagenet is streamed"),
    ],
)
def test_wrong_values_are_one_sentence_before_anything_starts(tmp_path, changes, words):
    with pytest.raises(UserError, match=re.escape(words)):
        run_study(_config(**changes), tmp_path / "runs", None, QUIET)
    assert not (tmp_path / "runs").exists()
