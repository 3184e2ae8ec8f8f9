"""How the critical batch size grows with the size of data and model, or with what the goal takes,
over several studies."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scaling.curves import Interval
from scaling.errors import UserError
from scaling.laws import Law, fit_law, standard_error
from scaling.report.blocks import Block, Note, Picture
from scaling.report.charts import Axis, Line, Panel, Points, batches, shown, style_of
from scaling.report.wording import interval, number, percent
from scaling.studies.steps_to_target.analysis import E_MIN, Study

LEAST_RANGE = 4  # of the largest size over the smallest: a shorter one tells no exponent


@dataclass(frozen=True)
class Growth:
    """A critical batch size of several studies, and its law in their sizes.

    Attributes:
      name: of that batch size.
      critical: (study, batch, interval), of those whose interval is bounded.
    """

    name: str
    sizes: list[str]
    critical: list[tuple[Study, float, Interval]]

    @functools.cached_property
    def law(self) -> Law | str:
        """The law, or the sentence that says why there is none."""
        errors = [
            standard_error(ends, study.fit.problem.points - 2, study.fit.confidence)
            for study, _, ends in self.critical
        ]
        sizes = {name: [study.sizes[name] for study, *_ in self.critical] for name in self.sizes}
        try:
            return fit_law(sizes, [value for _, value, _ in self.critical], errors)
        except UserError as error:
            return str(error)


def growths(studies: Sequence[Study]) -> list[Growth]:
    """Of B_crit and, where logs name a reference, of the batch that takes 20% more than that one;
    none where the studies are no series of sizes, or of goals."""
    names = [name for name in studies[0].sizes if _varies(name, studies)]
    if len({study.goal for study in studies}) < len(studies) or len(names) > 1:
        names = [name for name in names if name != E_MIN]
    alike = len({study.recipe["optimizer"] for study in studies}) == 1
    if len(studies) < 3 or not names or not alike:
        return []
    of = {"B_crit": lambda fit: (fit.b_crit, fit.b_crit_interval)}
    if title := studies[0].overhead_title:
        of[title] = lambda fit: fit.overhead_batch(studies[0].log.reference)
    return [Growth(name, names, _bounded(studies, batch)) for name, batch in of.items()]


def _varies(name, studies):
    values = [study.sizes.get(name) for study in studies]
    return all(values) and max(values) >= LEAST_RANGE * min(values)


def _bounded(studies, batch):
    found = [(study, *batch(study.fit)) for study in studies if study.fit]
    return [row for row in found if row[2][0] > 0 and row[2][1] < math.inf]


def sentence(studies: Sequence[Study]) -> str:
    """The laws in a sentence, "" for none."""
    found = [g for g in growths(studies) if isinstance(g.law, Law)]
    parts = [f"{growth.name} grows as {growth.law.describe()}" for growth in found]
    if len(parts) > 1:
        parts[1] = f"the {parts[1]} (the critical batch size of Zhang et al. 2024)"
    return f"Over {found[0].law.studies} studies {', '.join(parts)}." if found else ""


def blocks(studies: Sequence[Study]) -> Iterator[Block]:
    """The figure of the laws, and what they are."""
    found = growths(studies)
    if not found:
        return
    caption = "Critical batch sizes with their 95% intervals, and power laws fitted to them."
    if E_MIN in found[0].sizes:
        unit = studies[0].unit
        caption += f" E_min: {unit} that the goal takes at small batches, of the same fits."
    panels = shown(_panel(size, found) for size in found[0].sizes)
    yield Picture("growth", caption, panels, "no critical batch size has a bounded interval")
    for growth in found:
        law = growth.law
        yield Note(
            f"{growth.name}: {law}"
            if isinstance(law, str)
            else f"{growth.name} = {number(math.exp(law.constant))} {law.describe()}; "
            f"{law.studies} studies, which scatter by {percent(law.scatter)} beyond their own "
            "intervals."
        )


def _panel(size: str, found: Sequence[Growth]) -> Panel:
    marks = []
    for index, growth in enumerate(found):
        color, marker = style_of(index)
        rows = sorted(growth.critical, key=lambda row: row[0].sizes[size])
        x, y = [study.sizes[size] for study, *_ in rows], [value for _, value, _ in rows]
        if isinstance(growth.law, Law):
            sizes = {name: [study.sizes[name] for study, *_ in rows] for name in growth.sizes}
            marks.append(Line(x, growth.law.at(sizes), color, guide=True, series=growth.name))
        low, high = zip(*(ends for *_, ends in rows), strict=True) if rows else ((), ())
        texts = [f"{s.label}\n{growth.name} {number(v)}{interval(*e)}" for s, v, e in rows]
        look = {"low": low, "high": high, "texts": texts}
        marks.append(Points(x, y, color, growth.name, marker, **look))
    unit = found[0].critical[0][0].unit if found[0].critical else "examples"
    size = f"{E_MIN} ({unit})" if size == E_MIN else size
    return Panel(Axis(size), batches(unit, "critical batch size"), marks)
