"""Tables of test errors by recipe and batch."""

from collections.abc import Sequence

from quoted.quotes import Table
from quoted.records import count, percent, spread
from scaling.studies.accuracy.judging import Point, Study


def error_table(
    name: str,
    studies: Sequence[Study],
    rows: dict[str, str],
    batches: Sequence[int],
    head: str = "recipe",
    same: Sequence[str] = (),
) -> Table:
    """Mean and deviation over seeds, the least of each batch in bold.

    Args:
      studies: each point is of the first that has it.
      rows: how a row begins -> its recipe.
      same: recipes that come to the first one at the small batch, where no record names them.
    """
    found = lambda batch, recipe: next(
        filter(None, (s.point(batch, recipe) for s in studies)), None
    )
    columns = {batch: [found(batch, recipe) for recipe in rows.values()] for batch in batches}
    best = {batch: min(filter(_sound, column), key=_mean) for batch, column in columns.items()}
    updates = [count(point.steps) for point in best.values()]
    lines = [[head, *map(count, batches)], ["updates", *updates]]
    for place, begin in enumerate(rows):
        line = [begin]
        for batch, column in columns.items():
            point = column[place]
            told = "" if point is None else _cell(point)
            alias = batch == studies[0].base_batch and rows[begin] in same
            if alias or (point and point in column[:place]):
                told = "the same"
            line.append(f"**{told}**" if point is best[batch] and told != "the same" else told)
        lines.append(line)
    return Table(name, lines)


def _sound(point: Point | None) -> bool:
    return point is not None and not point.failure


def _mean(point: Point) -> float:
    return point.mean("test")


def _cell(point: Point) -> str:
    if point.mean("test") is None:
        return "all diverged"
    deviation = point.spread("test").sd
    # One number where every seed answers the same to all images; else two digits of the deviation.
    error = spread(point, places(deviation)) if deviation else percent(point.mean("test"), 0)
    return f"{point.failure.removesuffix(' seeds')} diverged, {error}" if point.failure else error


def places(deviation: float) -> int:
    """Decimals of a percentage that its deviation leaves worth telling."""
    return 2 if deviation < 0.01 else 1 if deviation < 0.1 else 0
