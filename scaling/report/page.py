"""The page: one file that works offline, on a phone and on paper.

Nothing from a record reaches the page but through `text`, `plain` (Plotly's texts) or `_embedded`
(JSON). Should that fail, the page's own policy runs no script but its two, and loads nothing.
"""

import base64
import hashlib
import html
import json
import statistics
from pathlib import Path

from plotly.offline import get_plotlyjs

from scaling.report import interactive
from scaling.report.analysis import MAX_PANELS, fit_of
from scaling.report.answer import answer
from scaling.report.cautions import cautions
from scaling.report.drawing import style_of
from scaling.report.provenance import origins
from scaling.report.records import Point, Study
from scaling.report.wording import (
    NOTHING,
    count,
    interval_text,
    listed,
    metric_value,
    number,
    parameter_text,
    shared_goal,
    study_label,
)

HERE = Path(__file__).parent
NOTHING_TO_SHOW = {
    "steps_to_target": "no batch size reached the goal or spent its steps on it",
    "best_values": "no batch size has a best trial with values that were searched",
    "trials": "nothing was searched",
    "validation_curves": "the records hold no evaluation after the first step",
    "budgets": "fewer than two batch sizes reached the goal",
}


def text(value: object) -> str:
    """Anything, as text in HTML."""
    return html.escape(str(value))


def page(studies: list[Study], figures: dict[str, bytes | None]) -> str:
    """The whole page.

    Args:
      figures: name -> SVG, None where there is nothing to show; see `figure_name`.
    """
    title = headline(studies)
    scripts = [get_plotlyjs().replace("</script", r"<\/script"), _read("page.js")]
    hashes = " ".join(f"'sha256-{_base64(hashlib.sha256(s.encode()).digest())}'" for s in scripts)
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {hashes}"
    )
    sections = [
        _head(title, studies),
        _steps(studies, figures),
        _points(studies),
        _best_values(studies, figures),
        *(_of_study(index, studies, figures) for index in range(len(studies))),
        _provenance(studies),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>{_read("page.css")}</style>
<noscript><style>.plot {{ display: none }} figure img.static {{ display: block }}</style></noscript>
</head>
<body>
<main>
{"".join(sections)}
</main>
{"".join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""


def headline(studies: list[Study]) -> str:
    """The study's title, or what is compared."""
    if len(studies) == 1:
        return studies[0].title or studies[0].label
    return f"Steps to {shared_goal(studies)}: {listed([study.label for study in studies])}"


def figure_name(kind: str, index: int, studies: list[Study]) -> str:
    """A figure of one study is numbered where there are several."""
    return f"{kind}-{index + 1}" if len(studies) > 1 else kind


def _head(title: str, studies: list[Study]) -> str:
    answers = []
    for index, study in enumerate(studies):
        if len(studies) == 1:
            answers.append(f'<p class="answer">{text(answer(study))}</p>')
            continue
        label = f"<b>{text(study_label(study, studies))}</b>: {text(answer(study))}"
        color = style_of(index)[0]
        answers.append(f'<p class="answer" style="color:{color}"><span>{label}</span></p>')
    several = ' class="several"' if len(studies) > 1 else ""
    return f"<h1>{text(title)}</h1><div{several}>{''.join(answers)}</div>{_warnings(studies)}"


def _warnings(studies):
    items = []
    for study in studies:
        label = f"<b>{text(study.label)}</b>: " if len(studies) > 1 else ""
        items += [f"<li>{label}{text(sentence)}</li>" for sentence in cautions(study)]
    if not items:
        return ""
    return f'<div class="warnings"><ul>{"".join(items)}</ul></div>'


def _steps(studies, figures):
    caption = (
        f"Optimizer steps to {shared_goal(studies)} against the global batch, log2 axes. A point "
        "is the fewest steps of all trials at its batch size; its bar is the 95% interval of that "
        "minimum when the trials are resampled, and goes on where it has no upper end; small marks "
        "are the best trial again under fresh seeds. Dashed: steps in proportion to 1 / batch, "
        "from the smallest batch that reached the goal."
    )
    plot = interactive.steps_to_target(studies)
    body = _figure("steps_to_target", figures, caption, [plot] if plot else [])
    return f"<h2>Steps against batch</h2>{body}{_fits(studies)}"


def _fits(studies):
    """What the fits say, and why there is none."""
    rows, notes = [], []
    for study in studies:
        label = study_label(study, studies) if len(studies) > 1 else ""
        fit, reason = fit_of(study)
        if not fit:
            notes.append(f"{label and label + ': '}No curve is fitted. {reason}")
            continue
        row = [label] * bool(label)
        row += [_fitted(fit.s_min, fit.s_min_interval), _fitted(fit.b_crit, fit.b_crit_interval)]
        row += [f"{number(100 * fit.residual_sd)}%"]
        rows.append([*row, fit.perfect_scaling_end.describe(), fit.max_useful_batch.describe()])
    if rows:
        notes.append(
            "Fit: S = S_min (1 + B_crit / B). Perfect scaling ends where steps exceed "
            f"proportionality by {fit.perfect_within - 1:.0%}; the maximum useful batch is where "
            f"doubling it saves less than {fit.least_saving:.0%} of the steps. On this curve they "
            "are fixed multiples of B_crit. Scatter: of the points around the curve."
        )
    header = ["S_min, steps", "B_crit, examples", "scatter"]
    header += ["end of perfect scaling", "maximum useful batch"]
    table = _table([""] * (len(studies) > 1) + header, rows, "wrap") if rows else ""
    return table + "".join(f'<p class="note">{_with_subscripts(note)}</p>' for note in notes)


def _fitted(value, interval):
    return f"{number(value)} (95%: {number(interval[0])} to {number(interval[1])})"


def _points(studies):
    tables = []
    for study in studies:
        heading = f"<h3>{text(study_label(study, studies))}</h3>" if len(studies) > 1 else ""
        tables.append(heading + _table(*_points_table(study)))
    note = (
        "Steps: the fewest of all trials, with the 95% interval of that minimum. Repeats: median "
        "and range of the best trial's steps under fresh seeds, and how many reached the goal. "
        "Arrows: at the low or high edge of the range searched. Test: the best trial, once, as it "
        "was when it crossed. More in tables/points.csv and tables/trials.csv."
    )
    return f'<h2>Batch by batch</h2>{"".join(tables)}<p class="note">{text(note)}</p>'


def _points_table(study: Study) -> tuple[list[str], list[list[str]]]:
    best = list(dict.fromkeys(name for point in study.points for name in point.best or {}))
    header = ["batch", "steps (95%)", "repeats (range), reached", "examples", "epochs"]
    header += [parameter_text(name) for name in best]
    header += ["reached / missed / infeasible", f"test {study.metric}"]
    rows = []
    for point in study.points:
        row = [count(point.global_batch), _steps_text(point), _repeats_text(point)]
        row += [count(point.examples), number(point.epochs)]
        row += [_best_text(point, name) for name in best]
        outcomes = (count(point.counts[kind]) for kind in ("reached", "missed", "infeasible"))
        test = (point.test or {}).get(study.metric)
        rows.append([*row, " / ".join(outcomes), metric_value(study.metric, test)])
    return header, rows


def _steps_text(point: Point) -> str:
    if point.reached:
        return f"{count(point.steps_to_target)} ({interval_text(point.steps_interval)})"
    return {
        "target_not_reached": f"not reached in {count(point.censored_at)}",
        "all_diverged": "all diverged",
        "met_at_start": "met at the start",
    }.get(point.status, point.status)


def _best_text(point, name):
    """The value of the best trial, with an arrow where it is at an edge of its range."""
    arrow = {"low": " ↓", "high": " ↑"}.get(dict(point.at_edge).get(name), "")
    return number((point.best or {}).get(name)) + arrow


def _repeats_text(point: Point) -> str:
    """Median and range of those that reached the goal, and how many did."""
    if not point.repeats:
        return NOTHING
    steps = point.repeat_steps
    reached = f"{len(steps)} of {len(point.repeats)}"
    if not steps:
        return reached
    return f"{statistics.median(steps):,g} ({steps[0]:,} to {steps[-1]:,}), {reached}"


def _best_values(studies, figures):
    caption = (
        "Metaparameters of the best trial at each batch size, and what they would be if they grew "
        "linearly (dashed) or with the square root of the batch (dotted) from their value at the "
        "smallest one. The effective learning rate is rate / (1 − momentum) for optimizers with "
        "momentum, and the rate for the others."
    )
    body = _figure("best_values", figures, caption, interactive.best_values(studies))
    return f"<h2>Best metaparameters</h2>{_legend(studies)}{body}"


def _legend(studies):
    """The colour of each study, where there are several."""
    if len(studies) == 1:
        return ""
    entries = "".join(
        f'<span><i style="background:{style_of(index)[0]}"></i>'
        f"{text(study_label(study, studies))}</span>"
        for index, study in enumerate(studies)
    )
    return f'<div class="legend">{entries}</div>'


def _of_study(index: int, studies: list[Study], figures: dict[str, bytes | None]) -> str:
    """The figures that show one study only."""
    study = studies[index]
    of = f" of {study_label(study, studies)}" if len(studies) > 1 else ""
    scatter = interactive.trials(study)
    curves = (
        f"Validation {study.metric} along the best trial of each batch size; a dot where it "
        "crossed the goal. Training stops soon after the first crossing."
    )
    budgets = (
        f"The best validation {study.metric} of any trial that did not diverge: left within a "
        "number of steps, where a larger batch has seen more examples; right within a number of "
        "examples, where a smaller batch has taken more steps. Open marks: training stopped "
        "before the budget was spent, so better may be possible."
    )
    parts = []
    for kind, heading, caption, plots in (
        ("trials", "Trials", _trials_caption(study), [scatter] if scatter else []),
        ("validation_curves", "Validation curves", curves, []),
        ("budgets", "Step budget or example budget", budgets, []),
    ):
        name = figure_name(kind, index, studies)
        parts.append(f"<h2>{text(heading + of)}</h2>{_figure(name, figures, caption, plots)}")
    parts.insert(1, _stopping(study))
    return "".join(parts)


def _trials_caption(study):
    unplaced = sum(t.best_metric is None for point in study.points for t in point.trials)
    caption = (
        "Every trial by outcome: it reached the goal, missed it before training stopped, or "
        "diverged (infeasible). Dashed: the range searched. The best trial should lie well inside "
        "it; the slider chooses the batch size."
    )
    if len(study.points) > MAX_PANELS:
        caption += f" The figure on paper shows {MAX_PANELS} of {len(study.points)} batch sizes."
    if len(study.points[0].ranges) == 1 and unplaced:
        caption += f" {count(unplaced)} diverged before they were evaluated and have no place here."
    return caption


def _stopping(study: Study) -> str:
    margin = study.points[0].margin
    explanation = (
        f"Training of all trials stops at {number(margin)} times the first crossing: a later "
        "crossing cannot be the fewest steps. Trials that would have crossed later count as missed."
    )
    header = ["batch", "trials", "first crossing", "stopped at", "budget", "missed"]
    header += ["trial steps run", "skipped", "share skipped"]
    rows = []
    for point in study.points:
        row = [point.global_batch, len(point.trials), point.steps_to_target]
        row += [point.stopped_at_step, point.budget_steps, point.counts["missed"]]
        rows.append([*map(count, row), *_steps_run([point])])
    total = ["all", *[""] * 5, *_steps_run(study.points)]
    return (
        f'<h3>What the stopping rule skipped</h3><p class="note">{text(explanation)}</p>'
        f"{_table(header, [*rows, total])}"
    )


def _steps_run(points):
    run = sum(point.trial_steps for point in points)
    saved = sum(point.trial_steps_saved for point in points)
    share = f"{saved / (run + saved):.0%}" if run + saved else NOTHING
    return count(run), count(saved), share


def _provenance(studies):
    blocks = []
    for study in studies:
        heading = f"<h3>{text(study_label(study, studies))}</h3>" if len(studies) > 1 else ""
        rows = "".join(
            f"<tr><th>{text(name)}</th><td>{'<br>'.join(map(text, values))}</td></tr>"
            for name, values in origins(study)
            if values
        )
        blocks.append(f'{heading}<div class="table provenance"><table>{rows}</table></div>')
    return f"<h2>Where the numbers come from</h2>{''.join(blocks)}"


def _figure(name, figures, caption, plots=()):
    """A figure with its caption: interactive on a screen where there are plots, static on paper."""
    if figures[name] is None:
        reason = NOTHING_TO_SHOW[name.partition("-")[0]]
        return f'<p class="note">There is no figure to show: {reason}.</p>'
    source = f"data:image/svg+xml;base64,{_base64(figures[name])}"
    static = ' class="static"' if plots else ""
    divs = "".join(f'<div class="plot">{_embedded(plot)}</div>' for plot in plots)
    row = f'<div class="row">{divs}</div>' if plots else ""
    image = f'<img{static} src="{source}" alt="{text(caption)}">'
    return f"<figure>{row}{image}<figcaption>{text(caption)}</figcaption></figure>"


def _with_subscripts(sentence):
    escaped = text(sentence)
    return escaped.replace("S_min", "S<sub>min</sub>").replace("B_crit", "B<sub>crit</sub>")


def _embedded(plot) -> str:
    """JSON inside HTML: no < can end the script early, or begin anything."""
    data = json.dumps(plot, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")
    return f'<script type="application/json">{data}</script>'


def _table(header: list[str], rows: list[list[str]], kind: str = "") -> str:
    head = "".join(f"<th>{_with_subscripts(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="table {kind}">{table}</div>'


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
