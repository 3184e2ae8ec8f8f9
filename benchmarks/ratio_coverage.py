"""How often the 95% interval of `scaling.fits.critical_batch_ratio` holds the true ratio.

    python benchmarks/ratio_coverage.py [--draws=1000] [--name=RESULT]

Two studies, batch 4 to 4,096, their B_crit `ratio` apart around the middle, normal noise on log S.
Settings: how many batch sizes each has and the sd of its noise, the ratio, and points censored by a
budget that the first one's two smallest batches fail often. "told apart" is the share of intervals
that leave out 1; at ratio 1 those are false alarms. Rival: the same with one noise for both, its
variance from both. The standard error of a share is 0.7% at 1,000 draws.
"""

import argparse
import dataclasses
import zlib

import numpy as np
from common import machine, write
from fits_coverage import censor

from scaling.fits import critical_batch_ratio, fit_steps

SMALLEST, LARGEST = 4.0, 4096.0
NOISES = ((0.05, 0.05), (0.15, 0.15), (0.3, 0.3), (0.05, 0.3), (0.3, 0.05))


def settings():
    """(points, sds, ratio, which end of the first is censored); pairs are the first, the other."""
    for ratio in (1, 4):
        for points in ((6, 6), (11, 11), (4, 11), (11, 4)):
            for sds in NOISES:
                yield points, sds, ratio, "none"
        yield (6, 6), (0.15, 0.15), ratio, "small batches"


def fitted(rng, points, sd, b_crit, end):
    batch = np.geomspace(SMALLEST, LARGEST, points)
    truth = 1 + b_crit / batch
    steps, censored_at = censor(truth * np.exp(sd * rng.standard_normal(points)), truth, end)
    return fit_steps(batch, steps, censored_at=censored_at)


def one_noise(pair):
    """The fits as if both had the noise that they have together."""
    free = np.array([fit.problem.log_steps.size - 2 for fit in pair])
    sd = float(
        (sum(n * fit.variance for n, fit in zip(free, pair, strict=True)) / free.sum()) ** 0.5
    )
    return [dataclasses.replace(fit, residual_sd=sd) for fit in pair]


def measure(points, sds, ratio, end, draws):
    """One row of the result."""
    middle = (SMALLEST * LARGEST) ** 0.5
    rng = np.random.default_rng(zlib.crc32(repr((points, sds, ratio, end)).encode()))
    ours, rival = [], []
    for _ in range(draws):
        first = fitted(rng, points[0], sds[0], middle * ratio**-0.5, end)
        other = fitted(rng, points[1], sds[1], middle * ratio**0.5, "none")
        ours.append(critical_batch_ratio(other, first))
        rival.append(critical_batch_ratio(*one_noise((other, first))))
    held = lambda found: [one.interval[0] <= ratio <= one.interval[1] for one in found]
    low, high = np.array([one.interval for one in ours]).T
    bounded = (low > 0) & (high < np.inf)
    share = lambda values: round(float(np.mean(values)), 3)
    return {
        "points": points,
        "sd": sds,
        "ratio": ratio,
        "censored": end,
        "coverage": share(held(ours)),
        "told apart": share([one.differs for one in ours]),
        "bounded": share(bounded),
        "median_high_over_low": round(float(np.median(high[bounded] / low[bounded])), 2),
        "rival, one noise": share(held(rival)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--name", default="ratio_coverage")
    options = parser.parse_args()
    rows = []
    for setting in settings():
        rows.append(measure(*setting, options.draws))
        print(rows[-1], flush=True)
    summary = {
        key: {"lowest": min(row[key] for row in rows), "highest": max(row[key] for row in rows)}
        for key in ("coverage", "rival, one noise")
    }
    result = {"machine": machine(), "draws": options.draws, "summary": summary}
    write(options.name, result | {"settings": rows})


if __name__ == "__main__":
    main()
