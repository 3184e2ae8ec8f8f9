"""Training steps on CPU, against a PyTorch eager loop.

    pip install torch==2.13.0 && python benchmarks/vs_torch.py [--name=RESULT]

Both have the data in memory, draw shuffled batches, normalise uint8 images, and compute softmax
cross entropy, backward pass and Nesterov momentum at the same batch; language models have made-up
tokens and Adam. Ours is the compiled program of a run, `scaling.train.step`, with each core as a
device, as launch.py runs convolutions, and with all cores as one device; and with one thread, by
processor time. PyTorch is the loop of its tutorials, with convolutions in its default layout and in
channels_last, each also through torch.compile, and with Adam as it is by default and fused. The
points of a surface around a net (Li 2018) are evaluated on its running batch statistics, in PyTorch
in pieces of 1,000 images, and as the code released with the paper does: through a loader that
normalises image by image, 128 at a time, each loss read at once. Rates are examples per second,
medians of alternating repeats in one process per case, with JAX's threads and flags as in
launch.py; language models and surfaces have one thread each, and their rates are per second of
processor time.

XLA_FLAGS of the environment are kept; with --cases=PART only cases whose name has PART run.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import time

from common import (
    Bare,
    machine,
    seconds,
    side_by_side,
    synthetic_config,
    token_config,
    write,
)

CASES = {
    "mlp 784-64-64-64-10, batch 8": (8, (28, 28, 1), {"name": "mlp", "widths": (64, 64, 64)}),
    "mlp 784-64-64-64-10, batch 512": (512, (28, 28, 1), {"name": "mlp", "widths": (64, 64, 64)}),
    "ResNet-8, 32x32, batch 128": (
        128,
        (32, 32, 3),
        {"name": "resnet", "depth": 8, "norm": "none", "preactivation": True},
    ),
    "Simple CNN base, 28x28, batch 256": (256, (28, 28, 1), {"name": "simple_cnn"}),
}
# (vocabulary, tokens of a row) stand where images have their shape.
SMALL = {"name": "transformer", "layers": 2, "width": 64, "ffn": 256, "heads": 4}
LARGE = {"name": "transformer", "layers": 4, "width": 128, "ffn": 512, "heads": 4}
PLAIN = {"bias": False, "activation": "gelu"}
CASES |= {
    "Transformer 133k, batch 8": (8, (512, 32), SMALL | PLAIN),
    "Transformer 1.06M, batch 16": (16, (2048, 64), LARGE | PLAIN),
    "LSTM 558k with projection, batch 16": (
        16,
        (2048, 64),
        {"name": "lstm", "width": 128, "cells": 256, "tied": True},
    ),
}
SURFACE = "surface of an MLP 784-5x128-10 with batch norm, 5,000 images"
ONE = ", one thread"
CASES |= {name + ONE: case for name, case in CASES.items() if len(case[1]) == 3}
CASES[SURFACE] = (5000, (28, 28, 1), {"name": "mlp", "widths": (128,) * 5, "norm": "batch"})
SIZE = 20_000


def ours(config, examples=SIZE, clock=time.perf_counter):
    """(() -> examples per second of our compiled program, its batch plan).

    `examples` go into one call of it.
    """
    from scaling.train.threads import threads_for

    if threads_for(config) == 1:
        os.environ.setdefault("PJRT_NPROC", "1")
    bare, done, batch = Bare(config), itertools.count(), config.global_batch
    count = max(1, min(bare.program.capacity, examples // batch))

    def call():
        bare.call(bare.batches(next(done) * count, count), count)

    call()
    return (lambda: batch * count / seconds(call, clock=clock)), str(bare.program.plan)


def torch_rate(batch, shape, model, channels_last, compiled=False, clock=time.perf_counter):
    """() -> examples per second of a PyTorch loop, eager or of a compiled net."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    height, width, channels = shape
    net = _torch_net(model, height * width * channels, channels)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)
    images = torch.randint(0, 256, (SIZE, channels, height, width), dtype=torch.uint8)
    labels = torch.randint(0, 10, (SIZE,))
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, nesterov=True)
    count, run = max(1, 2_000 // batch), torch.compile(net) if compiled else net

    def loop():
        order = torch.randperm(SIZE)
        for i in range(count):
            index = order[(i * batch) % SIZE :][:batch]
            x = (images[index].float() / 255 - 0.5) / 0.25
            if channels_last:
                x = x.contiguous(memory_format=layout)
            optimizer.zero_grad()
            F.cross_entropy(run(x), labels[index]).backward()
            optimizer.step()

    assert isinstance(net, nn.Module)
    loop()
    return lambda: batch * count / seconds(loop, clock=clock)


def language_case(batch, shape, model, repeats):
    """`measure` of a language model."""
    os.environ["PJRT_NPROC"] = "1"
    import torch
    from torch_language import language_net

    vocabulary, length = shape
    config = token_config(model, vocabulary, length, batch)
    rate, plan = ours(config, examples=10 * batch, clock=time.process_time)
    torch.set_num_threads(1)
    tokens = torch.randint(0, vocabulary, (SIZE, length))
    contestants = {"ours": rate}
    for name, options in {"torch": {}, "torch fused Adam": {"fused": True}}.items():
        net = language_net(model, vocabulary, length)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3, **options)
        contestants[name] = _language_rate(net, optimizer, tokens, batch)
    parameters = sum(w.numel() for w in net.parameters())
    rates = side_by_side(contestants, repeats)
    return {"plan": plan, "torch parameters": parameters, "rates": rates, "ratios": ratios(rates)}


def _language_rate(net, optimizer, tokens, batch):
    import torch
    from torch.nn import functional as F

    def loop():
        order = torch.randperm(SIZE)
        for i in range(0, 10 * batch, batch):
            rows = tokens[order[i : i + batch]]
            optimizer.zero_grad()
            logits = net(F.pad(rows[:, :-1], (1, 0)))
            F.cross_entropy(logits.flatten(0, 1), rows.flatten()).backward()
            optimizer.step()

    loop()
    return lambda: 10 * batch / seconds(loop, clock=time.process_time)


def surface_case(count, shape, model, repeats):
    """`measure` of points of a surface."""
    os.environ["PJRT_NPROC"] = "1"
    import numpy as np
    import torch
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, Dataset

    from scaling.train.surface import BLOCK

    torch.set_num_threads(1)
    surface, places = _surface(count, shape, model), np.zeros((BLOCK, 2), np.float32)

    def ours():
        surface.evaluate(places)

    net = _torch_net(model, math.prod(shape), shape[-1]).eval()
    center = [w.detach().clone() for w in net.parameters()]
    along = [[torch.randn_like(w) for w in center] for _ in range(2)]
    raw = torch.randint(0, 256, (count, *shape), dtype=torch.uint8)
    normalised, labels = lambda x: (x.float() / 255 - 0.5) / 0.25, torch.randint(0, 10, (count,))

    class Images(Dataset):
        def __len__(self):
            return count

        def __getitem__(self, i):
            return normalised(raw[i]), labels[i]

    loader = DataLoader(Images(), batch_size=128)

    def point(batches):
        for weights, start, *moves in zip(net.parameters(), center, *along, strict=True):
            weights.data = start + sum(0.1 * move for move in moves)
        with torch.no_grad():
            for some, their in batches:
                out = net(some)
                F.cross_entropy(out, their).item(), out.argmax(1).eq(their).sum().item()

    pieces = list(zip(normalised(raw).split(1000), labels.split(1000), strict=True))
    rate = lambda run, points: lambda: count * points / seconds(run, clock=time.process_time)
    contestants = {
        "ours": rate(ours, BLOCK),
        "torch": rate(lambda: point(pieces), 1),
        "torch, released way": rate(lambda: point(loader), 1),
    }
    rates = side_by_side(contestants, repeats)
    return {"rates": rates, "ratios": ratios(rates)}


def _surface(count, shape, model):
    """A plane around a net that was not trained."""
    import jax

    from scaling.directions import random_direction
    from scaling.train.point import resolve
    from scaling.train.population import Population
    from scaling.train.surface import Surface

    config = synthetic_config(model, shape, 128, size=SIZE)
    point = resolve(config)
    params, stats = Population(point, [{}], [0], tracked=None).variables(0)
    trees = [params, *(random_direction(jax.random.key(i), params) for i in range(2))]
    return Surface(point, "plane", trees, [stats], statistics="frozen", examples=count)


def _torch_net(model, inputs, channels):
    from torch import nn

    if model["name"] == "mlp":
        widths, norm = [inputs, *model["widths"]], model.get("norm") == "batch"
        layers = [
            layer
            for a, b in itertools.pairwise(widths)
            for layer in (nn.Linear(a, b), *[nn.BatchNorm1d(b)] * norm, nn.ReLU())
        ]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], 10))
    if model["name"] == "simple_cnn":
        return nn.Sequential(
            *(nn.Conv2d(channels, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * 49, 1024), nn.ReLU(), nn.Linear(1024, 10)),
        )
    return _torch_resnet8(channels)


def _torch_resnet8(channels):
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self, before, after, stride):
            super().__init__()
            self.stride, self.grow = stride, after - before
            self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
            self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)

        def forward(self, x):
            y = self.second(F.relu(self.first(F.relu(x))))
            if self.stride > 1:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.grow))
            return x + y

    class ResNet8(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
            self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(F.relu(self.blocks(self.stem(x))).mean((2, 3)))

    return ResNet8()


def measure(case, repeats):
    """Rates of all contestants, and ratios of ours to the others."""
    batch, shape, model = CASES[case]
    if case == SURFACE:
        return surface_case(batch, shape, model, repeats)
    if model["name"] in ("transformer", "lstm"):
        return language_case(batch, shape, model, repeats)
    from scaling.train.threads import use_onednn

    convolutions, one = model["name"] != "mlp", case.endswith(ONE)
    config = synthetic_config(model, shape, batch, size=SIZE)
    clock = time.process_time if one else time.perf_counter
    if one:
        import torch

        torch.set_num_threads(1)
        os.environ["PJRT_NPROC"] = "1"
    elif convolutions:  # before JAX is initialised
        devices = f"--xla_force_host_platform_device_count={os.cpu_count()}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices}"
    if convolutions:
        use_onednn(config)
    config.optim.base_lr = 1e-3
    config.devices = os.cpu_count() if convolutions and not one else 1
    rate, plan = ours(config, clock=clock)
    contestants = {"ours": rate}
    for layout in ("", " channels_last")[: 1 + convolutions]:
        for compiled in (False, True):
            name = f"torch{layout}{', compiled' * compiled}"
            contestants[name] = torch_rate(batch, shape, model, bool(layout), compiled, clock)
    if config.devices > 1:
        config.devices = 1
        contestants["ours, one device"] = ours(config)[0]
    rates = side_by_side(contestants, repeats)
    return {"plan": plan, "rates": rates, "ratios": ratios(rates)}


def ratios(rates):
    """Of ours to theirs."""
    return {
        f"{mine} / {theirs}": round(rates[mine]["median"] / rates[theirs]["median"], 2)
        for mine in rates
        for theirs in rates
        if mine.startswith("ours") and theirs.startswith("torch")
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="vs_torch")
    parser.add_argument("--case", choices=CASES, help="only this one, printed as JSON")
    parser.add_argument("--cases", default="", help="a part of the names of those to run")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case, args.repeats)))
        return
    result = {"machine": machine(), "unit": "examples per second", "cases": {}}
    for case in (case for case in CASES if args.cases in case):
        command = [sys.executable, __file__, f"--case={case}", f"--repeats={args.repeats}"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        result["cases"][case] = json.loads(output.splitlines()[-1])
        print(case, result["cases"][case]["ratios"], flush=True)
    write(args.name, result)


if __name__ == "__main__":
    main()
