"""Merrill 2025 in docs/reproduction.md."""

from quoted.quotes import Section, Table, say
from quoted.records import count, number, study
from scaling.report.wording import percent
from scaling.studies.branch.report import batch_text, difference_text
from scaling.studies.noise_records import estimate_text

HEAD = ["examples of the run", "validation loss", "critical batch size", "B_simple", "ratio"]


def quotes():
    """The table, and the batch warmup."""
    point = yield from _along("merrill", "branch_digits")
    (_, first), (place, second) = point.warmup.schedule
    yield say(
        "is of {}, and of {} after {} examples; it takes {} steps where batch {} takes {}: {} "
        "fewer. Its validation loss ends {} higher over the five seeds",
        count(first),
        count(second),
        count(place),
        count(point.warmup.steps),
        count(point.global_batch),
        count(point.constant.steps),
        percent(point.saved),
        difference_text(point.cost),
    )
    text = yield from _along("merrill_kjv", "branch_kjv")
    _, (place, second) = text.warmup.schedule
    yield say(
        "Its batch warmup, {} after {} sequences, saves {} of the steps and ends {} above",
        count(second),
        count(place),
        percent(text.saved),
        difference_text(text.cost),
    )
    ratios = [text.over(at) for at in text.snapshots]
    yield say(
        "of the language model {} to {} times as large",
        number(min(ratios)),
        number(max(ratios)),
    )


def _along(name, workdir):
    """A table of the snapshots of a run; returns its point."""
    (point,) = study(workdir).points
    rows = [HEAD]
    for at in point.snapshots:
        ratio = point.over(at)
        texts = batch_text(point, at), estimate_text(at.noise), number(ratio) if ratio else ""
        rows.append([count(at.examples), number(at.loss), *texts])
    yield Table(name, rows)
    return point


SECTIONS = [
    Section(
        "docs/reproduction.md",
        "Merrill 2025, Critical batch size revisited",
        quotes,
        said=(
            "an MLP with 64 hidden units",
            "1, 2, 4, ... 64 times",
            "batch of 8",
            "0.05",
            "half of it",
            "2,048 examples",
            "0.01",
            "five seeds",
            "43% fewer steps",
            "OLMo 1B",
            "five times as large",
            "costs 0.02",
            "a batch of 4 and a rate of 0.002",
        ),
    )
]
