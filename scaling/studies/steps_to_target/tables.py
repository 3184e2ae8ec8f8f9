"""The tables as CSV: every number of the records, one row per point and one per trial."""

from scaling.report.tables import Row, to_csv
from scaling.studies.steps_to_target.records import Point, Study


def points_csv(studies: list[Study]) -> str:
    """One row per batch size."""
    return to_csv([_point_row(study, point) for study in studies for point in study.points])


def trials_csv(studies: list[Study]) -> str:
    """One row per trial."""
    return to_csv(
        [
            _head(study, point) | _trial_row(trial)
            for study in studies
            for point in study.points
            for trial in point.trials
        ]
    )


def _head(study, point):
    return {
        "study": study.label,
        "workdir": str(study.workdir),
        "global_batch": point.global_batch,
    }


def _point_row(study: Study, point: Point) -> Row:
    row = _head(study, point) | {
        "train_size": point.train_size,
        "status": point.status,
        "metric": point.metric,
        "goal": point.goal,
        "steps_to_target": point.steps_to_target,
    }
    for name in ("resolution", "steps_interval"):
        low, high = getattr(point, name) or (None, None)
        row |= {f"{name}_low": low, f"{name}_high": high}
    row |= {
        "examples": point.examples,
        "epochs": point.epochs,
        "repeats": len(point.repeats),
        "repeats_reached": len(point.repeat_steps),
        "repeat_steps": " ".join(map(str, point.repeat_steps)),
        "best_trial": point.best_trial,
    }
    row |= {f"best_{name}": value for name, value in (point.best or {}).items()}
    row |= {"at_edge": " ".join(f"{name}:{side}" for name, side in point.at_edge)}
    row |= {name: point.counts[name] for name in ("reached", "missed", "infeasible")}
    row |= {f"test_{k}": v for k, v in (point.test or {}).items() if k != "step"}
    for name in (
        "censored_at",
        "budget_steps",
        "stopped_at_step",
        "margin",
        "trial_steps",
        "trial_steps_saved",
        "widened",
        "trial_steps_per_second",
    ):
        row[name] = getattr(point, name)
    row |= {f"{name}_seconds": value for name, value in point.seconds.items()}
    return row | {f"device_{name}": value for name, value in point.devices.items()}


def _trial_row(trial) -> Row:
    row = {
        "trial": trial.trial,
        "seed": trial.seed,
        "outcome": trial.outcome,
        "steps_to_target": trial.steps_to_target,
        "stopped_at_step": trial.stopped_at_step,
        "best_metric": trial.best_metric,
        "last_train_loss": trial.last_train_loss,
    }
    return row | trial.values
