import dataclasses
import json

import numpy as np
import pytest
from readers import read_studies, read_study
from scaling.report.plots import plain
from synthetic import edit_result, keep_reached, write_workdir

from scaling.report.drawing import TURNS
from scaling.report.ticks import decades, powers_of_two
from scaling.studies.steps_to_target import analysis, figures, interactive


def lines(axes, marker):
    """(x, y) of what was drawn with a marker."""
    found = [line for line in axes.lines if line.get_marker() == marker]
    return [tuple(np.ravel(line.get_xydata())) for line in found]


def results(workdir):
    return [json.loads(path.read_text()) for path in workdir.glob("*/result.json")]


def test_steps_against_batch_shows_what_was_measured(study, workdir):
    [axes] = figures.steps_to_target([study]).axes
    reached = {(r["global_batch"], r["steps_to_target"]) for r in results(workdir)}
    censored = {(b, 1500) for b, steps in reached if steps is None}
    assert set(lines(axes, "o")) == {pair for pair in reached if pair[1] is not None}
    assert set(lines(axes, "^")) == censored == {(1, 1500)}
    assert axes.get_xlabel() == "global batch (examples)"
    assert axes.get_ylabel() == "optimizer steps to 2.5% validation error"
    repeats = sum(len(point.repeat_steps) for point in study.points)
    assert sum(len(xy) // 2 for xy in lines(axes, ".")) == repeats > 0
    left, right, low, high = *axes.get_xlim(), *axes.get_ylim()
    for x, y in lines(axes, "o") + lines(axes, "^"):
        assert left < x < right and low < y < high


def test_the_interactive_figure_shows_the_same(study):
    plot = interactive.steps_to_target([study])
    shown = {
        (x, y)
        for trace in plot["data"]
        if trace["mode"] == "markers" and "hovertext" in trace
        for x, y in zip(trace["x"], trace["y"], strict=True)
    }
    [axes] = figures.steps_to_target([study]).axes
    assert shown == set(lines(axes, "o")) | set(lines(axes, "^"))
    texts = [text for trace in plot["data"] for text in trace.get("hovertext", [])]
    for point in study.points:
        [text] = [t for t in texts if f"<b>batch {point.global_batch:,}</b>" in t]
        assert (f"{point.steps_to_target:,} steps" if point.reached else "not reached") in text
        assert f"{point.counts['infeasible']} infeasible" in text


def test_plotly_knows_every_key(study, three):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    studies = read_studies(three)
    for plot in (
        interactive.steps_to_target([study]),
        interactive.steps_to_target(studies),
        *interactive.best_values(studies),
        interactive.trials(study),
        interactive.validation_curves(study),
        *interactive.budgets(study),
    ):
        graph_objects.Figure(plot)  # raises for a key that it does not know
        json.dumps(plot, allow_nan=False)


def test_curves_and_budgets_on_the_page_are_those_on_paper(study):
    lines_of = lambda data: [trace for trace in data if "lines" in trace["mode"]]
    data = interactive.validation_curves(study)["data"]
    curves = analysis.curves(study)
    for trace, (_, steps, values) in zip(lines_of(data), curves, strict=True):
        assert trace["x"] == steps.tolist() and trace["y"] == pytest.approx(values, rel=1e-5)
    dots = [(trace["x"], trace["y"][0] < study.goal) for trace in data if trace["mode"] == "markers"
            and trace["x"]]  # fmt: skip
    reached = analysis.reached_points(study)
    assert dots == [([point.steps_to_target], True) for point in reached]
    shown = [trace for plot in interactive.budgets(study) for trace in plot["data"]]
    for trace, budget in zip(shown, analysis.budgets(study), strict=True):
        assert (trace["x"], trace["y"]) == (budget.batches, pytest.approx(budget.values, rel=1e-5))
        is_open = ["open" in symbol for symbol in trace["marker"]["symbol"]]
        assert is_open == [not spent for spent in budget.spent]


def test_perfect_scaling_starts_at_the_smallest_batch_that_reached(study):
    first = analysis.reached_points(study)[0]
    assert first.global_batch == 4
    steps = analysis.perfect_scaling(study, np.array([4.0, 8.0, 64.0]))
    assert steps.tolist() == [first.steps_to_target / ratio for ratio in (1, 2, 16)]


def test_regimes_cover_the_axis_and_end_at_the_turns_of_the_fit(study):
    fit, _ = analysis.fit_of(study)
    spans = analysis.regime_spans(study, 0.5, 8192)
    assert [span.low for span in spans[1:]] == [span.high for span in spans[:-1]]
    assert (spans[0].low, spans[-1].high) == (0.5, 8192)
    turns = [fit.perfect_scaling_end.batch, fit.max_useful_batch.batch]
    assert [span.high for span in spans[:-1]] == turns


def test_no_curve_where_there_are_too_few_points(tmp_path):
    study = read_study(write_workdir(tmp_path, (8, 64), trials=12))
    fit, why = analysis.fit_of(study)
    assert fit is None and "2 batch sizes reached the goal" in why
    [axes] = figures.steps_to_target([study]).axes
    assert len(lines(axes, "o")) == 2 and not axes.collections


def bars(axes):
    return [
        [*line.get_ydata()]
        for line in axes.lines
        if len(set(line.get_xdata())) == 1 < len(line.get_xdata())
    ]


def test_too_few_trials_that_reached_have_no_bar(tmp_path):
    write_workdir(tmp_path, (8, 64), trials=12)
    keep_reached(tmp_path / "bs8", 3)
    keep_reached(tmp_path / "bs64", 4)
    study = read_study(tmp_path)
    few, enough = study.points
    assert few.steps_interval is None
    [axes] = figures.steps_to_target([study]).axes
    assert [*enough.steps_interval] in bars(axes)
    [points] = [t for t in interactive.steps_to_target([study])["data"] if "error_y" in t]
    assert points["error_y"]["array"][0] == points["error_y"]["arrayminus"][0] == 0
    below = enough.steps_to_target - enough.steps_interval[0]
    assert points["error_y"]["arrayminus"][1] == below > 0


def test_a_lower_end_far_below_runs_out_of_the_figure(tmp_path):
    write_workdir(tmp_path, (8, 64), trials=12)
    keep_reached(tmp_path / "bs8", 4)
    study = read_study(tmp_path)
    far = dataclasses.replace(study.points[0], steps_interval=(1, 500))
    extent = analysis.steps_extent(dataclasses.replace(study, points=[far, study.points[1]]))
    assert far.steps_to_target / analysis.FAR_BELOW in extent and 1 not in extent


def test_colours_and_goals_tell_several_studies_apart(three, tmp_path):
    other = write_workdir(tmp_path / "easy", (4, 32, 256), goal=0.1, title="easy")
    figure = figures.steps_to_target(read_studies([*three, other]))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "easy, to 10% validation error" in labels
    assert figure.axes[0].get_ylabel() == "optimizer steps to the goal"
    colors = {line.get_color() for line in figure.axes[0].lines}
    assert len(colors) == 4
    figure.draw_without_rendering()  # $x_1$ in a title is no formula


def test_the_turns_are_marked_where_studies_share_a_figure(three):
    studies = read_studies(three)
    turns = [(study, turn) for study in studies for _, turn, _ in analysis.turns_inside(study)]
    assert 3 <= len(turns) < 6  # some lie outside the batch sizes measured
    on_curve = {(t.batch, float(analysis.fit_of(study)[0].steps(t.batch))) for study, t in turns}
    [axes] = figures.steps_to_target(studies).axes
    assert set(lines(axes, "|") + lines(axes, "d")) == on_curve
    plot = interactive.steps_to_target(studies)
    told = [trace["hovertext"] for trace in plot["data"] if trace["name"] in TURNS]
    for text, (study, turn) in zip(told, turns, strict=True):
        assert text.startswith(plain(study.label)) and text.endswith(turn.describe())


def test_a_legend_of_long_labels_stays_inside_the_figure(three, tmp_path):
    other = write_workdir(tmp_path / "long", (4, 32, 256), title="a title of many words " * 9)
    for draw in (figures.steps_to_target, figures.best_values):
        figure = draw(read_studies([*three, other]))
        figure.draw_without_rendering()
        [legend] = figure.legends
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_best_values_and_their_heuristics(study):
    rate, momentum, effective = analysis.best_values([study])
    assert (rate.heuristics, momentum.heuristics, effective.heuristics) == (True, False, True)
    for point, value in momentum.series(study):
        assert value == 1 - point.best["momentum"]
    series = rate.series(study)
    rules = analysis.heuristics(series, np.array([4, 16, 64]))
    first = series[0][1]
    np.testing.assert_allclose(rules["linear"], [first, 4 * first, 16 * first])
    np.testing.assert_allclose(rules["square root"], [first, 2 * first, 4 * first])


def test_without_momentum_the_effective_rate_is_not_shown_twice(tmp_path):
    ranges = {"learning_rate": ["log", 0.001, 10.0]}
    study = read_study(write_workdir(tmp_path, (8, 64), ranges=ranges, optimizer="sgd"))
    assert [value.label for value in analysis.best_values([study])] == ["learning rate"]
    across, up = analysis.trial_axes(study)
    assert (across.label, up.label) == ("learning rate", "best validation error")
    panels = figures.trials(study).axes
    assert all(axes.lines for axes in panels) and len(panels) == 2


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
    point = vars(study.points[0]) | {"ranges": ranges}
    one = type(study)(study.workdir, [type(study.points[0])(**point)], [])
    across, up = analysis.trial_axes(one)
    assert (across.label, up.label) == names
    if names[0] == "learning rate":
        np.testing.assert_allclose(up.edges(one.points[0]), (0.01, 0.5))


def test_the_scatter_has_a_panel_for_each_of_at_most_twelve_batch_sizes(tmp_path, study):
    many = read_study(write_workdir(tmp_path, [2**i for i in range(15)], trials=6))
    batches = [point.global_batch for point in analysis.chosen_points(many.points)]
    assert len(batches) == 12 and batches == sorted(set(batches))
    assert (batches[0], batches[-1]) == (1, 16384)
    panels = figures.trials(study).axes
    assert len(panels) == len(study.points) == 7
    for axes, point in zip(panels, study.points, strict=True):
        shown = sum(len(line.get_xdata()) for line in axes.lines)
        assert shown == len(point.trials) + (point.best_trial is not None)
        assert len(axes.patches) == 1  # the range that was searched
    slider = interactive.trials(study)["layout"]["sliders"][0]
    assert len(slider["steps"]) == 7


def test_validation_curves_are_those_of_the_best_trials(study):
    axes = figures.validation_curves(study).axes[0]
    curves = [line for line in axes.lines if line.get_linestyle() in "-:"]
    curves = [line for line in curves if len(line.get_xdata()) > 1]
    assert len(curves) == 7
    for line, point in zip(curves, study.points, strict=True):
        steps, values = point.evaluations.of(analysis.shown_trial(point))
        np.testing.assert_array_equal(line.get_xydata(), np.stack([steps, values], 1))
    for point in study.points:
        if point.reached:
            steps, values = point.evaluations.of(point.best_trial)
            assert steps[np.argmax(values < point.goal)] == point.steps_to_target


def test_budgets_are_the_best_of_complete_trials_within_them(study, workdir):
    found = analysis.budgets(study)
    reached = analysis.reached_points(study)
    for kind, taken in (
        ("steps", [point.steps_to_target for point in reached]),
        ("examples", [point.examples for point in reached]),
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
        pairs = zip(budget.values, budget.spent, strict=True)
        assert dict(zip(budget.batches, pairs, strict=True)) == expected
    assert not all(all(budget.spent) for budget in found)


def test_a_budget_is_spent_where_training_stopped_with_it(tmp_path):
    write_workdir(tmp_path, (8, 64), trials=12)
    steps = {p.global_batch: p.steps_to_target for p in read_study(tmp_path).points}
    edit_result(tmp_path / "bs8", stopped_at_step=steps[8])
    edit_result(tmp_path / "bs64", stopped_at_step=steps[8] - 1)
    found = analysis.budgets(read_study(tmp_path))
    [budget] = [b for b in found if (b.kind, b.amount) == ("steps", steps[8])]
    assert (budget.batches, budget.spent) == ([8, 64], [True, False])


def test_figures_with_nothing_to_show_are_none(tmp_path):
    write_workdir(tmp_path, (8, 64), trials=4)
    for name in ("bs8", "bs64"):
        (tmp_path / name / "metrics.jsonl").unlink()
        gone = {"best": None, "best_trial": None, "repeats": []}
        edit_result(tmp_path / name, status="all_diverged", steps_to_target=None, ranges={}, **gone)
    study = read_study(tmp_path)
    assert figures.steps_to_target([study]) is figures.best_values([study]) is None
    assert figures.trials(study) is figures.validation_curves(study) is None
    assert figures.budgets(study) is interactive.trials(study) is None
    assert interactive.steps_to_target([study]) is None and interactive.best_values([study]) == []


@pytest.mark.parametrize(
    "values", [[64], [3, 3.5], [1, 4096], [5, 1197], [1, 2**40], [0.13, 0.4], [1e-3, 10]]
)
def test_every_axis_has_ticks_and_room(values):
    for scale in (powers_of_two(values), decades(values)):
        assert 2 <= len(scale.ticks) <= 14
        assert scale.low < min(values) <= max(values) < scale.high
        assert scale.low <= scale.ticks[0] < scale.ticks[-1] <= scale.high
