"""What made the searches: goals, ranges, seeds."""

from scaling.report import provenance
from scaling.report.wording import count, listed, number, parameter_text
from scaling.studies.steps_to_target.records import Study
from scaling.studies.steps_to_target.wording import goal_text


def origins(study: Study) -> provenance.Rows:
    """(what, its distinct values over all points and launches), in the order to be read."""
    points = study.points
    return provenance.origins(
        study,
        question=[("goal", [f"{goal_text(study)}, strictly below"])],
        search=[("search", list(dict.fromkeys(map(_search_text, points))))],
        seeds=[("seeds", list(dict.fromkeys(map(_seeds_text, points))))],
    )


def _search_text(point):
    ranges = [
        f"{parameter_text(name)} {_range_text(scale, [number(bound) for bound in bounds])}"
        for name, (scale, *bounds) in point.ranges.items()
    ]
    widened = f"; widened {count(point.widened)} times" if point.widened else ""
    return f"{count(len(point.trials))} trials; {'; '.join(ranges)}{widened}"


def _range_text(scale, bounds):
    if scale == "discrete":
        return f"one of {listed(bounds)}"
    return f"{' to '.join(bounds)} ({scale.replace('_', ' ')})"


def _seeds_text(point):
    seeds = [trial.seed for trial in point.trials]
    again = [repeat["seed"] for repeat in point.repeats]
    return "; ".join(
        f"{what} {min(some)} to {max(some)}"
        for what, some in (("trials", seeds), ("repeats", again))
        if some
    )
