"""The tables as CSV."""

from collections.abc import Sequence

from scaling.report.tables import Row, head, to_csv
from scaling.studies.accuracy.judging import changes, recommended, to_reference, verdict
from scaling.studies.accuracy.records import Study

SPLITS = ("train", "validation", "test")


def tables(studies: Sequence[Study]) -> dict[str, str]:
    """File name -> CSV: one row per seed, per batch and recipe, and per learning rate tried."""
    found = {
        "accuracy.csv": to_csv([row for study in studies for row in _seeds(study)]),
        "accuracy_summary.csv": to_csv([row for study in studies for row in _summary(study)]),
    }
    trials = [row for study in studies for row in _trials(study)]
    return found | ({"accuracy_tuning.csv": to_csv(trials)} if trials else {})


def _about(study, point) -> Row:
    return head(study, point) | {"global_batch": point.global_batch}


def _seeds(study):
    for point in study.points:
        for run in point.runs:
            row = _about(study, point) | {
                "recipe": point.recipe,
                "recipes": " ".join(point.recipes),
                "steps": point.steps,
                "epochs": point.epochs,
                "learning_rate": point.learning_rate,
                "seed": run.seed,
                "status": run.status,
                "diverged_at": run.diverged_at,
            }
            for split in SPLITS:
                scores = getattr(run, split) or {}
                row |= {f"{split}_{name}": scores.get(name) for name in ("loss", "error")}
            yield row


def _summary(study):
    """A point with several names has a row under each."""
    for batch in study.batches:
        best = recommended(study, batch)
        for recipe in study.recipes:
            point = study.of(batch, recipe)
            if point:
                yield _about(study, point) | _numbers(study, point, recipe, point is best)


def _numbers(study, point, recipe, best):
    row = {
        "recipe": recipe,
        "steps": point.steps,
        "epochs": point.epochs,
        "learning_rate": point.learning_rate,
        "tuning_trials": len(point.tuning.trials) if point.tuning else 0,
        "seeds": len(point.runs),
        "diverged": point.diverged,
        "verdict": verdict(study, point).word,
        "recommended": best,
        "baseline": study.baseline,
    }
    for split in SPLITS:
        row |= {f"{split}_error": point.mean(split), f"{split}_error_sd": point.deviation(split)}
    row["gap"] = point.gap
    change = changes(study, point.global_batch).get(point)
    for name, found in (
        ("reference", to_reference(study, point)),
        ("baseline", change and change.difference),
    ):
        row |= {
            f"over_{name}": found and found.difference,
            f"over_{name}_low": found and found.low,
            f"over_{name}_high": found and found.high,
            f"over_{name}_pairs": found and found.pairs,
            f"over_{name}_p": found and found.p,
        }
    return row | {"over_baseline_p_adjusted": change and change.p}


def _trials(study):
    for point in study.points:
        for index, trial in enumerate(point.tuning.trials if point.tuning else []):
            row = _about(study, point) | {"recipe": point.recipe} | vars(trial)
            yield row | {
                "best": index == point.tuning.best,
                "at_edge": point.tuning.at_edge,
                "range_low": point.tuning.range[0],
                "range_high": point.tuning.range[1],
            }
