"""What the study says, and what a reader must know."""

from scaling.report.wording import between, count, listed, number, subject
from scaling.studies.noise_records import Estimate, Noise
from scaling.studies.noise_scale.records import Point, Study


def answer(study: Study) -> str:
    """How large B_simple is over the run, or honestly that it is not known."""
    point = study.base
    return f"{subject(study)}, {says(point)}."


def says(point: Point) -> str:
    """B_simple of one run."""
    noise, batch = point.noise, count(point.global_batch)
    if noise is None or not noise.whole.measurements:
        return f"no gradient noise was measured at batch {batch}"
    if point.level is None:
        return _unresolved(noise, batch)
    parts = []
    for estimate, when in ((noise.start, "at the start"), (noise.end, "at the end")):
        parts.append(f"{_value(estimate)} {when}")
    average = f", {number(noise.average)} on average" if noise.average else ""
    size = "above" if point.level > point.global_batch else "below"
    return (
        f"the noise scale B_simple is {' and '.join(parts)} of training{average}: "
        f"a critical batch size {size} the {batch} trained with"
    )


def _value(estimate: Estimate) -> str:
    if estimate.noise_scale is None:
        return "not resolved" + (f" (above {number(estimate.low)})" if estimate.low else "")
    return f"about {number(estimate.noise_scale)} (95%: {between(estimate.low, estimate.high)})"


def _unresolved(noise: Noise, batch: str) -> str:
    low = noise.whole.low
    bound = f"; it is above {number(low)}" if low else ""
    return (
        f"the noise scale B_simple is not resolved by {count(noise.whole.measurements)} "
        f"measurements at batch {batch}{bound}; train longer or with a larger batch"
    )


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    found = []
    if study.unfinished:
        found.append(f"Not finished, and therefore not in here: {listed(study.unfinished)}.")
    if not study.has_base:
        found.append("The base run is missing, so nothing is compared with it.")
    for sentence, wrong in (
        ("diverged; noise after that is not of this training.", lambda p: p.status == "diverged"),
        ("no gradient noise was measured; train with a batch of more than one part.", _nothing),
        (
            "B_simple is not resolved in any window: the gradient is lost in its noise. Measure "
            "over more steps or at a larger batch.",
            lambda p: not _nothing(p) and not p.noise.resolved,
        ),
        (
            "batch norm couples the examples of a batch, so gradients of parts of it are not what "
            "the formulas suppose and B_simple is a rough guide.",
            lambda p: p.noise is not None and p.noise.coupled,
        ),
    ):
        names = [point.directory.name for point in study.points if wrong(point)]
        if names:
            found.append(f"{listed(names)}: {sentence}")
    return found


def _nothing(point):
    return point.noise is None or not point.noise.whole.measurements
