import csv
import json
import math
import statistics

import numpy as np
import pytest
from readers import read_studies, read_study
from synthetic import edit_result
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
from scaling.report.drawing import draw
from scaling.report.wording import number
from scaling.studies.generalization import charts
from scaling.studies.generalization.report import KIND, medians
from scaling.studies.generalization.slopes import ratio


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Four batch sizes, two recipes, three seeds that scatter."""
    return write_generalization_workdir(tmp_path_factory.mktemp("distances") / "runs", noise=0.01)


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
    return [b for section in KIND.sections([study]) for b in section.blocks if isinstance(b, kind)]


def rows_of(study):
    """The table of points: directory -> title -> cell."""
    titles, *rows = KIND.table([study]).cells()
    names = [point.directory.name for point in study.points]
    return {
        name: dict(zip(titles, row, strict=True)) for name, row in zip(names, rows, strict=True)
    }


def test_points_by_batch_and_recipes_with_naive_first(study):
    assert [point.directory.name for point in study.points] == [
        "bs128_naive",
        *(f"bs{batch}_{recipe}" for batch in (512, 2048, 8192) for recipe in study.recipes),
    ]
    assert study.recipes == ["naive", "sqrt+gbn"] and study.batches == [128, 512, 2048, 8192]


def test_a_point_of_several_recipes_is_shown_under_each(study):
    names = [point.directory.name for point in study.points_of("sqrt+gbn")]
    assert names[:2] == ["bs128_naive", "bs512_sqrt+gbn"]
    panels = charts.curves([study], "distance")
    assert [panel.title for panel in panels] == study.recipes
    for panel in panels:
        labels = [mark.series for mark in panel.marks if isinstance(mark, Points)]
        assert labels == ["batch 128", "batch 512", "batch 2,048", "batch 8,192"]
    rows = rows_of(study)
    assert rows["bs128_naive"]["recipe"] == "naive, sqrt+gbn" and len(rows) == 7


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
                assert float(row["diffusion_log_slope"]) == pytest.approx(slope)
                assert float(row["diffusion_log_intercept"]) == pytest.approx(intercept)


def test_the_drawn_line_is_the_fit_of_the_mean_curve(study):
    for panel, recipe in zip(charts.curves([study], "distance"), study.recipes, strict=True):
        lines = [mark for mark in panel.marks if getattr(mark, "dash", "") == "dash"]
        for line, point in zip(lines, study.points_of(recipe), strict=True):
            curve = point.mean("weight_distance")
            mean = {"curve": {"step": list(curve), "weight_distance": list(curve.values())}}
            slope, intercept = polyfit(mean, point.fit_steps)
            assert line.x == [*point.fit_steps] and line.guide
            assert line.y == pytest.approx(intercept + slope * np.log(line.x))


def test_marks_are_means_over_seeds_and_seeds_are_faint(study):
    panel = charts.curves([study], "distance")[0]
    runs = record(study.points[0])["runs"]
    first = next(mark for mark in panel.marks if isinstance(mark, Points))
    columns = [run["curve"]["weight_distance"] for run in runs]
    assert list(first.x) == runs[0]["curve"]["step"][1:]
    assert first.y == pytest.approx(np.mean(columns, axis=0)[1:])
    faint = [mark for mark in panel.marks if isinstance(mark, Line) and mark.faint]
    assert len(faint) == 4 * 3
    assert list(faint[1].y) == columns[1][1:] and not any(mark.guide for mark in faint)


def test_epochs_are_examples_over_the_training_set(study):
    by_epoch, by_step = (charts.curves([study], f"validation{what}") for what in ("", "_steps"))
    assert len(by_epoch) == len(by_step) == 2
    for epochs, steps in zip(by_epoch, by_step, strict=True):
        pairs = zip(epochs.marks, steps.marks, strict=True)
        batches = [128] * 5 + [512] * 5 + [2048] * 5 + [8192] * 5
        for (one, other), batch in zip(pairs, batches, strict=True):
            assert one.x == pytest.approx(np.array(other.x) * batch / TRAIN_SIZE)
            assert one.y == other.y


@pytest.mark.parametrize(
    ("shape", "law", "exponent"),
    [
        (log_law, "log", None),
        (root_law, "root", None),
        (lambda slope: lambda t: slope * t**0.75, "power", "0.75"),
    ],
)
def test_the_law_that_fits_has_the_largest_r2(tmp_path, shape, law, exponent):
    study = read_study(write_generalization_workdir(tmp_path, (128, 512, 2048), shape=shape))
    found = medians(study)
    assert max(found, key=found.get) == law and found[law] == pytest.approx(1, abs=1e-4)
    names = {"log": "log t", "root": "sqrt(t)", "power": "a power of t"}
    text = KIND.answer(study)
    assert f"1.000 ({names[law]})" in text
    assert exponent is None or f"the exponent is {exponent} to {exponent}." in text


def test_exact_log_growth(tmp_path):
    text = KIND.answer(read_study(write_generalization_workdir(tmp_path, (128, 512, 2048))))
    assert text.endswith(
        "Slope against log t, relative to batch 128: naive 0.25 (0.25 to 0.25) at batch 2,048; "
        "sqrt+gbn 1.00 (1.00 to 1.00) at batch 2,048."
    )


def test_a_rough_law_is_a_caution(tmp_path):
    wave = lambda slope: lambda t: slope * (2 + math.log(t) + 0.5 * math.sin(2 * math.log(t)))
    study = read_study(write_generalization_workdir(tmp_path, shape=wave))
    assert 0.9 < medians(study)["log"] < 0.98
    assert any(text.startswith("Log t is a rough law") for text in KIND.cautions(study))


def test_slopes_as_a_power_of_the_batch(tmp_path):
    options = {"naive_power": -0.4, "corrected_power": 0.15}
    study = read_study(write_generalization_workdir(tmp_path, (128, 1024, 8192), **options))
    text = KIND.answer(study)
    assert f"naive {64**-0.4:.2f} (" in text and f"sqrt+gbn {64**0.15:.2f} (" in text
    notes = [block.text for block in blocks_of(study, Note)]
    assert "Slope as a power of the batch, least squares: naive −0.40, sqrt+gbn 0.15." in notes


def test_ratios_are_seed_by_seed(study):
    small, large = study.points[0], study.points_of("naive")[-1]
    ours, theirs = ({seed: f.log.slope for seed, f in p.fits.items()} for p in (large, small))
    each = [ours[seed] / theirs[seed] for seed in (0, 1, 2)]
    found = ratio(large, small)
    assert (found.low, found.high) == (min(each), max(each))
    assert found.value == pytest.approx(large.slope / small.slope)
    assert f"({min(each):.2f} to {max(each):.2f}) at batch 8,192" in KIND.answer(study)


def test_the_base_batch_is_the_small_one(tmp_path):
    for batch, slope in ((32, 9.0), (128, 3.0), (2048, 1.5)):
        write_point(tmp_path, batch, law=log_law(slope))
    assert "relative to batch 128: naive 0.50 (" in KIND.answer(read_study(tmp_path))
    edit_result(tmp_path / "bs2048_naive", status="diverged", runs=[])
    assert "relative to batch 32: naive 0.33 (" in KIND.answer(read_study(tmp_path))


def test_slope_figure_has_ranges_and_the_small_batch_as_a_guide(study):
    [panel] = charts.slopes([study])
    [rule] = [mark for mark in panel.marks if isinstance(mark, Rule)]
    assert rule.y == study.points[0].slope and rule.label == "slope at batch 128"
    shown = [mark for mark in panel.marks if isinstance(mark, Points)]
    assert [mark.label for mark in shown] == study.recipes
    for mark, recipe in zip(shown, study.recipes, strict=True):
        for place, point in enumerate(study.points_of(recipe)):
            seeds = [polyfit(run, point.fit_steps)[0] for run in record(point)["runs"]]
            assert mark.low[place] == pytest.approx(min(seeds))
            assert mark.high[place] == pytest.approx(max(seeds))


def test_slopes_below_zero_stay_on_the_figure(tmp_path):
    for batch, slope in ((128, 3.0), (1024, -1.0)):
        write_point(tmp_path, batch, law=log_law(slope, intercept=20.0))
    study = read_study(tmp_path)
    scale = charts.slopes([study])[0].scale("y")
    assert scale.low < -1 and scale.high > 3
    assert "naive −0.33 (" in KIND.answer(study)
    edit_result(tmp_path / "bs128_naive", base_batch=1024, global_batch=4096)
    edit_result(tmp_path / "bs1024_naive", base_batch=1024)
    text = KIND.answer(read_study(tmp_path))
    assert text.endswith("No larger batch has a slope against log t to compare.")


def test_one_seed(tmp_path):
    study = read_study(write_generalization_workdir(tmp_path, seeds=1, noise=0.01))
    assert not any("±" in cell for row in rows_of(study).values() for cell in row.values())


def test_seeds_that_diverged_are_left_out_of_the_numbers(tmp_path):
    write_point(tmp_path, 128, law=log_law(3.0))
    path = write_point(tmp_path, 1024, law=log_law(2.0), diverged={1: 200})
    runs = json.loads((path / "result.json").read_text())["runs"]
    runs[1]["curve"]["weight_distance"][-1] = 1e9
    edit_result(path, runs=runs)
    study = read_study(tmp_path)
    assert KIND.cautions(study) == [
        "bs1024_naive: some seeds diverged; the numbers are of the others."
    ]
    point = study.points[1]
    assert point.slope == pytest.approx(2.0) and list(point.fits) == [0, 2]
    assert len(point.mean("weight_distance")) == len(runs[0]["curve"]["step"])
    expected = [runs[i]["curve"]["weight_distance"][-1] for i in (0, 2)]
    assert point.finals("weight_distance") == expected
    [panel] = charts.curves([study], "distance")
    lost = [mark for mark in panel.marks if isinstance(mark, Line) and mark.faint and mark.guide]
    assert [max(mark.x) for mark in lost] == [max(runs[1]["curve"]["step"])]
    assert panel.scale("y").high < 100
    assert rows_of(study)["bs1024_naive"]["seeds"] == "2 of 3"


def test_a_batch_all_of_whose_seeds_diverged(tmp_path):
    write_point(tmp_path, 128, law=log_law(3.0))
    write_point(tmp_path, 1024, law=log_law(2.0), diverged={0: 50, 1: 60, 2: 1}, layers=None)
    study = read_study(tmp_path)
    assert KIND.answer(study).endswith("No larger batch has a slope against log t to compare.")
    [panel] = charts.curves([study], "distance")
    lost = [m for m in panel.marks if m.series == "batch 1,024"]
    assert len(lost) == 3 and all(line.guide and line.faint for line in lost)
    row = rows_of(study)["bs1024_naive"]
    assert row["seeds"] == "0 of 3" and row["slope"] == row["distance"] == "–"
    write_report([tmp_path], tmp_path / "out", lambda _: None)


def test_nothing_but_divergence(tmp_path):
    write_point(tmp_path / "w", 128, law=log_law(1.0), seeds=1, diverged={0: 3}, layers=None)
    study = read_study(tmp_path / "w")
    assert KIND.answer(study).endswith("from initialisation has no fit at any batch.")
    text = write_report([tmp_path / "w"], tmp_path / "out", lambda _: None).read_text()
    assert text.count("There is no figure to show: no seed that did not diverge") == 5
    assert text.count("There is no figure to show: the record holds no norms of") == 1
    assert text.count("There is no figure to show: no point has a fit") == 1


def test_records_without_fits_or_a_column(tmp_path):
    for batch in (128, 1024):
        path = write_point(tmp_path, batch, law=log_law(3.0), seeds=2)
    runs = json.loads((path / "result.json").read_text())["runs"]
    runs[0]["diffusion"] = None
    for run in runs:
        run["curve"]["validation_error"] = [None] * len(run["curve"]["step"])
    edit_result(path, runs=runs, fit_steps=[10, 90])
    study = read_study(tmp_path)
    few, short = KIND.cautions(study)
    assert few.startswith("bs1024_naive: too few evaluations of some seeds")
    assert short.startswith("bs1024_naive: the fits cover less than a factor of 10")
    assert study.points[1].slope == pytest.approx(3.0)
    [panel] = charts.curves([study], "validation")
    assert [mark.label for mark in panel.marks if mark.label] == ["batch 128"]
    row = rows_of(study)["bs1024_naive"]
    assert row["validation error"] == "–" and row["distance"] != "–"
    edit_result(path, runs=[run | {"diffusion": None} for run in runs])
    edit_result(tmp_path / "bs128_naive", runs=[run | {"diffusion": None} for run in runs])
    study = read_study(tmp_path)
    assert KIND.answer(study).endswith("has no fit at any batch.")
    [panel] = charts.curves([study], "distance")  # the curves are still there
    assert {mark.label for mark in panel.marks if mark.label} == {"batch 128", "batch 1,024"}


def test_layers_as_in_the_paper_s_table(study):
    table = next(t for t in blocks_of(study, Table) if "layer" in t.cells()[0])
    _, *rows = table.cells()
    expected = []
    for point in (study.points[0], study.points_of("naive")[-1]):
        layers = record(point)["layers"]
        for layer in layers:
            row = [f"{point.global_batch:,}", layer["name"], f"{layer['size']:,}"]
            for norms in (layer["start"], layer["end"]):
                weight, grad = norms["weight_norm"], norms["grad_norm"]
                row += map(number, [weight, grad, weight / grad])
            expected.append(row)
    assert rows == expected


def test_unevenness_of_layers(study):
    table = next(t for t in blocks_of(study, Table) if t.cells()[0][1] == charts.WHEN["start"])
    ratios = [weight / grad for name, _, weight, grad in LAYERS if name.endswith("kernel")]
    factor = number(max(ratios) / min(ratios))
    assert [row[:2] for row in table.cells()[1:]] == [["128", factor], ["8,192", factor]]


def test_layer_figures_name_every_kernel(study):
    names = [name for name, *_ in LAYERS if name.endswith("kernel")]
    panels = charts.layers([study])
    axes = draw(panels).figure.axes
    for panel, one in zip(panels, axes, strict=True):
        assert [label.get_text() for label in one.get_yticklabels()] == names
        assert one.get_xlim() == axes[0].get_xlim()
        assert len(panel.marks) == 4


def test_layers_that_are_not_recorded(tmp_path):
    write_point(tmp_path / "w", 128, law=log_law(3.0), layers=None)
    write_point(tmp_path / "w", 512, law=log_law(3.0), layers=LAYERS[:1])
    study = read_study(tmp_path / "w")
    assert charts.layers([study])
    edit_result(tmp_path / "w" / "bs512_naive", layers=None)
    text = write_report([tmp_path / "w"], tmp_path / "out", lambda _: None).read_text()
    assert "There is no figure to show: the record holds no norms of kernels" in text


def test_a_gradient_that_is_zero_has_no_ratio(tmp_path):
    layers = (("a.kernel", 4, 1.0, 0.0), ("b.kernel", 4, 1.0, 0.5))
    write_point(tmp_path, 128, law=log_law(3.0), layers=layers)
    study = read_study(tmp_path)
    assert study.points[0].layers[0].start.ratio is None
    assert [len(mark.x) for mark in charts.layers([study])[0].marks] == [1]


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
            assert row["recipes"].split() == result["recipes"]
            assert float(row["final_validation_error"]) == run["curve"]["validation_error"][-1]
            for law, fit in run["diffusion"].items():
                for key, value in fit.items():
                    assert float(row[f"diffusion_{law}_{key}"]) == value
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
    assert report[1][1].startswith("On Fashion-MNIST with an MLP, three laws fit the distance")
    for point in study.points:
        errors = [run["curve"]["validation_error"][-1] for run in record(point)["runs"]]
        mean, sd = 100 * statistics.mean(errors), 100 * statistics.stdev(errors)
        assert f"<td>{mean:.3g}% ± {sd:.2g}%</td>" in text
        seeds = [run["diffusion"]["log"]["slope"] for run in record(point)["runs"]]
        assert f"<td>{number(statistics.mean(seeds))} ± {statistics.stdev(seeds):.2g}</td>" in text
    assert "<td>0, 1, 2</td>" in text


def test_two_studies_share_the_figures(tmp_path):
    workdirs = [
        write_generalization_workdir(tmp_path / name, (128, 512), (), seeds=2, title=name)
        for name in ("a", "b")
    ]
    studies = read_studies(workdirs)
    sections = list(KIND.sections(studies))
    pictures = [b for section in sections for b in section.blocks if isinstance(b, Picture)]
    assert len(pictures) == 7
    for picture in pictures:
        assert {panel.title.split(",")[0] for panel in picture.panels} == {"a", "b"}
        assert len(draw(picture.panels).figure.axes) == len(picture.panels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch": 128}, "are both of batch 128 and recipe naive; keep one"),
        ({"base_batch": 256}, r"differ in their base batch \(128 and 256\)"),
        ({"optimizer": "lars"}, r"differ in their optimizer \(momentum and lars\)"),
        ({"train_size": 1}, r"differ in their training set size \(55000 and 1\)"),
        ({"runs": [{"seed": 0}]}, r"lacks runs\[0\].status"),
        ({"layers": [{"name": "a"}]}, r"lacks layers\[0\].size"),
    ],
)
def test_records_that_do_not_belong_together(tmp_path, changes, message):
    write_point(tmp_path, 128, law=log_law(3.0), seeds=1)
    path = write_point(tmp_path, 512, law=log_law(2.0), seeds=1)
    edit_result(path, **changes)
    with pytest.raises(UserError, match=message):
        read_study(tmp_path)


def test_a_recipe_may_change_the_optimizer_and_the_model(tmp_path):
    write_point(tmp_path, 128, law=log_law(3.0), recipes=["naive", "gbn"])
    write_point(tmp_path, 512, "gbn", law=log_law(3.0), norm="ghost")
    settings = {"optim.name": "lars", "model.widths": "(512, 1024)"}
    write_point(tmp_path, 512, "lars", law=log_law(3.0), optimizer="lars", settings=settings)
    path = tmp_path / "bs512_lars" / "config.json"
    path.write_text(path.read_text().replace("512\n    ],", "1024\n    ],"))
    assert "1024" in path.read_text()
    assert read_study(tmp_path).recipes == ["naive", "gbn", "lars"]
    edit_result(tmp_path / "bs512_lars", settings={"optim.name": "lars"})
    with pytest.raises(UserError, match="differ in their model"):
        read_study(tmp_path)


def test_curves_of_unequal_length_are_refused(tmp_path):
    path = write_point(tmp_path, 128, law=log_law(3.0), seeds=1)
    runs = json.loads((path / "result.json").read_text())["runs"]
    runs[0]["curve"]["grad_norm"].pop()
    edit_result(path, runs=runs)
    with pytest.raises(UserError, match="values of grad_norm, not one per step"):
        read_study(tmp_path)
