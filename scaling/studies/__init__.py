"""Studies: one question each, all of one shape, a folder each:

config.py   what it reads beyond the keys of all: `section(c)` adds them at their defaults, LIMITS
            says what they can be, HOLDS what is in tuples that are empty, ONE_PER_CORE = False
            that its points need all cores; no JAX
record.py   dataclasses, the form of its result.json; no JAX
measure.py  points(config), name(config), check(config), dry_run(points),
            measure(config, run, name, signals); check_values(config), the part of check that a
            dry run makes, on a machine without the data
report.py   KIND: how records become a page; no JAX

A new study is such a folder and its name in STUDIES; docs/adding_a_study.md writes one.
"""

import importlib
from types import ModuleType

# In the order in which a report shows them.
STUDIES = (
    "advise",
    "throughput",
    "steps_to_target",
    "accuracy",
    "generalization",
    "sharpness",
    "warm_start",
    "pareto",
    "noise_scale",
    "adaptive_batch",
    "branch",
    "landscape",
    "train",
)


def part(study: str, name: str) -> ModuleType:
    """The module `name` of a study: "config", "measure" or "report"."""
    return importlib.import_module(f"scaling.studies.{study}.{name}")
