"""Recipes sorted into panels and given colours, the same in every figure."""

from collections.abc import Sequence
from dataclasses import dataclass

from scaling.report.drawing import COLORS, GREY, MARKERS
from scaling.studies.accuracy.records import Study

# Title of a panel -> pieces of recipes; the first that has one of a recipe's pieces holds it.
FAMILIES = {
    "other optimizers": {"lars", "larc", "lamb", "novograd", "adamw", "muon"},
    "beyond the learning rate": {"gbn", "zero_gamma", "smoothing", "adapt", "noise", "clip"},
    "learning rate": {"naive", "linear", "sqrt", "warmup", "constant_warmup", "poly"},
}
OWN = "other recipes"
TITLES = ("learning rate", "beyond the learning rate", "other optimizers", OWN)
TOGETHER = 7  # recipes in one panel


@dataclass(frozen=True)
class Look:
    """How a recipe is drawn."""

    color: str
    marker: str


def pieces(recipe: str) -> frozenset[str]:
    """What a recipe consists of."""
    return frozenset(recipe.split("+"))


def panels_of(study: Study, studies: Sequence[Study]) -> list[tuple[str, list[str]]]:
    """(title, recipes of the study) of each panel; all studies share the panels."""
    measured = [
        (title, [recipe for recipe in recipes if recipe in study.recipes])
        for title, recipes in _groups(studies)
    ]
    some = [(title, recipes) for title, recipes in measured if set(recipes) - {study.baseline}]
    return some or measured[:1]


def _groups(studies: Sequence[Study]) -> list[tuple[str, list[str]]]:
    """(title, its recipes), one per panel; the baselines are in each."""
    first, others = _sorted(studies)
    if len(others) < TOGETHER:
        return [("", first + others)]
    found, size = [], TOGETHER - 1
    for title in TITLES:
        mine = [recipe for recipe in others if _family(recipe) == title]
        for start in range(0, len(mine), size):
            more = f", {start // size + 1}" if start else ""
            found.append((title + more, first + mine[start : start + size]))
    return found


def _family(recipe):
    found = (title for title, known in FAMILIES.items() if known & pieces(recipe))
    return next(found, OWN)


def looks(studies: Sequence[Study]) -> dict[str, Look]:
    """Recipe -> its look: a colour within its panel, a marker of the panel's."""
    first, _ = _sorted(studies)
    found = {recipe: Look(GREY, MARKERS[0]) for recipe in first}
    for panel, (_, recipes) in enumerate(_groups(studies)):
        marker = MARKERS[1 + panel % (len(MARKERS) - 1)]
        for place, recipe in enumerate(recipe for recipe in recipes if recipe not in first):
            found[recipe] = Look(COLORS[place % len(COLORS)], marker)
    return found


def _sorted(studies):
    """The baselines, and the other recipes of any study."""
    first = list(dict.fromkeys(study.baseline for study in studies))
    recipes = dict.fromkeys(recipe for study in studies for recipe in study.recipes)
    return first, [recipe for recipe in recipes if recipe not in first]
