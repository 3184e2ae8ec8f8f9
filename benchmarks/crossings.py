"""Effect of the evaluation grid of a search: its steps against evaluation after every update.

    python benchmarks/crossings.py [--searches=8] [--resolution=0.08] [--name=RESULT]

The task of configs/quickstart.py; at every batch size several searches of 16 trials with new seeds
and values. A search trains as a race, which records its steps; then the same trials train again
with an evaluation after every update. Geometric means by batch size of the recorded steps over
    over_grid: the first grid step at which a trial is below the goal. Must be 1.
    over_every_update: the first update at which a trial is below the goal. Above 1 if the metric
      dips between two evaluations.
"""

import argparse
import math
import statistics
import tempfile
from pathlib import Path

from common import machine, write

BATCHES = (16, 64, 256, 1024)
TRIALS, BUDGET = 16, 2000


def steps_of(config, batch, number):
    """{recorded, grid, every_update} of one search."""
    from scaling.crossings import next_evaluation
    from scaling.record import RunDir
    from scaling.search import sample
    from scaling.signals import Signals
    from scaling.train.point import resolve
    from scaling.train.population import Population
    from scaling.train.trials import FirstCrossing, Training

    config.global_batch, config.duration = batch, f"{BUDGET} steps"
    point, target = resolve(config, ("peak", "momentum")), config.target
    drawn = sample(config.search.space.to_dict(), range(TRIALS), seed=(number, batch))
    values = [{"peak": v["learning_rate"], "momentum": v["momentum"]} for v in drawn]
    seeds = range(TRIALS * number, TRIALS * (number + 1))
    rule = FirstCrossing(target.metric, target.goal, target.resolution, BUDGET, margin=1.0)
    with tempfile.TemporaryDirectory() as folder, RunDir(Path(folder) / "run") as run:
        training = Training(point, rule, values, seeds, run, "search", "validation")
        outcome = training.run(0, Signals(), f"batch {batch}, search {number}")
    recorded, _ = rule.first(outcome.histories)
    again, below = Population(point, values, seeds), []
    for step in range(recorded + 1):
        if step:
            again.advance(step)
        below.append((again.evaluate()[target.metric] < target.goal).any())
    look = 0
    while look < recorded and not below[look]:
        look = next_evaluation(look, target.resolution)
    return {"recorded": recorded, "grid": look, "every_update": below.index(True)}


def summary(searches):
    """Ratios over the searches at one batch size."""

    def over(key):
        logs = [math.log(steps["recorded"] / steps[key]) for steps in searches]
        return round(math.exp(statistics.fmean(logs)), 4)

    late = sum(steps["recorded"] > steps["every_update"] for steps in searches)
    ratios = {"over_grid": over("grid"), "over_every_update": over("every_update")}
    return ratios | {"searches_with_a_dip_missed": late, "steps": searches}


def main():
    import jax

    from configs.quickstart import get_config
    from scaling.data.directories import cache_dir

    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=8)
    parser.add_argument("--resolution", type=float, default=get_config().target.resolution)
    parser.add_argument("--name", default="crossings")
    options = parser.parse_args()
    config = get_config()
    config.devices, config.target.resolution = 1, options.resolution
    rows = {
        f"batch {batch}": summary(
            [steps_of(config, batch, number) for number in range(options.searches)]
        )
        for batch in BATCHES
    }
    settings = {"resolution": options.resolution, "trials": TRIALS}
    write(options.name, {"machine": machine()} | settings | rows)


if __name__ == "__main__":
    main()
