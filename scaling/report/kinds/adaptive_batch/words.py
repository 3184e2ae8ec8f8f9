"""What the study says, and what a reader must know."""

import statistics

from scaling.report.kinds.adaptive_batch.records import Study, bends, fit_of, natural, saving
from scaling.report.wording import count, goal_text, listed, number, subject

CLOSE = 0.9  # a gamma above this promises less than 5% in steps and examples


def answer(study: Study) -> str:
    """What adapting the batch saves, and whether that is more than the spread."""
    return f"{subject(study)}, {_says(study)}."


def _says(study):
    goal, point = goal_of(study), natural(study)
    if point is None:
        return f"no run with an adaptive batch reached {goal}"
    fit, reason = fit_of(study)
    if not bends(fit):
        why = reason.rstrip(".") if reason else "their curve does not bend within what is measured"
        return (
            f"an adaptive batch (r = {number(point.r)}) takes {number(point.steps)} steps and "
            f"{number(point.examples)} examples to {goal}; fixed batch sizes give nothing to "
            f"compare with: {why}"
        )
    found = saving(study, point)
    parts = [
        f"{_change(shares, what)} {than}"
        for shares, what, than in (
            (found.steps, "steps", "than a fixed one that sees as many examples"),
            (found.examples, "examples", "than one that takes as many steps"),
        )
        if shares
    ]
    if not parts:
        return (
            f"an adaptive batch (r = {number(point.r)}) reaches {goal} in fewer steps or examples "
            "than the fit says any fixed one needs, so they cannot be compared"
        )
    return (
        f"to {goal} an adaptive batch (r = {number(point.r)}) takes {' and '.join(parts)}; "
        f"{_judged(found.steps + found.examples, fit.residual_sd)}{_expected(study)}"
    )


def goal_of(study: Study) -> str:
    """The hardest goal in words."""
    return goal_text("loss", study.goal, "train")


def _change(shares, what):
    """5% fewer steps (2% to 8% over 3 seeds)"""
    middle = statistics.median(shares)
    word = "fewer" if middle >= 0 else "more"
    ends = sorted(share if middle >= 0 else -share for share in shares)
    span = f"{_percent(ends[0])} to {_percent(ends[-1])} over {len(shares)} seeds"
    return f"{_percent(abs(middle))} {word} {what} ({span if len(shares) > 1 else 'one seed'})"


def _percent(share):
    return f"{100 * share:.0f}%".replace("-", "−")


def _judged(shares, scatter):
    middle = statistics.median(shares)
    seeds = min(shares) <= 0 <= max(shares)
    around = f"the {_percent(scatter)} by which fixed batch sizes scatter around their fit"
    if seeds or abs(middle) <= scatter:
        return f"that is within {'the spread of seeds' if seeds else around}"
    return f"that is more than the spread of seeds and than {around}"


def _expected(study):
    if study.gamma is None:
        return ""
    close = ", close to 1: nothing to gain" if study.gamma > CLOSE else ""
    return f" (gamma {number(study.gamma)}{close})"


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    found = []
    if study.unfinished:
        found.append(f"Not finished, and therefore not in here: {listed(study.unfinished)}.")
    goal = goal_of(study)
    for point in study.points:
        missed = len(point.runs) - len(point.ends)
        diverged = sum(run.status == "diverged" for run in point.runs)
        if missed:
            also = f", {count(diverged)} of them diverged" if diverged else ""
            found.append(
                f"{point.directory.name}: {count(missed)} of {count(len(point.runs))} seeds did "
                f"not reach {goal}{also}; the numbers are of the others."
            )
        scales = [scale for run in point.runs for _, scale in run.noise_scale]
        if point.kind == "adaptive" and scales and not any(scales):
            found.append(
                f"{point.directory.name}: B_simple was never resolved, so the batch never adapted."
            )
    if any(len(point.runs) < 2 for point in study.points):
        found.append("Points with one seed have no spread; small savings mean nothing there.")
    return found
