"""How often the 95% interval of `scaling.fits.turns_ratio` holds the true ratio of two B_crit.

    python benchmarks/ratio_coverage.py [--draws=1000] [--name=RESULT]

Two studies with the same batch sizes, spaced by 4, their B_crit `ratio` apart around the middle of
them, normal noise on log S. "uneven": the noise of the second is twice that of the first, which the
interval takes to be the same. "told apart" is the share of intervals that leave out 1; at ratio 1
it is the share of false alarms. The standard error of a share is 0.7% at 1,000 draws.
"""

import argparse
import itertools
import zlib

import numpy as np
from common import machine, write

from scaling.fits import fit_steps, turns_ratio

SMALLEST = 4.0
SETTINGS = itertools.product((5, 6, 8), (0.05, 0.15, 0.3), (1, 2, 4), ("even", "uneven"))


def measure(points, sd, ratio, noise, draws):
    """One row of the result."""
    batch = SMALLEST * 4.0 ** np.arange(points)
    middle = (batch[0] * batch[-1]) ** 0.5
    curves = [1 + middle * ratio**power / batch for power in (-0.5, 0.5)]
    sds = (sd, 2 * sd if noise == "uneven" else sd)
    rng = np.random.default_rng(zlib.crc32(repr((points, sd, ratio, noise)).encode()))
    found = []
    for _ in range(draws):
        first, second = (
            fit_steps(batch, curve * np.exp(spread * rng.standard_normal(points)))
            for curve, spread in zip(curves, sds, strict=True)
        )
        found.append(turns_ratio(second, first))
    low, high = np.array([each.interval for each in found]).T
    finite = (low > 0) & (high < np.inf)
    return {
        "points": points,
        "sd": sd,
        "ratio": ratio,
        "noise": noise,
        "coverage": round(float(np.mean((low <= ratio) & (ratio <= high))), 3),
        "told apart": round(float(np.mean([each.differs for each in found])), 3),
        "bounded": round(float(finite.mean()), 3),
        "median_high_over_low": round(float(np.median(high[finite] / low[finite])), 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--name", default="ratio_coverage")
    options = parser.parse_args()
    rows = []
    for setting in SETTINGS:
        rows.append(measure(*setting, options.draws))
        print(rows[-1], flush=True)
    summary = {}
    for noise in ("even", "uneven"):
        of = lambda key, noise=noise: sorted(r[key] for r in rows if r["noise"] == noise)
        summary[noise] = {"lowest": of("coverage")[0], "highest": of("coverage")[-1]}
    result = {"machine": machine(), "draws": options.draws, "summary": summary}
    write(options.name, result | {"settings": rows})


if __name__ == "__main__":
    main()
