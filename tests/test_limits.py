"""What a config value may be: of its type, within limits, plain Python, not too large to train."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from mutations import tiny
from program import launch

from scaling import config as config_module
from scaling import search
from scaling.config import LATER_SEEDS, checked, default_config, limits_of, model_config
from scaling.errors import UserError
from scaling.limits import FINITE, plain
from scaling.studies import STUDIES, tuning
from scaling.studies.running import points_of, study_of
from scaling.train import memory
from scaling.train import search as point_search

NAN, INF = math.nan, math.inf


def _leaves(config, path=""):
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield path + key, value, config


def _refusal(study="train", **changes):
    """The sentence, of a config that trains with other values there."""
    config = tiny(study)
    for path, value in changes.items():
        *sections, key = path.split(".")
        holder = config
        for section in sections:
            holder = holder[section]
        holder[key] = value
    with pytest.raises(UserError) as error:
        for point in points_of(config).values():
            study_of(point).check(point)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("study", STUDIES)
def test_every_number_has_limits_and_none_is_infinite(study):
    """NaN and infinity, as a value or in a tuple, in every numeric key."""
    found = 0
    for path, _, holder in _leaves(default_config(study)):
        kind = holder.get_type(path.split(".")[-1])
        value = holder[path.split(".")[-1]]
        several = kind is tuple
        if several:
            kind = config_module._of_studies("HOLDS").get(path) or type(value[0])
        if kind not in (int, float) or path.startswith("search.space"):
            continue
        found += 1
        limits = limits_of(path)
        assert limits is not FINITE and math.isfinite(limits.low) and math.isfinite(limits.high)
        for bad in (NAN, INF, -INF, np.float32(NAN), jnp.inf, 1e308, 2**63, limits.low - 1):
            told = _refusal(study, **{path: (bad,) if several else bad})
            value = plain(bad) if several or kind is int else float(bad)
            assert told.startswith(f"{path} {'contains' if several else 'is'} {value!r}"), told
    assert found >= 30


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"optim.base_lr": -0.1}, "optim.base_lr is -0.1; it must be above 0 and at most 10,000."),
        ({"optim.momentum": 1.5}, "optim.momentum is 1.5; it must be at least 0 and below 1."),
        ({"optim.momentum": -0.9}, "optim.momentum is -0.9; it must be at least 0 and below 1."),
        ({"optim.weight_decay": -0.01}, "it must be at least 0 and at most 1,000,000."),
        ({"loss.label_smoothing": 1.5}, "it must be at least 0 and below 1."),
        ({"loss.label_smoothing": -0.1}, "it must be at least 0 and below 1."),
        ({"schedule.power": 0.0, "schedule.name": "polynomial"}, "schedule.power is 0.0; it must"),
    ],
)
def test_a_fixed_hyperparameter_is_told_as_the_search_tells_it(changes, told):
    assert told in _refusal(**changes)
    path, value = next(iter(changes.items()))
    name = {"base_lr": "learning_rate"}.get(path.split(".")[1], path.split(".")[1])
    with pytest.raises(UserError) as error:
        search.check_space({name: ("discrete", value)}, [name])
    assert str(error.value).endswith(f"{name} must be {search.LIMITS[name]}.")
    assert told.rstrip(".").endswith(str(search.LIMITS[name])) or "power" in name


def test_a_rule_cannot_lead_beyond_the_limits():
    rule = {"optim.base_lr": 1e4, "optim.scaling_rule": "linear", "optim.base_batch": 1}
    assert "by the rule 'linear' 320000; it must be above 0" in _refusal(**rule)


@pytest.mark.parametrize(
    "study, path, value, told",
    [
        ("accuracy", "recipes.names", (1.5,), "recipes.names contains 1.5; it must be text."),
        ("accuracy", "recipes.names", (1,), "recipes.names contains 1; it must be text."),
        ("accuracy", "recipes.names", "naive", "is 'naive'; it must be a tuple of texts."),
        (
            "accuracy",
            "accuracy.span",
            (0.1, "a"),
            "accuracy.span contains 'a'; it must be a number.",
        ),
        ("train", "batch_sizes", (8, 1.5), "batch_sizes contains 1.5; it must be a whole number."),
        ("train", "batch_sizes", (True,), "batch_sizes contains True"),
        ("train", "batch_sizes", ((8,),), "batch_sizes contains (8,)"),
        ("train", "batch_sizes", tuple(range(1, 1002)), "has 1,001 values"),
        ("train", "model.widths", (8.5,), "model.widths contains 8.5; it must be a whole number."),
        ("train", "model.norm", 1, "model.norm is 1; it must be text."),
        ("train", "data.image_shape", (8, "8", 1), "data.image_shape contains '8'"),
        ("train", "schedule.boundaries", (3,), "schedule.boundaries contains 3; it must be text."),
        ("train", "schedule.decay_factors", ("x",), "contains 'x'; it must be a number."),
        ("train", "duration", 10, "duration is 10; it must be text."),
        ("train", "noise_scale", 1, "noise_scale is 1; it must be True or False."),
        ("train", "seed", None, "seed is None; it must be a whole number."),
        ("train", "micro_batch", 1.5, "micro_batch is 1.5; it must be a whole number, or None."),
        ("pareto", "pareto.goals", ("low",), "pareto.goals contains 'low'; it must be a number."),
        ("pareto", "search.space", 3, "'search.space' must be a section with keys"),
        ("pareto", "target.budget", (20,), "target.budget contains 20; it must be text."),
        ("noise_scale", "noise.models", {"a/b": {}}, "noise.models has 'a/b'"),
        ("noise_scale", "noise.models", {"wide": 3}, "noise.models has 'wide': 3; write"),
        ("advise", "advise.devices", (2.5,), "advise.devices contains 2.5"),
        ("advise", "advise.records", (3,), "advise.records contains 3; it must be text."),
    ],
)
def test_a_value_of_another_type_is_refused(study, path, value, told):
    assert told in _refusal(study, **{path: value})


def test_a_piece_of_a_recipe_is_checked_too():
    pieces = {"hot": {"optim": {"base_lr": "x"}}}
    told = _refusal("accuracy", **{"recipes.pieces": pieces, "recipes.names": ("hot",)})
    assert told == "The recipe 'hot' cannot be set: optim.base_lr is 'x'; it must be a number."


def test_numbers_of_numpy_and_jax_become_plain():
    c = tiny("steps_to_target")
    c.global_batch, c.seed = jnp.asarray(32), np.array(7, np.uint32)
    c.optim.base_lr, c.eval.test = np.float32(0.25), np.bool_(False)
    c.batch_sizes = np.array([8, 16])
    c.model.widths, c.model.norm = [np.int64(4), jnp.int32(3)], np.str_("none")
    c.search.trials, c.target.goal = np.int8(2), jnp.bfloat16(0.5)
    c.search.space = {
        "learning_rate": ["log", np.float64(0.1), jnp.float32(1.0)],
        "momentum": ("discrete", np.float16(0.5), np.int32(0)),
    }
    read = checked(c)
    assert read.to_dict() == c.to_dict() | {
        "global_batch": 32,
        "seed": 7,
        "batch_sizes": (8, 16),
        "optim": c.optim.to_dict() | {"base_lr": 0.25},
        "model": c.model.to_dict() | {"widths": (4, 3)},
        "search": c.search.to_dict()
        | {
            "space": {
                "learning_rate": ("log", 0.1, 1.0),
                "momentum": ("discrete", 0.5, 0),
            }
        },
        "target": c.target.to_dict() | {"goal": 0.5},
    }
    for path, value, _ in _leaves(read):
        for one in value if isinstance(value, tuple) else (value,):
            assert type(one) in (bool, int, float, str, type(None)), path
    json.dumps(read.to_dict(), allow_nan=False)
    assert type(c.seed) is np.ndarray  # the config itself is not changed


def test_a_whole_number_will_do_for_any_other():
    c = tiny(**{"optim.base_lr": 1, "optim.momentum": 0})
    assert [type(checked(c).optim[key]) for key in ("base_lr", "momentum")] == [float, float]


@pytest.mark.parametrize(
    "study, path, value, told",
    [
        (
            "train",
            "global_batch",
            10**9,
            "digits has 1,197 training examples: every update would go through all of them 835,422 "
            "times; use at most 119,700.",
        ),
        ("train", "batch_sizes", (8, 10**9), "global_batch is 1,000,000,000"),
        (
            "train",
            "model",
            model_config("resnet", width=2**63),
            "model.width is 9223372036854775808",
        ),
        ("train", "model.widths", (10**6, 10**6), "1,000,076,000,010 parameters, with their grad"),
        ("steps_to_target", "search.trials", 10**9, "search.trials is 1000000000; it must be at"),
        ("steps_to_target", "model.widths", (10**6,) * 3, "parameters, with their gradients, take"),
        ("advise", "advise.largest", 10**9, "advise.largest is 1000000000"),
    ],
)
def test_what_is_too_large_is_told_before_anything_runs(study, path, value, told):
    assert told in _refusal(study, **{path: value})


@pytest.fixture
def host_memory(monkeypatch):
    """host_memory(gib) makes the machine so large."""
    share = memory.MEMORY_SHARE
    return lambda gib: monkeypatch.setattr(memory, "_host_memory", lambda: gib * 2**30 / share)


def test_data_and_evaluation_too_large_for_the_memory(host_memory):
    data = {"data.name": "synthetic", "data.image_shape": (8, 8, 1), "data.train_size": 10**9}
    host_memory(64)
    assert "The examples of synthetic (1,200,000,000 of 68 bytes) take 76 GiB" in _refusal(**data)
    small = data | {"data.train_size": 2**20, "eval.batch": 2**20}
    host_memory(0.2)
    assert "eval.batch is 1,048,576: as many inputs and outputs take 0.293 GiB" in _refusal(**small)


def test_trials_too_many_for_the_memory(host_memory):
    host_memory(0.5)
    told = _refusal("steps_to_target", **{"search.trials": 100_000})
    assert "100,000 trials of 610 parameters take 1.13 GiB with their orders of examples" in told


def test_seeds_that_jax_would_take_for_others():
    data = lambda seed: jax.random.key_data(jax.random.key(seed)).tolist()
    assert data(2**32) == data(0) and data(2**32 - 1) != data(0)  # why there is a limit
    assert "at most 4,294,967,295" in _refusal(seed=2**32)
    assert checked(tiny(seed=2**32 - 1)).seed == 2**32 - 1


@pytest.mark.parametrize(
    "study",
    [
        "steps_to_target",
        "pareto",
        "accuracy",
        "generalization",
        "sharpness",
        "adaptive_batch",
        "branch",
    ],
)
def test_seeds_of_trials_do_not_wrap(study):
    most = 2**32 - 1 - LATER_SEEDS
    assert "trials use those after it" in _refusal(study, seed=most + 1)
    checked(tiny(study, seed=most))
    tuned = limits_of("accuracy.trials").high * (1 + limits_of("accuracy.widen").high)
    for last in (
        point_search.REPEAT_SEED + limits_of("target.repeats").high,
        tuning.SEED + tuned,
        limits_of("recipes.seeds").high,
        limits_of("adaptive.seeds").high,
        limits_of("branch.seeds").high + 1,
    ):
        assert last <= LATER_SEEDS


def test_none_restores_what_a_config_file_set(tmp_path):
    config = tmp_path / "set.py"
    config.write_text(
        "from scaling.config import default_config, model_config\n"
        "def get_config():\n"
        "    c = default_config()\n"
        "    c.micro_batch, c.global_batch, c.duration = 16, 32, '2 steps'\n"
        "    c.optim.momentum, c.data.dir = 0.5, '/nowhere'\n"
        "    c.model = model_config('mlp', norm='batch', ghost_batch=8)\n"
        "    return c\n"
    )
    keys = ("micro_batch", "optim.momentum", "data.dir", "model.ghost_batch")
    given = [f"--config.{key}=None" for key in keys]
    code, out, err = launch(f"--config={config}", *given, "--dry_run")
    assert code == 0, err
    assert "1 device x 1 microbatch x 32 examples" in out and "ghost_batch=None" in out
    code, _, err = launch(f"--config={config}", "--config.seed=None", "--dry_run")
    assert (code, err) == (2, "error: seed is None; it must be a whole number.\n")
