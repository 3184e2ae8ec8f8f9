"""The figures, each described once for paper and screen."""

from collections.abc import Sequence

from scaling.report.charts import Axis, Line, Panel, Points, Rule, batches, shown
from scaling.report.drawing import BEST, GREY, MARKERS, shades, style_of
from scaling.report.plots import plain
from scaling.report.wording import between, count, decimal_label, number, parameter_text
from scaling.report.wording import study_label as label_of
from scaling.studies.advise.records import Option, Point, Study

RECOMMENDED = ("least_time", "least_cost", "knee")
RINGS = dict(zip(RECOMMENDED, (("o", 13), ("s", 10), ("D", 11)), strict=True))  # marker, size


def trade_off(studies: Sequence[Study]) -> list[Panel]:
    """Time against cost, one curve per number of devices; one panel per study."""
    return shown(_trade_off(study.point, label_of(study, studies)) for study in studies)


def _trade_off(point: Point, title: str) -> Panel:
    counts = sorted({option.devices for option in point.options})
    colors = dict(zip(counts, shades(len(counts)), strict=True))
    marks = []
    for index, devices in enumerate(counts):
        options = [option for option in point.options if option.devices == devices]
        options.sort(key=lambda option: option.global_batch)
        color, marker = colors[devices], MARKERS[index % len(MARKERS)]
        x, y = _places(point, options)
        marks.append(Line(x, y, color, width=1))
        name = on(options[0])
        for hollow in (False, True):
            some = [option for option in options if bool(option.extrapolated) == hollow]
            x, y = _places(point, some)
            texts = [option_text(point, option) for option in some]
            label = f"{name}, extrapolated" if hollow else name
            if some:
                marks.append(Points(x, y, color, label, marker, 5, hollow=hollow, texts=texts))
    for key, (marker, size) in RINGS.items():
        option = point.recommended.get(key)
        if option:
            x, y = _places(point, [option])
            name = f"{parameter_text(key)}: batch {count(option.global_batch)} on {on(option)}"
            text = [option_text(point, option)]
            marks.append(Points(x, y, "#000000", name, marker, size, hollow=True, texts=text))
    return Panel(_cost_axis(point), _time_axis(point), marks, title)


def on(option: Option) -> str:
    """8 devices"""
    return f"{count(option.devices)} device{'s' * (option.devices > 1)}"


def _places(point: Point, options: Sequence[Option]) -> tuple[list[float], list[float]]:
    """(cost, time) of options; device-hours where devices are free."""
    cost = [option.cost if point.priced else option.device_hours for option in options]
    per_hour = point.time_unit[1]
    return cost, [option.hours * per_hour for option in options]


def _cost_axis(point):
    what = f"cost ({point.currency})" if point.priced else "device-hours"
    return Axis(what + unit(point), tick=decimal_label)


def _time_axis(point):
    return Axis(f"time to the goal ({point.time_unit[0]}){unit(point)}", tick=decimal_label)


def unit(point: Point) -> str:
    """Nothing, or that S_min is not known."""
    return "" if point.unit_hours else " for each step of S_min"


def option_text(point: Point, option: Option) -> str:
    """What hovering over an option tells."""
    of = unit(point)
    lines = [
        f"<b>batch {count(option.global_batch)} on {on(option)}</b>",
        f"{time_text(point, option)} {point.time_unit[0]}{of}",
        f"{number(option.cost)} {point.currency}{of}",
        f"{number(option.step_seconds)} s per step, efficiency {option.efficiency:.0%}",
        *(f"extrapolated: {reason}" for reason in option.extrapolated),
    ]
    bold, *rest = lines
    return "<br>".join([bold, *map(plain, rest)])


def time_text(point: Point, option: Option) -> str:
    """An option's time with its interval, in the point's unit."""
    per_hour = point.time_unit[1]
    high = None if option.hours_high is None else option.hours_high * per_hour
    return f"{number(option.hours * per_hour)} ({between(option.hours_low * per_hour, high)})"


def throughput(studies: Sequence[Study]) -> list[Panel]:
    """Examples per second against the per-device batch, with the knee and the memory's end."""
    marks = []
    for index, study in enumerate(studies):
        point, label = study.point, label_of(study, studies)
        color, marker = style_of(index)
        several = len(studies) > 1
        knee = f"{label}: knee" if several else "knee: 90% of the most examples per second"
        full = f"{label}: largest that fits" if several else _full(point)
        if point.throughput_knee is not None:
            marks.append(Rule(color if several else GREY, knee, x=point.throughput_knee))
        if point.largest_fitting is not None:
            rule = color if several else BEST[0]
            marks.append(Rule(rule, full, x=point.largest_fitting, dash="dot"))
        marks += _speeds(point, color, marker, label or "measured, with the spread of repeats")
    rate = Axis("examples per second, one device", tick=decimal_label)
    return shown([Panel(batches("per-device batch (examples)"), rate, marks)])


def _full(point):
    size = f" in {point.limit_bytes / 2**30:.3g} GiB" if point.limit_bytes else ""
    return f"largest batch that fits{size}"


def _speeds(point: Point, color: str, marker: str, label: str):
    x = [speed.per_device_batch for speed in point.throughput]
    y = [speed.examples_per_second for speed in point.throughput]
    half = [speed.spread / 2 for speed in point.throughput]
    texts = [
        f"<b>per-device batch {count(speed.per_device_batch)}</b><br>"
        f"{number(speed.examples_per_second)} examples per second<br>"
        f"{number(speed.seconds)} s per update"
        for speed in point.throughput
    ]
    points = Points(
        x,
        y,
        color,
        label,
        marker,
        6,
        low=[value / (1 + share) for value, share in zip(y, half, strict=True)],
        high=[value * (1 + share) for value, share in zip(y, half, strict=True)],
        texts=texts,
    )
    return [Line(x, y, color, width=1), points]
