"""Coverage of the 95% intervals of the hyperbola of `scaling.fits.fit_steps` and of alternatives;
breakpoints_coverage.py measures that of the breakpoints, on other curves too.

    python benchmarks/fits_coverage.py [--draws=1000] [--name=RESULT]

Steps are drawn around a known hyperbola with noise on log S. Settings: number and spacing of the
batch sizes, sd and distribution of the noise, position of B_crit among the batch sizes, points
censored by a step budget. "curve" is the band at the largest batch size. The standard error of a
coverage is 0.7% at 1,000 draws.

Alternatives ("rivals"), all for B_crit: the same profile with the large-sample chi-squared
threshold; Wald, log B_crit +- t(n - 2) standard errors; percentiles of a residual bootstrap, with
residuals inflated for the two parameters; the profile F with its threshold from a parametric
bootstrap at the fit.
"""

import argparse
import statistics
import zlib

import numpy as np
from common import machine, write
from scipy import stats

from scaling.fits import fit_steps

S_MIN, SMALLEST = 300.0, 16.0
# log B_crit as a share of the log range of the batch sizes.
PLACES = {
    "all flat": -0.5,
    "at the small end": 0.1,
    "in the middle": 0.5,
    "at the large end": 0.9,
    "all slope -1": 1.5,
}
RESAMPLES, RESAMPLED = 200, 400  # draws per bootstrap, and number of bootstrapped data sets


def settings():
    """(points, spacing, sd, kind of noise, position of B_crit, censored end)."""
    for place in PLACES:
        for points in (5, 8, 12):
            for sd in (0.05, 0.15, 0.3):
                yield points, 2, sd, "normal", place, "none"
        yield 8, 4, 0.15, "normal", place, "none"
        for points in (5, 12):
            for kind in ("skewed", "heavy tails", "uneven"):
                yield points, 2, 0.15, kind, place, "none"
            if not place.startswith("all"):
                for end in ("small batches", "large batches"):
                    yield points, 2, 0.15, "normal", place, end


def noise(rng, kind, shape):
    """Mean 0 and sd 1 (uneven: 1 on average, falling from 1.5 to 0.5 with the batch)."""
    if kind == "skewed":
        return rng.exponential(size=shape) - 1
    if kind == "heavy tails":
        return rng.standard_t(3, size=shape) / 3**0.5
    spread = np.linspace(1.5, 0.5, shape[-1]) if kind == "uneven" else 1.0
    return spread * rng.standard_normal(shape)


def censor(steps, truth, end):
    """(steps, censored_at) under a budget that the last two points at one end often exceed."""
    censored_at = np.full(steps.shape, np.nan)
    if end != "none":
        budget = np.where(np.arange(len(steps)) < 2, truth[1], np.inf)
        if end == "large batches":  # the budget is the expected steps
            budget = np.where(np.arange(len(steps)) >= len(steps) - 2, truth, np.inf)
        missed = steps > budget
        steps, censored_at = np.where(missed, np.nan, steps), np.where(missed, budget, np.nan)
    return steps, censored_at


def ours(batch, drawn, b_crit, end):
    """Coverage of the intervals of `fit_steps`, [draws, batch sizes] of steps."""
    truth = S_MIN * (1 + b_crit / batch)
    rows = []
    for steps in drawn:
        steps, censored_at = censor(steps, truth, end)
        fit = fit_steps(batch, steps, censored_at=censored_at)
        low, high = fit.b_crit_interval
        rows.append(
            {
                "b_crit": low <= b_crit <= high,
                "s_min": fit.s_min_interval[0] <= S_MIN <= fit.s_min_interval[1],
                "e_min": fit.e_min_interval[0] <= S_MIN * b_crit <= fit.e_min_interval[1],
                "curve": np.subtract(fit.hyperbola.band(batch[-1]), truth[-1]).prod() <= 0,
                "one_sided": low == 0 or high == np.inf,
                "width": high / low if low > 0 else np.inf,
            }
        )
    result = {key: round(float(np.mean([r[key] for r in rows])), 3) for key in list(rows[0])[:-1]}
    width = float(np.median([r["width"] for r in rows]))
    return result | {"median_high_over_low": round(width, 2) if width < np.inf else None}


def squares(y, shapes):
    """[draws, shapes] sums of squares at the best level, of y [draws, n] on shapes [shapes, n]."""
    y, shapes = (a - a.mean(-1, keepdims=True) for a in (y, shapes))
    return (y**2).sum(-1)[:, None] - 2 * y @ shapes.T + (shapes**2).sum(-1)


def rivals(rng, batch, drawn, b_crit):
    """Coverage of B_crit by the other methods."""
    y, dof, truth = np.log(drawn), len(batch) - 2, np.log(b_crit)
    log_b_crits = np.linspace(np.log(batch[0]) - 14, np.log(batch[-1]) + 14, 1200)
    shapes = np.log1p(np.exp(log_b_crits[:, None] - np.log(batch)))
    table = squares(y, shapes)
    best = table.argmin(1)
    at_truth = squares(y, np.log1p(b_crit / batch)[None])[:, 0]
    least = np.minimum(table.min(1), at_truth)
    ratio = (at_truth / least - 1) * dof
    slopes = 1 / (1 + batch / np.exp(log_b_crits[best])[:, None])
    slopes -= slopes.mean(1, keepdims=True)
    error = np.sqrt(least / dof / (slopes**2).sum(1))
    covered = {"percentile": [], "calibrated": []}
    for i in range(min(RESAMPLED, len(y))):
        curve = shapes[best[i]] + (y[i] - shapes[best[i]]).mean()
        residuals = (y[i] - curve) * (len(batch) / dof) ** 0.5
        resampled = squares(curve + rng.choice(residuals, (RESAMPLES, len(batch))), shapes)
        low, high = np.quantile(log_b_crits[resampled.argmin(1)], [0.025, 0.975])
        covered["percentile"].append(low <= truth <= high)
        sd = (least[i] / dof) ** 0.5
        resampled = squares(curve + sd * rng.standard_normal((RESAMPLES, len(batch))), shapes)
        ratios = (resampled[:, best[i]] / resampled.min(1) - 1) * dof
        covered["calibrated"].append(ratio[i] <= np.quantile(ratios, 0.95))
    result = {
        "profile chi-squared": len(batch) * np.log1p(ratio / dof) <= stats.chi2.ppf(0.95, 1),
        "Wald t": abs(log_b_crits[best] - truth) <= stats.t.ppf(0.975, dof) * error,
        "residual bootstrap": covered["percentile"],
        "profile F, bootstrapped threshold": covered["calibrated"],
    }
    return {name: round(float(np.mean(values)), 3) for name, values in result.items()}


def measure(points, spacing, sd, kind, place, end, draws):
    """One row of the result."""
    batch = SMALLEST * float(spacing) ** np.arange(points)
    b_crit = float(batch[0] * (batch[-1] / batch[0]) ** PLACES[place])
    # Each setting has its own seed: adding one does not change the others' numbers.
    rng = np.random.default_rng(zlib.crc32(repr((points, spacing, sd, kind, place, end)).encode()))
    drawn = S_MIN * (1 + b_crit / batch) * np.exp(sd * noise(rng, kind, (draws, points)))
    row = {"points": points, "spacing": spacing, "sd": sd, "noise": kind}
    row |= {"b_crit_is": place, "censored": end, "coverage": ours(batch, drawn, b_crit, end)}
    if end == "none":
        row["rivals"] = rivals(rng, batch, drawn, b_crit)
    return row


def summary(rows):
    """Lowest, median and highest coverage over settings, with and without censored points."""
    groups = {}
    for row in rows:
        group = "censored" if row["censored"] != "none" else f"{row['noise']} noise"
        table = groups.setdefault(group, {})
        for name in ("b_crit", "s_min", "e_min", "curve"):
            table.setdefault(name, []).append(row["coverage"][name])
        for name, value in row.get("rivals", {}).items():
            table.setdefault(f"rival for b_crit: {name}", []).append(value)
    return {
        group: {
            name: {
                "settings": len(values),
                "lowest": min(values),
                "median": round(statistics.median(values), 3),
                "highest": max(values),
            }
            for name, values in table.items()
        }
        for group, table in groups.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--name", default="fits_coverage")
    options = parser.parse_args()
    rows = []
    for setting in settings():
        rows.append(measure(*setting, options.draws))
        print(rows[-1], flush=True)
    result = {"machine": machine(), "draws": options.draws, "summary": summary(rows)}
    write(options.name, result | {"settings": rows})


if __name__ == "__main__":
    main()
