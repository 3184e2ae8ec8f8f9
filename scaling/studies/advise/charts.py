"""The figures."""

from collections.abc import Sequence

from scaling.advice import RECOMMENDED, Option
from scaling.report.charts import (
    COLORS,
    GREY,
    MARKERS,
    Axis,
    Line,
    Panel,
    Points,
    Rule,
    batches,
    shades,
    shown,
    style_of,
)
from scaling.report.wording import count, decimal_label, number, parameter_text
from scaling.studies.advise.study import Point, Study, cost_text, layout, time_text

RINGS = dict(zip(RECOMMENDED, (("o", 13), ("s", 10), ("D", 11)), strict=True))  # marker, size


def trade_off(studies: Sequence[Study]) -> list[Panel]:
    """Time against cost, one curve per number of devices; one panel per study."""
    return shown(_trade_off(study.point, study.label) for study in studies)


def _trade_off(point: Point, title: str) -> Panel:
    counts = sorted({option.devices for option in point.options})
    marks = []
    for index, (devices, color) in enumerate(zip(counts, shades(len(counts)), strict=True)):
        options = [option for option in point.options if option.devices == devices]
        options.sort(key=lambda option: option.global_batch)
        label, marker = f"devices: {count(devices)}", MARKERS[index % len(MARKERS)]
        marks.append(Line(*_places(point, options), color, width=1, series=label))
        for hollow in (False, True):
            part = [option for option in options if bool(option.extrapolated) == hollow]
            look = {"hollow": hollow, "texts": [_text(point, option) for option in part]}
            places = _places(point, part)
            marks += [Points(*places, color, label, marker, 5, **look)] * bool(part)
    for key, (marker, size) in RINGS.items():
        if option := point.recommended.get(key):
            label = f"{parameter_text(key)}: {layout(option)}"
            look = {"hollow": True, "texts": [_text(point, option)]}
            marks.append(Points(*_places(point, [option]), "#000000", label, marker, size, **look))
    what = f"cost ({point.currency})" if point.priced else "device-hours"
    time = f"time to the goal ({point.time_unit[0]})"
    axis = lambda label: Axis(label + point.per_s_min, tick=decimal_label)
    return Panel(axis(what), axis(time), marks, title)


def _places(point: Point, options: Sequence[Option]) -> tuple[list[float], list[float]]:
    """(cost, time) of options; device-hours where devices are free."""
    cost = [option.cost if point.priced else option.device_hours for option in options]
    return cost, [option.hours * point.time_unit[1] for option in options]


def _text(point: Point, option: Option) -> str:
    """What hovering over an option shows."""
    lines = [
        layout(option),
        time_text(point, option) + point.per_s_min,
        cost_text(point, option) + point.per_s_min,
        f"{number(option.step_seconds)} s per step, efficiency {option.efficiency:.0%}",
        *(f"extrapolated: {reason}" for reason in option.extrapolated),
    ]
    return "\n".join(lines)


def throughput(studies: Sequence[Study]) -> list[Panel]:
    """Examples per second against the per-device batch, with the knee and the memory's end."""
    marks, several = [], len(studies) > 1
    for index, study in enumerate(studies):
        point, (color, marker) = study.point, style_of(index)
        for x, rule, label, dash in (
            (point.throughput_knee, GREY, "knee, 90% of the most examples per second", "dash"),
            (point.largest_fitting, COLORS[1], "largest batch that fits the memory", "dot"),
        ):
            if x is not None:
                marks.append(Rule(color if several else rule, study.noted(label), x=x, dash=dash))
        speeds = point.throughput
        x, y = [s.per_device_batch for s in speeds], [s.examples_per_second for s in speeds]
        label = study.label or "measured, with the spread of repeats"
        marks.append(Line(x, y, color, width=1, series=label))
        look = {
            "low": [s.examples_per_second / (1 + s.spread / 2) for s in speeds],
            "high": [s.examples_per_second * (1 + s.spread / 2) for s in speeds],
            "texts": [
                f"per-device batch {count(s.per_device_batch)}\n{number(s.examples_per_second)} "
                f"examples per second\n{number(s.seconds)} s per update"
                for s in speeds
            ],
        }
        marks.append(Points(x, y, color, label, marker, 6, **look))
    rate = Axis("examples per second, one device", tick=decimal_label)
    return shown([Panel(batches("per-device batch (examples)"), rate, marks)])
