"""Drawings with tags in docs/reproduction.md."""

from quoted.quotes import Section, Table
from quoted.records import count, study


def quotes():
    """The fewest steps, and how many trials and repeats reached the goal."""
    rows = [["batch", "fewest steps", "trials that reached", "repeats, fewest to most steps"]]
    for point in study("openclipart").reached:
        repeats = sorted(r.steps_to_target for r in point.repeats if r.steps_to_target)
        reached = f"{point.counts['reached']} of {len(point.trials)}"
        spread = f"{count(repeats[0])} to {count(repeats[-1])}, {len(repeats)} of 5"
        batch, steps = count(point.global_batch), count(point.steps_to_target)
        rows.append([batch, steps, reached, spread])
    yield Table("openclipart", rows)


SECTIONS = [
    Section(
        "docs/reproduction.md",
        "Several labels an image: drawings with tags",
        quotes,
        said=(
            "5,483, 706 and 492 drawings",
            "22 labels",
            "macro average precision of 0.17",
            "16 learning rates",
        ),
    )
]
