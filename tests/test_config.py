import sys

import pytest
from ml_collections import ConfigDict
from mutations import tiny

from configs import resnet
from scaling.config import checked, default_config, differences
from scaling.errors import UserError
from scaling.studies import STUDIES
from scaling.studies.running import points_of, run_study
from scaling.studies.shared import batch_name
from scaling.train.point import resolve


def _leaves(config, path=""):
    for key, value in config.items():
        if isinstance(value, ConfigDict) and value.keys():
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield path + key


QUICK = ("train", "steps_to_target")


@pytest.mark.parametrize(
    "study", [pytest.param(s, marks=[pytest.mark.slow] * (s not in QUICK)) for s in STUDIES]
)
def test_every_key_is_read(study, tmp_path, monkeypatch, capsys):
    """Each leaf of a study's default config is read by code other than the config's own."""
    config = tiny(study)
    if study == "train":
        config.noise_scale, config.train.goal = True, 1.0
    if study == "steps_to_target":
        config.target.goal = 0.5  # reached, so that the best trial is tested
    elif study == "pareto":
        config.pareto.goals = (2.0,)
    names, read, copies = {id(config): ""}, set(), []
    plain, plain_copy = ConfigDict.__getitem__, ConfigDict.copy_and_resolve_references

    def recording(self, key):
        value = plain(self, key)
        frame = sys._getframe(1)
        if frame.f_code.co_name == "__getattr__":  # config.key: look at who wrote that
            frame = frame.f_back
        file = frame.f_code.co_filename
        if id(self) in names:
            if isinstance(value, ConfigDict):
                names[id(value)] = f"{names[id(self)]}{key}."
            if "/scaling/" in file and not file.endswith("scaling/config.py"):
                read.add(names[id(self)] + key)
        return value

    def copying(self, *args):
        copies.append(plain_copy(self, *args))  # kept, or another object may get its id
        if id(self) in names:
            names[id(copies[-1])] = names[id(self)]
        return copies[-1]

    monkeypatch.setattr(ConfigDict, "__getitem__", recording)
    monkeypatch.setattr(ConfigDict, "copy_and_resolve_references", copying)
    run_study(config, tmp_path, None, print)
    # Keys that belong to what they name, and one that is written for reports.
    free = ("model.", "search.space.", "recipes.rates.", "recipes.all")
    if not config.noise_scale:
        free += ("noise_every",)
    if study == "throughput":  # it records no training
        free += ("checkpoint.", "eval.test")
    unread = {leaf for leaf in set(_leaves(config)) - read if not leaf.startswith(free)}
    assert not unread, f"keys that nothing reads: {sorted(unread)}"


def test_unknown_and_missing_keys():
    c = default_config()
    c.optim.base_lrr = 0.1
    with pytest.raises(UserError, match=r"'optim.base_lrr': did you mean 'base_lr'"):
        checked(c)
    c = default_config()
    del c.eval["every"]
    with pytest.raises(UserError, match=r"lacks 'eval.every'"):
        checked(c)
    c = default_config()
    del c["optim"]
    c.optim = 3
    with pytest.raises(UserError, match="'optim' must be a section"):
        checked(c)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"optim.name": "adm"}, "did you mean 'adam'"),
        ({"optim.trust_coefficient": 0.1}, "does not read 'trust_coefficient'"),
        ({"schedule.name": "cosin"}, "did you mean 'cosine'"),
        ({"schedule.power": 3.0}, "does not read 'power'"),
        ({"schedule.warmup": "9 epochs"}, "shorten it or train longer"),
        ({"duration": "3 fortnights"}, "Unknown unit 'fortnights'"),
        ({"duration": "0 steps"}, "at least 1 step"),
        ({"optim.scaling_rule": "linar"}, "did you mean 'linear'"),
        ({"data.name": "digit"}, "did you mean 'digits'"),
        ({"data.augment": "crop"}, "did you mean 'crop_flip'"),
        ({"data.train_size": 9999}, "digits has 1,197 training"),
        ({"data.num_classes": 9}, "no option 'num_classes'"),
        ({"model.name": "mpl"}, "did you mean 'mlp'"),
        ({"devices": 99}, "config.devices is 99"),
        ({"global_batch": 0}, "at least 1"),
        ({"global_batch": -3}, "at least 1"),
        ({"micro_batch": 5}, "nearest that do are"),
        ({"seed": -1}, "at least 0"),
        ({"checkpoint.keep": 1}, "checkpoint.keep is 1; it must be at least 2"),
        ({"eval.batch": 0}, "eval.batch is 0"),
        ({"eval.every": "0 steps"}, "evaluate every 1 step or more"),
        ({"optim.base_batch": 0}, "optim.base_batch is 0"),
        ({"data.name": "synthetic", "data.train_size": 0}, "data.train_size is 0"),
        ({"data.name": "synthetic", "data.image_shape": (8, 8)}, "(height, width, channels)"),
        ({"global_batch": 2**40}, "at most 2,147,483,647"),
    ],
)
def test_bad_values_are_told_before_anything_runs(changes, words):
    with pytest.raises(UserError) as error:
        resolve(tiny(**changes))
    assert words in str(error.value)


def test_learning_rate_is_scaled_only_by_the_rule_that_is_named():
    peak = lambda rule: (
        resolve(
            tiny(**{"optim.scaling_rule": rule, "optim.base_lr": 0.1, "optim.base_batch": 8})
        ).peak
    )
    assert [peak(rule) for rule in ("none", "linear", "sqrt")] == pytest.approx([0.1, 0.4, 0.2])


def test_sweep_points_and_slices():
    c = tiny(batch_sizes=(128, 1024, 32768))
    assert list(points_of(c)) == ["bs128", "bs1k", "bs32k"]
    assert [p.global_batch for p in points_of(c, "1:").values()] == [1024, 32768]
    assert list(points_of(c, "0:1")) == ["bs128"]
    for part, words in (("1", "not a slice"), ("x:y", "not a slice"), ("3:9", "none of the study")):
        with pytest.raises(UserError, match=words):
            points_of(c, part)
    with pytest.raises(UserError, match="is named twice"):
        points_of(tiny(batch_sizes=(8, 8)))
    assert batch_name(tiny(global_batch=1500)) == "bs1500"


@pytest.mark.parametrize("task", resnet.TASKS)
@pytest.mark.parametrize("batch", [128, 32768])
def test_every_shipped_task_resolves(task, batch):
    point = resolve(resnet.recipe(batch, task))
    assert point.total_steps >= 1 and point.global_batch == batch


def test_the_nine_points_have_a_file_each():
    import importlib

    for size in ("128", "256", "512", "1k", "2k", "4k", "8k", "16k", "32k"):
        module = importlib.import_module(f"configs.resnet_bs{size}")
        config = module.get_config("digits")
        assert batch_name(config) == f"bs{size}"
        assert f"bs{size}" in module.__doc__


def test_every_numeric_hyperparameter_is_resolved():
    """The defaults too: a population stacks them, and a record names them."""
    hparams = resolve(tiny(**{"optim.name": "lars", "schedule.name": "polynomial"})).hparams
    expected = {"momentum": 0.9, "trust_coefficient": 0.001, "power": 2.0, "end_factor": 0.0}
    assert expected.items() <= hparams.items()


def test_differences():
    old, new = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 5, "d": 3}, "e": None}
    assert differences(old, new) == ["b.c: 2 there, 5 here"]
