"""What a reader must know before believing the numbers."""

from scaling.report.wording import count, listed
from scaling.studies.steps_to_target.records import Study
from scaling.studies.steps_to_target.wording import edge_text, goal_text


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    found = []
    if study.unfinished:
        found.append(f"Not finished, and therefore not in here: {listed(study.unfinished)}.")
    batches = {}  # by what is to be said of them
    least = min(len(point.trials) for point in study.points)
    for point in study.points:
        for sentence in _of_point(point, least):
            batches.setdefault(sentence, []).append(count(point.global_batch))
    for sentence, some in batches.items():
        found.append(f"Batch{'es' * (len(some) > 1)} {listed(some)}: {sentence}")
    simulated = [p.directory.name for p in study.points if p.devices.get("simulated")]
    if simulated:
        found.append(
            f"Measured on simulated devices: {listed(simulated)}. Steps are as on real devices, "
            "times are not."
        )
    return found


def _of_point(point, least):
    goal = goal_text(point)
    trial = "best trial" if point.reached else "trial closest to the goal"
    for edge in point.at_edge:
        yield (
            f"the {trial} has its {edge_text(point, edge)}; a better one may lie beyond, so "
            "widen the range."
        )
    if point.censored_at is not None:
        yield (
            f"{goal} was not reached in {count(point.censored_at)} steps; how many it takes is "
            "not known."
        )
    if point.status == "all_diverged":
        yield "every trial diverged; search smaller learning rates."
    if point.status == "met_at_start":
        yield f"{goal} was met before training; choose a harder goal."
    if point.reached and len(point.trials) > least:
        yield (
            f"{count(len(point.trials))} trials, where another batch size had {count(least)}, and "
            f"more trials find fewer steps; the curve is fitted to what {count(least)} of them "
            "find on average."
        )
    if point.reached and not point.steps_interval:
        yield (
            f"only {count(point.counts['reached'])} of {count(len(point.trials))} trials reached "
            "the goal, too few for an interval; run more trials or raise target.margin."
        )
    if point.reached and point.repeats and not point.repeat_steps:
        yield "no repeat of the best trial reached the goal; its steps were luck."
    if not point.evaluations.step.size:
        yield "no evaluations are recorded, so it is missing from the curves."
