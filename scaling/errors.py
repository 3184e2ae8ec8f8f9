"""Exceptions shown to the user, and errors of lookups by name."""

import difflib
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Bad input, in one sentence: what is wrong, the key and value, what to do.

    `launch.py` prints the sentence and exits with code 2. Any other uncaught exception is a bug and
    keeps its traceback.
    """


class UserCodeError(UserError):
    """The user's own code raised an exception.

    Attributes:
      traceback: of that exception, starting in the user's code.
    """

    def __init__(self, whose: str, error: Exception):
        reason = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        super().__init__(f"Your {whose} raised {reason.rstrip('.')}; its traceback follows.")
        self.traceback = "".join(traceback.format_exception(error)).rstrip()


def call_users(whose: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """function(*args, **kwargs) of the user's own code, which messages call "your `whose`".

    Raises:
      UserCodeError: it raised an exception other than a UserError.
    """
    try:
        return function(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        error.__traceback__ = error.__traceback__.tb_next  # without this frame
        raise UserCodeError(whose, error) from error


def nearest(word: str, choices) -> str:
    """The end of an error message: the closest of `choices` to `word`, then all of them."""
    choices = sorted(str(c) for c in choices)
    close = difflib.get_close_matches(str(word), choices, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(choices)}."


def look_up(kind: str, name: str, table: Mapping[str, T]) -> T:
    """table[name], or a UserError "Unknown `kind`" with the nearest names."""
    if name not in table:
        raise UserError(f"Unknown {kind} {name!r}: {nearest(name, table)}")
    return table[name]


def refuse_unread(reader: str, given: Iterable[str], reads: Iterable[str]) -> None:
    """UserError for the first of `given` that is not in `reads`, and so would be ignored."""
    reads = list(reads)
    for name in given:
        if name not in reads:
            raise UserError(f"{reader} does not read {name!r}: {nearest(name, reads)}")
