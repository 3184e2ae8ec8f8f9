"""Trial-steps per second of a population on CPU, against PyTorch eager.

    pip install torch==2.13.0 && python benchmarks/population.py [--name=RESULT]

Ours: 64 trials of an MLP in one program, as in a study: one process with one thread per core, each
with its own population (rates are added), and for comparison one process with all threads. PyTorch:
the same training steps, one trial after another, in the loop of its tutorials with its own threads.
Medians of alternating repeats.

    python benchmarks/population.py --blocks       # why trials run in small blocks on a CPU

times one process with one thread and 1 to 64 trials in parallel, a minimal JAX step, and
convolutions with each `conv_method`.
"""

import argparse
import os
import time

from common import Contestant, machine, serve, side_by_side, synthetic_config, write

TRIALS = 64
WIDTHS = (64, 64, 64)
SHAPES = {"digits": (8, 8, 1), "Fashion-MNIST": (28, 28, 1)}
BATCHES = (8, 64, 512)
BLOCKS = (1, 2, 4, 8, 16, 64)
BARE_BLOCKS = (4, 16)
CONVOLUTIONS = {  # model, image shape, batch, trials
    "ResNet-8, 32x32, batch 128": (
        {"name": "resnet", "depth": 8, "norm": "none", "preactivation": True},
        (32, 32, 3),
        128,
    ),
    "Simple CNN base, 28x28, batch 32": ({"name": "simple_cnn"}, (28, 28, 1), 32),
}


def racers(model, shape, batch, trials=TRIALS, block=None):
    """A population, compiled and after its first update."""
    from scaling.train.point import resolve
    from scaling.train.population import Population

    config = synthetic_config(model, shape, batch, study="steps_to_target")
    point = resolve(config, ("peak", "momentum"))
    values = [{"peak": 1e-3, "momentum": 0.9}] * trials
    population = Population(point, values, range(trials), block)
    population.advance(1)
    return population


def rate_of(population):
    """() -> trial-steps per second of a population."""
    trials = len(population.alive)

    def rate():
        start, first = time.perf_counter(), population.step
        while time.perf_counter() - start < 1.0:
            population.advance(population.step + 10**6)
        return (population.step - first) * trials / (time.perf_counter() - start)

    return rate


class Processes:
    """`count` processes of `threads` threads each, measured together."""

    def __init__(self, count, threads, data, batch):
        command = [__file__, f"--serve={data}", f"--batch={batch}"]
        self._all = [Contestant(command, PJRT_NPROC=str(threads)) for _ in range(count)]
        for process in self._all:
            process.answer()

    def rate(self):
        """Trial-steps per second of all processes."""
        for process in self._all:
            process.start()
        return sum(process.answer() for process in self._all)

    def stop(self):
        """End them."""
        for process in self._all:
            process.stop()


def against_torch():
    """Every case: rates and ratios."""
    from vs_torch import torch_rate

    cores, cases = os.cpu_count(), {}
    for data, shape in SHAPES.items():
        for batch in BATCHES:
            one_per_core = Processes(cores, 1, data, batch)
            one_for_all = Processes(1, cores, data, batch)
            torch = torch_rate(batch, shape, {"name": "mlp", "widths": WIDTHS}, False)
            rates = side_by_side(
                {
                    "ours": one_per_core.rate,
                    "ours, one process": one_for_all.rate,
                    "torch": lambda torch=torch, batch=batch: torch() / batch,
                }
            )
            one_per_core.stop()
            one_for_all.stop()
            ratio = round(rates["ours"]["median"] / rates["torch"]["median"], 1)
            cases[f"{data} MLP, batch {batch}"] = {"rates": rates, "ours / torch": ratio}
            print(data, batch, ratio, flush=True)
    return cases


def blocks():
    """One process of one thread: rates by block, and of convolutions by method."""
    os.environ["PJRT_NPROC"] = "1"  # before JAX is first imported
    from bare_step import bare_rate

    cases = {}
    for data, shape in SHAPES.items():
        for batch in BATCHES:
            model = {"name": "mlp", "widths": WIDTHS}
            contestants = {
                f"block {block}": rate_of(racers(model, shape, batch, block=block))
                for block in BLOCKS
            }
            contestants |= {
                f"bare step, block {block}": bare_rate(shape, batch, WIDTHS, block)
                for block in BARE_BLOCKS
            }
            cases[f"{data} MLP, batch {batch}"] = _medians(contestants)
    for case, (model, shape, batch) in CONVOLUTIONS.items():
        contestants = {
            f"{method}, block {block}": rate_of(
                racers(model | {"conv_method": method}, shape, batch, trials=4, block=block)
            )
            for method, block in (
                *(("forward_only", 1), ("patches", 1)),
                *(("patches", 4), ("forward_only", 4)),
            )
        }
        cases[case] = _medians(contestants)
    return cases


def _medians(contestants):
    rates = side_by_side(contestants, repeats=3)
    medians = {name: round(rate["median"], 1) for name, rate in rates.items()}
    print(medians, flush=True)
    return medians


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name")
    parser.add_argument("--blocks", action="store_true")
    parser.add_argument("--serve", choices=SHAPES, help="internal: one process of a case")
    parser.add_argument("--batch", type=int)
    args = parser.parse_args()
    if args.serve:
        mlp = {"name": "mlp", "widths": WIDTHS}
        serve(lambda: (rate_of(racers(mlp, SHAPES[args.serve], args.batch)), {}))
        return
    result = {"machine": machine(), "unit": "trial-steps per second"}
    result["cases"] = blocks() if args.blocks else against_torch()
    write(args.name or ("population_blocks" if args.blocks else "population"), result)


if __name__ == "__main__":
    main()
