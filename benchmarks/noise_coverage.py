"""Coverage of the 95% intervals of `scaling.noise.noise_scale` and of alternatives.

    python benchmarks/noise_coverage.py [--draws=500] [--name=RESULT] [--only=TEXT]

Every step has the gradients of eight shards with known mean and covariance; `estimate` is applied
to their mean squared norm and the squared norm of their mean. Settings: examples per shard, steps,
ratio of B_simple to the batch, spectrum of the covariance (few directions make the norms
heavy-tailed), |G|^2 constant, falling or wandering over training at constant tr(Sigma), and the
correlation of successive gradients. `--only` repeats the settings whose |G|^2 has that text in its
name, and keeps the other rows of the result.

The truth is the average tr(Sigma) over the average |G|^2 of the steps of the run. Where |G|^2
wanders, "all_runs" is the coverage of the average over all such runs, which an interval from one
run cannot guarantee. "resolved" is the share of draws with a noise scale, and the next four are
among those; "low_known" is the share of the others with a lower bound. The standard error of a
coverage is 1% at 500 draws.

Alternatives: Fieller with the variance of block means about their mean ("batch means"), or of
single measurements ("independent"); the ratio +- t standard errors by the delta method on block
means.
"""

import argparse
import json
import zlib

import numpy as np
from common import ROOT, machine, write
from scipy import signal, stats

from scaling.noise import BLOCKS, estimate, noise_scale

SHARDS = 8
SPECTRA = {
    "flat, 256 directions": np.ones(256),
    "1/k, 64 directions": 1 / np.arange(1, 65),
    "1/k, 4 directions": 1 / np.arange(1, 5),
}
USUAL = "1/k, 64 directions"


def settings():
    """(B_simple, examples per shard, steps, spectrum, course of |G|^2 over training)."""
    for spectrum in SPECTRA:
        yield 2000, 128, 1000, spectrum, "constant"
    for shard in (8, 32):
        yield 2000, shard, 1000, USUAL, "constant"
    for steps in (8, 16, 50, 200):
        for spectrum in SPECTRA:
            yield 2000, 128, steps, spectrum, "constant"
    for multiple in (10, 100, 1000):
        for steps in (50, 1000):
            yield 256 * multiple, 32, steps, USUAL, "constant"
    for course in ("falls by e^4", "starts 100 times higher"):
        for steps in (50, 1000):
            yield 2000, 128, steps, USUAL, course
    for memory in (3, 10, 30, 100, 1000):
        yield 2000, 128, 1000, USUAL, f"wanders, memory {memory}"
    for correlation in (0.5, 0.9, 0.98):
        for steps in (50, 1000):
            yield 2000, 128, steps, USUAL, f"constant, gradients correlate {correlation}"


def paths(rng, course, draws, steps):
    """|G|^2, [draws, steps]; 1 on average over all runs, or at the end."""
    time = np.arange(steps)
    if course.startswith("wanders"):
        keep = np.exp(-1 / int(course.split()[-1]))
        logs = rng.standard_normal((draws, steps))
        for t in range(1, steps):
            logs[:, t] = keep * logs[:, t - 1] + (1 - keep**2) ** 0.5 * logs[:, t]
        return np.exp(0.7 * logs - 0.7**2 / 2)
    course = course.partition(",")[0]
    path = {
        "constant": np.ones(steps),
        "falls by e^4": np.exp(-4 * time / steps),
        "starts 100 times higher": 1 + 99 * np.exp(-time / (steps / 50)),
    }[course]
    return np.broadcast_to(path, (draws, steps))


def measurements(rng, path, b_simple, shard, spectrum, correlation=0.0):
    """Estimates of |G|^2 and tr(Sigma), [draws, steps] each.

    In the eigenbasis of Sigma, in which |G|^2 is distributed like the variance. The scatter of the
    shards about their mean is independent of that mean and chi-squared. With a `correlation` the
    noise of every shard's gradient is autoregressive of order one.
    """
    values = b_simple * spectrum / spectrum.sum()
    batch = SHARDS * shard
    big, scatter = np.zeros(path.shape), np.zeros(path.shape)
    for value in values:
        mean = np.sqrt(path * value / b_simple)
        big += (mean + np.sqrt(value / batch) * _normal(rng, path.shape, correlation)) ** 2
        if correlation:
            squares = sum(_normal(rng, path.shape, correlation) ** 2 for _ in range(SHARDS - 1))
        else:
            squares = rng.chisquare(SHARDS - 1, path.shape)
        scatter += value / batch * squares
    return estimate(big + scatter, big, shard, batch)


def _normal(rng, shape, correlation):
    """Standard normal numbers, correlated between successive steps."""
    drawn = rng.standard_normal(shape)
    if not correlation:
        return drawn
    drawn[:, 1:] *= (1 - correlation**2) ** 0.5
    return signal.lfilter([1.0], [1.0, -correlation], drawn)


def ours(measured, truth):
    """Coverage and other statistics of `noise_scale`."""
    estimates = [noise_scale(*pair) for pair in zip(*measured, strict=True)]
    pairs = list(zip(estimates, truth, strict=True))
    covered = np.array([(e.low or 0) <= t <= (e.high or np.inf) for e, t in pairs])
    resolved = np.array([e.resolved for e in estimates])
    result = {"coverage": covered.mean(), "resolved": resolved.mean()}
    if resolved.any():
        ratios = np.array([e.noise_scale / t for e, t in pairs if e.resolved])
        widths = [e.high / (e.low or np.nan) for e in estimates if e.resolved]
        result |= {
            "coverage_where_resolved": covered[resolved].mean(),
            "median_over_truth": np.median(ratios),
            "within_10_percent": (abs(ratios - 1) <= 0.1).mean(),
            "median_high_over_low": np.median(widths),
        }
    if not resolved.all():
        result["low_known"] = np.mean([e.low is not None for e in estimates if not e.resolved])
    return {name: None if np.isnan(v) else round(float(v), 3) for name, v in result.items()}


def rivals(measured, truth):
    """Coverage by the other methods."""
    means = np.stack(measured).mean(-1)
    steps = measured[0].shape[1]

    def misfit(ratio, blocks):
        """t statistic of mean(tr(Sigma)) - ratio mean(|G|^2) = 0."""
        rest = measured[1] - ratio[:, None] * measured[0]
        parts = np.stack([part.mean(1) for part in np.array_split(rest, blocks, axis=1)])
        return rest.mean(1) / (parts.std(0, ddof=1) / blocks**0.5)

    blocks = min(BLOCKS, steps)
    t = {count: stats.t.ppf(0.975, count - 1) for count in (blocks, steps)}
    ratio = means[1] / means[0]
    # The delta method's standard error is that of tr(Sigma) - ratio |G|^2, at the estimated ratio.
    rest = measured[1] - ratio[:, None] * measured[0]
    parts = np.stack([part.mean(1) for part in np.array_split(rest, blocks, axis=1)])
    error = parts.std(0, ddof=1) / blocks**0.5 / abs(means[0])
    return {
        "batch means": round(float((abs(misfit(truth, blocks)) <= t[blocks]).mean()), 3),
        "independent": round(float((abs(misfit(truth, steps)) <= t[steps]).mean()), 3),
        "delta method": round(float((abs(ratio - truth) <= t[blocks] * error).mean()), 3),
    }


def measure(b_simple, shard, steps, spectrum, course, draws):
    """One row of the result."""
    setting = (b_simple, shard, steps, spectrum, course)
    # Each setting has its own seed: adding one does not change the others' numbers.
    rng = np.random.default_rng(zlib.crc32(repr(setting).encode()))
    path = paths(rng, course, draws, steps)
    correlation = float(course.split()[-1]) if "correlate" in course else 0.0
    measured = measurements(rng, path, b_simple, shard, SPECTRA[spectrum], correlation)
    truth = b_simple / path.mean(1)
    row = dict(
        zip(("b_simple", "per_shard", "steps", "spectrum", "grad_sq_norm"), setting, strict=True)
    )
    row |= ours(measured, truth)
    row["rivals"] = rivals(measured, truth)
    if course.startswith("wanders"):
        expected = np.full(draws, float(b_simple))
        row["all_runs"] = {"coverage": ours(measured, expected)["coverage"]}
        row["all_runs"] |= {"rivals": rivals(measured, expected)}
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--name", default="noise_coverage")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    rows = []
    if options.only:
        kept = json.loads((ROOT / "benchmarks/results" / f"{options.name}.json").read_text())
        rows = [row for row in kept["settings"] if options.only not in row["grad_sq_norm"]]
    for setting in settings():
        if options.only in setting[-1]:
            rows.append(measure(*setting, options.draws))
            print(rows[-1], flush=True)
    write(options.name, {"machine": machine(), "draws": options.draws, "settings": rows})


if __name__ == "__main__":
    main()
