"""The study of landscapes, on tiny nets in this process."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from compare import StopAfter
from jax.flatten_util import ravel_pytree

from configs.landscape import TASKS, get_config
from scaling.config import default_config, model_config
from scaling.directions import random_direction, shifted
from scaling.errors import UserError
from scaling.record import RunDir
from scaling.report.drawing import draw
from scaling.report.records import read_workdir
from scaling.signals import Interrupted
from scaling.studies.landscape import charts
from scaling.studies.landscape import measure as landscape
from scaling.studies.landscape.record import BINS
from scaling.studies.landscape.report import KIND, answer
from scaling.studies.landscape.views import RISE
from scaling.studies.running import points_of, run_study
from scaling.train.losses import loss_over
from scaling.train.point import resolve
from scaling.train.surface import Surface


def _config(**changes):
    c = default_config("landscape")
    c.devices, c.batch_sizes, c.data.train_size = 1, (32, 128), 256
    c.model, c.duration = model_config("mlp", widths=(8,), norm="batch"), "2 epochs"
    own = c.landscape
    own.weight_decays, own.durations = (0.0,), ("3 epochs", "6 epochs")
    own.line, own.plane, own.path, own.directions = 9, 5, 13, 2
    own.examples, own.trajectory = 200, 3
    own.map, own.map_steps, own.map_examples = 3, 20, 100
    c.update_from_flattened_dict(changes)
    return c


def arrays(workdir, name):
    """Of a file of the one point."""
    with np.load(workdir / "wd0" / f"{name}.npz") as file:
        return [file[key] for key in sorted(file)]


def weights_of(workdir, batch):
    """(parameters and batch statistics of a net, its point)."""
    (config,) = points_of(_config()).values()
    point = resolve(landscape.nets_of(config)[f"batch {batch}"])
    leaves = arrays(workdir, f"weights_{batch}")
    return jax.tree.unflatten(jax.tree.structure(point.variables()), leaves), point


def _run(path, **changes):
    run_study(_config(**changes), path, None, lambda text: None)
    return KIND.read(read_workdir(path))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    _run(path)
    return path


@pytest.fixture(scope="module")
def studied(workdir):
    return KIND.read(read_workdir(workdir))


@pytest.fixture(scope="module")
def as_trained(tmp_path_factory):
    """With the statistics of training at the nets themselves."""
    changes = {"landscape.statistics": "interpolated", "landscape.examples": None}
    return _run(tmp_path_factory.mktemp("trained"), **changes).points[0]


def test_the_places_of_the_nets_have_the_recorded_metrics(as_trained):
    point = as_trained
    for view in point.views:
        for metric in point.metrics:
            for split, recorded in (("train", view.net.train), ("test", view.net.held_out)):
                at = view.centre(split, metric)
                assert at == pytest.approx(recorded[metric], rel=1e-4, abs=1e-6)
                for kind in ("line", "arc"):
                    shares, values = point.path(kind, split, metric)
                    assert (shares[0], shares[-1]) == (0, 1)  # no variance is negative there
                    end = values[-1 if view.index else 0]
                    assert end == pytest.approx(recorded[metric], rel=1e-3, abs=1e-6)
    first, last = (view.net for view in point.views)
    assert first.train["loss"] != pytest.approx(last.train["loss"], rel=0.01)


@pytest.mark.parametrize(
    "losses, barrier",
    [
        ((9, 1, 2, 3, 9), 0),
        ((9, 1, 5, 3, 9), 2),
        ((9, 3, 3, 3, 9), 0),
        ((9, 1, np.nan, 3, 9), None),
    ],
)
def test_a_barrier_is_above_both_nets(studied, losses, barrier):
    """Beyond them does not count."""
    (point,) = studied.points
    metrics = [np.array(losses, float)] * len(point.metrics)
    places = np.array([-1, 0, 0.5, 1, 2])[:, None]
    path = point.arrays | {"line_train": [places, *metrics]}
    assert dataclasses.replace(point, arrays=path).barrier == barrier
    text = answer(dataclasses.replace(studied, points=[dataclasses.replace(point, arrays=path)]))
    assert ("rises above the worse one's by 2" in text) == bool(barrier)


def test_paths_lines_and_planes_meet(studied):
    """Where they cross, the loss is one, with statistics recomputed."""
    (point,) = studied.points
    shares, _ = point.path("line", "train", "loss")
    assert shares.tolist() == [-1 + k / 4 for k in range(13)]
    for view in point.views:
        centre, (alpha, plane) = view.centre("train", "loss"), view.plane("loss")
        assert point.at(float(view.index)) == pytest.approx(centre, rel=1e-4)
        arc = dict(zip(*point.path("arc", "train", "loss"), strict=True))
        assert arc[view.index] == pytest.approx(centre, rel=1e-3)
        _, (one, two) = view.lines("train", "loss")
        assert alpha.tolist() == [-1, -0.5, 0, 0.5, 1]
        assert plane[:, 2] == pytest.approx(one[::2], rel=1e-5)
        assert plane[2, :] == pytest.approx(two[::2], rel=1e-5)
        assert one != pytest.approx(two, rel=1e-3)
        assert view.net.direction_norms == pytest.approx([1, 1], abs=0.2)
    assert [view.beyond for view in point.views] == [point.at(-0.5), point.at(1.5)]


def test_weights_along_a_training(studied, workdir):
    """They lie on the plane as numpy's SVD has them, the last at its origin."""
    (point,) = studied.points
    for view, batch in zip(point.views, (32, 128), strict=True):
        track, total = view.net.track, view.net.steps
        assert track.steps == [0, total // 3, 2 * total // 3, total]
        names = [f"weights_{batch}_{step}" for step in track.steps]
        rows = [np.concatenate([a.ravel() for a in arrays(workdir, name)]) for name in names]
        rows = np.stack(rows).astype(float) - rows[-1]
        _, values, axes = np.linalg.svd(rows - rows.mean(0))
        assert track.explained == pytest.approx((values**2 / (values**2).sum())[:2], rel=1e-4)
        found, wanted = np.array(track.coordinates), rows @ axes[:2].T
        assert np.abs(found) == pytest.approx(np.abs(wanted), rel=1e-3, abs=1e-4)
        x, y, losses = view.track("loss")
        assert x[0] < found[:, 0].min() and y[-1] > found[:, 1].max()
        signs = np.sign(found[0] * wanted[0])
        variables, point_of = weights_of(workdir, batch)
        _, restore = ravel_pytree(variables[0])
        axes = [restore(np.float32(sign * axis)) for sign, axis in zip(signs, axes, strict=False)]
        there = Surface(point_of, "plane", [variables[0], *axes], [variables[1]], examples=200)
        at = there.evaluate([[x[0], y[-1]]])["loss"]
        assert losses[0, -1] == pytest.approx(at[0], rel=1e-3)


def test_the_map_has_the_eigenvalues_of_a_dense_hessian(studied, workdir):
    variables, point = weights_of(workdir, 32)
    loss, examples, _ = loss_over(point, 100, True)
    chunk = examples, np.ones(100, np.float32)
    alpha, values = studied.points[0].views[0].map()
    assert alpha.tolist() == [-1, 0, 1]
    along = [random_direction(jax.random.key(seed), variables[0]) for seed in (1, 2)]
    for i, j in ((1, 1), (0, 2)):
        moved = shifted(variables[0], along, [alpha[i], alpha[j]])
        flat, restore = ravel_pytree(moved)

        def mean(x):
            total, weight = loss((restore(x), variables[1]), chunk)  # noqa: B023
            return total / weight

        dense = np.linalg.eigvalsh(np.asarray(jax.hessian(mean)(flat), float))
        for name, value in (("least", dense[0]), ("largest", dense[-1])):
            error = values[f"{name}_bound"][i, j] + 1e-3 * dense[-1]
            assert values[name][i, j] == pytest.approx(value, abs=error)
    _, share = studied.points[0].views[0].convexity
    assert share[1, 1] == max(-values["least"][1, 1], 0) / values["largest"][1, 1]


def test_histograms_hold_all_weights_of_kernels(studied):
    for view in studied.points[0].views:
        assert sum(view.net.histogram.counts) == 64 * 8 + 8 * 10
        x, y = charts.density(view.net.histogram)
        inside = np.array(view.net.histogram.counts[1:-1])
        assert np.isnan(y).tolist() == (inside == 0).tolist()  # no line goes over an empty bin
        assert 0.8 < np.nansum(y) * 2 * view.net.histogram.edge / BINS <= 1 and min(x) < 0 < max(x)


def test_stopped_again_and_again_it_resumes_bit_for_bit(workdir, tmp_path):
    (config,) = points_of(_config()).values()
    stopped, record = [], None
    while record is None:
        with RunDir(tmp_path / "wd0") as run:
            run.begin(json.loads(config.to_json_best_effort()))
            try:
                record = landscape.measure(config, run, "wd0", StopAfter(9))
            except Interrupted as reason:
                stopped.append(str(reason))
    assert len(stopped) > 4 and any("places of net0_train" in text for text in stopped)
    files = sorted(path.name for path in (workdir / "wd0").glob("*.npz"))
    assert len(files) == 10 + 2 + 2 + 2 * 4  # maps, tracks, weights along the trainings
    for name in files:
        with np.load(workdir / "wd0" / name) as a, np.load(tmp_path / "wd0" / name) as b:
            assert a.files == b.files and all(np.array_equal(a[k], b[k]) for k in a.files), name


def test_the_dry_run_says_what_surfaces_take():
    text = landscape.dry_run(points_of(_config()))
    # A third for a forward pass, of 200 examples and 256 for batch statistics: of two nets, two
    # planes and two lines of 9 on both splits; two paths of 13. Two for a product of a map.
    rows = 200 + 256
    passes = 2 * (2 * 5 * 5 + 2 * 9 * 2) * rows + 2 * 13 * 2 * rows
    assert f"training on {passes / 3 + 2 * 3 * 3 * 20 * 2 * 100:.2g} examples" in text


def test_weights_of_finished_runs(tmp_path):
    c = default_config()
    c.devices, c.batch_sizes, c.duration, c.data.train_size = 1, (32, 64), "2 epochs", 256
    c.model = model_config("mlp", widths=(6,))
    run_study(c, tmp_path / "runs", None, lambda text: None)
    runs = [str(tmp_path / "runs" / name) for name in ("bs32", "bs64")]
    changes = {"landscape.of": tuple(runs), "landscape.examples": None, "landscape.plane": 1}
    (point,) = _run(tmp_path / "out", **changes).points
    assert point.directory.name == "runs" and point.statistics == "none"
    for path, view in zip(runs, point.views, strict=True):
        result = json.loads((tmp_path / "runs" / path / "result.json").read_text())
        assert view.centre("test", "loss") == pytest.approx(result["test"]["loss"], rel=1e-5)
        assert view.name == path and view.plane("loss") is None
    told = lambda *paths: _refusal(**{"landscape.of": paths})
    assert "holds no finished run; name the folder of one" in told(str(tmp_path / "runs"))
    assert "no single run with its checkpoints" in told(str(tmp_path / "out" / "runs"))
    assert "name each run once" in told(runs[0], runs[0])
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    recorded = json.loads((other / "config.json").read_text())
    recorded["model"]["widths"] = [7]
    (other / "config.json").write_text(json.dumps(recorded))
    assert "differ (model.widths: [6] there" in told(runs[0], str(other))


def test_weights_of_files_and_of_ghost_batch_norm(tmp_path):
    """Two nets of a point of another study, and one of ghost batch norm beside one without."""
    c = default_config("sharpness")
    c.devices, c.batch_sizes, c.duration, c.data.train_size = 1, (32,), "2 epochs", 256
    c.model = model_config("mlp", widths=(6,), norm="batch")
    c.recipes.names, c.recipes.seeds, c.optim.base_batch = ("naive", "gbn"), 2, 8
    c.sharpness.update({"losses": (), "examples": 64, "batch": 32, "subspace": 2, "draws": 2})
    c.sharpness.update({"steps": 2, "products": 6, "probes": 0})
    run_study(c, tmp_path / "runs", None, lambda text: None)
    plain, ghost = (tmp_path / "runs" / f"bs32_{name}" for name in ("naive", "gbn"))
    files = [str(plain / "weights0_end.npz"), str(plain / "weights1_end.npz")]
    files.append(str(ghost / "weights0_end.npz"))
    changes = {"landscape.of": tuple(files), "landscape.examples": 64, "landscape.plane": 1}
    changes["landscape.group"] = 64
    (point,) = _run(tmp_path / "out", **changes).points
    for folder, seed, view in zip((plain, plain, ghost), (0, 1, 0), point.views, strict=True):
        net = json.loads((folder / "result.json").read_text())["runs"][seed]["nets"][-1]
        # As sharpness is measured, with batch statistics of the same 64 examples.
        assert view.centre("train", "loss") == pytest.approx(net["loss"], rel=1e-4)
        assert view.net.steps is None and view.net.learning_rate == 0.1
    assert f"name a file of weights in it, such as {plain}/weights0_end.npz." in _refusal(
        **{"landscape.of": (str(plain),)}
    )
    missing = str(plain / "weights9_end.npz")
    assert "there is no such file" in _refusal(**{"landscape.of": (missing,)})
    np.savez(plain / "weights9_end.npz", np.zeros(3))
    with pytest.raises(UserError, match=r"holds 1 array\(s\), and not the 9 of"):
        _run(tmp_path / "wrong", **changes | {"landscape.of": (missing,)})


def _refusal(**changes):
    with pytest.raises(UserError) as error:
        for config in points_of(_config(**changes)).values():
            landscape.check(config)
    return str(error.value)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"landscape.of": ("runs/none",)}, "names runs/none, which holds no finished run"),
        ({"landscape.line": 10}, "make it a multiple of 2, plus 1, such as 11"),
        ({"landscape.map": 4}, "landscape.map is 4, which leaves out a net's own place"),
        ({"landscape.path": 24}, "make it a multiple of 6, plus 1, such as 25"),
        ({"landscape.map": 1}, "landscape.map is 1, which is one place; set 0"),
        ({"landscape.durations": ("1 epoch",)}, "names 1 and there are 2 batch sizes"),
        ({"landscape.statistics": "froze"}, "did you mean 'frozen'"),
        ({"batch_sizes": (32, 32)}, "name each batch size once"),
        ({"metrics.weight_distance": True}, "is of single runs"),
    ],
)
def test_what_cannot_be_is_told(changes, words):
    assert words in _refusal(**changes)


def _with(study, loss):
    """The point with losses of a function of alpha and of the net's index on all lines."""
    (point,) = study.points
    number, count = point.line, len(point.seeds)
    for index in range(2):
        alpha = point.arrays[f"net{index}_train"][0][:number, 0]
        values = point.arrays[f"net{index}_train"][1 + point.metrics.index("loss")]
        values[: number * count] = np.tile(loss(alpha, index), count)
    return point


def test_half_widths_of_parabolas_and_of_what_is_flat(workdir):
    study = KIND.read(read_workdir(workdir))
    # Piecewise linear between points: exact for |alpha|.
    point = _with(study, lambda alpha, index: 0.1 + (2 if index else 4) * RISE * np.abs(alpha))
    assert [view.width.mean for view in point.views] == pytest.approx([1 / 4, 1 / 2])
    assert point.views[0].width.deviation == pytest.approx(0) and point.views[0].width.reached
    point = _with(
        study, lambda alpha, index: 0.1 + 0 * alpha if index else np.where(alpha, np.nan, 0)
    )
    assert [view.width.mean for view in point.views] == pytest.approx([1 / 4, 1])
    assert not point.views[1].width.reached
    assert "over 1.00 for batch 128 (weight decay 0)" in KIND.answer(study)


def test_report(studied):
    titles, *rows = KIND.table([studied]).cells()
    assert [row[:3] for row in rows] == [["0", "batch 32", "24"], ["0", "batch 128", "12"]]
    assert "half-width" in titles and KIND.answer(studied).count(". ") <= 2
    sections = list(KIND.sections([studied]))
    pictures = [b for section in sections for b in section.blocks if hasattr(b, "panels")]
    assert [len(picture.panels) for picture in pictures] == [2, 2, 2, 2, 2, 2, 2, 1]
    for picture in pictures:
        draw(picture.panels).figure.draw_without_rendering()
    notes = [b.text for section in sections for b in section.blocks if hasattr(b, "text")]
    for words in ("over 256 training examples", "200 training examples", "seeds 1, 2", "‖w‖ "):
        assert words in notes[0]
    (reliefs,) = [b for section in sections for b in section.blocks if hasattr(b, "heights")]
    assert reliefs.titles == ["batch 32, weight decay 0", "batch 128, weight decay 0"]
    heights = np.array(reliefs.heights)
    assert heights.shape == (2, 5, 5) and (heights.min(), heights.max()) == (0, 1)
    assert "20 products of Lanczos with the Hessian of 100 training examples" in notes[1]
    places = sections[-1].blocks[-1]
    assert len(places.rows) == 2 * (2 * 18 + 25 + 25 + 9) + 4 * 13
    assert list(KIND.cautions(studied)) == []


def test_a_surface_that_is_gone_is_told(workdir, tmp_path):
    (tmp_path / "wd0").mkdir()
    for path in (workdir / "wd0").glob("*.*"):
        content = path.read_bytes() if path.is_file() else b""
        if path.is_file() and path.name != "line_train.npz":
            (tmp_path / "wd0" / path.name).write_bytes(content)
    with pytest.raises(UserError, match=r"lacks line_train.npz"):
        KIND.read(read_workdir(tmp_path))


def test_levels():
    assert charts.levels_of(np.array([0.1, 1.0, 20.0, np.inf])) == [0.2, 0.5, 1, 2, 5, 10]
    assert charts.levels_of(np.array([0.0, 0.4])) == pytest.approx([0.04 * k for k in range(1, 10)])
    assert charts.levels_of(np.array([0.3, 0.3])) == [0.3, 0.6]


@pytest.mark.parametrize("task", TASKS)
def test_shipped_configs(task):
    for point in points_of(get_config(task)).values():
        assert len(landscape.nets_of(point)) == 2
