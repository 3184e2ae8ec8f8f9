"""Training on rows of tokens of unequal length: any layout, blocks, searches that are resumed."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from compare import StopAfter

from scaling import models
from scaling.config import default_config, model_config
from scaling.data import sources
from scaling.record import RunDir, read_metrics
from scaling.signals import Interrupted
from scaling.studies.running import points_of, study_of
from scaling.studies.steps_to_target.measure import dry_run
from scaling.train.point import resolve
from scaling.train.population import Population
from scaling.train.resolved import dry_run as train_dry_run

V, L = 7, 6
SIZES = {"train": 96, "validation": 24, "test": 24}


class Bigram(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(self.num_classes)(nn.Embed(self.num_classes, 8)(tokens))


def load(split):
    """Each token is the one before it plus 1 or 2; rows end after 2 to 6 tokens."""
    random = np.random.default_rng(list(SIZES).index(split))
    steps = random.integers(1, 3, (SIZES[split], L))
    length = random.integers(2, L + 1, SIZES[split])
    weights = np.float32(np.arange(L) < length[:, None])
    return {"tokens": steps.cumsum(1) % V, "weights": weights}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(sources, "INFOS", dict(sources.INFOS))
    monkeypatch.setattr(sources, "_LOADERS", {})
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))
    example = {"tokens": ((L,), "uint16"), "weights": ((L,), "float32")}
    sources.register("walk", load, example=example, task="language", num_classes=V, sizes=SIZES)
    models.register("bigram", Bigram)


def _config(study="train", **changes):
    c = default_config(study)
    c.data.name, c.model = "walk", model_config("bigram")
    c.global_batch, c.devices, c.optim.base_lr = 16, 1, 0.5
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        (c[section] if section else c)[name] = value
    return c


def _train(point, seeds=(0,), steps=5, **options):
    """(rows of the updates, metrics of the evaluation after them)."""
    population = Population(point, [{}] * len(seeds), list(seeds), tracked=None, **options)
    rows = []
    while population.step < steps:
        rows.append(population.advance(steps))
    joined = {name: np.concatenate([row[name] for row in rows], 1) for name in rows[0]}
    return joined, population.evaluate()


@pytest.fixture(scope="module")
def reference():
    return {}


@pytest.mark.parametrize("devices, micro", [(1, 16), (1, 2), (2, 4), (2, 8), (4, 2), (4, 4)])
def test_ragged_rows_on_any_layout(reference, devices, micro):
    """Loss, error and gradient are those of all tokens of the batch, however it is laid out."""
    config = _config(devices=devices, micro_batch=micro, noise_scale=True, noise_every=1)
    point = resolve(config)
    rows, metrics = _train(point)
    expected, evaluated = reference.setdefault("whole", (rows, metrics))
    for name in ("loss", "error", "grad_sq_norm"):
        np.testing.assert_allclose(rows[name], expected[name], rtol=2e-5, atol=1e-7, err_msg=name)
    for name, value in evaluated.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
    assert set(metrics) == {"loss", "error", "perplexity"}
    assert metrics["perplexity"] == pytest.approx(np.exp(metrics["loss"]))


def test_the_first_loss_is_that_of_the_tokens_that_count():
    point = resolve(_config())
    population = Population(point, [{}], [0], tracked=None)
    params, _ = population.variables(0)
    first = population.advance(1)
    index = population._orders[0][0:16]
    data = load("train")
    tokens, weights = data["tokens"][index], data["weights"][index]
    inputs = np.concatenate([np.ones((16, 1), int), tokens[:, :-1]], 1)
    logits = np.asarray(Bigram(V).apply({"params": params}, inputs))
    log_p = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), tokens[..., None], -1)
    expected = -(log_p[..., 0] * weights).sum() / weights.sum()
    np.testing.assert_allclose(first["loss"][0, 0], expected, rtol=1e-5)


def test_trials_side_by_side_are_those_one_after_another():
    point = resolve(_config(), ("peak",))
    (alone, ends), (together, others) = (_train(point, range(4), block=n) for n in (1, 4))
    for name in ("loss", "error"):
        np.testing.assert_allclose(alone[name], together[name], rtol=2e-5)
        np.testing.assert_allclose(ends[name], others[name], rtol=2e-5)


SEARCH = {
    "search.trials": 4,
    "target.metric": "loss",
    "target.goal": 1.2,
    "target.budget": ("1k tokens", "12k tokens"),
    "target.repeats": 1,
}


def _search(path, signals):
    config = _config("steps_to_target", **SEARCH)
    config.search.space = {"learning_rate": ("log", 0.05, 1.0)}
    ((name, point),) = points_of(config).items()
    study = study_of(point)
    study.check(point)
    with RunDir(path) as run:
        run.begin(json.loads(point.to_json_best_effort()))
        return study.measure(point, run, name, signals)


def test_a_search_on_tokens_resumes_bit_for_bit(tmp_path):
    whole = _search(tmp_path / "whole", StopAfter(10**6))
    cut, stops = None, 0
    while cut is None:
        try:
            cut = _search(tmp_path / "cut", StopAfter(2))
        except Interrupted:
            stops += 1
    assert stops > 1 and whole.status == "reached" and whole.better == "lower"
    assert whole.budget_steps == round(1e3 / L / 16) + round(12e3 / L / 16)
    for split in ("validation", "test", "repeat"):
        assert read_metrics(tmp_path / "cut", split) == read_metrics(tmp_path / "whole", split)
    assert (cut.steps_to_target, cut.trials, cut.test) == (
        whole.steps_to_target,
        whole.trials,
        whole.test,
    )


def test_a_dry_run_has_the_words_of_the_task():
    config = _config("steps_to_target", **SEARCH)
    text = dry_run(points_of(config))
    assert "validation loss below 1.2 nats per token" in text and " error" not in text
    # 4 trials of at most 135 steps of 16 rows.
    assert "8.64e+03 examples = 5.18e+04 tokens" in text
    plan = train_dry_run(_config(duration="960 tokens"))
    assert "10 steps = 160 examples = 960 tokens = 1.667 epochs" in plan
    assert "some repeat in every step" not in plan
    whole = train_dry_run(_config(global_batch=192, duration="10 steps"))
    assert "more than there are to train on: some repeat in every step" in whole
