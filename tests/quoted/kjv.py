"""Language models on the King James Bible in docs/reproduction.md."""

from quoted.quotes import Section, Table, say
from quoted.records import number, percent, study
from scaling.report.wording import rounded

HEAD = ["study", "perfect scaling to", "largest useful batch", "B_crit", "bend", "scatter"]
STUDIES = {"Transformer, Adam": "adam"}


def quotes():
    """The curves of the studies, and of Adam's its points and its best learning rates."""
    rows = [HEAD]
    for title, name in STUDIES.items():
        fit = study(f"kjv_lm/{name}").fit
        ends = (fit.perfect_scaling_end, fit.max_useful_batch)
        texts = [f"{rounded(e.batch)} ({e.interval_text.removeprefix('95%: ')})" for e in ends]
        critical = _of(fit.b_crit, fit.b_crit_interval)
        bend = _of(fit.curve.bend, fit.bend_interval)
        rows.append([title, *texts, critical, bend, f"{fit.scatter:.0%}"])
    yield Table("kjv", rows)
    adam = study("kjv_lm/adam")
    points = adam.reached
    yield say(
        "steps fall from {} at batch 2 to {} at batch 256",
        *(number(points[i].steps_to_target) for i in (0, -1)),
    )
    yield say(
        "in tokens, B_crit is {} ({} to {})",
        *(rounded(32 * value) for value in (adam.fit.b_crit, *adam.fit.b_crit_interval)),
    )
    yield say(
        "learning rate rises from {} at batch 2 to {} at batch 256",
        *(f"{points[i].best['learning_rate']:.2g}" for i in (0, -1)),
    )
    reached = [p.repeats_reached for p in points]
    del reached, percent


def _of(value, interval):
    return f"{rounded(value)} ({rounded(interval[0])} to {rounded(interval[1])})"
