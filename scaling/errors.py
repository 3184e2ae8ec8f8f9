"""The one exception a user is meant to see, and the errors of looking things up by name."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Bad input, told in one clear sentence: what is wrong, the value, what to do.

    `launch.py` prints the sentence and exits with code 2. Anything else that escapes is a bug and
    keeps its traceback.
    """


def nearest(word: str, choices) -> str:
    """The end of an error message: the closest of `choices` to `word`, then all of them."""
    choices = sorted(str(c) for c in choices)
    close = difflib.get_close_matches(str(word), choices, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(choices)}."


def look_up(kind: str, name: str, table: Mapping[str, T]) -> T:
    """table[name], or a UserError that calls it an unknown `kind` and names the nearest."""
    if name not in table:
        raise UserError(f"Unknown {kind} {name!r}: {nearest(name, table)}")
    return table[name]


def refuse_unread(reader: str, given: Iterable[str], reads: Iterable[str]) -> None:
    """UserError for the first of `given` that `reader` would silently ignore."""
    reads = list(reads)
    for name in given:
        if name not in reads:
            raise UserError(f"{reader} does not read {name!r}: {nearest(name, reads)}")
