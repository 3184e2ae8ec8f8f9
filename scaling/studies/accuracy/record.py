"""The form of result.json."""

from dataclasses import dataclass

from scaling.paired import mean_and_deviation
from scaling.studies import recipe_records
from scaling.studies.recipe_records import Run, Spread, Tuning, spread_of


@dataclass(frozen=True, eq=False, kw_only=True)
class Record(recipe_records.Record):
    """One batch size under one recipe; diverged also where every learning rate tried did."""

    tolerance: float  # change of the test error, or its metric, that counts as none
    tuning: Tuning | None
    runs: list[Run]

    @property
    def diverged(self) -> int:
        """How many seeds diverged."""
        return sum(run.diverged for run in self.runs)

    @property
    def failure(self) -> str:
        """3 of 5 seeds; "" where none diverged."""
        if not self.runs:
            return "every learning rate tried" if self.tuning else "every seed"
        return f"{self.diverged} of {len(self.runs)} seeds" if self.diverged else ""

    def scores(self, split: str) -> dict[int, float]:
        """Seed -> metric, of the seeds that have one."""
        scores = {run.seed: run.score(split, self.metric) for run in self.runs}
        return {seed: score for seed, score in scores.items() if score is not None}

    def spread(self, split: str) -> Spread | None:
        """Of the metric; None where no seed has one."""
        return spread_of(list(self.scores(split).values()))

    def mean(self, split: str) -> float | None:
        """Of the metric."""
        spread = self.spread(split)
        return spread and spread.mean

    @property
    def gap(self) -> float | None:
        """Test error, or its metric, - that of training, over the seeds that have both."""
        train, test = self.scores("train"), self.scores("test")
        return mean_and_deviation([test[seed] - train[seed] for seed in test if seed in train])[0]
