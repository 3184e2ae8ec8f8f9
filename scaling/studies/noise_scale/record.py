"""The form of result.json."""

from dataclasses import dataclass

from scaling.studies.train import record


@dataclass(frozen=True)
class Dip:
    """The steps in which the temperature is cut."""

    factor: float  # that the learning rate is divided by
    first_step: int
    last_step: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Record(record.Record):
    """The base run, or a run that differs from it in one thing."""

    kind: str  # base, rate, batch, model or temperature: the thing
    label: str  # the same in words
    parameters: int
    dip: Dip | None  # of a temperature test
