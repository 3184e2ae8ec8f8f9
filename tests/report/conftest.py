"""Reports that several tests look at, each made once."""

import pytest
from synthetic import HOSTILE, write_workdir

from scaling.report import write_report
from scaling.report.records import read_study


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """Seven batch sizes, the smallest of them censored."""
    return write_workdir(tmp_path_factory.mktemp("one") / "runs", budget_steps=1500)


@pytest.fixture(scope="session")
def study(workdir):
    return read_study(workdir)


@pytest.fixture(scope="session")
def report(workdir, tmp_path_factory):
    """The page of one study, and what was said."""
    said = []
    return write_report([workdir], tmp_path_factory.mktemp("report"), said.append), said


@pytest.fixture(scope="session")
def three(tmp_path_factory):
    """Three studies that only their hostile titles tell apart."""
    folder = tmp_path_factory.mktemp("three")
    return [
        write_workdir(folder / name, (4, 32, 256), b_crit=b_crit, title=f"{HOSTILE} {name} $x_1$")
        for name, b_crit in (("a", 20), ("b", 80), ("c", 320))
    ]


@pytest.fixture(scope="session")
def comparison(three, tmp_path_factory):
    """The page of three studies."""
    return write_report(three, tmp_path_factory.mktemp("comparison"), lambda _: None)
