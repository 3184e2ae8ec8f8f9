"""Reports that several tests look at, each made once."""

import pytest
from matplotlib.figure import Figure
from readers import read_study
from synthetic import HOSTILE, edit_result, write_workdir
from synthetic_accuracy import write_accuracy_workdir
from synthetic_branch import write_branch_workdir
from synthetic_generalization import LAYERS, write_generalization_workdir
from synthetic_landscape import write_landscape_workdir
from synthetic_noise import write_noise_workdir, write_pareto_workdir
from synthetic_plans import write_adaptive_workdir, write_advice_workdir
from synthetic_sharpness import write_sharpness_workdir
from synthetic_throughput import write_throughput_workdir
from synthetic_train import write_train_run
from synthetic_warm_start import write_warm_start_workdir

from scaling.report import write_report


@pytest.fixture(scope="session", autouse=True)
def _coarse():
    """Figures of few pixels: most of the time of a report is their PNGs."""
    save = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        few = lambda options: options | {"dpi": min(options.get("dpi", 40), 40)}
        patch.setattr(Figure, "savefig", lambda *args, **options: save(*args, **few(options)))
        yield


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
    """Three studies that differ in their hostile titles only."""
    folder = tmp_path_factory.mktemp("three")
    return [
        write_workdir(folder / name, (4, 32, 256), b_crit=b_crit, title=f"{HOSTILE} {name} $x_1$")
        for name, b_crit in (("a", 20), ("b", 80), ("c", 320))
    ]


@pytest.fixture(scope="session")
def comparison(three, tmp_path_factory):
    """The page of three studies."""
    return write_report(three, tmp_path_factory.mktemp("comparison"), lambda _: None)


@pytest.fixture(scope="session")
def every_kind(tmp_path_factory):
    """Work directories of every kind, two of one, whose records are as hostile as can be."""
    folder = tmp_path_factory.mktemp("kinds")
    recipes = {"costs": {"naive": 0.004, HOSTILE: 0.003}, "failing": ((HOSTILE, 8192, 1),)}
    layers = ((f"{HOSTILE}.kernel", 4, 1.0, 0.5), *LAYERS)
    workdirs = [
        write_adaptive_workdir(folder / "adaptive", title=HOSTILE),
        write_branch_workdir(folder / "branch", title=HOSTILE),
        write_noise_workdir(folder / "noise", title=HOSTILE),
        write_noise_workdir(folder / "other", title=f"{HOSTILE} other", level=3),
        write_pareto_workdir(folder / "pareto", (4, 32, 256), title=HOSTILE),
        write_workdir(folder / "steps", (4, 32, 256), trials=8, title=HOSTILE),
        write_accuracy_workdir(folder / "accuracy", **recipes, tuned=True, title=HOSTILE),
        write_generalization_workdir(
            folder / "distances", (128, 1024), (HOSTILE,), title=HOSTILE, seeds=2, layers=layers
        ),
        write_landscape_workdir(folder / "landscape", HOSTILE, (HOSTILE, f"{HOSTILE} 2")),
        write_sharpness_workdir(folder / "sharpness", HOSTILE, HOSTILE),
        write_warm_start_workdir(folder / "warm", HOSTILE),
        write_advice_workdir(folder / "advise", title=HOSTILE, currency=HOSTILE, network=HOSTILE),
        write_throughput_workdir(folder / "throughput", title=HOSTILE),
    ]
    write_train_run(folder / "train" / "bs64", 64, 0.03, title=HOSTILE)
    workdirs.append(folder / "train")
    edit_result(folder / "noise" / "model_wide", label=HOSTILE)
    for directory in (folder / "accuracy").iterdir():
        edit_result(directory, settings={HOSTILE: HOSTILE})
    return workdirs


@pytest.fixture(scope="session")
def mixed(every_kind, tmp_path_factory):
    """The page of every kind, and what was said."""
    said = []
    return write_report(every_kind, tmp_path_factory.mktemp("mixed"), said.append), said
