"""The quick start's answer under other seeds: how much of it is luck?

    python benchmarks/quickstart_seeds.py [--seeds=13] [--first=1] [--workdir=DIR] [--name=RESULT]

Every search runs as `launch.py --config=configs/quickstart.py --config.seed=S`; finished ones are
read again. The truth that its two batch sizes are held against is that of all searches: of the
curve fitted to the geometric mean of their steps at each batch size, and the two measured batch
sizes between which it lies by these means alone.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from common import ROOT, machine, write

ENDS = "perfect_scaling_end", "max_useful_batch"


def search(seed, workdir):
    """The study of one seed, as its report reads it."""
    from scaling.report.kind import kind_of
    from scaling.report.records import read_workdir

    command = [sys.executable, "launch.py", "--config=configs/quickstart.py"]
    flags = [f"--config.seed={seed}", f"--workdir={workdir}"]
    subprocess.run([*command, *flags], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    found = read_workdir(workdir)
    return kind_of(found.study).read(found)


def row_of(study):
    """Steps by batch, and the ends with their intervals."""
    ends = {name: getattr(study.fit, name) for name in ENDS}
    return {
        "steps": {str(point.global_batch): point.steps_to_target for point in study.points},
        **{name: [*map(float, (end.batch, *end.interval))] for name, end in ends.items()},
        "bend_p": float(study.fit.bend_p),
    }


def pooled(rows):
    """(batch sizes, geometric mean of the steps) where every search reached the goal."""
    batches = [b for b in rows[0]["steps"] if all(row["steps"][b] for row in rows)]
    return [int(b) for b in batches], [
        statistics.geometric_mean([row["steps"][b] for row in rows]) for b in batches
    ]


def summary(rows):
    """The ends of all searches, how many intervals hold them, and how the ends scatter."""
    from scaling.fits import fit_steps, read_off

    batches, means = pooled(rows)
    fit, read = fit_steps(batches, means), read_off(batches, means)
    result = {
        "steps": dict(zip(map(str, batches), (round(mean, 1) for mean in means), strict=True))
    }
    for name, ends in zip(ENDS, read, strict=True):
        between = [*map(float, ends)]
        truth, values = float(getattr(fit, name).batch), sorted(row[name][0] for row in rows)
        meets = lambda low, high, name=name: sum(
            row[name][1] <= high and row[name][2] >= low for row in rows
        )
        result[name] = {
            "curve": truth,
            "read_off_between": between,
            "intervals_that_hold_it": meets(truth, truth),
            "intervals_that_meet_it_read_off": meets(*between),
            "median": statistics.median(values),
            "all": [round(value, 1) for value in values],
        }
    return result | {"bend": float(fit.curve.bend), "bend_p": float(fit.bend_p)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=13)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--workdir", type=Path, default=ROOT / "runs" / "quickstart_seeds")
    parser.add_argument("--name", default="quickstart_seeds")
    args = parser.parse_args()
    seeds, result = range(args.first, args.first + args.seeds), {"machine": machine()}
    rows = {}
    for seed in seeds:
        rows[str(seed)] = row_of(search(seed, args.workdir / f"seed{seed}"))
        print(seed, rows[str(seed)], flush=True)
    write(args.name, result | {"searches": rows, "together": summary(list(rows.values()))})


if __name__ == "__main__":
    main()
