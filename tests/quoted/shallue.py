"""Shallue 2018 in docs/reproduction.md."""

from quoted.quotes import Section

SECTIONS = [
    Section(
        "docs/reproduction.md",
        "Shallue 2018, Measuring the effects of data parallelism",
        tuple,
        complete=False,
    )
]
