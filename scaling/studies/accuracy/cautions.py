"""What a reader must know before believing the numbers."""

from scaling.report.wording import count, listed, times
from scaling.studies.accuracy.judging import changes, failure, names, times_longer
from scaling.studies.accuracy.records import Study
from scaling.studies.accuracy.texts import place, some


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    found = []
    if study.unfinished:
        found.append(f"Not finished, and therefore not in here: {listed(study.unfinished)}.")
    if study.reference is None:
        found.append(
            f"There is no point at the base batch {count(study.base_batch)}, so there is no "
            "reference: what larger batches cost is not known."
        )
    longer = [point for point in study.points if times_longer(study, point)]
    if longer:
        most = times(max(times_longer(study, point) for point in longer))
        found.append(
            f"More epochs than the reference, up to {most} as many: {some(names(study, longer))}. "
            "What they win is not at equal cost."
        )
    return found + _about_seeds(study) + _about_tuning(study) + _about_tests(study)


def _about_seeds(study):
    found = []
    numbers = {len(point.runs) for point in study.points if point.runs}
    single = [place(point) for point in study.points if len(point.runs) == 1]
    if numbers == {1}:
        found.append(
            "One seed per point has no spread: no difference here can be told from chance."
        )
    elif single:
        found.append(f"One seed, so no spread and no verdict: {some(single)}.")
    if len(numbers) > 1:
        found.append(
            f"Points have {count(min(numbers))} to {count(max(numbers))} seeds; those with fewer "
            "have wider intervals, so it is harder for them to hold."
        )
    if not any(point.errors("test") for point in study.points):
        found.append("The test set was not evaluated (eval.test), so nothing can be judged.")
    failed = [f"{place(point)} ({failure(point)})" for point in study.points if point.failed]
    if failed:
        found.append(
            f"Diverged: {some(failed)}. Their means are of the seeds that did not, and they are "
            "not recommended."
        )
    return found


def _about_tuning(study):
    found = []
    tuned = [point for point in study.points if point.tuning]
    best = [point for point in tuned if point.tuning.best is not None]
    edges = [f"{place(point)} ({point.tuning.at_edge})" for point in best if point.tuning.at_edge]
    if edges:
        found.append(
            f"The best learning rate lies at an end of the range tried: {some(edges)}. A better "
            "one may lie beyond; widen the range before comparing."
        )
    if tuned and len(tuned) < len(study.points):
        others = [point for point in study.points if not point.tuning]
        found.append(
            f"Learning rates were tuned for {some(names(study, tuned))} but not for "
            f"{some(names(study, others))}; the comparison favours the tuned."
        )
    trials = {len(point.tuning.trials) for point in tuned}
    if len(trials) > 1:
        found.append(
            f"Learning rates were tuned with {count(min(trials))} to {count(max(trials))} trials; "
            "more trials find better rates."
        )
    return found


def _about_tests(study):
    families = [changes(study, batch).values() for batch in study.batches]
    most = max(sum(change.p is not None for change in family) for family in families)
    if most < 2:
        return []
    return [
        f"Up to {count(most)} recipes are compared with {study.baseline} at one batch: their p "
        "values are adjusted for that (Holm), the 95% intervals and the verdicts are not."
    ]
