"""The tables of the papers, filled with the study's own numbers where it has their recipes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from scaling.crossings import ERROR
from scaling.report.blocks import Note, Section
from scaling.report.tables import Column, Table
from scaling.report.wording import count
from scaling.studies.accuracy.judging import Point, Study
from scaling.studies.accuracy.texts import spread_text, value_text
from scaling.studies.recipe_records import NAIVE

YOU = (
    "In the paper (You et al. 2017, AlexNet with batch norm on ImageNet), accuracy without LARS is "
    "60.2% at batch 512, 58.9% at 4k and 58.0% at 8k; with LARS 60.2%, 60.4% and 60.1%, then "
    "59.3% at 16k and 57.8% at 32k. Without batch norm and LARS, higher rates diverge (0.1%)."
)
GOYAL = (
    "In the paper (Goyal et al. 2017, ResNet-50 on ImageNet, batch 8k, all with gradual warmup), "
    "error is 41.67% without scaling, 26.22% with the square root and 23.74% with the linear "
    "rule; under that, 24.84% without warmup, 25.88% with a constant and 23.74% with a gradual "
    "one. Batch 256 has 23.60%."
)
HOFFER = (
    "In the paper (Hoffer et al. 2017, validation accuracy, batch 128 and 4,096): ResNet-44 on "
    "CIFAR-10 92.83%, 86.10%, 89.30%, 90.50%, 93.07%; C1 on CIFAR-10 87.80%, 83.95%, 86.15%, "
    "86.40%, 88.20%; F1 on MNIST 98.27%, 97.05%, 97.55%, 97.60%, 98.53%. Each column adds to the "
    "one before: SB small batch, LB large batch, LR square root rule, GBN ghost batch norm, RA "
    "regime adaptation."
)
GRADUAL = "linear+warmup"


def accuracy(point: Point) -> str | None:
    """88.70%"""
    error = point.mean("test")
    return None if error is None else value_text(ERROR, 1 - error)


def error(point: Point) -> str | None:
    """11.30% ± 0.12"""
    spread = point.spread("test")
    return spread and spread_text(ERROR, spread)


@dataclass(frozen=True)
class Paper:
    """A table of a paper: by batch, in each column the first of its recipes that was measured."""

    title: str
    note: str
    text: Callable[[Point], str | None]
    columns: dict[str, tuple[str, ...]]


PAPERS = (
    Paper(
        "LARS, test accuracy as in You et al. 2017",
        YOU,
        accuracy,
        {
            "without LARS": ("linear+warmup+poly", GRADUAL),
            "with LARS": ("lars+warmup+poly", "lars+warmup", "lars+poly", "lars"),
        },
    ),
    Paper(
        "Scaling rules and warmup, test error as in Goyal et al. 2017",
        GOYAL,
        error,
        {
            "no scaling": ("warmup", NAIVE),
            "square root": ("sqrt+warmup", "sqrt"),
            "linear, gradual warmup": (GRADUAL,),
            "linear, constant warmup": ("linear+constant_warmup",),
            "linear, no warmup": ("linear",),
        },
    ),
    Paper(
        "Corrections one after another, test accuracy as in Hoffer et al. 2017",
        HOFFER,
        accuracy,
        {"LB": (NAIVE,), "+LR": ("sqrt",), "+GBN": ("sqrt+gbn",), "+RA": ("sqrt+gbn+adapt",)},
    ),
)


def papers(studies: Sequence[Study]) -> Iterator[Section]:
    """Those of which some study has two columns at some batch."""
    studies = [study for study in studies if study.measure == ERROR]
    for paper in PAPERS:
        table = _table(paper, studies)
        if table.rows:
            yield Section(paper.title, [table, Note(paper.note)])


def _table(paper: Paper, studies: Sequence[Study]) -> Table:
    columns = [
        Column("batch", lambda study, batch: batch, count),
        Column("small batch (SB)", lambda study, batch: _cell(study.reference, paper), str),
    ]
    columns += [
        Column(title, lambda s, b, names=names: _cell(_measured(s, b, names), paper), str)
        for title, names in paper.columns.items()
    ]
    points = lambda study, batch: {_measured(study, batch, n) for n in paper.columns.values()}
    rows = [(study, batch) for study in studies for batch in study.batches]
    return Table(columns, [row for row in rows if len(points(*row) - {None}) > 1])


def _measured(study: Study, batch: int, names: Sequence[str]) -> Point | None:
    """The first of some recipes that was measured there."""
    return next((point for name in names if (point := study.point(batch, name))), None)


def _cell(point: Point | None, paper: Paper) -> str | None:
    """The number, or that it diverged."""
    if point is None:
        return None
    return f"{point.failure} diverged" if point.failure else paper.text(point)
