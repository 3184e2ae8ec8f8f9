"""The noise-scale study in this process, on digits."""

import numpy as np
import pytest

from scaling.config import default_config, model_config
from scaling.errors import UserError
from scaling.record import read_metrics
from scaling.report.contents import read_kinds
from scaling.studies.noise_scale.record import Dip
from scaling.studies.noise_scale.report import KIND
from scaling.studies.running import points_of, run_study
from scaling.train.point import resolve


def _config(**changes):
    c = default_config("noise_scale")
    c.global_batch, c.micro_batch, c.devices = 64, 8, 1
    c.duration, c.eval.every, c.eval.test = "60 steps", "30 steps", False
    c.model = model_config("mlp", widths=(8,))
    c.optim.name, c.optim.base_lr = "sgd", 0.1
    c.noise.dip_from, c.noise.dip_to = "20 steps", "40 steps"
    c.update_from_flattened_dict(changes)
    return c


def test_points_differ_from_the_run_in_one_thing():
    changes = {"noise.batches": (32,), "optim.scaling_rule": "linear", "optim.base_batch": 64}
    c = _config(**changes)
    c.noise.models = {"wide": {"widths": (16,)}}
    points = points_of(c)
    assert list(points) == ["base", "rate_x0.25", "rate_x4", "bs32", "model_wide", "temperature"]
    peaks = {name: resolve(point).peak for name, point in points.items()}
    assert peaks == pytest.approx(
        dict.fromkeys(points, 0.1) | {"rate_x0.25": 0.025, "rate_x4": 0.4, "bs32": 0.05}
    )
    assert points["model_wide"].model.widths == (16,) and points["base"].model.widths == (8,)
    assert points["bs32"].global_batch == 32
    assert all(point.noise_every == 1 for point in points.values())


def _run(config, workdir, part=None):
    """The study that was measured."""
    run_study(config, workdir, part, lambda text: None)
    [(_, [study])] = read_kinds([workdir])
    return study


def test_the_whole_study(tmp_path):
    study = _run(_config(**{"noise.rates": (4.0,), "noise.exact": True}), tmp_path)
    base, rate, cut = study.points
    assert [p.directory.name for p in study.points] == ["base", "rate_x4", "temperature"]
    for point in study.points:
        windows = point.noise_scale.windows
        assert windows[0].first_step == 1 and windows[-1].last_step == point.steps == 60
    assert (rate.learning_rate, cut.parameters) == (pytest.approx(0.4), base.parameters)
    exact = base.noise_scale.exact
    assert exact["end"].grad_sq_norm < exact["start"].grad_sq_norm
    assert rate.noise_scale.exact is None
    assert len(KIND.table([study]).cells()) == 4


def test_the_temperature_test_cuts_the_rate_for_a_while(tmp_path):
    study = _run(_config(**{"noise.rates": (), "noise.dip": 16.0}), tmp_path, "1:2")
    assert study.points[0].dip == Dip(16.0, 21, 40)
    rates = [row["learning_rate"] for row in read_metrics(tmp_path / "temperature", "train")]
    np.testing.assert_allclose(rates, [0.1] * 20 + [0.1 / 16] * 20 + [0.1] * 20, rtol=1e-6)


def test_a_rate_that_diverges_is_a_result(tmp_path):
    c = _config(**{"noise.rates": (), "noise.dip": 0.0, "noise.exact": True, "optim.base_lr": 1e4})
    c.optim.weight_decay = 1e6
    study = _run(c, tmp_path)
    assert study.base.status == "diverged" and study.base.noise_scale.exact["end"] is None
    assert any("base: diverged" in sentence for sentence in KIND.cautions(study))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"noise_scale": False}, "leave it True"),
        ({"batch_sizes": (32, 64)}, "noise.batches"),
        ({"schedule.name": "cosine"}, "'constant', or noise.dip to 0"),
        ({"noise.rates": (2.0, 2.0)}, "rate_x2 is named twice"),
        ({"noise.batches": (4,)}, "Microbatch 8 does not divide"),
        ({"noise.models": {"wide": {"width": 3}}}, "did you mean 'widths'"),
        ({"data.name": "imagenet", "noise.exact": True, "noise.dip": 0.0}, "streamed"),
        ({"noise.rates": (-1.0,)}, "noise.rates"),
        ({"noise.rates": ("fast",)}, "contains 'fast'"),
        ({"duration": "30 steps"}, "within the run"),
        ({"noise.dip_to": "25 steps"}, "5 updates long"),
        ({"noise.exact": True, "model.norm": "ghost", "model.ghost_batch": 8}, "couples them"),
        ({"noise.exact": True, "loss.label_smoothing": 0.1}, "label smoothing"),
        ({"noise.batches": (1,)}, "noise.batches contains 1; it must be at least 2"),
        ({"noise.dip": -2.0}, "noise.dip"),
    ],
)
def test_bad_configs_are_one_sentence(tmp_path, changes, sentence):
    models = changes.pop("noise.models", {})
    c = _config(**changes)
    c.noise.models = models
    c.lock()
    with pytest.raises(UserError, match=sentence):
        run_study(c, tmp_path, None, lambda text: None)
    assert not any(tmp_path.iterdir())
