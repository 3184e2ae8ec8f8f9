"""What the study says, and what a reader must know."""

from scaling.report.wording import count, listed, number, subject
from scaling.studies.generalization.analysis import (
    Ratio,
    at_batch,
    exponents,
    fitted,
    large,
    main_recipe,
    medians,
    ratio,
    small,
)
from scaling.studies.generalization.records import NAIVE, Point, Study

NAMES = {"log": "log t", "root": "sqrt(t)", "power": "a power of t"}
GOOD, ROUGH = 0.98, 0.9  # an R^2 below the former is a rough law, below the latter none
TIE = 0.005  # laws whose R^2 differ by less fit about as well
DECADE = 10.0  # over less than this factor in steps the three laws look alike
LEAST = 0.05  # of a gap; less is not closing it
TOO_FEW = "no seed has enough evaluations in the phase of the initial learning rate"


def answer(study: Study) -> str:
    """Which law the distance follows, and what the batch does to its slope."""
    return f"{subject(study)}, {_law(study)}. {_slopes(study)}"


def _law(study):
    found = medians(study)
    if not found:
        why = TOO_FEW if any(point.complete for point in study.points) else "every seed diverged"
        return f"no law of the distance from initialisation can be fitted: {why}"
    best = max(found, key=found.get)
    fits = sum(bool(point.fits) for point in study.points)
    over = f"median R² over {count(fits)} points" if fits > 1 else "R² of one point"
    numbers = ", ".join(f"{NAMES[law]} {r2_text(value)}" for law, value in found.items())
    told = f"{over}: {numbers} with exponent{_exponents(study)}"
    if found[best] < ROUGH:
        return f"none of three laws describes how far the weights walk ({told})"
    near = [NAMES[law] for law in found if law != best and found[law] > found[best] - TIE]
    walk = "the distance from initialisation grows"
    walk += " roughly" if found[best] < GOOD else ""
    if best == "log":
        also = f", though {listed(near)} fit{'s' * (len(near) == 1)} about as well" if near else ""
        return f"{walk} as log t{also} ({told})"
    if NAMES["log"] in near:
        return f"{walk} as {NAMES[best]}, and log t fits about as well ({told})"
    return f"{walk} not as log t but as {NAMES[best]} ({told})"


def r2_text(value: float | None) -> str:
    """Three decimals: 0.998."""
    return number(value) if value is None else f"{value:.3f}".replace("-", "−")


def _exponents(study):
    low, high = (f"{end(exponents(study)):.2f}".replace("-", "−") for end in (min, max))
    return f" {low}" if low == high else f"s {low} to {high}"


def _slopes(study):
    reference, recipe = small(study), main_recipe(study)
    if reference is None:
        return "How the batch changes its slope is therefore not known."
    point = large(study, recipe)
    found = point and ratio(point, reference)
    parts = []
    if found:
        parts.append(f"{_change(found)}: {_with(recipe)}, {_compared(point, reference, found)}")
    for other in study.recipes:
        corrected = large(study, other) if other != recipe else None
        # A correction that comes to nothing at this batch is no correction there.
        if corrected is None or recipe in corrected.recipes:
            continue
        value = ratio(corrected, reference)
        if value is not None:
            same = at_batch(fitted(study, recipe), corrected.global_batch)
            judged = _restores(value, same and ratio(same, reference))
            told = _compared(corrected, reference, value)
            if found and corrected.global_batch == point.global_batch:
                told = f"{_times(value.value)} times ({_range(value)})"
            parts.append(f"with {other}, {told}, {judged}")
    if not parts:
        batch = f"batch {count(reference.global_batch)}"
        if point or reference.slope <= 0:
            return f"The slope against log t is not positive at {batch}, so no other compares."
        return (
            "How the batch changes the slope against log t is not known: only "
            f"{batch} has one to compare."
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _with(recipe):
    kept = "with the small batch's learning rate kept"
    return kept if recipe == NAIVE else f"with {recipe}"


def _change(found: Ratio) -> str:
    slope = "the slope against log t"
    if found.close:
        return f"{slope} hardly changes with the batch"
    if found.unclear:
        return f"{slope} does not change with the batch beyond the spread of seeds"
    return f"{slope} {'falls' if found.value < 1 else 'rises'} with the batch"


def _compared(point: Point, reference: Point, found: Ratio) -> str:
    """batch 4,096 has 0.45 times that of batch 128 (0.43 to 0.47 over 3 seeds)"""
    return (
        f"batch {count(point.global_batch)} has {_times(found.value)} times that of batch "
        f"{count(reference.global_batch)} ({_range(found)})"
    )


def _times(value):
    return f"{value:.2f}".replace("-", "−")


def _range(found: Ratio) -> str:
    if found.seeds < 2:
        return "one seed"
    return f"{_times(found.low)} to {_times(found.high)} over {found.seeds} seeds"


def _restores(found: Ratio, naive: Ratio | None) -> str:
    """Whether a correction gives the small batch's slope back (Hoffer 2017, Fig. 2b)."""
    if found.close:
        return "which leaves it as it was" if naive and naive.close else "which restores it"
    if found.unclear:
        return "which restores it within the spread of seeds"
    if naive is None or naive.close:
        return f"which is {'more' if found.value > 1 else 'less'}"
    share = (found.value - naive.value) / (1 - naive.value)
    if share > 1:
        return "which overshoots it"
    if share < -LEAST:
        return "which is further from it"
    return f"which closes {share:.0%} of the gap" if share > LEAST else "which restores nothing"


def cautions(study: Study) -> list[str]:
    """One sentence each."""
    found = []
    if study.unfinished:
        found.append(f"Not finished, and therefore not in here: {listed(study.unfinished)}.")
    found += filter(None, map(_of_diverged, study.points))
    for sentence, wrong in (
        (
            "the record holds no curve of some seeds, which are missing from the figures.",
            lambda p: any(not run.curve.step for run in p.runs),
        ),
        (
            "too few evaluations of some seeds lie in the phase of the initial learning rate for "
            "a fit; evaluate more often or train longer.",
            lambda p: len(p.fits) < len(p.complete),
        ),
        (
            f"the fits cover less than a factor of {DECADE:g} in steps, over which the three laws "
            "look alike.",
            lambda p: p.fits and p.fit_steps[1] < DECADE * p.fit_steps[0],
        ),
        ("the distance does not grow with log t.", lambda p: p.fits and p.slope <= 0),
        (
            "trained on simulated devices; the curves are as on real devices, times are not.",
            lambda p: (p.directory.result.get("devices") or {}).get("simulated"),
        ),
    ):
        names = [point.directory.name for point in study.points if wrong(point)]
        if names:
            found.append(f"{listed(names)}: {sentence}")
    if medians(study).get("log", 1.0) < GOOD and len(study.batches) > 1:
        found.append(
            "Log t is a rough law here, so its slope depends on the steps that it is fitted over, "
            "and those are fewer at larger batches."
        )
    if any(len(point.runs) < 2 for point in study.points):
        found.append("Points with one seed have no spread; small differences mean nothing there.")
    return found


def _of_diverged(point: Point) -> str | None:
    if not point.diverged:
        return None
    name, seeds = point.directory.name, len(point.runs)
    steps = [run.diverged_at for run in point.diverged if run.diverged_at is not None]
    at = f" (at step {listed([count(step) for step in steps])})" if steps else ""
    if not point.complete:
        every = "its only seed" if seeds == 1 else f"all {count(seeds)} seeds"
        return f"{name}: {every} diverged{at}, so it has no numbers."
    return (
        f"{name}: {count(len(point.diverged))} of {count(seeds)} seeds diverged{at}; the numbers "
        "are of the others."
    )
