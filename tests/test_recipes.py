"""What each recipe does to a config, by the formulas of the papers."""

import re
from pathlib import Path

import pytest

from scaling import recipes
from scaling.config import default_config, model_config
from scaling.data import sources
from scaling.errors import UserError
from scaling.recipes import PIECES, apply, settings
from scaling.studies.running import check_changes, points_of
from scaling.train.phases import parts_of
from scaling.train.point import resolve

SIZE = 1197  # digits
STEPS = sources.describe("digits").steps


def _config(batch=512, **changes):
    c = default_config("accuracy")
    c.global_batch, c.devices, c.duration = batch, 1, "20 epochs"
    c.model = model_config("mlp", widths=(8,), norm="batch")
    c.optim.name, c.optim.momentum, c.optim.weight_decay = "momentum", 0.9, 1e-4
    c.optim.base_lr, c.optim.base_batch = 0.1, 32
    c.update_from_flattened_dict(changes)
    return c


def _point(recipe, **changes):
    return resolve(apply(_config(**changes), recipe, STEPS), ("peak",))


@pytest.mark.parametrize("recipe, rate", [("naive", 0.1), ("linear", 1.6), ("sqrt", 0.4)])
def test_rules_of_the_learning_rate(recipe, rate):
    assert _point(recipe).peak == pytest.approx(rate)


def _rates(point, steps):
    _, rate = point.make_optimizer(point.hparams)
    return [float(rate(step)) for step in steps]


def test_warmup_goes_from_the_small_batchs_rate_to_the_scaled_one():
    """Goyal 2017, section 2.2: eta to k eta, over 5 epochs of 1197 / 512 updates."""
    point = _point("linear+warmup")
    assert point.hparams["warmup_steps"] == 12
    assert _rates(point, (0, 6, 12)) == pytest.approx([0.1, 0.85, 1.6])
    constant = _point("linear+constant_warmup")
    assert _rates(constant, (0, 6, 11, 12)) == pytest.approx([0.1, 0.1, 0.1, 1.6])


def test_without_a_rule_warmup_starts_as_low_as_the_linear_rule_would():
    assert _rates(_point("lars+warmup"), (0, 12)) == pytest.approx([2.0 / 16, 2.0])


def test_poly_is_the_papers_decay():
    point = _point("linear+poly")
    total = point.total_steps
    expected = [1.6 * (1 - t / total) ** 2 for t in (0, 10, total - 1)]
    assert _rates(point, (0, 10, total - 1)) == pytest.approx(expected)


@pytest.mark.parametrize("batch", [32, 64, 512, 2048])
def test_regime_adaptation_makes_as_many_updates_as_the_small_batch(batch):
    changes = {"schedule.name": "step", "schedule.boundaries": ("10 epochs", "15 epochs")}
    small = _point("naive", batch=32, **changes)
    large = _point("sqrt+gbn+adapt", batch=batch, **changes)
    assert large.total_steps == small.total_steps == round(20 * SIZE / 32)
    assert large.hparams["boundaries"] == small.hparams["boundaries"]
    assert large.eval_every == small.eval_every


def test_adapt_stretches_the_warmup_too_wherever_it_is_named():
    a, b = _point("adapt+linear+warmup"), _point("linear+warmup+adapt")
    assert a.hparams == b.hparams
    assert a.hparams["warmup_steps"] == round(5 * SIZE / 32)


def test_noise_keeps_the_small_batchs_weight_of_the_second_moment():
    variance = apply(_config(), "noise", STEPS).loss.gradient_noise
    assert (1 + variance) / 512 == pytest.approx(1 / 32)
    assert _point("noise").hparams["gradient_noise"] == variance
    assert "gradient_noise" not in _point("naive").hparams


def test_conservative_training_is_of_large_batches():
    """Keskar 2016, appendix E: three updates of a sub-problem, lambda 1e-3."""
    large, small = (apply(_config(batch), "conservative", STEPS).optim for batch in (512, 32))
    assert (large.echo, large.proximal) == (3, 1e-3) and (small.echo, small.proximal) == (None,) * 2
    changes = {"schedule.name": "step", "schedule.boundaries": ("10 epochs",)}
    config = apply(_config(**changes), "conservative+seesaw", STEPS)
    with pytest.raises(UserError, match="drop the recipe piece 'conservative' or 'seesaw'"):
        parts_of(config)


def test_seesaw_splits_a_fall_of_the_rate_between_rate_and_batch():
    changes = {"schedule.name": "step", "schedule.boundaries": ("10 epochs", "15 epochs")}
    changes |= {"schedule.decay_factor": 0.25, "batch": 32}
    for recipe, share in (("adamw+seesaw", 0.5), ("seesaw", 0.0)):  # the second by momentum
        config = apply(_config(**changes), recipe, STEPS)
        with pytest.raises(UserError, match="study keeps the batch size; leave it empty, or drop"):
            resolve(config)
        points = [resolve(c) for c in parts_of(config)]
        assert [point.global_batch for point in points] == [32, 128, 512]
        peaks = [points[0].peak * 0.25 ** (share * k) for k in range(3)]
        assert [point.peak for point in points] == pytest.approx(peaks)
        examples = [point.total_steps * point.global_batch for point in points]
        assert sum(examples) == pytest.approx(20 * SIZE, abs=512) and examples[0] == 374 * 32


def test_seesaw_follows_a_cosine_in_halvings():
    """Each part begins where the cosine itself has the rate that its k halvings leave."""
    config = _config(batch=32, **{"schedule.name": "cosine", "duration": "100 epochs"})
    config.schedule.warmup = "5 epochs"
    cosine = resolve(apply(config, "adamw+naive", STEPS))
    changed = apply(config, "adamw+seesaw", STEPS)
    parts = [resolve(c) for c in parts_of(changed)]
    for k, part in enumerate(parts):
        assert part.global_batch == 32 * 2**k and part.total_steps >= 1
        assert part.peak == pytest.approx(cosine.peak * 2 ** (-k / 2))
        if k:
            examples = float(changed.schedule.boundaries[k - 1].split()[0])
            (rate,) = _rates(cosine, (examples / 32,))
            assert rate == pytest.approx(cosine.peak * 2.0**-k, rel=2e-3)
    assert len(parts) > 4 and sum(p.total_steps for p in parts) < 0.7 * cosine.total_steps


def test_ghost_batches_are_the_small_batch():
    assert _point("gbn").ghost_batch == 32 and _point("naive").ghost_batch == 512


@pytest.mark.parametrize("name", ["lars", "larc", "lamb", "novograd", "adamw", "muon"])
def test_another_optimizer_reads_all_that_is_set(name):
    point = _point(f"{name}+warmup+poly")
    assert point.config.optim.name == name
    coupled = name in recipes.COUPLED
    assert point.config.optim.weight_decay == (1e-4 if coupled else None)
    assert point.peak == recipes.RATES.get(name, 0.1)


def test_rates_can_be_said():
    c = _config()
    c.recipes.rates.lars = 7.0
    assert apply(c, "lars", STEPS).optim.base_lr == 7.0
    assert apply(c, "warmup+lars", STEPS).schedule.warmup_init == 7.0 / 16


def test_at_the_base_batch_most_recipes_are_one():
    c = _config()
    c.batch_sizes = (32, 512)
    c.recipes.names = ("naive", "sqrt", "linear+warmup", "sqrt+gbn", "sqrt+gbn+adapt", "smoothing")
    points = points_of(c)
    at_base = {name: p.recipes.names for name, p in points.items() if p.global_batch == 32}
    assert at_base == {"bs32_naive": c.recipes.names[:5], "bs32_smoothing": ("smoothing",)}
    assert len(points) == 2 + 6
    assert points["bs512_sqrt+gbn"].recipes.all == c.recipes.names


def test_what_a_recipe_sets_makes_the_same_run_from_the_command_line():
    c = _config()
    changed = apply(c, "sqrt+gbn+warmup", STEPS)
    again = c.copy_and_resolve_references()
    again.update_from_flattened_dict(settings(c, changed))
    assert again == changed
    assert set(settings(c, changed)) == {
        "optim.scaling_rule",
        "schedule.warmup",
        "schedule.warmup_init",
        "model.norm",
        "model.ghost_batch",
    }


def test_a_key_that_every_recipe_sets_cannot_be_set_beside_them():
    written = default_config("accuracy")
    written.batch_sizes, written.optim.base_batch = (8, 32), 8
    written.recipes.names = ("linear", "linear+poly")

    def check(**changes):
        config = written.copy_and_resolve_references()
        config.update_from_flattened_dict(changes)
        check_changes(config, written, changes)

    check(**{"schedule.name": "cosine", "recipes.names": ("naive",), "batch_sizes": (8,)})
    check(**{"optim.scaling_rule": "none"})  # as in the file
    with pytest.raises(UserError, match="scaling_rule=sqrt has no effect: the po"):
        check(**{"seed": 3, "optim.scaling_rule": "sqrt"})
    with pytest.raises(UserError, match=r"schedule\.power=3\.0 has no effect"):
        check(**{"recipes.names": ("linear+poly",), "schedule.power": 3.0})


def test_pieces_of_ones_own():
    c = _config()
    c.recipes.pieces = {"hot": {"optim": {"base_lr": 0.5}, "loss": {"label_smoothing": 0.2}}}
    point = resolve(apply(c, "hot+sqrt", STEPS), ("peak",))
    assert point.peak == pytest.approx(2.0) and point.hparams["label_smoothing"] == 0.2


@pytest.mark.parametrize(
    "recipe, changes, words",
    [
        ("lnear", {}, "Unknown recipe piece 'lnear': did you mean 'linear'?"),
        ("sqrt+sqrt", {}, "has 'sqrt' twice"),
        ("lars+lamb", {}, "has lars and lamb; choose one"),
        ("linear+naive", {}, "has linear and naive; choose one"),
        ("gbn", {"model.norm": "none"}, "model.norm is 'none'; set it to 'batch'"),
        ("seesaw", {"schedule.name": "linear"}, "follows the falls of the schedule 'step'"),
        (
            "seesaw",
            {"schedule.name": "step", "schedule.boundaries": ("2 epochs",)}
            | {"schedule.decay_factors": (2.0,)},
            "use factors below 1",
        ),
        ("zero_gamma", {}, "needs residual blocks that end in a norm, and model is mlp"),
    ],
)
def test_what_cannot_be_is_told(recipe, changes, words):
    with pytest.raises(UserError, match=re.escape(words)):
        apply(_config(**changes), recipe, STEPS)


@pytest.mark.parametrize(
    "piece, words",
    [
        ({"hot": {"seed": 3}}, "sets 'seed': all recipes share it"),
        ({"hot": {"optim": {"bas_lr": 0.5}}}, "recipes.pieces has 'hot', which cannot be set"),
        ({"hot": {"optm": {"base_lr": 0.5}}}, "recipes.pieces has 'hot', which cannot be set"),
        ({"hot": 0.5}, "recipes.pieces has 'hot': 0.5; write sections"),
        ({"hot": {"optim": 3}}, "sets 'optim' to 3: it is a section"),
        ({"hot": {"model": "x"}}, "sets 'model' to 'x': it is a section"),
        ({"a/b": {"optim": {"base_lr": 0.5}}}, "recipes.pieces has 'a/b'; use letters"),
    ],
)
def test_pieces_of_ones_own_that_cannot_be(piece, words):
    c = _config()
    c.recipes.pieces = piece
    with pytest.raises(UserError, match=re.escape(words)):
        apply(c, next(iter(piece)), STEPS)


@pytest.mark.parametrize("batch", [16, 32])
def test_up_to_the_base_batch_nothing_is_warmed_up_to(batch):
    """Goyal 2017 warms up only above the reference batch."""
    c = apply(_config(batch), "linear+constant_warmup", STEPS)
    assert c.schedule == _config(batch).schedule
    assert resolve(c, ("peak",)).peak == pytest.approx(0.1 * batch / 32)


def test_a_warmup_of_the_config_stays():
    c = _config(**{"schedule.warmup": "2 epochs", "schedule.warmup_init": 0.1})
    for batch in (32, 512):
        c.global_batch = batch
        assert apply(c, "naive", STEPS).schedule == c.schedule


@pytest.mark.parametrize("names, words", [((), "is empty"), (("naive", "naive"), "twice")])
def test_names_of_a_study(names, words):
    c = _config()
    c.recipes.names = names
    with pytest.raises(UserError, match=words):
        points_of(c)


def test_every_piece_names_its_source():
    for name, change in PIECES.items():
        assert name == "naive" or re.search(r"20\d\d", change.__doc__), name


FILES = ("accuracy", "accuracy_fashion_mlp", "accuracy_fashion_cnn", "generalization")


def _choices():
    import importlib

    for file in FILES:
        module = importlib.import_module(f"configs.{file}")
        table = getattr(module, "CHOICES", None) or module.TASKS
        yield from ((file, choice) for choice in table)


@pytest.mark.parametrize("file, choice", list(_choices()))
def test_every_config_resolves(file, choice):
    import importlib

    config = importlib.import_module(f"configs.{file}").get_config(choice)
    config.devices = 1
    points = points_of(config)
    for point in points.values():
        resolve(point, ("peak",))
    assert f"{file}.py" in (Path("configs") / f"{file}.py").read_text()


def test_hoffers_schedules():
    """Code of Hoffer 2017: rates and epochs of C1 and of the Wide ResNet."""
    from configs.accuracy import get_config

    for choice, epochs, rates in (
        ("hoffer_c1", (0, 60, 120, 180), (1e-3, 1e-2, 1e-3, 1e-4)),
        ("hoffer_wresnet", (0, 60, 120, 140), (0.1, 2e-2, 4e-3, 1e-4)),
        ("hoffer_f1", (0, 10, 20, 30), (0.1, 0.01, 0.001, 1e-4)),
    ):
        config = get_config(choice)
        config.devices = 1
        point = resolve(next(iter(points_of(config).values())), ("peak",))
        per_epoch = point.info.sizes["train"] / point.global_batch
        steps = [int(epoch * per_epoch + 1) for epoch in epochs]
        assert _rates(point, steps) == pytest.approx(rates, rel=1e-5), choice
