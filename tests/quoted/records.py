"""The committed records as the reports read them, and how the documents write numbers."""

import functools
import json
from typing import Any

from quoted.quotes import ROOT
from scaling.paired import Paired
from scaling.report.kind import kind_of
from scaling.report.records import Study, read_workdir
from scaling.report.wording import count, number
from scaling.studies.accuracy.judging import Point

__all__ = ["count", "number"]


@functools.cache
def study(name: str) -> Study:
    """A study in docs/results."""
    workdir = read_workdir(ROOT / "docs/results" / name)
    return kind_of(workdir.study).read(workdir)


@functools.cache
def result(path: str) -> dict[str, Any]:
    """A JSON file."""
    return json.loads((ROOT / path).read_text())


def percent(share: float, digits: int = 2) -> str:
    """11.30, without the sign."""
    return f"{100 * share:.{digits}f}"


def spread(point: Point, digits: int = 2) -> str:
    """Test error over seeds: 11.30 ± 0.12"""
    return f"{percent(point.mean('test'), digits)} ± {percent(point.spread('test').sd, digits)}"


def points(difference: float, digits: int = 2) -> str:
    """In percentage points: +1.20, -0.50"""
    return f"{100 * difference:+.{digits}f}"


def interval(found: Paired, digits: int = 2) -> str:
    """+1.20 (+0.80 to +1.60)"""
    return f"{points(found.difference, digits)} ({ends(found, digits)})"


def ends(found: Paired, digits: int = 2) -> str:
    """+0.80 to +1.60"""
    return f"{points(found.low, digits)} to {points(found.high, digits)}"


def mirrored(found: Paired) -> Paired:
    """The same comparison the other way round."""
    return Paired(found.pairs, -found.difference, -found.high, -found.low, found.p)
