"""Coverage of the 95% interval of `scaling.minima.fewest_interval` and of alternatives.

    python benchmarks/minima_coverage.py [--draws=1000] [--name=RESULT]

Searches of n trials are drawn from outcomes with a known distribution, and training stops at a
multiple (`margin`) of the fewest steps. Steps are continuous, or the evaluations of a grid that
grows by 8% and at least by one step, where the best take about 40 steps: many ties. A setting is an
outcome, n, a margin and one of the two. The outcomes "digits" and "Fashion-MNIST" are the 64 trials
of a recorded search, with normal noise of sd 0.2 on the log steps, about that of repeats of a
trial.

The truth is the median of the fewest steps over searches of n trials. "mean log" is coverage of the
mean of their logs, on the grid to half an evaluation. Both are for the searches that reach the
goal. "where there is an upper end" is coverage of the median among the searches with one, whose
intervals are the only ones shown; its summary is over the settings in which half of the searches
have one. "factor" is the median of fewest steps over lower end.

Alternatives: percentiles of the minimum of n resampled trials (bootstrap); and the same with n / 4
resampled trials (16 of 64), centred in logs on the fewest steps (centred m out of n). Resampling is
exact: the probability that the minimum of m resampled trials is above the i-th fewest steps is
(1 - i / n)^m. The standard error of a coverage is 0.7% at 95% and 1,000 draws.
"""

import argparse
import json
import zlib

import numpy as np
from common import ROOT, machine, write

from scaling.crossings import next_evaluation
from scaling.minima import fewest_interval

TRIALS, MARGINS = (8, 16, 32, 64), (1.5, 2.0, 3.0, np.inf)
GROWTH, BEST = 0.08, {"continuous": 40_000.0, "grid": 40.0}  # steps of about the 2% best trials
TRUTH = 1_000_000  # trials for the truth
NONE = 1e-6  # steps: a lower end below counts as none
METHODS = ("pivot", "bootstrap", "centred m out of n")


def normal(sd):
    return lambda rng, size: sd * rng.standard_normal(size)


def student(scale):
    return lambda rng, size: scale * rng.standard_t(3, size)


def power(sigma):
    return lambda rng, size: -sigma * rng.exponential(size=size)


def bound(exponent):
    """Steps from 1 to 4, with a distribution function ~ (s - 1)^(1 / exponent) at the bound."""
    return lambda rng, size: np.log1p(3 * rng.uniform(size=size) ** exponent)


def mixture(share, ahead):
    """A share of the trials is faster by a factor e^ahead, with less scatter."""

    def draw(rng, size):
        fast = -ahead + 0.2 * rng.standard_normal(size)
        return np.where(rng.uniform(size=size) < share, fast, 0.6 * rng.standard_normal(size))

    return draw


def missing(share, draw):
    """A share of the trials never reaches the goal."""
    return lambda rng, size: np.where(rng.uniform(size=size) < share, np.inf, draw(rng, size))


def recorded(study, batch):
    path = ROOT / "docs" / "results" / study / batch / "result.json"
    steps = [trial["steps_to_target"] for trial in json.loads(path.read_text())["trials"]]
    logs = np.log(np.array([np.inf if s is None else s for s in steps]))
    return lambda rng, size: rng.choice(logs, size) + 0.2 * rng.standard_normal(size)


OUTCOMES = {
    "log-normal, sd 0.3": normal(0.3),
    "log-normal, sd 0.6": normal(0.6),
    "log-normal, sd 1.2": normal(1.2),
    "log-t3, scale 0.3": student(0.3),
    "log-t3, scale 0.6": student(0.6),
    "power tail, sigma 0.2": power(0.2),
    "power tail, sigma 0.5": power(0.5),
    "bounded below, square root": bound(2),
    "bounded below, linear": bound(1),
    "bounded below, square": bound(0.5),
    "log-normal, 30% missed": missing(0.3, normal(0.6)),
    "log-normal, 60% missed": missing(0.6, normal(0.6)),
    "log-normal, 85% missed": missing(0.85, normal(0.6)),
    "log-t3, 60% missed": missing(0.6, student(0.4)),
    "bounded below, 60% missed": missing(0.6, bound(1)),
    "3% are 4.5 times as fast": mixture(0.03, 1.5),
    "10% are 3.3 times as fast": mixture(0.1, 1.2),
    "10% are 7.4 times as fast": mixture(0.1, 2.0),
    "30% are 3.3 times as fast": mixture(0.3, 1.2),
    "10% are fast, 50% missed": missing(0.5, mixture(0.1, 1.2)),
    **{f"digits, batch {b}": recorded("quickstart", f"bs{b}") for b in (4, 16, 64, 256)},
    "Fashion-MNIST, batch 64": recorded("fashion_mlp", "bs64"),
    "Fashion-MNIST, batch 1,024": recorded("fashion_mlp", "bs1k"),
}


def evaluations():
    steps = [1]
    while steps[-1] < 1e12:
        steps.append(next_evaluation(steps[-1], GROWTH))
    return np.array(steps, float)


EVALUATIONS = evaluations()


def on_grid(steps):
    """The first evaluation at or after each crossing."""
    places = np.minimum(np.searchsorted(EVALUATIONS, steps), len(EVALUATIONS) - 1)
    return np.where(np.isfinite(steps), EVALUATIONS[places], np.inf)


def searches(name, trials, kind, draws):
    """Sorted steps [draws, trials], the median of the fewest steps, the mean of their logs."""
    rng = np.random.default_rng(zlib.crc32(repr((name, trials, kind)).encode()))
    every = np.sort(OUTCOMES[name](rng, TRUTH))
    scale = BEST[kind] / np.exp(every[TRUTH // 50])
    moved = lambda logs: (on_grid if kind == "grid" else np.asarray)(scale * np.exp(logs))
    fewest = every[(TRUTH * (1 - rng.uniform(size=100_000) ** (1 / trials))).astype(int)]
    median = float(moved(every[int(TRUTH * (1 - 2 ** (-1 / trials)))]))
    mean_log = float(np.log(moved(fewest[np.isfinite(fewest)])).mean())
    drawn = np.sort(moved(OUTCOMES[name](rng, (draws, trials))), axis=1)
    return drawn[np.isfinite(drawn[:, 0])], median, mean_log


def pivot(steps, kind, margin):
    """Lower and upper ends, [2, draws], of sorted steps [draws, trials]."""
    before = EVALUATIONS[np.maximum(np.searchsorted(EVALUATIONS, steps[:, 0]) - 1, 0)]
    before = before if kind == "grid" else [None] * len(steps)
    intervals = [
        fewest_interval(row, until=margin * row[0], before=last)
        for row, last in zip(steps, before, strict=True)
    ]
    return np.array(intervals).T


def resampled(steps, m, share):
    """A quantile, [draws], of the minimum of m of the trials, drawn with replacement."""
    n = steps.shape[1]
    return steps[:, int(np.argmax(1 - (1 - np.arange(1, n + 1) / n) ** m >= share))]


def bootstrap(steps, kind, margin):
    return np.array([resampled(steps, steps.shape[1], share) for share in (0.025, 0.975)])


def m_out_of_n(steps, kind, margin):
    low, middle, high = (resampled(steps, steps.shape[1] // 4, q) for q in (0.025, 0.5, 0.975))
    fewest, finite = steps[:, 0], np.isfinite(middle)
    factors = [np.where(finite, a / b, np.inf) for a, b in ((high, middle), (middle, low))]
    return np.array([fewest / factors[0], fewest * factors[1]])


def measure(name, trials, kind, draws):
    """One row per margin."""
    drawn, median, mean_log = searches(name, trials, kind, draws)
    half = GROWTH / 2 if kind == "grid" else 0.0
    for margin in MARGINS:
        steps = np.where(drawn > margin * drawn[:, :1], np.inf, drawn)
        row = {"outcome": name, "trials": trials, "steps": kind, "margin": margin}
        for method, interval in zip(METHODS, (pivot, bootstrap, m_out_of_n), strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                low, high = interval(steps, kind, margin)
                logs = np.log(low) - half, np.log(high) + half
            covered, shown = (low <= median) & (median <= high), high < np.inf
            row[method] = {
                "median": float(np.mean(covered)),
                "where there is an upper end": float(covered[shown].mean()) if shown.any() else 1.0,
                "mean log": float(np.mean((logs[0] <= mean_log) & (mean_log <= logs[1]))),
                "factor": float(np.median(steps[:, 0] / np.maximum(low, NONE))),
                "no lower end": float(np.mean(low <= NONE)),
                "no upper end": float(np.mean(high == np.inf)),
            }
        yield row


def summary(rows):
    """Per method, over settings."""
    table = {}
    with_end = [row for row in rows if row["pivot"]["no upper end"] <= 0.5]
    for method in METHODS:
        of = lambda key, rows, method=method: np.array([row[method][key] for row in rows])
        entry = table[method] = {}
        for key in ("median", "where there is an upper end", "mean log"):
            share = of(key, with_end if key.startswith("where") else rows)
            entry[key] = {
                "lowest": round(share.min(), 3),
                "5% of settings below": round(np.quantile(share, 0.05), 3),
                "middle": round(np.median(share), 3),
                "settings below 0.85": round(np.mean(share < 0.85), 3),
            }
        for margin in (2.0, 3.0):
            subset = [row for row in rows if row["trials"] == 64 and row["margin"] == margin]
            factor = np.median(of("factor", subset))
            entry[f"median factor, 64 trials, margin {margin:g}"] = f"{factor:.3g}"
        for key in ("no lower end", "no upper end"):
            entry[f"mean share with {key}"] = round(of(key, rows).mean(), 3)
    return table


def text(row):
    """A setting in one line, its numbers in the order of METHODS."""
    of = lambda key: " ".join(f"{row[method][key]:.3g}" for method in METHODS)
    setting = f"{row['trials']} trials, {row['steps']}, margin {row['margin']:g}"
    return f"{setting}: " + ", ".join(f"{key} {of(key)}" for key in row["pivot"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--name", default="minima_coverage")
    options = parser.parse_args()
    rows, settings = [], {}
    for name in OUTCOMES:
        group = [
            row
            for trials in TRIALS
            for kind in BEST
            for row in measure(name, trials, kind, options.draws)
        ]
        lowest = {m: round(min(row[m]["median"] for row in group), 3) for m in METHODS}
        settings[name] = {"lowest": lowest, "settings": [text(row) for row in group]}
        rows += group
    result = {"machine": machine(), "draws": options.draws, "count": len(rows)}
    write(options.name, result | {"summary": summary(rows), "outcomes": settings})


if __name__ == "__main__":
    main()
