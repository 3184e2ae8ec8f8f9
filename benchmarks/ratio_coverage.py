"""Coverage of the 95% interval of `scaling.ratios.critical_batch_ratio`.

    python benchmarks/ratio_coverage.py [--draws=1000] [--name=RESULT]

Steps of two studies are drawn around hyperbolas with normal noise on log S, B_crit symmetric about
the middle of the batch sizes on a log scale. Settings: batch sizes of each, noise of each, the
ratio, the correlation of the noise at equal batch sizes, and points censored by a step budget.

Alternative: the same interval without pairing, which assumes independent errors.
"""

import argparse
import zlib

import numpy as np
from common import machine, write
from fits_coverage import censor

from scaling import ratios
from scaling.fits import fit_steps
from scaling.ratios import critical_batch_ratio

SMALLEST, LARGEST = 4.0, 4096.0
NOISES = ((0.05, 0.05), (0.15, 0.15), (0.3, 0.3), (0.05, 0.3), (0.3, 0.05))


def settings():
    """(points, sds, ratio, correlation, censored end of the first); pairs are (first, other)."""
    for ratio in (1, 4):
        for points in ((6, 6), (11, 11), (4, 11), (11, 4)):
            for sds in NOISES:
                for correlation in (0, 0.5, 0.9) if points[0] == points[1] else (0,):
                    yield points, sds, ratio, correlation, "none"
        yield (6, 6), (0.15, 0.15), ratio, 0, "small batches"


def fitted(noise, b_crit, end):
    batch = np.geomspace(SMALLEST, LARGEST, len(noise))
    truth = 1 + b_crit / batch
    steps, censored_at = censor(truth * np.exp(noise), truth, end)
    return fit_steps(batch, steps, censored_at=censored_at)


def unpaired(fit, reference):
    """The ratio under independent errors."""
    measured, ratios._correlation = ratios._correlation, lambda *_: 0.0
    try:
        return critical_batch_ratio(fit, reference)
    finally:
        ratios._correlation = measured


def measure(points, sds, ratio, correlation, end, draws):
    """One row of the result."""
    middle = (SMALLEST * LARGEST) ** 0.5
    rng = np.random.default_rng(zlib.crc32(repr((points, sds, ratio, correlation, end)).encode()))
    ours, rival = [], []
    for _ in range(draws):
        noise = [rng.standard_normal(n) for n in points]
        if correlation:
            noise[1] = correlation * noise[0] + (1 - correlation**2) ** 0.5 * noise[1]
        first = fitted(sds[0] * noise[0], middle * ratio**-0.5, end)
        other = fitted(sds[1] * noise[1], middle * ratio**0.5, "none")
        ours.append(critical_batch_ratio(other, first))
        rival.append(unpaired(other, first))
    covered = lambda results: [r.interval[0] <= ratio <= r.interval[1] for r in results]
    share = lambda values: round(float(np.mean(values)), 3)

    def width(results):
        low, high = np.array([r.interval for r in results]).T
        bounded = (low > 0) & (high < np.inf)
        return round(float(np.median(high[bounded] / low[bounded])), 2) if bounded.any() else None

    return {
        "points": points,
        "sd": sds,
        "ratio": ratio,
        "correlation": correlation,
        "censored": end,
        "coverage": share(covered(ours)),
        "indistinguishable": share([not r.differs for r in ours]),
        "median_high_over_low": width(ours),
        "rival, unpaired": share(covered(rival)),
        "rival's median_high_over_low": width(rival),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--name", default="ratio_coverage")
    options = parser.parse_args()
    rows = []
    for setting in settings():
        rows.append(measure(*setting, options.draws))
        print(rows[-1], flush=True)
    summary = {
        key: {"lowest": min(row[key] for row in rows), "highest": max(row[key] for row in rows)}
        for key in ("coverage", "rival, unpaired")
    }
    result = {"machine": machine(), "draws": options.draws, "summary": summary}
    write(options.name, result | {"settings": rows})


if __name__ == "__main__":
    main()
