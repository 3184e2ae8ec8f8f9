import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from readers import read_studies, read_study
from synthetic import edit_result, keep_reached, write_workdir

from scaling.fits import MAX_USEFUL, PERFECT_END
from scaling.ratios import Ratio
from scaling.report.charts import Band, Line, Points, Rule, Span
from scaling.report.contents import contents, read_kinds
from scaling.report.drawing import draw
from scaling.report.ticks import decades, powers_of_two
from scaling.studies.steps_to_target import analysis, charts, growth
from scaling.studies.steps_to_target.report import KIND, _breakpoint

GONE = {
    "steps_to_target": None,
    "best": None,
    "best_trial": None,
    "resolution": None,
    "repeats": [],
    "test": None,
}
DIVERGED = GONE | {"status": "all_diverged"}
MET = GONE | {"status": "met_at_start", "steps_to_target": 0}


def of(panel, kind, label=None):
    """Marks of a kind, with a label if one is given."""
    marks = [mark for mark in panel.marks if isinstance(mark, kind)]
    return [mark for mark in marks if label is None or mark.label == label]


def pairs(mark):
    return list(zip(mark.x, mark.y, strict=True))


def results(workdir):
    return [json.loads(path.read_text()) for path in workdir.glob("*/result.json")]


# ---- The answer ----


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({}, ("inside", "inside")),
        ({"batch_sizes": (1, 2, 4, 8, 16, 32, 64), "b_crit": 1e6, "s_min": 0.004},
         ("above", "above")),
        ({"batch_sizes": (1024, 2048, 8192), "b_crit": 16}, ("below", "below")),
        ({"metric": "loss", "goal": 0.3}, ("inside", "inside")),
    ],
)  # fmt: skip
def test_the_answer_is_the_two_breakpoints(tmp_path, options, where):
    study = read_study(write_workdir(tmp_path, trials=24, **options))
    assert tuple(turn.where for turn in study.breakpoints.values()) == where
    perfect, useful = study.breakpoints.values()
    goal = "a validation loss of 0.3" if options.get("metric") else "2.5% validation error"
    first = "doubling the batch halves them up to the end of perfect scaling,"
    if where[0] == "below":  # nothing was seen of it
        first = "the end of perfect scaling is"
    last = "Doubling the batch saves less than 10% of them beyond the largest useful batch, "
    last += f"{useful.describe()}."
    if not useful.determined:
        last = f"The largest useful batch is {useful.describe()}."
    text = f"On digits with an MLP, steps to {goal}: {first} {perfect.describe()}. {last}"
    assert KIND.answer(study) == " ".join([text, *study.fit.doubts])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ([{}, {}, DIVERGED], "error: {} at batch 1 and {} at batch 4. 2 batch sizes reached"),
        ([{}, DIVERGED, DIVERGED], "error: {} at batch 1. 1 batch size"),
        ([MET, MET, DIVERGED], "error: not reached at any batch size. 0 batch sizes"),
    ],
)
def test_the_answer_without_a_curve(tmp_path, changes, text):
    write_workdir(tmp_path, (1, 4, 16), trials=12)
    for batch, change in zip((1, 4, 16), changes, strict=True):
        edit_result(tmp_path / f"bs{batch}", **change)
    study = read_study(tmp_path)
    steps = [f"{point.steps_to_target:,}" for point in study.reached]
    assert text.format(*steps) in KIND.answer(study)
    assert study.fit is None and study.breakpoints == {} and study.regimes == []


def test_a_study_is_compared_with_the_first(tmp_path):
    sizes = (1, 4, 16, 64, 256, 1024)
    for name, options in {
        "near": {"b_crit": 20},
        "far": {"b_crit": 320},
        "same": {"b_crit": 20, "optimizer": "sgd"},
        "two": {"batch_sizes": (4, 16)},
    }.items():
        options = {"batch_sizes": sizes} | options
        write_workdir(tmp_path / name, trials=24, title=name, **options)
    near, far, same, two = read_studies([tmp_path / n for n in ("near", "far", "same", "two")])
    ratio = far.ratio_to(near)
    assert 8 < ratio.value < 32 and ratio.interval[0] > 1  # 16 as it was made
    assert (
        KIND.compared(far, near)
        == f"Its critical batch size over that of near is {ratio.describe()}."
    )
    assert 0.4 < same.ratio_to(near).value < 2.5 and not same.ratio_to(near).differs
    assert KIND.compared(two, near) == KIND.compared(near, two) == ""

    [part] = contents(read_kinds([tmp_path / n for n in ("near", "far", "two")])).parts
    texts = [text for _, text in part.answers]
    assert texts[1].endswith(KIND.compared(far, near)) and "over that" not in texts[0] + texts[2]
    _, table, *_ = part.sections[0].blocks[1:]
    *_, last = zip(*table.cells(), strict=True)
    assert last == ("B_crit over that of near", "–", ratio.describe())


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (math.nan, (0.0, math.inf), "95%: any ratio"),
        (math.inf, (7.2, math.inf), "95%: above 7.2"),
        (0.0, (0.0, 0.3), "95%: below 0.3"),
    ],
)
def test_ratios_of_curves_measured_at_one_end(tmp_path, monkeypatch, value, interval, text):
    workdirs = [write_workdir(tmp_path / name, (4, 16), trials=8, title=name) for name in "ab"]
    first, other = read_studies(workdirs)
    ratio = Ratio(value, interval, 0.95)
    monkeypatch.setattr(analysis.Study, "ratio_to", lambda *_: ratio)
    assert KIND.compared(other, first) == f"Its critical batch size over that of a is {text}."


def test_cautions(tmp_path):
    write_workdir(tmp_path, (1, 4, 16, 64, 256, 1024), trials=12, budget_steps=1500)
    edit_result(tmp_path / "bs16", at_edge=[["learning_rate", "high"]])
    edit_result(tmp_path / "bs256", **DIVERGED)
    edit_result(tmp_path / "bs1k", **MET)
    keep_reached(tmp_path / "bs4", 3)
    found = KIND.cautions(read_study(tmp_path))
    for part in (
        "bs16: the best trial has its learning rate at the high edge of its range",
        "bs1: 2.5% validation error was not reached in the steps tried",
        "bs256: every trial diverged",
        "bs1k: 2.5% validation error was met before training",
        "bs4: too few trials reached the goal for an interval",
    ):
        assert sum(sentence.startswith(part) for sentence in found) == 1, (part, found)
    assert len(found) == 5


def test_more_trials_than_elsewhere_are_named_and_do_not_count(tmp_path):
    write_workdir(tmp_path, (4, 16, 64), trials=12)
    write_workdir(tmp_path, (256,), trials=24)
    study = read_study(tmp_path)
    [sentence] = [sentence for sentence in KIND.cautions(study) if "fewer steps" in sentence]
    assert sentence.startswith("bs256: more trials than the 12 of another batch size")
    steps = sorted(t.steps_to_target or math.inf for t in study.points[-1].trials)
    # The best of 24 is among 12 of them half of the time, the second best a quarter, ...
    fewest = math.exp(np.average(np.log(steps[:9]), weights=0.5 ** np.arange(9)))
    fitted = np.exp(study.fit.problem.log_steps)
    assert fitted[-1] == pytest.approx(fewest, rel=0.03) and fitted[-1] > steps[0]
    assert fitted[:-1] == pytest.approx([p.steps_to_target for p in study.points[:-1]])


# ---- The figures ----


def test_steps_against_batch_shows_what_was_measured(study, workdir):
    [panel] = charts.steps_to_target([study])
    [reached] = of(panel, Points, "fewest steps of all trials, 95%")
    [censored] = of(panel, Points, "not reached in the steps tried")
    [repeats] = of(panel, Points, "best trial, fresh seeds")
    steps = {(r["global_batch"], r["steps_to_target"]) for r in results(workdir)}
    assert set(pairs(reached)) == {pair for pair in steps if pair[1] is not None}
    assert pairs(censored) == [(1, 1500)]
    assert len(repeats.x) == sum(len(point.repeat_steps) for point in study.points) > 0
    assert panel.y.label == "optimizer steps to 2.5% validation error"
    for name in ("x", "y"):
        scale = panel.scale(name)
        assert all(scale.low < value < scale.high for value in getattr(reached, name))
    texts = [*censored.texts, *reached.texts]
    for point, text in zip(study.points, texts, strict=True):
        assert text.startswith(f"batch {point.global_batch:,}\n")
        assert (f"{point.steps_to_target:,} (" if point.reached else "not reached") in text
        assert f"{point.counts['reached']} of {len(point.trials)}" in text


def test_perfect_scaling_starts_at_the_smallest_batch_that_reached(study):
    [panel] = charts.steps_to_target([study])
    [line] = of(panel, Line, "perfect scaling from the smallest batch")
    assert study.reached[0].global_batch == 4
    assert np.array(line.x) * line.y == pytest.approx(study.reached[0].examples)
    [band] = of(panel, Band)
    np.testing.assert_array_equal((band.low, band.high), study.fit.band(band.x))


def test_regimes_cover_the_axis_and_end_at_the_breakpoints(study):
    spans = of(charts.steps_to_target([study])[0], Span)
    assert [span.low for span in spans[1:]] == [span.high for span in spans[:-1]]
    assert (spans[0].low, spans[-1].high) == (0, math.inf)
    turns = [study.fit.perfect_scaling_end.batch, study.fit.max_useful_batch.batch]
    assert [span.high for span in spans[:-1]] == turns
    assert [span.label for span in spans] == [*charts.REGIMES]


def test_too_few_trials_that_reached_have_no_bar(tmp_path):
    write_workdir(tmp_path, (8, 64), trials=12)
    keep_reached(tmp_path / "bs8", 3)
    keep_reached(tmp_path / "bs64", 4)
    study = read_study(tmp_path)
    few, enough = study.points
    assert few.steps_interval is None and study.fit is None
    [panel] = charts.steps_to_target([study])
    assert not of(panel, Band)
    points = of(panel, Points)[-1]
    low, high = enough.steps_interval
    assert low < enough.steps_to_target
    assert list(zip(points.low, points.high, strict=True)) == [
        (few.steps_to_target, few.steps_to_target),
        (low, high),
    ]


def test_a_study_among_others_has_one_entry_for_all_its_marks(three, tmp_path):
    easy = write_workdir(tmp_path / "easy", (4, 32, 256), goal=0.1, title="easy")
    studies = read_studies([*three, easy])
    for panel in [*charts.steps_to_target(studies), *charts.best_values(studies)]:
        assert [m.label for m in panel.marks if m.label] == [s.label for s in studies]
        for study in studies:
            own = [mark for mark in panel.marks if mark.series == study.label]
            assert len({mark.color for mark in own}) == 1 and own[-1].label == study.label
    [panel] = charts.steps_to_target(studies)
    assert panel.y.label == "optimizer steps to the goal" and not of(panel, Span)
    draw([panel]).figure.draw_without_rendering()  # $x_1$ in a title is no formula


def test_goals_tell_studies_apart(tmp_path):
    workdirs = [write_workdir(tmp_path / f"{g}", (8, 64), trials=4, goal=g) for g in (0.025, 0.1)]
    labels = [study.label for study in read_studies(workdirs)]
    assert labels == ["2.5% validation error", "10% validation error"]


def test_the_breakpoints_are_marked_where_studies_share_a_figure(three, tmp_path):
    # The end of perfect scaling of the second lies below its batch sizes.
    sizes = {"a": {}, "b": {"batch_sizes": (64, 128, 256, 512, 1024, 4096), "b_crit": 32}}
    own = [
        write_workdir(tmp_path / name, trials=24, title=name, **options)
        for name, options in sizes.items()
    ]
    studies = read_studies([*own, three[0]])
    assert not any(turn.determined for turn in studies[2].breakpoints.values())
    [panel] = charts.steps_to_target(studies)
    marks = [m for m in of(panel, Points) if m.marker in charts.BREAKPOINTS.values() and m.hollow]
    inside = [
        (study, name, turn)
        for study in studies
        for name, turn in study.breakpoints.items()
        if turn.where == "inside" and turn.determined
    ]
    assert 2 <= len(marks) < 4
    for mark, (study, name, turn) in zip(marks, inside, strict=True):
        assert pairs(mark) == [(turn.batch, float(study.fit.steps(turn.batch)))]
        assert mark.marker == charts.BREAKPOINTS[name]
        assert mark.texts == [f"{study.label}\n{name} {turn.describe()}"]


def test_a_legend_of_long_labels_stays_inside_the_figure(three, tmp_path):
    other = write_workdir(tmp_path / "long", (4, 32, 256), title="a title of many words " * 9)
    figure = draw(charts.best_values(read_studies([*three, other]))).figure
    figure.draw_without_rendering()
    [legend] = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_best_values_and_their_heuristics(study):
    rate, momentum, effective = charts.best_values([study])
    assert [panel.y.label for panel in (rate, momentum, effective)] == [
        "learning rate",
        "1 − momentum",
        "effective learning rate",
    ]
    [points] = of(momentum, Points)
    assert points.y == [1 - point.best["momentum"] for point in study.reached]
    assert not of(momentum, Line, "linear in the batch")
    [points] = of(rate, Points)
    for label, power in (("linear in the batch", 1), ("square root of the batch", 0.5)):
        [line] = of(rate, Line, label)
        ratio = np.array(points.x) / points.x[0]
        np.testing.assert_allclose(line.y, points.y[0] * ratio**power)


def test_best_values_at_an_edge_are_marked(tmp_path):
    write_workdir(tmp_path, (8, 64), trials=8)
    edit_result(tmp_path / "bs64", at_edge=[["momentum", "low"]])
    study = read_study(tmp_path)
    _, momentum, _ = charts.best_values([study])
    [ring] = of(momentum, Points, "at the edge of its range")
    assert ring.x == (64,)
    titles, *rows = KIND.table([study]).cells()
    assert [row[titles.index("momentum")].endswith(" ↓") for row in rows] == [False, True]


def test_without_momentum_the_effective_rate_is_not_shown_twice(tmp_path):
    ranges = {"learning_rate": ["log", 0.001, 10.0]}
    study = read_study(write_workdir(tmp_path, (8, 64), ranges=ranges, optimizer="sgd"))
    assert [value.label for value in analysis.best_values([study])] == ["learning rate"]
    for panel in charts.trials(study):
        assert (panel.x.label, panel.y.label) == ("learning rate", "best validation error")
        assert [rule.x for rule in of(panel, Rule)] == [0.001, 10.0]


@pytest.mark.parametrize(
    ("ranges", "names"),
    [
        ({"momentum": ["reverse_log", 0.5, 0.99], "learning_rate": ["log", 0.01, 1]},
         ("learning rate", "1 − momentum")),
        ({"label_smoothing": ["discrete", 0, 0.1], "b2": ["reverse_log", 0.5, 0.99],
          "weight_decay": ["log", 0.01, 1]}, ("1 − b2", "weight decay")),
    ],
)  # fmt: skip
def test_axes_of_the_scatter(study, ranges, names):
    point = dataclasses.replace(study.points[0], ranges=ranges)
    across, up = analysis.quantities(dataclasses.replace(study, points=[point]))
    assert (across.label, up.label) == names
    if names[0] == "learning rate":
        np.testing.assert_allclose(up.edges(point), (0.01, 0.5))


def test_the_scatter_has_a_panel_for_each_of_at_most_twelve_batch_sizes(tmp_path, study):
    many = read_study(write_workdir(tmp_path, [2**i for i in range(15)], trials=6))
    titles = [panel.title for panel in charts.trials(many)]
    assert len(set(titles)) == 12 and (titles[0], titles[-1]) == ("batch 1", "batch 16,384")
    panels = charts.trials(study)
    assert len(panels) == len(study.points) == 7
    for panel, point in zip(panels, study.points, strict=True):
        groups = {mark.label: mark for mark in of(panel, Points)}
        assert sum(len(m.x) for m in groups.values()) == len(point.trials) + point.reached
        assert all(len(groups[kind].x) == n for kind, n in point.counts.items() if n)
        [box] = of(panel, Line, "range searched")
        assert (min(box.x), max(box.x)) == (0.001, 10)
        assert all(panel.scale(name) == panels[0].scale(name) for name in "xy")


def test_curves_are_those_of_the_best_trials(study):
    [panel] = charts.curves(study)
    lines, ends = of(panel, Line), of(panel, Points)
    assert [rule.y for rule in of(panel, Rule)] == [study.goal]
    for line, end, point in zip(lines, ends, study.points, strict=True):
        steps, values = point.evaluations[point.shown_trial]
        np.testing.assert_array_equal((line.x, line.y), (steps, values))
        assert line.text == end.series and f"batch {point.global_batch:,}" in line.text
        if point.reached:
            assert steps[np.argmax(values < point.goal)] == point.steps_to_target == end.x[0]


def test_budgets_are_the_best_of_complete_trials_within_them(study, workdir):
    found = analysis.budgets(study)
    for kind, taken in (
        ("steps", [point.steps_to_target for point in study.reached]),
        ("examples", [point.examples for point in study.reached]),
    ):
        amounts = [budget.amount for budget in found if budget.kind == kind]
        assert amounts == sorted(amounts) and set(amounts) <= set(taken)
        assert (amounts[0], amounts[-1]) == (min(taken), max(taken))
    for budget in found:
        expected = {}
        for point in study.points:
            path = workdir / point.directory.name / "metrics.jsonl"
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            feasible = {t.trial for t in point.trials if t.outcome != "infeasible"}
            size = 1 if budget.kind == "steps" else point.global_batch
            values = [
                row["error"]
                for row in rows
                if row["split"] == "validation" and row["trial"] in feasible
                and row["step"] * size <= budget.amount
            ]  # fmt: skip
            if values:
                spent = budget.amount // size <= point.stopped_at_step
                expected[point.global_batch] = (min(values), spent)
        assert {batch: (value, spent) for batch, value, spent in budget.results} == expected
    spent = [[done for _, _, done in budget.results] for budget in found]
    assert not all(map(all, spent))
    lines = [line for panel in charts.budgets(study) for line in of(panel, Line)]
    assert [pairs(line) for line in lines] == [[(b, v) for b, v, _ in f.results] for f in found]
    hollow = [m for panel in charts.budgets(study) for m in of(panel, Points) if m.hollow]
    assert [len(mark.x) for mark in hollow] == [done.count(False) for done in spent]


def test_a_budget_is_spent_where_training_stopped_with_it(tmp_path):
    write_workdir(tmp_path, (8, 64), trials=12)
    steps = {p.global_batch: p.steps_to_target for p in read_study(tmp_path).points}
    edit_result(tmp_path / "bs8", stopped_at_step=steps[8])
    edit_result(tmp_path / "bs64", stopped_at_step=steps[8] - 1)
    found = analysis.budgets(read_study(tmp_path))
    [budget] = [b for b in found if (b.kind, b.amount) == ("steps", steps[8])]
    assert [(batch, spent) for batch, _, spent in budget.results] == [(8, True), (64, False)]


def test_the_fit_s_table_has_the_breakpoints_read_off_the_points(study):
    table = next(iter(KIND.sections([study]))).blocks[1]
    titles, [*cells] = table.cells()
    assert titles[:2] == [PERFECT_END, MAX_USEFUL]
    for cell, (name, turn) in zip(cells, study.breakpoints.items(), strict=False):
        low, high = study.read_off[name]
        assert cell == f"{turn.describe()}; read off the points: {low:,.0f} to {high:,.0f}"


@pytest.mark.parametrize(
    "values", [[64], [3, 3.5], [1, 4096], [5, 1197], [1, 2**40], [0.13, 0.4], [1e-3, 10]]
)
def test_every_axis_has_ticks_and_room(values):
    for scale in (powers_of_two(values), decades(values)):
        assert 2 <= len(scale.ticks) <= 14
        assert scale.low < min(values) <= max(values) < scale.high
        assert scale.low <= scale.ticks[0] < scale.ticks[-1] <= scale.high


def test_over_goals_the_critical_batch_grows_with_what_they_take(tmp_path):
    """The square root of E_min, as B_crit 16, 64, 256 go with 640, 10,240, 163,840 examples."""
    scale = {0.3: 1, 0.1: 4, 0.025: 16}
    goals = [
        write_workdir(tmp_path / f"{goal}", goal=goal, s_min=40 * k, b_crit=16 * k)
        for goal, k in scale.items()
    ]
    studies = read_studies(goals)
    [found] = growth.growths(studies)
    exponent = found.law.exponents["E_min"]
    assert exponent == pytest.approx(0.5, abs=0.1)
    assert "B_crit grows as E_min^0." in growth.sentence(studies)
    alike = [write_workdir(tmp_path / f"s{k}", s_min=40 * k, b_crit=16 * k) for k in (1, 4, 16)]
    assert growth.growths(read_studies(alike)) == []


def test_what_is_read_off_has_the_end_that_it_has():

    told = SimpleNamespace(describe=lambda: "about 9")
    for ends, text in (((16, 32), "16 to 32"), ((0, 16), "below 16"), ((64, np.inf), "above 64")):
        study = SimpleNamespace(read_off={"end": ends}, breakpoints={"end": told})
        assert _breakpoint("end", study, None) == f"about 9; read off the points: {text}"
