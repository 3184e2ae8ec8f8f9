"""What the study says."""

from scaling.paired import Paired
from scaling.report.wording import count, subject, times
from scaling.studies.accuracy.judging import (
    COSTS,
    HOLDS,
    failure,
    holding,
    names,
    recommended,
    times_longer,
    to_reference,
    verdict,
)
from scaling.studies.accuracy.records import Point, Study
from scaling.studies.accuracy.texts import (
    error_text,
    points_text,
    seeds_text,
    some,
    tolerance_text,
)


def answer(study: Study) -> str:
    """What the largest batch costs, what wins it back, and up to where something does."""
    reference, largest = study.reference, study.batches[-1]
    if reference is None:
        return f"{subject(study)}, {_without_reference(study)}."
    first = (
        f"{subject(study)}, test error is {error_text(reference, 'test')} at batch "
        f"{count(study.base_batch)} ({reference.recipe}, {seeds_text(reference)})"
    )
    if reference.failed:
        first += f", where {failure(reference)} diverged"
    if largest <= study.base_batch:
        return f"{first}; no larger batch was measured."
    baseline = study.of(largest, study.baseline)
    costs = _costs(study, baseline) if baseline else "was not measured"
    return (
        f"{first}; at batch {count(largest)} the {study.baseline} recipe {costs}. "
        f"{_recipe(study, largest)}{_limit(study, largest)}."
    )


def _without_reference(study):
    largest = study.batches[-1]
    best = recommended(study, largest)
    base = f"batch {count(study.base_batch)}, the reference, was not measured"
    if best is None:
        return f"{base}, and no recipe finished batch {count(largest)} without diverging"
    return (
        f"{base}; at batch {count(largest)} validation picks {best.recipe}, with "
        f"{error_text(best, 'test')} test error ({seeds_text(best)})"
    )


def _costs(study: Study, point: Point) -> str:
    """is 1.20 points worse (95%: +0.80 to +1.60)"""
    if point.failed:
        return f"diverged ({failure(point)})"
    found = to_reference(study, point)
    if found.difference is None:
        return "has no test error to compare"
    size = f"{100 * abs(found.difference):.2f} points"
    uncertain = found.low is None or found.low <= 0 <= found.high
    chance = ", which may be chance" if uncertain else ""
    side = "worse" if found.difference >= 0 else "better"
    return f"is {size} {side} ({_ends(found)}{chance})"


def _ends(found: Paired) -> str:
    """95%: +0.80 to +1.60"""
    if found.low is None:
        return "one seed" if found.pairs == 1 else "no spread between seeds to judge by"
    return f"95%: {points_text(found.low)} to {points_text(found.high)}"


def _recipe(study: Study, batch: int) -> str:
    """What validation picks, and what comes of it."""
    best, measured = recommended(study, batch), len(study.at(batch))
    if best is None:
        tried = "The only recipe" if measured == 1 else f"None of the {measured} recipes"
        return f"{tried} there {'diverged' if measured == 1 else 'finished without diverging'}"
    if study.baseline in best.recipes:
        others = "No other recipe was measured there"
        if measured > 1:
            others = f"Of {measured} recipes there validation picks that one all the same"
        return f"{others}; it {_judged(study, best)}"
    if measured == 1:
        return f"The only recipe there is {_picked(study, best)}"
    picks = f"Of {measured} recipes there validation picks {_picked(study, best)}"
    short = recommended(study, batch, longer=False)
    if short in (None, best):
        return picks
    if study.baseline in short.recipes:
        return f"{picks}; without more epochs none but {study.baseline}"
    return f"{picks}; without more epochs {_picked(study, short)}"


def _picked(study: Study, point: Point) -> str:
    """sqrt+gbn: 11.30% ± 0.12, +0.20 points (95%: +0.10 to +0.30), which holds"""
    ratio, found = times_longer(study, point), to_reference(study, point)
    epochs = f" ({times(ratio)} the epochs)" if ratio else ""
    error = f"{point.recipe}{epochs}: {error_text(point, 'test')}"
    if found.difference is not None:
        error += f", {points_text(found.difference)} points ({_ends(found)})"
    return f"{error}, which {_judged(study, point)}"


def _judged(study: Study, point: Point) -> str:
    """holds within 0.5 points"""
    found, tolerance = verdict(study, point), tolerance_text(study)
    if found.word == HOLDS:
        return f"holds within {tolerance}"
    if found.word == COSTS:
        return f"costs more than {tolerance}"
    return f"may or may not hold within {tolerance}"


def _limit(study: Study, largest: int) -> str:
    """The largest batch at which a recipe holds, and that without more epochs."""
    found, short = (_largest_that_holds(study, longer) for longer in (True, False))
    if found is None:
        return f"; no recipe is shown to hold within {tolerance_text(study)} at any larger batch"
    if short and short[0] == found[0]:
        if found[0] == largest and recommended(study, largest) in holding(study, largest):
            return "; no batch measured is too large"
        return f"; the largest batch at which a recipe holds is {_named(short)}"
    without = f"{_named(short)} without more epochs" if short else "none without more epochs"
    return f"; the largest batch at which a recipe holds is {_named(found)}, {without}"


def _largest_that_holds(study: Study, longer: bool) -> tuple[int, str] | None:
    """The batch, and the recipe: the recommended one if it holds, else all that do."""
    for batch in reversed(study.larger_batches):
        found = [p for p in holding(study, batch) if longer or not times_longer(study, p)]
        best = recommended(study, batch, longer)
        if best in found:
            return batch, best.recipe
        if found:
            return batch, f"{some(names(study, found), 3)}, which validation does not pick there"
    return None


def _named(found: tuple[int, str]) -> str:
    batch, recipe = found
    return f"{count(batch)} ({recipe})"
