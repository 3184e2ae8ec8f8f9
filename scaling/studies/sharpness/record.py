"""The form of result.json."""

from dataclasses import dataclass

from scaling.studies import recipe_records
from scaling.studies.measure_records import Measure

END = "end"  # after the last update


def at_loss(loss: float) -> str:
    """The name of the place where the training loss is first seen at or below a value."""
    return f"loss {loss:g}"


@dataclass(frozen=True)
class Spectrum:
    """Of the Hessian as random vectors see it, see `curvature.Quadrature`."""

    nodes: list[list[float]]  # [probes][steps]
    weights: list[list[float]]  # of each probe 1 in all


@dataclass(frozen=True)
class Net:
    """The weights of a run at one place."""

    place: str  # "loss 0.01": where the training loss is first seen at or below it; or "end"
    step: int
    train_loss: float  # of the evaluation there: of as many examples as the validation split has
    loss: float | None  # of the examples measured on, with the batch statistics of the measures
    score: float | None  # the task's headline metric, on `Record.split`; None: not finite
    measures: list[Measure]  # none where the loss is not finite near the weights
    spectrum: Spectrum | None = None  # of the first seed, where it is asked for

    def value(self, name: str) -> float | None:
        """Of a measure."""
        return next((m.value for m in self.measures if m.name == name), None)


@dataclass(frozen=True)
class Run:
    """One seed."""

    seed: int
    status: str  # complete or diverged
    diverged_at: int | None  # step
    nets: list[Net]  # none of a run that diverged

    def net(self, place: str) -> Net | None:
        """The net at a place; None where the run did not come there."""
        return next((net for net in self.nets if net.place == place), None)


@dataclass(frozen=True, eq=False, kw_only=True)
class Record(recipe_records.Record):
    """One batch size under one recipe."""

    tuning: recipe_records.Tuning | None
    split: str  # test, or validation where the test split is not read
    places: list[str]
    examples: int  # of the training set, the first ones, measured on
    statistics: str  # of batch norm: recomputed over these, frozen, or none
    batch: int  # examples of each worst case
    parameters: int  # weights that are moved and differentiated by: all
    runs: list[Run]

    def nets(self, place: str) -> dict[int, Net]:
        """Seed -> net at a place."""
        return {run.seed: net for run in self.runs if (net := run.net(place))}
