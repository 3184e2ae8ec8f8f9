"""Numbers that documents quote from records: found, put right, and told from those of no record.

A table is written whole, under a comment that names it. A sentence is a template, as it stands in
the document but for white space, whose fields are filled from the records.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIELD = "{}"
# What may stand in a field before it is put right: a few words within a paragraph and a cell.
ANYTHING = r"((?:(?!\n\s*\n)[^|]){1,80}?)"
# Digits that are no measured numbers: names of places, comments, code, references, years after an
# author, the level of intervals.
NAMES = re.compile(
    r"\]\([^)]*\)|<!--.*?-->|```.*?```|`[^`\n]*`|^#.*?$"
    r"|\b(?:Fig|Table|Sec|App|Algorithm)[a-z]*\.? [A-Z]?\d[\w.]*(?:, \d+[a-z]?)*"
    r"|\b[A-Z]\w+ (?:19|20)\d\d\b|95%",
    re.DOTALL | re.MULTILINE,
)
NUMBER = re.compile(r"(?<![\w^])(?<![A-Za-z]-)\d[\d,.]*")
Span = tuple[int, int]


@dataclass(frozen=True)
class Sentence:
    """A passage whose numbers follow from records."""

    template: str  # {} where a value stands; neither its first nor its last word
    values: tuple[str, ...] = ()

    def spans(self, text: str) -> list[Span]:
        """Where it stands with the values of the records."""
        return [found.span() for found in self._places(text, map(_spaced, self.values))]

    def put_right(self, text: str) -> str:
        """The text with the values of the records; LookupError where it has no such passage."""
        if self.spans(text):
            return text
        places = list(self._places(text, [ANYTHING] * len(self.values)))
        if len(places) != 1:
            raise LookupError(f"{len(places)} passages read {self.template!r}")
        for place, value in reversed([*enumerate(self.values, 1)]):
            start, end = places[0].span(place)
            if text[start:end].split() != value.split():
                text = text[:start] + value + text[end:]
        return text

    def _places(self, text: str, fields: Iterable[str]):
        parts = [_spaced(part) for part in self.template.split(FIELD)]
        pattern = parts[0] + "".join(f + p for f, p in zip(fields, parts[1:], strict=True))
        return re.finditer(rf"(?<!\w){pattern}(?!\w)", text)


@dataclass(frozen=True)
class Table:
    """A Markdown table under the line <!-- records: NAME -->; the first row is its head."""

    name: str
    rows: Sequence[Sequence[str]]

    def spans(self, text: str) -> list[Span]:
        """Where it stands as the records have it."""
        return [found.span() for found in self._places(text) if found[1] == self._markdown()]

    def put_right(self, text: str) -> str:
        """The text with this table in place of the one there; LookupError where there is none."""
        places = list(self._places(text))
        if len(places) != 1:
            raise LookupError(f"{len(places)} tables stand under <!-- records: {self.name} -->")
        start, end = places[0].span(1)
        return text[:start] + self._markdown() + text[end:]

    def _places(self, text: str):
        return re.finditer(rf"<!-- records: {re.escape(self.name)} -->\n((?:\|.*\n)*)", text)

    def _markdown(self) -> str:
        head, *rows = ("|" + "|".join(_cell(cell) for cell in row) + "|" for row in self.rows)
        return "\n".join([head, "|" + "---|" * len(self.rows[0]), *rows, ""])


def _cell(text: str) -> str:
    """As Markdown has it."""
    return f" {text.replace('|', chr(92) + '|')} " if text else " "


Quote = Sentence | Table


def say(template: str, *values: str) -> Sentence:
    """A sentence; checked to have a value for each field."""
    assert template.count(FIELD) == len(values), template
    return Sentence(template, values)


@dataclass(frozen=True)
class Section:
    """A part of a document whose numbers are checked.

    Attributes:
      heading: its title; the beginning of the document where that is "".
      quotes: worked out from the records; `tuple` for none.
      said: passages with numbers that no record holds: of the papers, sizes, seeds, times.
      elsewhere: how paragraphs begin that are not checked here.
      complete: whether every number in it has to be in a quote or `said`.
    """

    document: str
    heading: str
    quotes: Callable[[], Iterable[Quote]]
    said: Sequence[str] = ()
    elsewhere: Sequence[str] = ()
    complete: bool = True

    def __str__(self) -> str:
        return f"{self.document}: {self.heading}"

    def cut(self, text: str) -> tuple[str, str, str]:
        """The document as what is before the section, the section, and what is after."""
        start = re.search(rf"^## {re.escape(self.heading)}\n" if self.heading else "", text, re.M)
        if start is None:
            raise LookupError(f"{self.document} has no section {self.heading!r}")
        after = re.compile(r"^## ", re.M).search(text, start.end())
        end = after.start() if after else len(text)
        return text[: start.start()], text[start.start() : end], text[end:]

    def read(self) -> str:
        """Its text in the document as it is."""
        return self.cut((ROOT / self.document).read_text())[1]

    def wrong(self, text: str) -> list[str]:
        """The quotes that do not stand in the section's text as the records have them."""
        return [_told(quote, text) for quote in self.quotes() if not quote.spans(text)]

    def put_right(self, text: str) -> tuple[str, list[str]]:
        """The section's text with the numbers of the records; which have no place in it."""
        lost = []
        for quote in self.quotes():
            try:
                text = quote.put_right(text)
            except LookupError as error:
                lost.append(str(error))
        return text, lost

    def strays(self, text: str) -> list[str]:
        """Numbers in the section's text that are in no quote and in nothing that is `said`."""
        if not self.complete:
            return []
        passages = [*self.quotes(), *map(Sentence, self.said)]
        covered = [span for passage in passages for span in passage.spans(text)]
        covered += [found.span() for found in NAMES.finditer(text)]
        covered += [span for begin in self.elsewhere for span in _paragraphs(text, begin)]
        return [
            f"{number[0]!r} in {_line(text, number.start())!r}"
            for number in NUMBER.finditer(text)
            if not any(start <= number.start() < end for start, end in covered)
        ]

    def stale(self, text: str) -> list[str]:
        """What is `said` or checked elsewhere and does not stand in the section's text any more."""
        gone = [passage for passage in self.said if not Sentence(passage).spans(text)]
        return gone + [begin for begin in self.elsewhere if not _paragraphs(text, begin)]


def _spaced(literal: str) -> str:
    """A pattern of the text, whatever white space is in it."""
    return re.sub(r"\s+", r"\\s+", re.sub(r"\\(\s)", r"\1", re.escape(literal)))


def _told(quote: Quote, text: str) -> str:
    """What the document says in place of a quote."""
    try:
        right = quote.put_right(text)
    except LookupError as error:
        return str(error)
    ours, theirs = (side.splitlines() for side in (text, right))
    changed = [(a, b) for a, b in zip(ours, theirs, strict=False) if a != b]
    return "\n".join(f"says   {a}\nshould {b}" for a, b in changed)


def _paragraphs(text: str, begin: str) -> list[Span]:
    pattern = rf"^{_spaced(begin)}.*?(?=\n\s*\n|\Z)"
    return [found.span() for found in re.finditer(pattern, text, re.M | re.S)]


def _line(text: str, place: int) -> str:
    return text[text.rfind("\n", 0, place) + 1 :].split("\n", 1)[0].strip()
