import csv
import json
import re
import shlex
import shutil
import statistics

import numpy as np
import pytest
from parsed import check_nothing_runs
from readers import read_studies, read_study
from scaling.report.paper import draw
from scaling.report.screen import plots
from scipy import stats
from synthetic import HOSTILE, edit_result
from synthetic_accuracy import (
    COSTS,
    accuracy_result,
    diverged_run,
    run,
    tuning_keys,
    write_accuracy_workdir,
    write_curves,
    write_point,
)

from scaling.errors import UserError
from scaling.report import write_report
from scaling.report.blocks import Heading, Note, Picture, Table
from scaling.report.charts import Axis, Line, Panel, Points, Rule, Span, near
from scaling.report.kind import accuracy
from scaling.studies.accuracy import charts, curves
from scaling.studies.accuracy.judging import changes, recommended, to_reference, verdict
from scaling.studies.accuracy.papers import paper_tables
from scaling.studies.accuracy.texts import flags, points_text, some

FEW = {recipe: COSTS[recipe] for recipe in ("naive", "linear", "sqrt", "sqrt+gbn")}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_accuracy_workdir(tmp_path_factory.mktemp("accuracy") / "runs")


@pytest.fixture(scope="module")
def study(workdir):
    return read_study(workdir)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Tuned by recipe; lamb's best rates lie at the end of its range."""
    return write_accuracy_workdir(tmp_path_factory.mktemp("tuned") / "runs", tuned=True)


def record(workdir, batch, recipe):
    return json.loads((workdir / f"bs{batch}_{recipe}" / "result.json").read_text())


def errors_of(result):
    """Test errors, None where a seed diverged."""
    return [one["test"] and one["test"]["error"] for one in result["runs"]]


def pair(tmp_path, errors, reference=(0.10, 0.11, 0.12), order=("naive",), **changes):
    """A study of the base batch and one point of batch 512, with these test errors by seed."""
    base = [run(seed, error) for seed, error in enumerate(reference)]
    write_point(tmp_path / "bs128_naive", accuracy_result("naive", 128, base), list(order))
    runs = [
        diverged_run(seed) if error is None else run(seed, error)
        for seed, error in enumerate(errors)
    ]
    record = accuracy_result("naive", 512, runs, **changes)
    write_point(tmp_path / "bs512_naive", record, list(order))
    return read_study(tmp_path)


def section(studies, title):
    [found] = [one for one in accuracy.sections(studies) if one.title == title]
    return found.blocks


def marks(panels, kind, label=None):
    found = [mark for panel in panels for mark in panel.marks if isinstance(mark, kind)]
    return [mark for mark in found if label is None or mark.label == label]


# Reading.


def test_points_are_read_by_batch_and_in_the_order_of_the_study(study):
    assert study.batches == [128, 512, 2048, 8192] and study.recipes == list(COSTS)
    assert study.reference.directory.name == "bs128_naive"
    for recipe in ("naive", "linear", "sqrt"):  # one run under three names
        assert study.of(128, recipe) is study.reference
    assert len(study.at(128)) == len(COSTS) - 2 and len(study.at(512)) == len(COSTS)


def test_without_an_order_recipes_stand_by_name_after_the_naive_one(tmp_path):
    for recipe in ("sqrt", "lamb", "naive"):
        result = accuracy_result(recipe, 512, [run(0, 0.1)])
        write_point(tmp_path / f"bs512_{recipe}", result, None)
    assert read_study(tmp_path).recipes == ["naive", "lamb", "sqrt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerance": 0.01}, "differ in their tolerance"),
        ({"recipes": ["linear", "naive"]}, "both of batch 512 and recipe naive"),
    ],
)
def test_points_that_do_not_belong_together(tmp_path, change, message):
    pair(tmp_path, [0.1, 0.1, 0.1])
    result = accuracy_result("linear", 512, [run(0, 0.1)]) | change
    write_point(tmp_path / "bs512_other", result, ["naive", "linear"])
    with pytest.raises(UserError, match=message):
        read_study(tmp_path)


def test_models_may_differ_in_what_recipes_set_alone(tmp_path, workdir):
    assert {p.directory.recipe["model"]["norm"] for p in read_study(workdir).points} == {
        "batch",
        "ghost",
    }
    pair(tmp_path, [0.1, 0.1, 0.1])
    path = tmp_path / "bs512_naive" / "config.json"
    path.write_text(path.read_text().replace('"depth": 8', '"depth": 20'))
    with pytest.raises(UserError, match="differ in their model"):
        read_study(tmp_path)


# Judging.


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([0.101, 0.111, 0.1211], "holds"),  # +0.1 points, nearly whatever the seed
        ([0.099, 0.109, 0.1191], "holds"),
        ([0.101, 0.111, 0.121], "unclear: no spread"),
        ([0.106, 0.116, 0.1261], "costs"),
        ([0.104, 0.118, 0.118], "unclear"),  # +0.33, from -1.3 to +1.9
        ([0.1044, 0.1146, 0.1255], "unclear"),  # +0.48 (+0.34 to +0.62): some, perhaps too much
        ([0.11, 0.10, 0.16], "unclear"),  # +1.3, from -5.6: above the tolerance by chance
        ([0.2], "unclear: one seed"),
        ([0.10, None, 0.12], "1 of 3 seeds diverged"),
        ([None, None, None], "3 of 3 seeds diverged"),
        ([], "every seed diverged"),
    ],
)
def test_verdicts(tmp_path, errors, said):
    status = {} if errors else {"status": "diverged"}
    study = pair(tmp_path, errors, **status)
    assert str(verdict(study, study.of(512, "naive"))) == said
    assert str(verdict(study, study.reference)) == "reference"


def test_the_tolerance_is_the_record_s(tmp_path):
    pair(tmp_path, [0.106, 0.116, 0.1261])
    for name in ("bs128_naive", "bs512_naive"):
        edit_result(tmp_path / name, tolerance=0.02)
    study = read_study(tmp_path)
    assert verdict(study, study.of(512, "naive")).word == "holds"
    assert "holds within 2 points" in accuracy.answer(study)


def test_differences_are_paired_by_seed(study, workdir):
    base = errors_of(record(workdir, 128, "naive"))
    for point in study.points[1:]:
        mine = errors_of(record(workdir, point.global_batch, point.recipe))
        both = np.array([(b, a) for a, b in zip(base, mine, strict=True) if b is not None])
        found = to_reference(study, point)
        if len(both) < 2:
            assert found.low is None
            continue
        expected = stats.ttest_rel(both[:, 0], both[:, 1])
        low, high = expected.confidence_interval()
        assert found.difference == pytest.approx(np.diff(both[:, ::-1]).mean())
        assert (found.low, found.high) == pytest.approx((low, high))
        assert found.p == pytest.approx(expected.pvalue)


def test_seeds_are_matched_by_their_number_and_not_their_place(tmp_path):
    pair(tmp_path, [0.101, 0.111, 0.1211])
    result = record(tmp_path, 512, "naive")
    edit_result(tmp_path / "bs512_naive", runs=result["runs"][::-1])
    study = read_study(tmp_path)
    found = to_reference(study, study.of(512, "naive"))
    expected = stats.ttest_rel([0.101, 0.111, 0.1211], [0.10, 0.11, 0.12])
    assert found.p == pytest.approx(expected.pvalue) and found.pairs == 3


def test_p_values_are_adjusted_for_all_recipes_of_a_batch(study, workdir):
    naive = errors_of(record(workdir, 2048, "naive"))
    p_values = {
        recipe: stats.ttest_rel(naive, errors_of(record(workdir, 2048, recipe))).pvalue
        for recipe in COSTS
        if recipe != "naive"
    }
    expected, least = {}, 0.0
    for rank, recipe in enumerate(sorted(p_values, key=p_values.get)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[recipe]))
        expected[recipe] = least
    found = {point.recipe: change.p for point, change in changes(study, 2048).items()}
    assert found == pytest.approx(expected)
    # At the base batch three names are one run: it is compared with itself under none of them.
    assert {p.recipe for p in changes(study, 128)} == set(COSTS) - {"naive", "linear", "sqrt"}


def test_recommended_by_validation_whatever_the_test_says(tmp_path):
    pair(tmp_path, [0.13, 0.14, 0.15], order=("naive", "sqrt", "linear"))
    for recipe, test, validation in (("sqrt", 0.20, 0.05), ("linear", 0.09, 0.07)):
        runs = [run(seed, test + seed / 99.9, validation) for seed in range(3)]
        result = accuracy_result(recipe, 512, runs)
        write_point(tmp_path / f"bs512_{recipe}", result, ["naive", "sqrt", "linear"])
    study = read_study(tmp_path)
    assert recommended(study, 512).recipe == "sqrt"
    text = accuracy.answer(study)
    assert "validation picks sqrt: 21.00% ± 1.00, +10.00 points" in text
    assert text.endswith("is 512 (linear, which validation does not pick there).")
    runs = [diverged_run(0), *(run(seed, 0.2, 0.01) for seed in (1, 2))]
    edit_result(tmp_path / "bs512_sqrt", runs=runs)
    assert recommended(read_study(tmp_path), 512).recipe == "linear"


# The answer.


def test_answer(study, workdir):
    text = accuracy.answer(study)
    base, naive = (errors_of(record(workdir, batch, "naive")) for batch in (128, 8192))
    mean, deviation = 100 * np.mean(base), 100 * np.std(base, ddof=1)
    added = 100 * (np.mean(naive) - np.mean(base))
    assert text.startswith(
        f"On Fashion-MNIST with a ResNet, test error is {mean:.2f}% ± {deviation:.2f} at batch "
        f"128 (naive, 5 seeds); at batch 8,192 the naive recipe is {added:.2f} points worse (95%: "
    )
    assert "Of 10 recipes there validation picks sqrt+gbn+adapt (64 times the epochs): " in text
    assert "; without more epochs lars+warmup+poly: " in text
    assert text.count("which holds within 0.5 points") == 2
    assert text.endswith("; no batch measured is too large.")


def test_answer_where_no_recipe_holds_at_the_largest_batch(tmp_path):
    text = accuracy.answer(read_study(write_accuracy_workdir(tmp_path, costs=FEW)))
    assert "validation picks sqrt+gbn: 11.52%" in text
    assert "which may or may not hold within 0.5 points" in text
    assert text.endswith("; the largest batch at which a recipe holds is 512 (sqrt+gbn).")


def test_answer_where_only_more_epochs_hold(tmp_path):
    costs = {"naive": 0.004, "sqrt+gbn": 0.003, "sqrt+gbn+adapt": 0.0}
    text = accuracy.answer(read_study(write_accuracy_workdir(tmp_path, costs=costs, failing=())))
    assert text.endswith("is 8,192 (sqrt+gbn+adapt), none without more epochs.")
    assert "without more epochs sqrt+gbn: " in text and "which costs more than 0.5 points" in text


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([0.11, 0.121, 0.13], "is 1.03 points worse (95%: +0.89 to +1.18)"),
        ([0.09, 0.101, 0.11], "is 0.97 points better (95%: −1.11 to −0.82)"),
        ([0.101, 0.108, 0.12], "is 0.03 points better (95%: −0.41 to +0.35, which may be chance)"),
        ([0.13], "is 3.00 points worse (one seed, which may be chance)"),
        ([0.1, None, None], "diverged (2 of 3 seeds)"),
    ],
)
def test_answer_whichever_way_the_naive_recipe_points(tmp_path, errors, said):
    assert f"the naive recipe {said}. " in accuracy.answer(pair(tmp_path, errors))


def test_answer_of_one_recipe_and_of_one_batch(tmp_path):
    text = accuracy.answer(pair(tmp_path / "two", [0.12, 0.131, 0.141]))
    assert "No other recipe was measured there; it costs more than 0.5 points; no recipe" in text
    path = tmp_path / "two" / "bs512_naive"
    result = json.loads((path / "result.json").read_text())
    shutil.rmtree(path)
    write_point(path.with_name("bs512_lars"), {**result, "recipe": "lars", "recipes": ["lars"]}, [])
    text = accuracy.answer(read_study(tmp_path / "two"))
    assert "The only recipe there is lars: 13.07% ± 1.05, " in text
    runs = [run(seed, 0.1 + seed / 100) for seed in range(3)]
    write_point(tmp_path / "one" / "bs128", accuracy_result("naive", 128, runs), ["naive"])
    text = accuracy.answer(read_study(tmp_path / "one"))
    assert "test error is 11.00% ± 1.00 at batch 128 (naive, 3 seeds); " in text
    assert text.endswith("; no larger batch was measured.")


def test_everything_diverged(tmp_path):
    tuning = tuning_keys("naive", 512, 0.1)["tuning"]
    nothing = {"validation_error": None, "status": "diverged"}
    trials = [trial | nothing for trial in tuning["trials"]]
    tuning |= {"trials": trials, "best": None, "at_edge": "low"}
    study = pair(tmp_path, [], tuning=tuning, learning_rate=None)
    text = accuracy.answer(study)
    assert "the naive recipe diverged (every learning rate tried). The only recipe there" in text
    found = accuracy.cautions(study)
    assert any("naive at batch 512 (every learning rate tried)" in one for one in found)
    assert not any("end of the range" in one for one in found)
    page = write_report([tmp_path], tmp_path / "out", lambda _: None).read_text()
    assert "none without diverging" in page


def test_without_the_base_batch_there_is_no_reference(tmp_path):
    study = read_study(write_accuracy_workdir(tmp_path, (512, 2048), costs=FEW))
    text = accuracy.answer(study)
    assert "batch 128, the reference, was not measured; at batch 2,048 validation picks" in text
    assert str(verdict(study, study.points[0])) == "unclear: no reference"
    assert any("no point at the base batch 128" in one for one in accuracy.cautions(study))
    assert not marks(charts.error_by_batch([study]), Span)


def test_without_a_naive_recipe_the_first_one_is_compared_with(tmp_path):
    costs = {recipe: COSTS[recipe] for recipe in ("linear+warmup+poly", "lars+warmup+poly")}
    study = read_study(write_accuracy_workdir(tmp_path, costs=costs, failing=()))
    assert study.baseline == "linear+warmup+poly"
    assert "at batch 8,192 the linear+warmup+poly recipe is " in accuracy.answer(study)
    assert [point.recipe for point in changes(study, 8192)] == ["lars+warmup+poly"]


# What a reader must know.


def test_cautions(study):
    found = " ".join(accuracy.cautions(study))
    assert "up to 64 times as many: sqrt+gbn+adapt" in found
    assert "linear at batch 8,192 (3 of 5 seeds) and lamb at batch 8,192 (5 of 5 seeds)" in found
    assert "Up to 9 recipes are compared with naive at one batch" in found and "Holm" in found
    assert "tuned" not in found and "One seed" not in found


def test_cautions_about_tuning_seeds_and_unfinished_points(tmp_path):
    workdir = write_accuracy_workdir(tmp_path, (128, 8192), costs=FEW, failing=(), seeds=4)
    edit_result(workdir / "bs8192_sqrt", **tuning_keys("lamb", 8192, 0.1))
    edit_result(workdir / "bs8192_linear", **tuning_keys("linear", 8192, 0.1, count=12))
    runs = record(workdir, 8192, "naive")["runs"]
    edit_result(workdir / "bs8192_naive", runs=runs[:1])
    (workdir / "bs8192_other").mkdir()
    (workdir / "bs8192_other" / "config.json").write_text("{}")
    found = " ".join(accuracy.cautions(read_study(workdir)))
    assert "Not finished, and therefore not in here: bs8192_other." in found
    assert "One seed, so no spread and no verdict: naive at batch 8,192." in found
    assert "Points have 1 to 4 seeds" in found
    assert "end of the range tried: sqrt at batch 8,192 (high)" in found
    assert "tuned for linear and sqrt but not for naive and sqrt+gbn; the comparison" in found
    assert "tuned with 8 to 12 trials" in found


def test_one_seed_has_no_spread_anywhere(tmp_path):
    workdir = write_accuracy_workdir(tmp_path, costs=FEW, seeds=1, failing=())
    study = read_study(workdir)
    assert accuracy.cautions(study)[0].startswith("One seed per point has no spread")
    assert "±" not in accuracy.answer(study)
    [table] = [b for b in section([study], "Every recipe at every batch") if isinstance(b, Table)]
    assert {row[9] for row in table.rows} == {"reference", "unclear: one seed"}
    assert {row[11] for row in table.rows} == {"–"}


# Figures.


def test_errors_are_drawn_as_measured(study, workdir):
    panels = charts.error_by_batch([study])
    assert [panel.title for panel in panels] == [
        "learning rate", "beyond the learning rate", "other optimizers",
    ]  # fmt: skip
    for recipe in ("sqrt", "lars+warmup+poly", "sqrt+gbn+adapt"):
        [shown] = marks(panels, Points, recipe)
        batches = [128, 512, 2048, 8192][recipe == "sqrt" :]  # the naive one's mark is its own too
        errors = [errors_of(record(workdir, batch, recipe)) for batch in batches]
        assert shown.y == pytest.approx([np.mean(some) for some in errors])
        spreads = [np.std(some, ddof=1) for some in errors]
        assert np.subtract(shown.high, shown.y) == pytest.approx(spreads)
        assert np.subtract(shown.y, shown.low) == pytest.approx(spreads)
        assert np.abs(np.log2(shown.x) - np.log2(batches)).max() < 0.3
    assert len(marks(panels, Points, "naive")) == len(panels)
    level = np.mean(errors_of(record(workdir, 128, "naive")))
    for panel in panels:
        [rule] = marks([panel], Rule)
        [span] = marks([panel], Span, "reference ± 0.50 points")
        assert rule.y == pytest.approx(level) and span.axis == "y"
        assert (span.low, span.high) == pytest.approx((level - 0.005, level + 0.005))
    assert all(panel.scale("y") == panels[0].scale("y") for panel in panels)


def test_what_diverged_or_is_far_off_stands_above_the_scale(tmp_path):
    costs = FEW | {"lamb": 0.1}
    failing = (("linear", 8192, 2), ("linear", 2048, 1))
    workdir = write_accuracy_workdir(tmp_path, costs=costs, failing=failing)
    [panel] = charts.error_by_batch([read_study(workdir)])
    ceiling = max(max(mark.y) for mark in marks([panel], Line))
    assert ceiling < 0.14
    above = [mark for mark in marks([panel], Points) if mark.hollow and len(mark.x)]
    assert [(mark.marker, len(mark.x), mark.names) for mark in above] == [
        ("o", 2, ["linear", ""]),
        ("^", 3, ["", "lamb", ""]),
    ]
    assert above[0].y[0] > above[1].y[0] > ceiling
    assert "2 of 5 seeds diverged" in above[0].texts[1]
    low, high, ticks = panel.scale("y")
    assert above[0].y[0] < high and max(ticks) < above[1].y[0] and low > 0.09
    for recipe in ("linear", "lamb"):  # what is above is not on the scale as well
        [shown] = marks([panel], Points, recipe)
        assert len(shown.x) == 1
    [legend] = [trace for trace in plots([panel])[0]["data"] if trace["name"] == charts.FAILED]
    assert legend["x"] == [None] and legend["showlegend"]


def test_the_gap_is_that_of_the_records(study, workdir):
    [panel] = charts.gap([study])
    drawn = [mark.label for mark in marks([panel], Points) if mark.label]
    assert drawn == ["naive", "sqrt+gbn+adapt", "lars+warmup+poly"]
    train, test = marks([panel], Points)[:2]
    for i, batch in enumerate((128, 512, 2048, 8192)):
        runs = record(workdir, batch, "naive")["runs"]
        assert train.y[i] == pytest.approx(np.mean([one["train"]["error"] for one in runs]))
        assert test.y[i] == pytest.approx(np.mean([one["test"]["error"] for one in runs]))
        assert study.of(batch, "naive").gap == pytest.approx(test.y[i] - train.y[i])
    assert train.hollow and panel.scale("y").low < 0 and min(panel.scale("y").ticks) == 0


def test_curves_are_means_over_seeds_against_epochs(study, workdir):
    panels = curves.curves([study])
    assert [panel.title for panel in panels] == [
        "naive recipe", "batch 8k, as many epochs", "batch 8k, step by step",
    ]  # fmt: skip
    lines = marks(panels[:1], Line)
    assert [line.label for line in lines] == ["batch 128", "batch 512", "batch 2k", "batch 8k"]
    text = (workdir / "bs512_naive" / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    rows = [row for row in rows if row["split"] == "validation"]
    steps = sorted({row["step"] for row in rows})
    expected = [np.mean([row["error"] for row in rows if row["step"] == step]) for step in steps]
    assert lines[1].y == pytest.approx(expected)
    assert lines[1].x == pytest.approx([50 * step / 4883 for step in steps])
    assert panels[2].x.label == "optimizer step"
    longest = {line.label: line.x[-1] for line in marks(panels[2:], Line)}
    assert all(min(line.x) > 0 for line in marks(panels[2:], Line))  # logs have no place for 0
    assert lines[0].x[0] == 0
    assert longest["sqrt+gbn+adapt, batch 8k"] == longest["naive, batch 128"] == 19531
    point = study.of(8192, "linear")  # three of its five seeds diverged
    assert curves.curve(point)[-1][1] == pytest.approx(point.mean("validation"))


def test_without_metrics_there_are_no_curves(tmp_path):
    workdir = write_accuracy_workdir(tmp_path / "w", (128, 8192), curves=False)
    write_report([workdir], tmp_path, lambda _: None)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"accuracy", "accuracy_gap"}
    titles = [one.title for one in accuracy.sections(read_studies([workdir]))]
    assert "Validation error over training" not in titles and "Learning rates" not in titles
    write_curves(workdir / "bs128_naive", record(workdir, 128, "naive"))
    path = workdir / "bs128_naive" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 1, "spl')  # a write cut short
    [panel] = curves.curves(read_studies([workdir]))
    assert [line.label for line in marks([panel], Line)] == ["batch 128"]


def test_tuning(tuned, monkeypatch):
    study = read_study(tuned)
    panels = curves.tuning([study])
    assert len(panels) == len(curves.tuned(study))
    result = record(tuned, 8192, "sqrt")["tuning"]
    [panel] = [panel for panel in panels if panel.title == "sqrt"]
    assert [rule.x for rule in marks([panel], Rule)] == result["range"]
    failed, done, best = marks([panel], Points)
    known = [trial for trial in result["trials"] if trial["status"] == "complete"]
    assert done.y == [trial["validation_error"] for trial in known]
    assert done.x == [trial["learning_rate"] for trial in known]
    assert failed.x == [t["learning_rate"] for t in result["trials"] if t not in known]
    assert min(failed.y) > max(done.y)
    chosen = min(known, key=lambda trial: trial["validation_error"])
    assert (best.x, best.y) == ([chosen["learning_rate"]], [chosen["validation_error"]])
    picture, table = section([study], "Learning rates")
    assert "are shown" not in picture.caption
    monkeypatch.setattr(curves, "PANELS", 9)
    assert "9 of 10 are shown" in section([study], "Learning rates")[0].caption
    edges = {(row[0], row[1]): row[-1] for row in table.rows}
    assert edges["8,192", "lamb"] == "high" and edges["8,192", "sqrt"] == "no"
    assert edges["128", "naive, linear, sqrt"] == "no"


def test_every_picture_holds_something_on_paper_and_on_screen(tuned, tmp_path):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    few = write_accuracy_workdir(tmp_path, (128, 512), costs=FEW, title="few $x$")
    sections = accuracy.sections(read_studies([tuned, few]))
    pictures = [b for one in sections for b in one.blocks if isinstance(b, Picture)]
    assert [picture.name for picture in pictures] == list(accuracy.FIGURES)
    for picture in pictures:
        picture.figure.draw_without_rendering()
        assert len(picture.figure.axes) == len(picture.plots) >= 2
        for plot in picture.plots:
            graph_objects.Figure(plot)  # raises for a key that it does not know
            json.dumps(plot, allow_nan=False)
            assert any(value is not None for trace in plot["data"] for value in trace["x"])


# Tables.


def test_the_page_recommends_by_batch_and_gives_the_flags(study):
    blocks = section([study], "What holds")
    rows = {(row[0], row[1]): row for row in blocks[0].rows}
    assert rows["8,192", "sqrt+gbn+adapt"][2] == "3,200"
    row = rows["8,192", "lars+warmup+poly"]
    point = study.of(8192, "lars+warmup+poly")
    found = to_reference(study, point)
    ends = " to ".join(points_text(end) for end in (found.low, found.high))
    assert row[5] == f"{points_text(found.difference)} ({ends})"
    assert row[6:] == ["holds", "2 of 10"]
    texts = [block.text for block in blocks if isinstance(block, Note)]
    assert (
        "batch 8,192, sqrt+gbn+adapt: --config.global_batch=8192 --config.optim.scaling_rule=sqrt "
        "--config.model.norm=ghost --config.model.ghost_batch=128" in texts
    )


def test_flags_can_be_given_to_a_shell(tuned):
    study = read_study(tuned)
    point = study.of(8192, "lars+warmup+poly")
    text, unset = flags(point).split(" and, in the config, None for ")
    assert unset == "optim.weight_decay"
    given = lambda text: dict(flag[len("--config.") :].split("=", 1) for flag in shlex.split(text))
    found = given(text)
    assert found["optim.name"] == "lars" and found["schedule.warmup"] == "5 epochs"
    # Tuned, so for no rule; the warmup starts from the same share of it, here all of it.
    assert float(found["optim.base_lr"]) == pytest.approx(point.learning_rate, rel=1e-5)
    assert found["optim.scaling_rule"] == "none"
    assert float(found["schedule.warmup_init"]) == pytest.approx(point.learning_rate, rel=1e-5)
    point = study.of(8192, "linear+warmup")
    found = given(flags(point))  # the linear rule goes from 0.1 to 6.4
    start = pytest.approx(point.learning_rate / 64, rel=1e-5)
    assert float(found["schedule.warmup_init"]) == start


def test_the_full_table(study, workdir):
    table, note = section([study], "Every recipe at every batch")
    assert len(table.rows) == 4 * len(COSTS)
    rows = {(row[0], row[1]): row for row in table.rows}
    for recipe in ("naive", "linear", "sqrt"):
        assert rows["128", recipe][4:] == [*rows["128", "naive"][4:9], "reference", "–", "–"]
    row = rows["8,192", "linear"]
    mean = statistics.mean(e for e in errors_of(record(workdir, 8192, "linear")) if e)
    assert row[4].startswith(f"{100 * mean:.2f}% ± ") and row[5] == "2 of 5"
    assert row[9] == "diverged" and rows["8,192", "lamb"][4:6] == ["–", "0 of 5"]
    assert rows["2,048", "sqrt"][7] == "9.00"
    assert "Holm" in note.text


def test_tables_hold_the_numbers_of_the_records(tuned, tmp_path):
    write_report([tuned], tmp_path, lambda _: None)
    read = lambda name: list(csv.DictReader((tmp_path / "tables" / name).open(newline="")))
    rows = read("accuracy.csv")
    assert len(rows) == 5 * len(list(tuned.iterdir()))
    for row in rows:
        result = json.loads((tuned / row["point"] / "result.json").read_text())
        one = result["runs"][int(row["seed"])]
        assert row["recipes"].split() == result["recipes"] and row["status"] == one["status"]
        for split in ("train", "validation", "test"):
            for name in ("loss", "error"):
                known = one[split] and one[split][name]
                assert (float(row[f"{split}_{name}"]) if known else None) == known
    study = read_study(tuned)
    rows = {(int(row["global_batch"]), row["recipe"]): row for row in read("accuracy_summary.csv")}
    assert len(rows) == 4 * len(COSTS)
    row, point = rows[2048, "sqrt"], study.of(2048, "sqrt")
    errors = errors_of(record(tuned, 2048, "sqrt"))
    assert float(row["test_error"]) == pytest.approx(np.mean(errors))
    assert float(row["test_error_sd"]) == pytest.approx(np.std(errors, ddof=1))
    for name, found in (
        ("reference", to_reference(study, point)),
        ("baseline", changes(study, 2048)[point].difference),
    ):
        assert float(row[f"over_{name}"]) == found.difference
        assert float(row[f"over_{name}_low"]) == found.low
        assert float(row[f"over_{name}_p"]) == found.p
    assert float(row["over_baseline_p_adjusted"]) == changes(study, 2048)[point].p
    assert (row["verdict"], row["diverged"], row["baseline"]) == ("costs", "0", "naive")
    assert [key for key, row in rows.items() if row["recommended"] == "True"][-1] == (
        8192,
        "sqrt+gbn+adapt",
    )
    trials = [row for row in read("accuracy_tuning.csv") if row["point"] == "bs512_lamb"]
    expected = record(tuned, 512, "lamb")["tuning"]
    assert [float(row["learning_rate"]) for row in trials] == [
        trial["learning_rate"] for trial in expected["trials"]
    ]
    assert [row["best"] for row in trials].index("True") == expected["best"]
    assert {row["at_edge"] for row in trials} == {"high"}


def test_the_papers_tables(study, workdir):
    blocks = paper_tables(study, "")
    assert [re.sub(", as in", " in", b.text) for b in blocks if isinstance(b, Heading)] == [
        "LARS in You et al. 2017",
        "Scaling rules and warmup at batch 8,192 in Goyal et al. 2017",
        "Test accuracy in Hoffer et al. 2017",
    ]
    you, goyal, hoffer = (block for block in blocks if isinstance(block, Table))
    accuracy_of = lambda batch, recipe: (
        f"{100 - 100 * np.mean(errors_of(record(workdir, batch, recipe))):.2f}%"
    )
    assert you.rows[-1] == [
        "8,192",
        *("linear+warmup+poly", "6.4", accuracy_of(8192, "linear+warmup+poly")),
        *("lars+warmup+poly", "0.1", accuracy_of(8192, "lars+warmup+poly")),
    ]
    assert [row[1:3] for row in goyal.rows] == [
        ["none", "naive"], ["square root", "sqrt"], ["linear", "linear+warmup"],
        ["none", "linear"], ["constant", "linear+constant_warmup"], ["gradual", "linear+warmup"],
    ]  # fmt: skip
    assert goyal.rows[3][4] == "3 of 5 seeds diverged"
    assert hoffer.header == ["batch", "SB (128)", "LB", "+LR", "+GBN", "+RA"]
    recipes = ("naive", "sqrt", "sqrt+gbn", "sqrt+gbn+adapt")
    assert hoffer.rows[1] == [
        "2,048", accuracy_of(128, "naive"), *(accuracy_of(2048, recipe) for recipe in recipes)
    ]  # fmt: skip


def test_the_papers_tables_need_their_recipes(tmp_path):
    costs = {"naive": 0.004, "lamb": 0.001}
    study = read_study(write_accuracy_workdir(tmp_path / "a", costs=costs, failing=()))
    assert paper_tables(study, "") == []
    assert "In the form of the papers" not in [one.title for one in accuracy.sections([study])]
    costs = {"naive": 0.004, "poly+linear+warmup": 0.002, "lars": 0.001}  # pieces in any order
    study = read_study(write_accuracy_workdir(tmp_path / "b", costs=costs, failing=()))
    heading, table, _ = paper_tables(study, "b")
    assert heading.text == "LARS, as in You et al. 2017 (b)"
    assert table.rows[-1][1] == "poly+linear+warmup" and table.rows[-1][4] == "lars"


# The page.


def test_hostile_names_stay_text(tmp_path):
    bad = "<b>x</b>"
    costs = FEW | {bad: 0.0001, HOSTILE: 0.003, "lamb": 0.001}
    failing = ((HOSTILE, 8192, 1),)
    options = {"costs": costs, "failing": failing, "tuned": True, "title": HOSTILE}
    workdir = write_accuracy_workdir(tmp_path / "w", **options)
    edit_result(workdir / "bs8192_<b>x<_b>", settings={bad: [HOSTILE, 1]})
    text = write_report([workdir], tmp_path, lambda _: None).read_text()
    data = check_nothing_runs(text)
    assert "<b>x</b>" not in text and "&lt;b&gt;x&lt;/b&gt;" in text and "<img src=x" not in text
    names = [trace["name"] for plot in data for trace in plot["data"]]
    assert "&lt;b&gt;x&lt;/b&gt;" in names
    told = [t for plot in data for trace in plot["data"] for t in trace.get("hovertext", [])]
    assert sum("<b>&lt;b&gt;x&lt;/b&gt;</b>, batch 8,192" in one for one in told) == 4
    assert not any("<b>x</b>" in one or "<img" in one for one in told)


def test_several_studies_share_the_page(workdir, tmp_path):
    few = write_accuracy_workdir(tmp_path / "few", (128, 512), costs=FEW, title="few")
    said = []
    page = write_report([workdir, few], tmp_path, said.append)
    assert said[1].startswith("few: On Fashion-MNIST")
    studies = read_studies([workdir, few])
    titles = [panel.title for panel in charts.error_by_batch(studies)]
    assert titles[3:] == ["few, learning rate", "few, beyond the learning rate"]
    looks = {(m.label, m.color, m.marker) for m in marks(charts.error_by_batch(studies), Points)}
    assert len([one for one in looks if one[0] == "sqrt+gbn"]) == 1
    assert "batch 512, sqrt+gbn: " in page.read_text()
    accuracy.check_together(studies)


def test_the_origins_name_the_reference_and_the_seeds(study):
    found = dict(accuracy.origins(study))
    assert found["reference"] == ["batch 128, naive"] and found["tolerance"] == ["0.5 points"]
    assert found["seeds of the runs"] == ["0, 1, 2, 3, 4"]


# Axes just around the values.


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.108, 0.137], [0.11, 0.115, 0.12, 0.125, 0.13, 0.135]),
        ([0.0, 0.9], [0.0, 0.2, 0.4, 0.6, 0.8]),
        ([-1.0, 1.0], [-1.0, -0.5, 0.0, 0.5, 1.0]),
        ([0.12], [0.11, 0.115, 0.12, 0.125, 0.13]),
    ],
)
def test_ticks_of_an_axis_around_the_values(values, ticks):
    scale = near(values)
    assert scale.ticks == pytest.approx(ticks)
    assert scale.low < min(values) and max(values) < scale.high


def test_ends_of_intervals_widen_an_axis_no_further_than_the_values_span():
    assert near([1.0, 2.0], [0.5]).low == pytest.approx(0.5 - 0.06 * 1.5)
    assert near([1.0, 2.0], [-50.0, 50.0])[:2] == pytest.approx((-0.18, 3.18))
    for most in range(2, 12):
        for high in np.geomspace(1e-4, 1e4, 40):
            assert 1 <= len(near([0.0, high], most=most).ticks) <= most


def test_an_axis_around_the_values_on_paper_and_on_screen():
    tick = lambda value: f"{100 * value:g}%" if value < 0.125 else ""
    points = Points([1.0, 64.0], [0.108, 0.137], "#000000", "data")
    span = Span(0.11, 0.12, "#cccccc", "span", axis="y")
    panel = Panel(Axis("batch", "binary"), Axis("error", "near", tick), [span, points])
    [axes] = draw([panel]).axes
    assert [axes.yaxis.get_major_formatter()(t) for t in axes.get_yticks()] == [
        "11%", "11.5%", "12%",
    ]  # fmt: skip
    assert axes.get_ylim() == panel.scale("y")[:2]
    [shade] = axes.patches
    assert (shade.get_y(), shade.get_height()) == pytest.approx((0.11, 0.01))
    [plot] = plots([panel])
    assert plot["layout"]["yaxis"]["ticktext"] == ["11%", "11.5%", "12%"]
    [box] = plot["layout"]["shapes"]
    assert (box["xref"], box["y0"], box["y1"]) == ("paper", 0.11, 0.12)


def test_a_long_legend_takes_no_room_from_the_data():
    x, y = Axis("x"), Axis("y", "near")
    panels = [
        Panel(x, y, [Points([1.0], [1.0], "#000000", str(i)) for i in range(number)])
        for number in (5, 9)
    ]
    short, long = (plot["layout"]["height"] for plot in plots(panels))
    assert long > short == 430


def test_words():
    assert points_text(-0.00001) == "0.00" and points_text(0.012) == "+1.20"
    assert points_text(None) == "–"
    assert some(["a"] * 9) == "a, a, a, a, a, a, a, a and a"
    assert some(["a"] * 10).endswith("a, a and 2 others")
