"""What made the records: commands, code, packages, machines, seeds, time."""

import json
from collections.abc import Iterable

from scaling.report.records import Study
from scaling.report.wording import count, goal_text, listed, number, parameter_text


def origins(study: Study) -> list[tuple[str, list[str]]]:
    """(what, its distinct values over all points and launches), in the order to be read."""
    points = study.points
    launches = [launch for point in points for launch in point.directory.launches]
    of_launches = lambda key: _distinct(launch.get(key) for launch in launches)
    packages = _distinct(
        ", ".join(f"{k} {v}" for k, v in launch.get("packages", {}).items()) for launch in launches
    )
    return [
        ("workdir", [str(study.workdir)]),
        ("title", [study.title] * bool(study.title)),
        ("goal", [f"{goal_text(study.metric, study.goal)}, strictly below"]),
        ("training set", [f"{study.recipe['data set']}, {count(points[0].train_size)} examples"]),
        ("model", _distinct(map(_model_text, points))),
        ("optimizer", [study.recipe["optimizer"]]),
        ("search", _distinct(_search_text(point) for point in points)),
        ("command", of_launches("command")),
        ("git revision", of_launches("git_revision")),
        ("packages", packages),
        ("python", of_launches("python")),
        ("platform", of_launches("platform")),
        ("devices", _distinct(_device_text(point.devices) for point in points)),
        ("seeds", _distinct(map(_seeds_text, points))),
        ("wall time", [_time_text(points)]),
        ("begun", _distinct(launch.get("time") for launch in launches)[:1]),
    ]


def _distinct(values: Iterable[object]) -> list[str]:
    return [str(value) for value in dict.fromkeys(values) if value]


def _model_text(point):
    parameters = point.directory.parameters
    model = json.dumps(point.directory.recipe["model"])
    return f"{model}, {count(parameters)} parameters" if parameters else model


def _search_text(point):
    ranges = [
        f"{parameter_text(name)} {_range_text(scale, [number(bound) for bound in bounds])}"
        for name, (scale, *bounds) in point.ranges.items()
    ]
    widened = f"; widened {count(point.widened)} times" if point.widened else ""
    return f"{count(len(point.trials))} trials; {'; '.join(ranges)}{widened}"


def _range_text(scale, bounds):
    if scale == "discrete":
        return f"one of {listed(bounds)}"
    return f"{' to '.join(bounds)} ({scale.replace('_', ' ')})"


def _device_text(devices):
    simulated = ", simulated" if devices.get("simulated") else ""
    return f"{devices['count']} x {devices['kind']} ({devices['platform']}{simulated})"


def _seeds_text(point):
    seeds = [trial.seed for trial in point.trials]
    again = [repeat["seed"] for repeat in point.repeats]
    return "; ".join(
        f"{what} {min(some)} to {max(some)}"
        for what, some in (("trials", seeds), ("repeats", again))
        if some
    )


def _time_text(points):
    seconds = [point.seconds for point in points]
    kinds = dict.fromkeys(kind for one in seconds for kind in one)
    sums = {kind: sum(one.get(kind, 0.0) for one in seconds) for kind in kinds}
    parts = ", ".join(f"{kind} {number(value)} s" for kind, value in sums.items())
    return f"{number(sum(sums.values()))} s: {parts}"
