"""Coverage of the breakpoint intervals of `scaling.fits.fit_steps`, on curves of any bend and on
curves outside its model, and how often it reports a doubt.

    python benchmarks/breakpoints_coverage.py [--draws=300] [--name=RESULT]

Steps are drawn around a known curve with normal noise on log S. The curves: S_min (1 + (B_crit /
B)^p)^(1 / p) for several p; slope -0.85 at small batches, S_min (1 + (B_crit / B)^0.85); and a
hyperbola whose last batch size, or last two, take more steps again. True breakpoints: the end of
perfect scaling is where steps exceed 1.2 times the asymptote of small batches (for slope -0.85,
E_min / B^0.85); the largest useful batch is where doubling it first saves less than 10%, found on
the curve itself, with linear interpolation in logs between batch sizes where it rises.

"kept": both intervals contain their breakpoint, or a doubt is reported. At p = 1 a doubt is a false
alarm. "hyperbola": both intervals of the hyperbola, 0.2 and 4 times that of B_crit, contain it.
"width": median of log2(high / low), the ends clipped to twice the measured range.
"""

import argparse
import multiprocessing
import zlib

import numpy as np
from common import machine, write
from scipy import optimize

from scaling.fits import fit_steps, offsets

S_MIN, SMALLEST = 300.0, 16.0
BENDS = (0.5, 1.0, 1.5, 2.35, 4.0)
CURVES = (*BENDS, "slope -0.85", "rise at the last", "rise at the last two")
RISES = {"rise at the last": (1.0, 1.5), "rise at the last two": (1.25, 1.6)}
NOISES = {
    "8%": (0.08, 0.08),
    "25%": (0.25, 0.25),
    "5 to 40%": (0.05, 0.4),
    "40 to 5%": (0.4, 0.05),
}
PLACE = 0.5  # log B_crit as a share of the log range of the batch sizes


def settings():
    """(curve, number of batch sizes, their spacing, noise, place of B_crit)."""
    for curve in CURVES:
        for points, spacing in ((3, 8), (4, 4), (6, 4), (8, 2), (12, 2)):
            if not (curve in RISES and points < 4):
                for noise in NOISES:
                    yield curve, points, spacing, noise, PLACE
    for curve in (1.0, 2.35):  # only one end is measured well
        for place in (0.2, 0.8):
            for noise in NOISES:
                yield curve, 8, 2, noise, place


def truth(curve, batch, b_crit):
    """(steps at the batch sizes, the two breakpoints)."""
    x = b_crit / batch
    if curve in RISES:
        steps = S_MIN * (1 + x)
        steps[-2:] *= RISES[curve]
        log_steps = lambda log_b: np.interp(log_b, np.log(batch), np.log(steps))
        fine = np.linspace(np.log(batch[0]), np.log(batch[-1] / 2), 4000)
        saves_less = log_steps(fine + np.log(2)) - log_steps(fine) > np.log(0.9)
        useful = float(np.exp(fine[saves_less.argmax()])) if saves_less.any() else 4 * b_crit
        return steps, (0.2 * b_crit, min(useful, 4 * b_crit))
    slope, bend = (0.85, 1.0) if curve == "slope -0.85" else (1.0, curve)
    at = lambda b: S_MIN * (1 + (b_crit / b) ** (slope * bend)) ** (1 / bend)
    perfect = b_crit * (1.2**bend - 1) ** (1 / (slope * bend))
    useful = optimize.brentq(lambda b: at(2 * b) / at(b) - 0.9, b_crit * 1e-4, b_crit * 1e4)
    return at(batch), (perfect, useful)


def measure(setting, draws):
    """One row of the result."""
    curve, points, spacing, noise, place = setting
    batch = SMALLEST * float(spacing) ** np.arange(points)
    b_crit = float(batch[0] * (batch[-1] / batch[0]) ** place)
    steps, breakpoints = truth(curve, batch, b_crit)
    # Each setting has its own seed: adding one does not change the others' numbers.
    rng = np.random.default_rng(zlib.crc32(repr(setting).encode()))
    sd = np.linspace(*NOISES[noise], points)
    covered, doubted, hyperbola, widths = [], [], [], []
    for _ in range(draws):
        fit = fit_steps(batch, steps * np.exp(sd * rng.standard_normal(points)))
        intervals = [fit.perfect_scaling_end.interval, fit.max_useful_batch.interval]
        coverage = lambda ends: [
            low <= true <= high for true, (low, high) in zip(breakpoints, ends, strict=True)
        ]
        covered.append(coverage(intervals))
        doubted.append(bool(fit.doubts))
        low, high = fit.b_crit_interval
        hyperbola.append(all(coverage([(m * low, m * high) for m in (0.2, 4)])))
        ends = np.clip(intervals, batch[0] / 2, 2 * batch[-1])
        widths.append(np.log2(ends[:, 1] / ends[:, 0]))
    covered, doubted = np.array(covered), np.array(doubted)
    share = lambda values: round(float(np.mean(values)), 3)
    return {
        "curve": curve if isinstance(curve, str) else f"bend {curve:g}",
        "points": points,
        "noise": noise,
        "b_crit_at": place,
        "kept": share(covered.all(1) | doubted),
        "perfect": share(covered[:, 0]),
        "useful": share(covered[:, 1]),
        "doubt": share(doubted),
        "hyperbola": share(hyperbola),
        "width": [round(float(w), 1) for w in np.median(widths, axis=0)],
    }


def _measure(task):
    return measure(*task)


def compromise(draws):
    """RMS errors in log B of the breakpoints, clipped to twice the measured range: with the
    penalised bend, the best bend, and bend 1."""
    from scaling import curves

    rows = []
    for bend in BENDS:
        for points, spacing in ((6, 4), (12, 2)):
            for sd in (0.08, 0.25):
                batch = SMALLEST * float(spacing) ** np.arange(points)
                b_crit = float(np.sqrt(batch[0] * batch[-1]))
                steps, breakpoints = truth(bend, batch, b_crit)
                rng = np.random.default_rng(zlib.crc32(repr((bend, points, sd)).encode()))
                errors = {"penalised": [], "best": [], "hyperbola": []}
                for _ in range(draws):
                    problem = curves.Problem.of(
                        batch, steps * np.exp(sd * rng.standard_normal(points)), None
                    )
                    hyperbola = curves.hyperbola(problem, 0.95)
                    best = curves.lowest(problem, lambda squares, bend: squares)[:2]
                    curve = curves.bent(problem, 0.95)[0]
                    for name, (p, log_b_crit) in {
                        "penalised": (curve.bend, curve.log_b_crit),
                        "best": best,
                        "hyperbola": (1.0, hyperbola.log_b_crit),
                    }.items():
                        values = np.exp(log_b_crit + np.array(offsets(p, 1.2, 0.1)))
                        values = np.clip(problem.centre * values, batch[0] / 2, 2 * batch[-1])
                        errors[name].append(np.log(values / breakpoints))
                row = {"bend": bend, "points": points, "sd": sd}
                rms = {k: float(np.sqrt(np.mean(np.square(v)))) for k, v in errors.items()}
                rows.append(row | {k: round(v, 2) for k, v in rms.items()})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--name", default="breakpoints_coverage")
    options = parser.parse_args()
    tasks = [(setting, options.draws) for setting in settings()]
    rows = []
    with multiprocessing.Pool(options.processes) as pool:
        for row in pool.imap(_measure, tasks):
            rows.append(row)
            print(row, flush=True)
    bent = [row for row in rows if row["curve"] != "bend 1"]
    plain = [row for row in rows if row["curve"] == "bend 1"]
    summary = {
        "kept, lowest": min(row["kept"] for row in rows),
        "kept, rows below 0.85": sum(row["kept"] < 0.85 for row in rows),
        "rows": len(rows),
        "doubt under bend 1, highest": max(row["doubt"] for row in plain),
        "hyperbola's intervals, lowest": min(row["hyperbola"] for row in bent),
    }
    result = {"machine": machine(), "draws": options.draws, "summary": summary, "settings": rows}
    write(options.name, result | {"errors of the values": compromise(options.draws // 3)})


if __name__ == "__main__":
    main()
