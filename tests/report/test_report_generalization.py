import csv
import json
import math
import statistics

import numpy as np
import pytest
from parsed import check_nothing_runs
from readers import read_studies, read_study
from synthetic import CPU, HOSTILE, edit_result
from synthetic_generalization import (
    LAYERS,
    TRAIN_SIZE,
    log_law,
    root_law,
    write_generalization_workdir,
    write_point,
)

from scaling.errors import UserError
from scaling.report import write_report
from scaling.report.blocks import Note, Picture, Table
from scaling.report.charts import Line, Points, Rule
from scaling.report.kind import generalization
from scaling.report.wording import number
from scaling.studies.generalization import analysis, charts

PLUS_MINUS = "\u00a0±\u00a0"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Four batch sizes, two recipes, three seeds that scatter."""
    return write_generalization_workdir(tmp_path_factory.mktemp("walks") / "runs", noise=0.01)


@pytest.fixture(scope="module")
def study(workdir):
    return read_study(workdir)


@pytest.fixture(scope="module")
def report(workdir, tmp_path_factory):
    said = []
    return write_report([workdir], tmp_path_factory.mktemp("page"), said.append), said


def record(point):
    return json.loads((point.directory.path / "result.json").read_text())


def polyfit(run, fit_steps):
    """(slope, intercept) of the distance against ln t, from the curve in the record."""
    step, distance = (np.array(run["curve"][key]) for key in ("step", "weight_distance"))
    inside = (step >= fit_steps[0]) & (step <= fit_steps[1])
    return np.polyfit(np.log(step[inside]), distance[inside], 1)


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def blocks_of(study, kind):
    found = generalization.sections([study])
    return [block for section in found for block in section.blocks if isinstance(block, kind)]


def test_points_by_batch_and_recipes_with_naive_first(study):
    names = [point.directory.name for point in study.points]
    assert names == [
        "bs128_naive",
        "bs512_naive",
        "bs512_sqrt+gbn",
        "bs2048_naive",
        "bs2048_sqrt+gbn",
        "bs8192_naive",
        "bs8192_sqrt+gbn",
    ]
    assert study.recipes == ["naive", "sqrt+gbn"] and study.batches == [128, 512, 2048, 8192]


def test_a_point_of_several_recipes_is_shown_under_each(study):
    assert [p.directory.name for p in study.of_recipe("sqrt+gbn")][:2] == [
        "bs128_naive",
        "bs512_sqrt+gbn",
    ]
    panels = charts.distance(study)
    assert [panel.title for panel in panels] == study.recipes
    for panel in panels:
        labels = [mark.label for mark in panel.marks if isinstance(mark, Points)]
        assert labels == ["batch 128", "batch 512", "batch 2,048", "batch 8,192"]
    *_, table = blocks_of(study, Table)
    assert [row[:2] for row in table.rows[:2]] == [["128", "naive, sqrt+gbn"], ["512", "naive"]]
    assert len(table.rows) == 7


def test_slopes_are_those_of_the_curves_in_the_records(study, report):
    rows = read_csv(report[0].parent / "tables" / "generalization.csv")
    assert len(rows) == 7 * 3
    for point in study.points:
        result = record(point)
        fits = {run["seed"]: polyfit(run, result["fit_steps"]) for run in result["runs"]}
        mean = statistics.mean(slope for slope, _ in fits.values())
        assert point.slope == pytest.approx(mean)
        for row in rows:
            if row["point"] == point.directory.name:
                slope, intercept = fits[int(row["seed"])]
                assert float(row["log_slope"]) == pytest.approx(slope)
                assert float(row["log_intercept"]) == pytest.approx(intercept)


def test_the_drawn_line_is_the_fit_of_the_mean_curve(study):
    for panel, recipe in zip(charts.distance(study), study.recipes, strict=True):
        lines = [mark for mark in panel.marks if getattr(mark, "dash", "") == "dash"]
        for line, point in zip(lines, study.of_recipe(recipe), strict=True):
            curve = point.mean("weight_distance")
            mean = {"curve": {"step": list(curve), "weight_distance": list(curve.values())}}
            slope, intercept = polyfit(mean, point.fit_steps)
            assert line.x == point.fit_steps and line.guide
            assert line.y == pytest.approx(intercept + slope * np.log(line.x))


def test_marks_are_means_over_seeds_and_seeds_are_faint(study):
    panel = charts.distance(study)[0]
    point = study.points[0]
    runs = record(point)["runs"]
    first = next(mark for mark in panel.marks if isinstance(mark, Points))
    columns = [run["curve"]["weight_distance"] for run in runs]
    assert list(first.x) == runs[0]["curve"]["step"][1:]
    assert first.y == pytest.approx(np.mean(columns, axis=0)[1:])
    faint = [mark for mark in panel.marks if isinstance(mark, Line) and mark.faint]
    assert len(faint) == 4 * 3
    assert list(faint[1].y) == columns[1][1:] and not any(mark.guide for mark in faint)


def test_epochs_are_examples_over_the_training_set(study):
    by_epoch, by_step = charts.validation(study), charts.validation_steps(study)
    assert len(by_epoch) == len(by_step) == 2
    for epochs, steps in zip(by_epoch, by_step, strict=True):
        pairs = zip(epochs.marks, steps.marks, strict=True)
        batches = [128] * 5 + [512] * 5 + [2048] * 5 + [8192] * 5
        for (one, other), batch in zip(pairs, batches, strict=True):
            assert one.x == pytest.approx(np.array(other.x) * batch / TRAIN_SIZE)
            assert one.y == other.y


def test_exact_log_growth(tmp_path):
    study = read_study(write_generalization_workdir(tmp_path, (128, 512, 2048)))
    text = generalization.answer(study)
    assert text.startswith(
        "On Fashion-MNIST with an MLP, the distance from initialisation grows as log t"
    )
    assert "(median R² over 5 points: log t 1.000, sqrt(t) 0." in text
    assert (
        "The slope against log t falls with the batch: with the small batch's learning rate kept, "
        "batch 2,048 has 0.25 times that of batch 128 (0.25 to 0.25 over 3 seeds); with sqrt+gbn, "
        "1.00 times (1.00 to 1.00 over 3 seeds), which restores it." in text
    )


def test_growth_as_a_root(tmp_path):
    study = read_study(write_generalization_workdir(tmp_path, shape=root_law))
    text = generalization.answer(study)
    assert "grows not as log t but as sqrt(t) (median R²" in text and "sqrt(t) 1.000" in text
    assert all(0.3 < value <= 0.5 for value in analysis.exponents(study))


def test_growth_as_a_power(tmp_path):
    power_law = lambda slope: lambda t: slope * t**0.75
    study = read_study(write_generalization_workdir(tmp_path, shape=power_law))
    assert "not as log t but as a power of t (median" in generalization.answer(study)
    assert "a power of t 1.000 with exponent 0.75)" in generalization.answer(study)


def test_a_law_that_ties_with_log_is_told(tmp_path):
    power_law = lambda slope: lambda t: slope * t**0.05
    study = read_study(write_generalization_workdir(tmp_path, shape=power_law))
    found = analysis.medians(study)
    assert found["power"] - 0.005 < found["log"] < found["power"]
    assert "grows as a power of t, and log t fits about as well" in generalization.answer(study)
    curved = lambda slope: lambda t: 40 + slope * math.log(t)  # nearly a small power
    study = read_study(write_generalization_workdir(tmp_path / "log", shape=curved))
    text = generalization.answer(study)
    assert "grows as log t, though a power of t fits about as well (" in text


def test_a_rough_law_is_told_as_one(tmp_path):
    wave = lambda slope: lambda t: slope * (2 + math.log(t) + 0.5 * math.sin(2 * math.log(t)))
    study = read_study(write_generalization_workdir(tmp_path, shape=wave))
    assert 0.9 < analysis.medians(study)["log"] < 0.98
    assert "the distance from initialisation grows roughly as log t" in generalization.answer(study)
    assert any(text.startswith("Log t is a rough law") for text in generalization.cautions(study))


def test_noise_follows_no_law(tmp_path):
    rng = np.random.default_rng(0)
    for batch in (128, 1024):
        write_point(tmp_path, batch, law=lambda _: rng.uniform(1, 2))
    text = generalization.answer(read_study(tmp_path))
    assert "none of three laws describes how far the weights walk (median R² over 2 points" in text


@pytest.mark.parametrize(
    ("naive", "corrected", "words"),
    [
        (-0.5, 0.01, ["falls with the batch", "1.04 times", "which restores it."]),
        (-0.5, -0.25, ["falls with", "0.35 times", "which closes 26% of the gap."]),
        (-0.5, -0.5, ["falls with", "which restores nothing."]),
        (-0.5, 0.2, ["falls with", "2.30 times", "which overshoots it."]),
        (-0.25, -0.5, ["falls with", "0.35 times", "which is further from it."]),
        (
            0.01,
            -0.01,
            ["hardly changes with the batch", "0.96 times", "which leaves it as it was."],
        ),
        (0.01, 0.2, ["hardly changes with the batch", "1.04 times", "which is more."]),
        (0.3, 0.15, ["rises with the batch", "3.48 times", "which closes 65% of the gap."]),
    ],
)
def test_the_words_follow_the_slopes(tmp_path, naive, corrected, words):
    options = {"naive_power": naive, "corrected_power": corrected}
    study = read_study(write_generalization_workdir(tmp_path, (128, 1024, 8192), **options))
    text = generalization.answer(study)
    for some in words:
        assert some in text
    notes = [block.text for block in blocks_of(study, Note)]
    powers = [f"{value:.2f}".replace("-", "−") for value in (naive, corrected)]
    expected = f"to the slopes: {powers[0]} with naive and {powers[1]} with sqrt+gbn."
    assert any(note.endswith(expected) for note in notes)


def test_ratios_are_seed_by_seed(study):
    small, large = study.points[0], study.of_recipe("naive")[-1]
    ours, theirs = ({seed: f.log.slope for seed, f in p.fits.items()} for p in (large, small))
    each = [ours[seed] / theirs[seed] for seed in (0, 1, 2)]
    found = analysis.ratio(large, small)
    assert (found.low, found.high, found.seeds) == (min(each), max(each), 3)
    assert found.value == pytest.approx(large.slope / small.slope)
    assert f"({min(each):.2f} to {max(each):.2f} over 3 seeds)" in generalization.answer(study)


def test_slopes_that_seeds_do_not_tell_apart(tmp_path):
    for batch, slope in ((128, 3.0), (1024, 2.4)):
        path = write_point(tmp_path, batch, law=log_law(slope), seeds=2)
        runs = json.loads((path / "result.json").read_text())["runs"]
        for run, factor in zip(runs, (1.0, 1.5) if batch == 1024 else (1.0, 1.0), strict=True):
            run["diffusion"]["log"]["slope"] *= factor
        edit_result(path, runs=runs)
    assert (
        "does not change with the batch beyond the spread of seeds: with the small batch's "
        "learning rate kept, batch 1,024 has 1.00 times that of batch 128"
        not in (text := generalization.answer(read_study(tmp_path)))
    )
    assert "hardly changes with the batch" in text  # 0.8 and 1.2: 1.0 on average
    runs[1]["diffusion"]["log"]["slope"] *= 1.4
    edit_result(path, runs=runs)
    text = generalization.answer(read_study(tmp_path))
    assert "does not change with the batch beyond the spread of seeds" in text
    assert "1.24 times that of batch 128 (0.80 to 1.68 over 2 seeds)" in text


def test_the_base_batch_is_the_small_one(tmp_path):
    for batch, slope in ((32, 9.0), (128, 3.0), (2048, 1.5)):
        write_point(tmp_path, batch, law=log_law(slope))
    text = generalization.answer(read_study(tmp_path))
    assert "batch 2,048 has 0.50 times that of batch 128 (" in text
    edit_result(tmp_path / "bs2048_naive", status="diverged", runs=[])
    text = generalization.answer(read_study(tmp_path))
    assert "batch 128 has 0.33 times that of batch 32 (" in text


def test_slope_figure_has_ranges_and_the_small_batch_as_a_guide(study):
    [panel] = charts.slopes([study])
    [rule] = [mark for mark in panel.marks if isinstance(mark, Rule)]
    assert rule.y == study.points[0].slope and rule.label == "slope at batch 128"
    shown = [mark for mark in panel.marks if isinstance(mark, Points)]
    assert [mark.label for mark in shown] == [
        "naive, range over seeds",
        "sqrt+gbn, range over seeds",
    ]
    for mark, recipe in zip(shown, study.recipes, strict=True):
        for place, point in enumerate(study.of_recipe(recipe)):
            slopes = [polyfit(run, point.fit_steps)[0] for run in record(point)["runs"]]
            assert mark.low[place] == pytest.approx(min(slopes))
            assert mark.high[place] == pytest.approx(max(slopes))


def test_slopes_below_zero_stay_on_the_figure(tmp_path):
    for batch, slope in ((128, 3.0), (1024, -1.0)):
        write_point(tmp_path, batch, law=log_law(slope, intercept=20.0))
    study = read_study(tmp_path)
    assert any("does not grow with log t" in text for text in generalization.cautions(study))
    scale = charts.slopes([study])[0].scale("y")
    assert scale.low < -1 and scale.high > 3
    text = generalization.answer(study)
    assert "batch 1,024 has −0.33 times that of batch 128" in text
    edit_result(tmp_path / "bs128_naive", base_batch=1024, global_batch=4096)
    edit_result(tmp_path / "bs1024_naive", base_batch=1024)
    text = generalization.answer(read_study(tmp_path))
    assert text.endswith("is not positive at batch 1,024, so no other compares.")


def test_one_seed(tmp_path):
    study = read_study(write_generalization_workdir(tmp_path, seeds=1, noise=0.01))
    assert "(one seed)" in generalization.answer(study)
    assert generalization.cautions(study)[-1].startswith("Points with one seed have no spread")
    for panel in charts.distance(study):
        assert not any(isinstance(mark, Line) and mark.faint for mark in panel.marks)
    [panel] = charts.slopes([study])
    shown = [mark for mark in panel.marks if isinstance(mark, Points)]
    assert [mark.label for mark in shown] == ["naive", "sqrt+gbn"]
    assert not any(mark.low for mark in shown)
    *_, table = blocks_of(study, Table)
    assert not any("±" in cell for row in table.rows for cell in row)


def test_seeds_that_diverged_are_left_out_of_the_numbers(tmp_path):
    write_point(tmp_path, 128, law=log_law(3.0))
    path = write_point(tmp_path, 1024, law=log_law(2.0), diverged={1: 200})
    runs = json.loads((path / "result.json").read_text())["runs"]
    runs[1]["curve"]["weight_distance"][-1] = 1e9
    edit_result(path, runs=runs)
    study = read_study(tmp_path)
    assert (
        "bs1024_naive: 1 of 3 seeds diverged (at step 200); the numbers are of the others."
        in generalization.cautions(study)
    )
    point = study.points[1]
    assert point.slope == pytest.approx(2.0) and list(point.fits) == [0, 2]
    assert len(point.mean("weight_distance")) == len(runs[0]["curve"]["step"])
    assert point.finals("weight_distance") == [
        runs[i]["curve"]["weight_distance"][-1] for i in (0, 2)
    ]
    [panel] = charts.distance(study)
    lost = [mark for mark in panel.marks if isinstance(mark, Line) and mark.faint and mark.guide]
    assert [max(mark.x) for mark in lost] == [max(runs[1]["curve"]["step"])]
    assert panel.scale("y").high < 100
    *_, table = blocks_of(study, Table)
    assert table.rows[1][2] == "3, 1 diverged"


def test_a_batch_all_of_whose_seeds_diverged(tmp_path):
    write_point(tmp_path, 128, law=log_law(3.0))
    write_point(tmp_path, 1024, law=log_law(2.0), diverged={0: 50, 1: 60, 2: 1}, layers=None)
    study = read_study(tmp_path)
    text = "bs1024_naive: all 3 seeds diverged (at step 50, 60 and 1), so it has no numbers."
    assert text in generalization.cautions(study)
    assert generalization.answer(study).endswith(
        "against log t is not known: only batch 128 has one to compare."
    )
    [panel] = charts.distance(study)
    lost = [mark for mark in panel.marks if mark.label == "batch 1,024 (all seeds diverged)"]
    assert len(lost) == 3 and all(line.guide and not line.faint for line in lost)
    *_, table = blocks_of(study, Table)
    assert table.rows[1][5:] == ["–"] * 7
    write_report([tmp_path], tmp_path / "out", lambda _: None)


def test_nothing_but_divergence(tmp_path):
    path = write_point(tmp_path / "w", 128, law=log_law(1.0), seeds=1, diverged={0: 3}, layers=None)
    study = read_study(tmp_path / "w")
    assert generalization.answer(study) == (
        "On Fashion-MNIST with an MLP, no law of the distance from initialisation can be fitted: "
        "every seed diverged. How the batch changes its slope is therefore not known."
    )
    assert generalization.cautions(study)[0].startswith(f"{path.name}: its only seed diverged (at")
    text = write_report([tmp_path / "w"], tmp_path / "out", lambda _: None).read_text()
    assert text.count("There is no figure to show: no seed that did not diverge") == 5
    assert text.count("There is no figure to show: the record holds no norms of") == 2
    assert text.count("There is no figure to show: no point has a fit") == 1


def test_records_without_curves_or_fits(tmp_path):
    for batch in (128, 1024):
        path = write_point(tmp_path, batch, law=log_law(3.0), seeds=2)
        runs = json.loads((path / "result.json").read_text())["runs"]
        if batch == 1024:
            runs[0] |= {"diffusion": None, "curve": None}
            runs[1]["curve"]["validation_error"] = [None] * len(runs[1]["curve"]["step"])
            edit_result(path, runs=runs, fit_steps=[10, 90])
    (tmp_path / "bs512_naive").mkdir()
    (tmp_path / "bs512_naive" / "config.json").write_text("{}")
    study = read_study(tmp_path)
    assert generalization.cautions(study) == [
        "Not finished, and therefore not in here: bs512_naive.",
        "bs1024_naive: the record holds no curve of some seeds, which are missing from the "
        "figures.",
        "bs1024_naive: too few evaluations of some seeds lie in the phase of the initial learning "
        "rate for a fit; evaluate more often or train longer.",
        "bs1024_naive: the fits cover less than a factor of 10 in steps, over which the three "
        "laws look alike.",
    ]
    assert study.points[1].slope == pytest.approx(3.0)
    [panel] = charts.validation(study)
    assert [mark.label for mark in panel.marks if mark.label] == ["batch 128"]
    *_, table = blocks_of(study, Table)
    assert table.rows[1][-1] == "–" and table.rows[1][-2] != "–"
    write_report([tmp_path], tmp_path / "out", lambda _: None)


def test_no_fit_at_all(tmp_path):
    path = write_point(tmp_path, 128, law=log_law(3.0), seeds=2)
    runs = json.loads((path / "result.json").read_text())["runs"]
    edit_result(path, runs=[run | {"diffusion": None} for run in runs])
    study = read_study(tmp_path)
    assert "can be fitted: no seed has enough evaluations" in generalization.answer(study)
    [panel] = charts.distance(study)  # the curves are still there
    assert [mark.label for mark in panel.marks if mark.label] == ["batch 128"]


def test_simulated_devices_are_told(tmp_path):
    write_point(tmp_path, 128, law=log_law(3.0), devices=CPU | {"count": 8, "simulated": True})
    [caution] = generalization.cautions(read_study(tmp_path))
    assert caution.startswith("bs128_naive: trained on simulated devices")


def test_layers_as_in_the_paper_s_table(study):
    *tables, _ = blocks_of(study, Table)
    assert len(tables) == 2
    for table, point in zip(tables, (study.points[0], study.of_recipe("naive")[-1]), strict=True):
        layers = record(point)["layers"]
        kernels = [one for one in layers if one["name"].endswith("kernel")]
        ordered = kernels + [one for one in layers if one not in kernels]
        for row, layer in zip(table.rows, ordered, strict=True):
            values = []
            for norms in (layer["start"], layer["end"]):
                weight, grad = norms["weight_norm"], norms["grad_norm"]
                values += [weight, grad, weight / grad]
            assert row == [layer["name"], f"{layer['size']:,}", *map(number, values)]


def test_the_spread_of_layers_in_words(study):
    notes = [block.text for block in blocks_of(study, Note)]
    ratios = [weight / grad for name, _, weight, grad in LAYERS if name.endswith("kernel")]
    factor = number(max(ratios) / min(ratios))
    [kernels] = [note for note in notes if "of kernels, after the first and the last" in note]
    assert f"update: {factor} and " in kernels and f"; {factor} and " in kernels
    [others] = [note for note in notes if "of biases and scales, after the first" in note]
    assert "update: – and " in others  # of one scale alone, biases being zero


def test_layer_figures_name_every_layer(study):
    kernels, biases = blocks_of(study, Picture)[-2:]
    for shown, kernel in ((kernels, True), (biases, False)):
        names = [name for name, *_ in LAYERS if name.endswith("kernel") == kernel]
        for axes, plot in zip(shown.figure.axes, shown.plots, strict=True):
            assert [label.get_text() for label in axes.get_yticklabels()] == names
            assert plot["layout"]["yaxis"]["ticktext"] == names
            assert axes.get_xlim() == shown.figure.axes[0].get_xlim()
    sizes = [len(trace["x"]) for trace in biases.plots[0]["data"]]
    assert sizes == [1] * 4  # biases are zero at first


def test_layers_that_are_not_recorded(tmp_path):
    write_point(tmp_path / "w", 128, law=log_law(3.0), layers=None)
    write_point(tmp_path / "w", 512, law=log_law(3.0), layers=LAYERS[:1])
    study = read_study(tmp_path / "w")
    kernels, biases = blocks_of(study, Picture)[-2:]
    assert kernels.figure is not None and biases.figure is None
    [table, _] = blocks_of(study, Table)
    assert [row[0] for row in table.rows] == ["Dense_0.kernel"]
    assert not any("Largest over smallest" in note.text for note in blocks_of(study, Note))
    edit_result(tmp_path / "w" / "bs512_naive", layers=None)
    text = write_report([tmp_path / "w"], tmp_path / "out", lambda _: None).read_text()
    assert "the record holds no norms of kernels" in text
    assert "There is no figure to show: the record holds no norms of biases and scales" in text


def test_a_gradient_that_is_zero_has_no_ratio(tmp_path):
    layers = (("a.kernel", 4, 1.0, 0.0), ("b.kernel", 4, 1.0, 0.5))
    write_point(tmp_path, 128, law=log_law(3.0), layers=layers)
    study = read_study(tmp_path)
    assert study.points[0].layers[0].start.ratio is None
    [table, _] = blocks_of(study, Table)
    assert table.rows[0][4] == "–"
    assert charts.gradients(study)


def test_hostile_records_stay_text(tmp_path):
    bad = "</script><img src=x onerror=alert(1)>"
    layers = ((f"{bad}.kernel", 4, 1.0, 0.5), (f"{bad}.bias", 4, 1.0, 0.5), *LAYERS)
    write_generalization_workdir(
        tmp_path / "w", (128, 512), (bad.replace("/", ""),), title=HOSTILE, layers=layers
    )
    edit_result(tmp_path / "w" / "bs128_naive", recipes=["naive", bad])
    config = tmp_path / "w" / "bs128_naive" / "config.json"
    for path in (tmp_path / "w").glob("*/config.json"):
        path.write_text(path.read_text().replace('"fashion_mnist"', json.dumps(bad)))
    assert bad in config.read_text()
    text = write_report([tmp_path / "w"], tmp_path / "out", lambda _: None).read_text()
    plots = check_nothing_runs(text)
    assert "<img src=x" not in text and "&lt;img src=x" in text
    ticks = [tick for plot in plots for tick in plot["layout"]["yaxis"].get("ticktext", [])]
    assert any("&lt;img src=x onerror=alert(1)&gt;.kernel" in tick for tick in ticks)
    titles = [plot["layout"].get("title", {}).get("text", "") for plot in plots]
    assert any("&lt;img" in title for title in titles) and not any("<img" in t for t in titles)


def test_no_figure_is_empty(report, workdir):
    folder = report[0].parent / "figures"
    stems = {path.stem for path in folder.glob("*.png")}
    assert stems == set(generalization.FIGURES)
    for picture in blocks_of(read_study(workdir), Picture):
        assert len(picture.figure.axes) == len(picture.plots) > 0
        for axes, plot in zip(picture.figure.axes, picture.plots, strict=True):
            assert axes.lines and sum(len(trace["x"]) for trace in plot["data"]) > 3
            low, high = sorted(axes.get_ylim())
            inside = [y for line in axes.lines for y in line.get_ydata() if low <= y <= high]
            assert len(inside) > 3
    assert report[1][0].startswith("On Fashion-MNIST with an MLP, the distance")


def test_tables_hold_the_numbers_of_the_records(report, workdir):
    tables = report[0].parent / "tables"
    seeds = read_csv(tables / "generalization.csv")
    curves = read_csv(tables / "generalization_curves.csv")
    layers = read_csv(tables / "generalization_layers.csv")
    for path in workdir.glob("*/result.json"):
        result = json.loads(path.read_text())
        mine = lambda rows, name=path.parent.name: [row for row in rows if row["point"] == name]
        for row, run in zip(mine(seeds), result["runs"], strict=True):
            assert (row["status"], int(row["steps"])) == (run["status"], result["steps"])
            assert float(row["learning_rate"]) == result["learning_rate"]
            assert row["recipes"] == ", ".join(result["recipes"])
            assert float(row["final_validation_error"]) == run["curve"]["validation_error"][-1]
            for law, fit in run["diffusion"].items():
                for key, value in fit.items():
                    assert float(row[f"{law}_{key}"]) == value
        found = [row for row in mine(curves) if row["seed"] == "1"]
        curve = result["runs"][1]["curve"]
        assert [int(row["step"]) for row in found] == curve["step"]
        for key in ("weight_distance", "grad_norm", "train_loss", "validation_loss"):
            values = [float(row[key]) if row[key] else None for row in found]
            assert values == curve[key]
        for row, layer in zip(mine(layers), result["layers"], strict=True):
            assert (row["layer"], int(row["size"])) == (layer["name"], layer["size"])
            assert float(row["end_grad_norm"]) == layer["end"]["grad_norm"]
            ratio = layer["end"]["weight_norm"] / layer["end"]["grad_norm"]
            assert float(row["end_ratio"]) == ratio


def test_the_page_shows_the_numbers(report, study):
    text = report[0].read_text()
    for point in study.points:
        errors = [run["curve"]["validation_error"][-1] for run in record(point)["runs"]]
        mean, sd = 100 * statistics.mean(errors), 100 * statistics.stdev(errors)
        assert f"<td>{mean:.3g}%{PLUS_MINUS}{sd:.2g}%</td>" in text
        slopes = [run["diffusion"]["log"]["slope"] for run in record(point)["runs"]]
        cell = f"{number(statistics.mean(slopes))}{PLUS_MINUS}{statistics.stdev(slopes):.2g}"
        assert f"<td>{cell}</td>" in text
    assert "<th>small batch</th><td>128</td>" in text and "<td>0, 1, 2</td>" in text


def test_two_studies_have_figures_of_their_own(tmp_path):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    workdirs = [
        write_generalization_workdir(tmp_path / name, (128, 512), (), seeds=2, title=name)
        for name in ("a", "b")
    ]
    studies = read_studies(workdirs)
    found = generalization.sections(studies)
    pictures = [b for section in found for b in section.blocks if isinstance(b, Picture)]
    names = [picture.name for picture in pictures]
    own = [name for name in generalization.FIGURES if name != "generalization_slope"]
    assert sorted(names) == sorted(
        [f"{n}-{i}" for n in own for i in (1, 2)] + ["generalization_slope"]
    )
    for picture in pictures:
        for plot in picture.plots:
            graph_objects.Figure(plot)  # raises for a key that it does not know
            json.dumps(plot, allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"global_batch": 128}, {}, "are both of batch 128 with the recipe naive; keep one"),
        ({"base_batch": 256}, {}, r"differ in their base batch \(128 and 256\)"),
        ({"optimizer": "lars"}, {}, r"differ in their optimizer \(momentum and lars\)"),
        ({"train_size": 1}, {}, r"differ in their training set size \(55000 and 1\)"),
        ({"runs": [{"seed": 0}]}, {}, "lacks 'diffusion'"),
        ({"layers": [{"name": "a"}]}, {}, "lacks 'start'"),
    ],
)
def test_records_that_do_not_belong_together(tmp_path, changes, options, message):
    write_point(tmp_path, 128, law=log_law(3.0), seeds=1)
    path = write_point(tmp_path, 512, law=log_law(2.0), seeds=1)
    edit_result(path, **changes)
    with pytest.raises(UserError, match=message):
        read_study(tmp_path)


def test_a_recipe_may_change_the_optimizer_and_the_model(tmp_path):
    write_point(tmp_path, 128, law=log_law(3.0), recipes=["naive", "gbn"])
    write_point(tmp_path, 512, "gbn", law=log_law(3.0), norm="ghost")
    path = write_point(tmp_path, 512, "lars", law=log_law(3.0), optimizer="lars")
    wide = path / "config.json"
    wide.write_text(wide.read_text().replace("512\n    ],", "1024\n    ],"))
    assert "1024" in wide.read_text()
    assert read_study(tmp_path).recipes == ["naive", "gbn", "lars"]
    edit_result(path, recipe="gbn", recipes=["gbn"], global_batch=1024, optimizer="momentum")
    with pytest.raises(UserError, match="differ in their model"):
        read_study(tmp_path)


def test_curves_of_unequal_length_are_refused(tmp_path):
    path = write_point(tmp_path, 128, law=log_law(3.0), seeds=1)
    runs = json.loads((path / "result.json").read_text())["runs"]
    runs[0]["curve"]["grad_norm"].pop()
    edit_result(path, runs=runs)
    with pytest.raises(UserError, match="values of grad_norm at"):
        read_study(tmp_path)
