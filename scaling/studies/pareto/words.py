"""What the study says, and what a reader must know."""

from scaling.report.kind import steps_to_target
from scaling.report.wording import count, goal_text, listed, number, subject, times
from scaling.studies.pareto.records import Study, fronts, summary, tracked_run

AGREEMENT = "the paper's own agreement is 2 to 8 times"


def answer(study: Study) -> str:
    """The critical batch size that the noise scale predicts, over the one that was measured."""
    return f"{subject(study)}, {_says(study)}."


def _says(study):
    found = summary(study)
    if found.critical_average is None:
        return _no_critical_batch(study)
    fitted = [front for front in fronts(study) if front.critical_batch]
    measured = f"a critical batch size of {number(found.critical_average)}"
    if len(fitted) > 1:
        measured += (
            f" on average over {len(fitted)} goals ({number(fitted[0].critical_batch)} at "
            f"{_goal(study, fitted[0])} to {number(fitted[-1].critical_batch)} at "
            f"{_goal(study, fitted[-1])})"
        )
    else:
        measured += f" at {_goal(study, fitted[0])}"
    if found.ratio is None:
        return f"steps to target give {measured}; no noise scale is resolved to compare it with"
    predicted = f"a critical batch size of {number(found.noise_average)}, on average over training"
    return (
        f"the noise scale B_simple predicts {predicted}, and steps to target give {measured}: "
        f"{times(found.ratio)} as much predicted as measured; {AGREEMENT}"
    )


def _goal(study, front):
    return goal_text(study.metric, front.goal, study.split)


def _no_critical_batch(study):
    reasons = [front.reason for front in fronts(study) if front.reason]
    found = summary(study)
    noise = ""
    if found.noise_average:
        scale = number(found.noise_average)
        noise = f"the noise scale B_simple is {scale} on average over training; "
    why = reasons[0].rstrip(".") if reasons else "no goal's curve bends within what is measured"
    return f"{noise}no critical batch size is measured: {why}"


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    found = steps_to_target.cautions(study)
    without = [p for p in study.points if p.global_batch > 1 and p.reached and not p.tracked]
    repeating = [point for point in without if point.global_batch > point.train_size]
    if repeating:
        names = listed([point.directory.name for point in repeating])
        found.append(
            f"{names}: B_simple was not measured, for a batch above the training set holds "
            "examples more than once."
        )
    without = [point for point in without if point not in repeating]
    if without:
        names = listed([point.directory.name for point in without])
        found.append(f"{names}: the gradient noise of the best trial was not measured.")
    unresolved = [p for p in study.points if p.tracked and not p.tracked.resolved]
    if unresolved:
        names = listed([point.directory.name for point in unresolved])
        found.append(f"{names}: B_simple is not resolved in any window of the tracked run.")
    run = tracked_run(study)
    if run and run.tracked.coupled:
        found.append(
            "Batch norm couples the examples of a batch, so B_simple is a rough guide (batch "
            f"{count(run.global_batch)})."
        )
    for front in fronts(study):
        if front.fit and front.critical_batch is None:
            found.append(
                f"At {_goal(study, front)} the curve does not bend within the batch sizes "
                "measured, so its critical batch size is not known; measure others."
            )
    return found
