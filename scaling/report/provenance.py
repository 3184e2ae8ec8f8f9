"""Provenance of the records: commands, code, packages, machines, seeds, time."""

import json
from collections.abc import Iterable, Mapping

from scaling.report.records import Directory, Study
from scaling.report.wording import count, number

Rows = list[tuple[str, list[str]]]


def origins(study: Study, details: Mapping[str, list[str]]) -> Rows:
    """(item, distinct values over all points and launches), in display order.

    Args:
      details: "goal", "search" and "seeds" of the kind of study; seeds default to the configs'.
    """
    directories = [point.directory for point in study.points]
    launches = [launch for directory in directories for launch in directory.launches]
    of_launches = lambda key: _distinct(launch.get(key) for launch in launches)
    packages = _distinct(
        ", ".join(f"{k} {v}" for k, v in launch.get("packages", {}).items()) for launch in launches
    )
    recipes = [directory.recipe for directory in directories]
    devices = [d.result.get("devices") for d in directories] + [x.get("devices") for x in launches]
    return [
        ("workdir", [str(study.workdir)]),
        ("title", [study.title] * bool(study.title)),
        ("goal", details.get("goal", [])),
        ("training set", _distinct(map(_data_text, directories))),
        ("model", _distinct(map(_model_text, directories))),
        ("optimizer", _distinct(recipe["optimizer"] for recipe in recipes)),
        ("search", details.get("search", [])),
        ("command", of_launches("command")),
        ("git revision", of_launches("git_revision")),
        ("packages", packages),
        ("python", of_launches("python")),
        ("platform", of_launches("platform")),
        ("devices", _distinct(_device_text(device) for device in devices if device)),
        ("seeds", details.get("seeds") or _distinct(d.config.get("seed") for d in directories)),
        ("time of all processes", _time_text(directories)),
        ("begun", _distinct(launch.get("time") for launch in launches)[:1]),
    ]


def _distinct(values: Iterable[object]) -> list[str]:
    return [str(value) for value in dict.fromkeys(values) if value not in (None, "")]


def _data_text(directory):
    name, size = (directory.recipe[key] for key in ("data set", "training set size"))
    return name + (f", {count(size)} {directory.rows}" if size else "")


def _model_text(directory: Directory) -> str:
    model = json.dumps(directory.config["model"])
    parameters = directory.result.get("parameters") or directory.parameters
    return f"{model}, {count(parameters)} parameters" if parameters else model


def _device_text(devices):
    simulated = ", simulated" if devices.get("simulated") else ""
    return f"{devices['count']} x {devices['kind']} ({devices['platform']}{simulated})"


def _time_text(directories):
    seconds = [directory.result.get("seconds") or {} for directory in directories]
    kinds = dict.fromkeys(kind for times in seconds for kind in times)
    sums = {kind: sum(times.get(kind, 0.0) for times in seconds) for kind in kinds}
    parts = ", ".join(f"{kind} {number(value)} s" for kind, value in sums.items())
    return [f"{number(sum(sums.values()))} s: {parts}"] * bool(sums)
