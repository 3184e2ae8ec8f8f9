import csv
import json
import shlex
import statistics

import numpy as np
import pytest
from readers import read_studies, read_study
from scipy import stats
from synthetic import edit_result
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

from scaling.crossings import ERROR
from scaling.errors import UserError
from scaling.paired import holm
from scaling.report import write_report
from scaling.report.blocks import Picture, Table
from scaling.report.charts import Line, Points, Rule, Span, near
from scaling.report.drawing import draw
from scaling.report.kind import about_all
from scaling.studies.accuracy import charts
from scaling.studies.accuracy.papers import papers
from scaling.studies.accuracy.report import KIND
from scaling.studies.accuracy.texts import flags, points_text

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


def tables(studies, title):
    """Rows of the shown tables of a section, by their first two cells; titles under ()."""
    [section] = [one for one in KIND.sections(studies) if one.title == title]
    found = []
    for block in section.blocks:
        if isinstance(block, Table) and block.shown:
            titles, *rows = block.cells()
            rows = {tuple(row[:2]): dict(zip(titles, row, strict=True)) for row in rows}
            found.append(rows | {(): titles})
    return found


def marks(panels, kind, label=None):
    found = [mark for panel in panels for mark in panel.marks if isinstance(mark, kind)]
    return [mark for mark in found if label is None or mark.label == label]


# Reading.


def test_points_are_read_by_batch_and_in_the_order_of_the_study(study):
    assert study.batches == [128, 512, 2048, 8192] and study.recipes == list(COSTS)
    assert study.reference.directory.name == "bs128_naive"
    for recipe in ("naive", "linear", "sqrt"):  # one run under three names
        assert study.point(128, recipe) is study.reference
    assert len(study.points_at(128)) == len(COSTS) - 2
    assert len(study.points_at(512)) == len(COSTS)


def test_without_an_order_recipes_stand_by_name(tmp_path):
    for recipe in ("sqrt", "lamb", "naive"):
        result = accuracy_result(recipe, 512, [run(0, 0.1)])
        write_point(tmp_path / f"bs512_{recipe}", result, None)
    study = read_study(tmp_path)
    assert study.recipes == ["lamb", "naive", "sqrt"] and study.baseline == "naive"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerance": 0.01}, "differ in their tolerance"),
        ({"optimizer": "adamw"}, r"differ in their optimizer \(momentum and adamw\)"),
        ({"recipes": ["linear", "naive"]}, "both of batch 512 and recipe naive"),
        ({"runs": [{"seed": 0}]}, r"lacks runs\[0\].status"),
    ],
)
def test_points_that_do_not_belong_together(tmp_path, change, message):
    pair(tmp_path, [0.1, 0.1, 0.1])
    result = accuracy_result("linear", 512, [run(0, 0.1)]) | change
    write_point(tmp_path / "bs512_other", result, ["naive", "linear"])
    with pytest.raises(UserError, match=message):
        read_study(tmp_path)


def test_models_may_differ_in_what_recipes_set_alone(tmp_path, workdir):
    norms = {p.directory.recipe["model"]["norm"] for p in read_study(workdir).points}
    assert norms == {"batch", "ghost"}
    pair(tmp_path, [0.1, 0.1, 0.1])
    path = tmp_path / "bs512_naive" / "config.json"
    path.write_text(path.read_text().replace('"depth": 8', '"depth": 20'))
    with pytest.raises(UserError, match="differ in their model"):
        read_study(tmp_path)


# Judging.


@pytest.mark.parametrize(
    ("errors", "word"),
    [
        ([0.101, 0.111, 0.1211], "within tolerance"),  # +0.1 points, nearly whatever the seed
        ([0.099, 0.109, 0.1191], "within tolerance"),
        ([0.101, 0.111, 0.121], "unclear"),  # no spread
        ([0.106, 0.116, 0.1261], "worse"),
        ([0.104, 0.118, 0.118], "unclear"),  # +0.33, from -1.3 to +1.9
        ([0.1044, 0.1146, 0.1255], "unclear"),  # +0.48 (+0.34 to +0.62): some, perhaps too much
        ([0.11, 0.10, 0.16], "unclear"),  # +1.3, from -5.6: above the tolerance by chance
        ([0.2], "unclear"),
        ([0.10, None, 0.12], "diverged"),
        ([None, None, None], "diverged"),
        ([], "diverged"),
    ],
)
def test_verdicts(tmp_path, errors, word):
    status = {} if errors else {"status": "diverged"}
    study = pair(tmp_path, errors, **status)
    assert study.verdict(study.point(512, "naive")) == word
    assert study.verdict(study.reference) == "reference"


def test_the_tolerance_is_the_record_s(tmp_path):
    pair(tmp_path, [0.106, 0.116, 0.1261])
    for name in ("bs128_naive", "bs512_naive"):
        edit_result(tmp_path / name, tolerance=0.02)
    study = read_study(tmp_path)
    assert study.verdict(study.point(512, "naive")) == "within tolerance"
    assert "recipe within 2 points: 512 (naive)." in KIND.answer(study)


def test_differences_are_paired_by_seed(study, workdir):
    base = errors_of(record(workdir, 128, "naive"))
    for point in study.points[1:]:
        mine = errors_of(record(workdir, point.global_batch, point.recipe))
        both = np.array([(b, a) for a, b in zip(base, mine, strict=True) if b is not None])
        found = study.added(point)
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
    found = study.added(study.point(512, "naive"))
    expected = stats.ttest_rel([0.101, 0.111, 0.1211], [0.10, 0.11, 0.12])
    assert found.p == pytest.approx(expected.pvalue) and found.pairs == 3


def test_p_values_are_adjusted_for_all_recipes_of_a_batch(study, workdir):
    naive = errors_of(record(workdir, 2048, "naive"))
    others = [recipe for recipe in COSTS if recipe != "naive"]
    errors = [errors_of(record(workdir, 2048, recipe)) for recipe in others]
    p_values = holm([stats.ttest_rel(naive, one).pvalue for one in errors])
    expected = dict(zip(others, p_values, strict=True))
    found = lambda batch: {
        point.recipe: p for point, (_, p) in study.changes.items() if point.global_batch == batch
    }
    assert found(2048) == pytest.approx(expected)
    # At the base batch three names are one run: it is compared with itself under none of them.
    assert set(found(128)) == set(COSTS) - {"naive", "linear", "sqrt"}


def test_recommended_by_validation_whatever_the_test_says(tmp_path):
    pair(tmp_path, [0.13, 0.14, 0.15], order=("naive", "sqrt", "linear"))
    for recipe, test, validation in (("sqrt", 0.20, 0.05), ("linear", 0.09, 0.07)):
        runs = [run(seed, test + seed / 99.9, validation) for seed in range(3)]
        result = accuracy_result(recipe, 512, runs)
        write_point(tmp_path / f"bs512_{recipe}", result, ["naive", "sqrt", "linear"])
    study = read_study(tmp_path)
    assert study.choices(512)[0].recipe == "sqrt"
    text = KIND.answer(study)
    assert "validation picks sqrt 21.00% ± 1.00, +10.00 " in text
    assert text.endswith(" 512 (linear).")
    runs = [diverged_run(0), *(run(seed, 0.2, 0.01) for seed in (1, 2))]
    edit_result(tmp_path / "bs512_sqrt", runs=runs)
    assert read_study(tmp_path).choices(512)[0].recipe == "linear"


# The answer.


def test_answer(study, workdir):
    text = KIND.answer(study)
    base, naive = (errors_of(record(workdir, batch, "naive")) for batch in (128, 8192))
    mean, deviation = 100 * np.mean(base), 100 * np.std(base, ddof=1)
    largest = f"{100 * np.mean(naive):.2f}% ± {100 * np.std(naive, ddof=1):.2f}"
    added = 100 * (np.mean(naive) - np.mean(base))
    assert text.startswith(
        f"On Fashion-MNIST with a ResNet, test error at batch 128: naive {mean:.2f}% ± "
        f"{deviation:.2f} over 5 seeds. At batch 8,192: naive {largest}, +{added:.2f} ("
    )
    assert "validation picks sqrt+gbn+adapt (64 times the epochs) " in text
    assert "; at equal epochs lars+warmup+poly " in text
    assert text.count(" points, within tolerance") == 2
    assert text.endswith("8,192 (sqrt+gbn+adapt, lars+warmup+poly); at equal epochs: 8,192 "
                         "(lars+warmup+poly).")  # fmt: skip


@pytest.mark.parametrize(
    ("costs", "end"),
    [
        (FEW, " validation picks sqrt+gbn 11.52%"),
        ({"naive": 0.004, "sqrt+gbn": 0.003, "sqrt+gbn+adapt": 0.0}, "; at equal epochs: none."),
        ({"naive": 0.004, "sqrt+gbn": 0.003}, " No recipe is within 0.5 points at a larger batch."),
    ],
)
def test_answer_by_what_is_within_the_tolerance(tmp_path, costs, end):
    text = KIND.answer(read_study(write_accuracy_workdir(tmp_path, costs=costs, failing=())))
    assert end in text


@pytest.mark.parametrize(
    ("errors", "facts"),
    [
        ([0.11, 0.121, 0.13], "naive 12.03% ± 1.00, +1.03 (+0.89 to +1.18) points, worse"),
        ([0.101, 0.108, 0.12], "naive 10.97% ± 0.96, −0.03 (−0.41 to +0.35) points, within tol"),
        ([0.13], "naive 13.00%, +3.00 points, unclear"),
        ([0.1, None, None], "naive diverged (2 of 3 seeds); no recipe finished without diverging."),
    ],
)
def test_answer_whichever_way_the_naive_recipe_points(tmp_path, errors, facts):
    assert f"At batch 512: {facts}" in KIND.answer(pair(tmp_path, errors))


def test_answer_of_one_batch(tmp_path):
    runs = [run(seed, 0.1 + seed / 100) for seed in range(3)]
    write_point(tmp_path / "bs128", accuracy_result("naive", 128, runs), ["naive"])
    assert KIND.answer(read_study(tmp_path)).endswith(
        "batch 128: naive 11.00% ± 1.00 over 3 seeds. No larger batch was measured."
    )


def test_everything_diverged(tmp_path):
    tuning = tuning_keys("naive", 512, 0.1)["tuning"]
    nothing = {"validation_error": None, "status": "diverged"}
    trials = [trial | nothing for trial in tuning["trials"]]
    tuning |= {"trials": trials, "best": None, "at_edge": "low"}
    study = pair(tmp_path, [], tuning=tuning, learning_rate=None)
    assert "naive diverged (every learning rate tried)" in KIND.answer(study)
    found = " ".join(KIND.cautions(study))
    assert "bs512_naive: some seeds diverged" in found and "lowest or highest" not in found
    page = write_report([tmp_path], tmp_path / "out", lambda _: None).read_text()
    assert "none without diverging" in page


def test_without_the_base_batch_there_is_no_reference(tmp_path):
    study = read_study(write_accuracy_workdir(tmp_path, (512, 2048), costs=FEW))
    text = KIND.answer(study)
    assert "batch 128, the reference, was not measured. At batch 2,048: naive " in text
    assert study.verdict(study.points[0]) == "unclear"
    assert not marks(charts.tested([study]), Span)


def test_without_a_naive_recipe_the_first_one_is_compared_with(tmp_path):
    costs = {recipe: COSTS[recipe] for recipe in ("linear+warmup+poly", "lars+warmup+poly")}
    study = read_study(write_accuracy_workdir(tmp_path, costs=costs, failing=()))
    assert study.baseline == "linear+warmup+poly"
    assert "At batch 8,192: linear+warmup+poly " in KIND.answer(study)
    assert {point.recipe for point in study.changes} == {"lars+warmup+poly"}


# Cautions.


def test_cautions(study, tmp_path):
    longer, failed = KIND.cautions(study)
    [many] = about_all(study.points, ("All.", lambda point: True))
    assert many.endswith("and 30 others: All.") and many.count("bs") == 8
    assert longer.startswith("bs512_sqrt+gbn+adapt, bs2048_sqrt+gbn+adapt and bs8192_sqrt+gbn+adap")
    assert failed.startswith("bs8192_linear and bs8192_lamb: some seeds diverged")
    workdir = write_accuracy_workdir(tmp_path, (128, 8192), costs=FEW, failing=(), seeds=4)
    edit_result(workdir / "bs8192_sqrt", **tuning_keys("lamb", 8192, 0.1))
    edit_result(workdir / "bs8192_linear", **tuning_keys("linear", 8192, 0.1, count=12))
    [edge] = KIND.cautions(read_study(workdir))
    assert edge.startswith("bs8192_sqrt: the best learning rate is the lowest or highest")


def test_one_seed_has_no_spread_anywhere(tmp_path):
    workdir = write_accuracy_workdir(tmp_path, costs=FEW, seeds=1, failing=())
    study = read_study(workdir)
    assert "±" not in KIND.answer(study)
    [rows] = tables([study], "Every recipe at every batch")
    titles = rows.pop(())
    assert {row["verdict"] for row in rows.values()} == {"reference", "unclear"}
    assert "p" not in titles


# Figures.


def test_errors_are_drawn_as_measured(study, workdir):
    panels = charts.tested([study])
    assert [panel.title for panel in panels] == list(COSTS)[1:]
    for recipe in ("sqrt", "lars+warmup+poly", "sqrt+gbn+adapt"):
        [panel] = [panel for panel in panels if panel.title == recipe]
        [shown] = marks([panel], Points, charts.OWN)
        assert shown.x == [128, 512, 2048, 8192]
        names = ["naive" if recipe == "sqrt" else recipe, *[recipe] * 3]
        errors = [errors_of(record(workdir, *at)) for at in zip(shown.x, names, strict=True)]
        assert shown.y == pytest.approx([np.mean(some) for some in errors])
        spreads = [np.std(some, ddof=1) for some in errors]
        assert np.subtract(shown.high, shown.y) == pytest.approx(spreads)
        assert np.subtract(shown.y, shown.low) == pytest.approx(spreads)
    assert len(marks(panels, Points, "naive")) == len(panels)
    level = np.mean(errors_of(record(workdir, 128, "naive")))
    for panel in panels:
        [rule] = marks([panel], Rule)
        [span] = marks([panel], Span, "reference ± 0.5 points")
        assert rule.y == pytest.approx(level) and span.axis == "y"
        assert (span.low, span.high) == pytest.approx((level - 0.005, level + 0.005))
    assert all(panel.scale("y") == panels[0].scale("y") for panel in panels)


def test_what_diverged_or_is_far_off_stands_above_the_scale(tmp_path):
    costs = FEW | {"lamb": 0.1}
    failing = (("linear", 8192, 2), ("linear", 2048, 1))
    workdir = write_accuracy_workdir(tmp_path, costs=costs, failing=failing)
    panels = {panel.title: panel for panel in charts.tested([read_study(workdir)])}
    ceiling = max(max(mark.y, default=0) for mark in marks(panels.values(), Points, charts.OWN))
    assert ceiling < 0.14
    for recipe, label, marker, x in (
        ("linear", charts.FAILED, "o", [2048, 8192]),
        ("lamb", charts.OFF_AXIS, "^", [512, 2048, 8192]),
    ):
        [above] = marks([panels[recipe]], Points, label)
        assert (above.marker, above.x, above.hollow) == (marker, x, True)
        assert ceiling < min(above.y) and max(above.y) < panels[recipe].scale("y").high
        [shown] = marks([panels[recipe]], Points, charts.OWN)
        assert not {*shown.x} & {*x}
    [above] = marks([panels["linear"]], Points, charts.FAILED)
    assert "2 of 5 seeds" in above.texts[1]


def test_the_gap_is_that_of_the_records(study, workdir):
    [panel] = charts.gaps([study])
    drawn = [mark.label for mark in marks([panel], Points) if mark.label]
    assert drawn == ["naive", "sqrt+gbn+adapt", "lars+warmup+poly"]
    train, test = marks([panel], Points)[:2]
    for i, batch in enumerate((128, 512, 2048, 8192)):
        runs = record(workdir, batch, "naive")["runs"]
        assert train.y[i] == pytest.approx(np.mean([one["train"]["error"] for one in runs]))
        assert test.y[i] == pytest.approx(np.mean([one["test"]["error"] for one in runs]))
        assert study.point(batch, "naive").gap == pytest.approx(test.y[i] - train.y[i])
    assert train.hollow and panel.scale("y").low < 0


def test_curves_are_means_over_seeds_against_epochs(study, workdir):
    panels = charts.curves([study])
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
    point = study.point(8192, "linear")  # three of its five seeds diverged
    assert charts.curve(point)[-1][1] == pytest.approx(point.mean("validation"))


def test_curves_of_one_batch_size_are_of_every_recipe(tmp_path):
    study = read_study(write_accuracy_workdir(tmp_path / "w", (128,)))
    panels = charts.curves([study])
    assert [panel.y.label for panel in panels] == ["validation loss", "validation error"]
    for panel in panels:
        lines = marks([panel], Line)
        assert panel.title == "batch 128" and len(lines) == len(study.points) > 1
        assert [line.label for line in lines] == [point.recipe for point in study.points]
        assert len({line.color for line in lines}) == len(lines)
    losses, errors = (marks([panel], Line)[0].y for panel in panels)
    assert losses[0] == 2.3 and errors[0] == 0.9 and losses[1:] == errors[1:]


def test_without_metrics_there_are_no_curves(tmp_path):
    workdir = write_accuracy_workdir(tmp_path / "w", (128, 8192), curves=False)
    write_report([workdir], tmp_path, lambda _: None)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"accuracy", "accuracy_gap"}
    titles = [one.title for one in KIND.sections(read_studies([workdir]))]
    assert "Validation error over training" not in titles and "Learning rates" not in titles
    write_curves(workdir / "bs128_naive", record(workdir, 128, "naive"))
    path = workdir / "bs128_naive" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 1, "spl')  # a write cut short
    [panel] = charts.curves(read_studies([workdir]))
    assert [line.label for line in marks([panel], Line)] == ["batch 128"]


def test_tuning(tuned):
    study = read_study(tuned)
    panels = charts.tuning([study])
    assert len(panels) == len(study.points_at(8192))
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
    [rows] = tables([study], "Learning rates")
    assert rows["8,192", "lamb"]["at the edge"] == "high"
    assert rows["8,192", "sqrt"]["at the edge"] == "no"
    assert rows["128", "naive, linear, sqrt"]["range tried"] == "0.01 to 3"


def test_every_picture_can_be_drawn(tuned, tmp_path):
    few = write_accuracy_workdir(tmp_path, (128, 512), costs=FEW, title="few $x$")
    sections = KIND.sections(read_studies([tuned, few]))
    pictures = [b for one in sections for b in one.blocks if isinstance(b, Picture)]
    assert [picture.name for picture in pictures] == [
        "accuracy", "accuracy_gap", "accuracy_curves", "accuracy_tuning",
    ]  # fmt: skip
    for picture in pictures:
        figure = draw(picture.panels).figure
        figure.draw_without_rendering()
        assert len(figure.axes) == len(picture.panels) >= 2


# Tables.


def test_the_page_recommends_by_batch(study):
    [rows] = tables([study], "Which recipe to use")
    assert rows["8,192", "sqrt+gbn+adapt"]["epochs"] == "3,200"
    row = rows["8,192", "lars+warmup+poly"]
    found = study.added(study.point(8192, "lars+warmup+poly"))
    ends = " to ".join(points_text(ERROR, end) for end in (found.low, found.high))
    assert row["points over reference (95%)"] == f"{points_text(ERROR, found.difference)} ({ends})"
    assert row["verdict"] == "within tolerance" and row["within tolerance"] == "2 of 10"


def test_flags_can_be_given_to_a_shell(tuned, study):
    text = flags(study.point(8192, "sqrt+gbn+adapt"))
    assert text == (
        "--config.global_batch=8192 --config.optim.scaling_rule=sqrt --config.model.norm=ghost "
        "--config.model.ghost_batch=128"
    )
    study = read_study(tuned)
    point = study.point(8192, "lars+warmup+poly")
    text, unset = flags(point).split(" and, in the config, None for ")
    assert unset == "optim.weight_decay"
    given = lambda text: dict(flag[len("--config.") :].split("=", 1) for flag in shlex.split(text))
    found = given(text)
    assert found["optim.name"] == "lars" and found["schedule.warmup"] == "5 epochs"
    # Tuned, so for no rule; the warmup starts from the same share of it, here all of it.
    assert float(found["optim.base_lr"]) == pytest.approx(point.learning_rate, rel=1e-5)
    assert found["optim.scaling_rule"] == "none"
    assert float(found["schedule.warmup_init"]) == pytest.approx(point.learning_rate, rel=1e-5)
    point = study.point(8192, "linear+warmup")
    found = given(flags(point))  # the linear rule goes from 0.1 to 6.4
    start = pytest.approx(point.learning_rate / 64, rel=1e-5)
    assert float(found["schedule.warmup_init"]) == start


def test_the_full_table(study, workdir):
    [rows] = tables([study], "Every recipe at every batch")
    assert len(rows) == 1 + 4 * len(COSTS)
    for recipe in ("naive", "linear", "sqrt"):
        assert rows["128", recipe] == rows["128", "naive"] | {"recipe": recipe}
    assert rows["128", "naive"]["verdict"] == "reference"
    row = rows["8,192", "linear"]
    mean = statistics.mean(e for e in errors_of(record(workdir, 8192, "linear")) if e)
    assert row["test error"].startswith(f"{100 * mean:.2f}% ± ") and row["seeds"] == "2 of 5"
    assert row["verdict"] == "diverged" and rows["8,192", "lamb"]["test error"] == "–"
    assert rows["2,048", "sqrt"]["gap"] == "9.00"
    assert len(KIND.table([study]).rows) == len(study.points)
    assert KIND.table([study]).line().startswith("batch 128, recipe naive, steps 19,531, learning")


@pytest.mark.slow
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
    row, point = rows[2048, "sqrt"], study.point(2048, "sqrt")
    errors = errors_of(record(tuned, 2048, "sqrt"))
    assert row["point"] == "bs2048_sqrt"
    assert float(row["test_error_mean"]) == pytest.approx(np.mean(errors))
    assert float(row["test_error_sd"]) == pytest.approx(np.std(errors, ddof=1))
    change, p = study.changes[point]
    for name, found in (("reference", study.added(point)), ("baseline", change)):
        for key, value in vars(found).items():
            assert float(row[f"over_{name}_{key}"]) == value
    assert float(row["over_baseline_p_adjusted"]) == p
    assert (row["verdict"], row["diverged"], row["baseline"]) == ("worse", "0", "naive")
    best = [key for key, row in rows.items() if row["recommended"] == "True"]
    assert best[-1] == (8192, "sqrt+gbn+adapt")
    trials = [row for row in read("accuracy_tuning.csv") if row["point"] == "bs512_lamb"]
    expected = record(tuned, 512, "lamb")["tuning"]
    for row, trial in zip(trials, expected["trials"], strict=True):
        assert float(row["learning_rate"]) == trial["learning_rate"]
    assert [row["best"] for row in trials].index("True") == expected["best"]
    assert {row["at_edge"] for row in trials} == {"high"}


def test_the_papers_tables(study, workdir):
    you, goyal, hoffer = (section.blocks[0].cells() for section in papers([study]))
    mean = lambda batch, recipe: np.mean(errors_of(record(workdir, batch, recipe)))
    accuracy_of = lambda batch, recipe: f"{100 - 100 * mean(batch, recipe):.2f}%"
    base = accuracy_of(128, "naive")
    assert you[0] == ["batch", "small batch (SB)", "without LARS", "with LARS"]
    recipes = ("linear+warmup+poly", "lars+warmup+poly")
    assert you[-1] == ["8,192", base, *(accuracy_of(8192, recipe) for recipe in recipes)]
    assert len(goyal) == 5 and goyal[-1][-1] == "3 of 5 seeds diverged"
    rules = ("naive", "sqrt", "linear+warmup", "linear+constant_warmup", "linear")
    for cell, recipe in zip(goyal[3][2:], rules, strict=True):
        assert cell.startswith(f"{100 * mean(2048, recipe):.2f}% ± ")
    recipes = ("naive", "sqrt", "sqrt+gbn", "sqrt+gbn+adapt")
    assert hoffer[0][2:] == ["LB", "+LR", "+GBN", "+RA"]
    assert hoffer[3] == ["2,048", base, *(accuracy_of(2048, recipe) for recipe in recipes)]


def test_the_papers_tables_need_their_recipes(tmp_path):
    costs = {"naive": 0.004, "lamb": 0.001}
    study = read_study(write_accuracy_workdir(tmp_path / "a", costs=costs, failing=()))
    assert list(papers([study])) == []
    costs = {"naive": 0.004, "linear+warmup": 0.002, "lars": 0.001}  # its second choice
    study = read_study(write_accuracy_workdir(tmp_path / "b", costs=costs, failing=()))
    section = next(papers([study]))
    mean = np.mean(errors_of(record(tmp_path / "b", 8192, "linear+warmup")))
    assert section.blocks[0].cells()[-1][2] == f"{100 - 100 * mean:.2f}%"


# The page.


@pytest.mark.slow
def test_several_studies_share_the_page(workdir, tmp_path):
    few = write_accuracy_workdir(tmp_path / "few", (128, 512), costs=FEW, title="few")
    said = []
    page = write_report([workdir, few], tmp_path, said.append)
    assert said[2].startswith("few: On Fashion-MNIST")
    titles = [panel.title for panel in charts.tested(read_studies([workdir, few]))]
    assert titles[-3:] == ["few, linear", "few, sqrt", "few, sqrt+gbn"]
    assert "few, batch 512, sqrt+gbn: " in page.read_text()


def test_the_origins_name_the_reference_and_the_seeds(study):
    assert KIND.details(study) == {
        "goal": ["within 0.5 points of batch 128, naive"],
        "seeds": ["0, 1, 2, 3, 4"],
    }


def test_an_axis_around_the_values_has_room_for_intervals_no_longer_than_their_span():
    assert near([0.0, 1.0]) == pytest.approx((-0.06, 1.06))
    assert near([0.12]) == pytest.approx((0.108, 0.132)) and near([0.0]) == (-0.1, 0.1)
    assert near([1.0, 2.0], [0.5])[0] == pytest.approx(0.5 - 0.06 * 1.5)
    assert near([1.0, 2.0], [-50.0, 50.0]) == pytest.approx((-0.18, 3.18))


def test_differences_in_points():
    assert points_text(ERROR, -0.00001) == "0.00" and points_text(ERROR, 0.012) == "+1.20"
