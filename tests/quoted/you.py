"""You 2017 in docs/reproduction.md."""

from quoted.errors import error_table
from quoted.quotes import Section, Table, say
from quoted.records import count, ends, interval, number, percent, points, spread, study
from scaling.report.wording import listed
from scaling.studies.accuracy.judging import difference
from scaling.studies.generalization.slopes import unevenness

BATCHES = (128, 1024, 4096, 8192, 16384)
LARS, LAMB, ADAMW, MUON = (f"{name}+warmup+poly" for name in ("lars", "lamb", "adamw", "muon"))
TUNED = {
    "`naive`: momentum, plain tuning": "naive",
    "`linear+warmup`": "linear+warmup",
    "`gbn`": "gbn",
    "`linear+warmup+gbn`": "linear+warmup+gbn",
    "`noise`": "noise",
    "`smoothing`": "smoothing",
    "LARS": LARS,
    "LARC": "larc+warmup+poly",
    "LAMB": LAMB,
    "NovoGrad": "novograd+warmup+poly",
    "AdamW": ADAMW,
    "Muon": MUON,
}
CNN = {
    "none (`naive`, 0.02)": "naive",
    "sqrt": "sqrt",
    "linear": "linear",
    "linear, constant warmup": "linear+constant_warmup",
    "linear, gradual warmup": "linear+warmup",
    "`noise`": "noise",
    "`smoothing`": "smoothing",
    "LARS at its default rate, 2": LARS,
}


def quotes():
    """Twelve recipes tuned alike, norms by layer, and the CNN without batch norm."""
    f1 = study("accuracy_f1_tuned_h200")
    yield from _tuning(f1)
    yield error_table("you_tuned", [f1], TUNED, BATCHES)
    yield from _findings(f1)
    yield from _remarks(f1)
    yield from _layers()
    yield from _cnn()
    yield from _few_images()


def _tuning(f1):
    widened = [point for point in f1.points if point.tuning.widened]
    yield say(
        "{} of the {} points were widened; no choice", count(len(widened)), count(len(f1.points))
    )
    assert not any(point.tuning.at_edge for point in f1.points)


def _findings(f1):
    costs = lambda batch, recipe: interval(f1.added(f1.point(batch, recipe)))
    added = [costs(batch, LARS) for batch in BATCHES[2:]]
    yield say(
        "at 4,096 LARS adds {} to the small batch's error, tuned `linear+warmup` {}. At 8,192 LARS "
        "adds {}, at 16,384 {} |",
        added[0].replace(" (", " points ("),
        costs(4096, "linear+warmup"),
        *added[1:],
    )
    untuned, largest = study("accuracy_f1_h200"), BATCHES[3:]
    scaled = [untuned.point(batch, "linear+warmup") for batch in largest]
    tuned = [f1.point(batch, "linear+warmup") for batch in largest]
    plain = [f1.point(batch, "naive") for batch in largest]
    yield say(
        "the linear rates for 8,192 and 16,384 give {} and {}% error (above); tuning takes rates "
        "{} and {} times lower, and the warmup then costs {} and {} points over plain tuning",
        *(percent(point.mean("test"), 0) for point in scaled),
        *(f"{a.learning_rate / b.learning_rate:.0f}" for a, b in zip(scaled, tuned, strict=True)),
        *(points(difference(a, b).difference) for a, b in zip(plain, tuned, strict=True)),
    )
    rates = {batch: f"{f1.point(batch, LARS).learning_rate:.2g}" for batch in BATCHES}
    best = rates.pop(4096)
    (rate,) = set(rates.values())
    yield say(
        "of six or more rates tried, {} is the best at {}, and {} at 4,096",
        rate,
        listed([*map(count, rates)]),
        best,
    )
    apart = [difference(f1.point(batch, LAMB), f1.point(batch, ADAMW)) for batch in BATCHES]
    largest = apart.pop()
    yield say(
        "within {} points of each other up to 8,192; at 16,384 LAMB is better by {}",
        percent(max(abs(found.difference) for found in apart), 1),
        interval(largest).replace("+", ""),
    )


def _remarks(f1):
    trained = lambda recipe: [
        percent(f1.point(batch, recipe).mean("train"), 1) for batch in BATCHES
    ]
    *early, late = trained(MUON)
    (early,) = set(early)
    last = f1.point(16384, MUON)
    yield say(
        "its training error goes {}% with the batch. Muon's is {}% up to 8,192 and {}% after {} "
        "updates: it alone has enough updates at any batch, and what it lacks at the largest, {} "
        "points",
        ", ".join(trained("naive")),
        early,
        late,
        count(last.steps),
        percent(f1.added(last).difference, 1),
    )
    ghosts = [
        difference(f1.point(batch, recipe), f1.point(batch, f"{recipe}+gbn".removeprefix("naive+")))
        for recipe in ("naive", "linear+warmup")
        for batch in BATCHES[1:]
    ]
    shares = [found.difference for found in ghosts]
    yield say(
        "nothing beyond tuning that the spread could tell ({} to {})",
        points(min(shares), 1),
        points(max(shares), 1),
    )
    usual = study("accuracy_f1_h200").reference
    yield say(
        "for `naive` at 128 it took {}, where the rate of {}, which is not in the grid, gives {} "
        "(above). Against that LARS at 4,096 costs {}, Muon at 16,384 {}.",
        f"{f1.reference.learning_rate:.1f}",
        number(usual.learning_rate),
        spread(usual),
        interval(difference(usual, f1.point(4096, LARS))),
        interval(difference(usual, last)),
    )
    quarter = study("accuracy_fashion_mlp_tuned")
    large = {recipe: quarter.point(8192, recipe) for recipe in quarter.recipes}
    yield say(
        "`naive` {}% at 128, and at 8,192 {}, `gbn` {}, `linear+warmup` {}, LARS {} ([records]",
        spread(quarter.reference),
        spread(large["naive"]),
        *(percent(large[recipe].mean("test")) for recipe in ("gbn", "linear+warmup")),
        spread(large[LARS]),
    )


def _layers():
    points = study("generalization_fashion_mlp").points_of("naive")
    kernels = [point.kernels for point in (points[0], points[-1])]
    small, large = (
        [f"{layer.start.ratio:.0f}, {layer.end.ratio:.0f}" for layer in layers]
        for layers in kernels
    )
    names = ["1, 784 x 128", "2", "3", "4", "5", "6, to the classes"]
    head = ["kernel", "128: after update 1, last", "8,192: after update 1, last"]
    yield Table("you_table2", [head, *map(list, zip(names, small, large, strict=True))])
    yield say(
        "At the start the ratio differs by factors of {} and {} between layers (the paper's "
        "AlexNet-BN: 6 to 1,345)",
        *(f"{unevenness(layers, 'start'):.2g}" for layers in kernels),
    )
    yield say(
        "the large one, after {} updates, it still differs {}-fold",
        count(points[-1].steps),
        f"{unevenness(kernels[1], 'end'):.2g}",
    )


def _cnn():
    cpu, gpu = study("accuracy_fashion_cnn_full"), study("accuracy_fashion_cnn_h200")
    scaled = ("sqrt", "linear", "linear+constant_warmup", "linear+warmup")
    yield error_table("you_cnn", [cpu, gpu], CNN, BATCHES, same=scaled)
    small, warm = cpu.reference, cpu.point(1024, "linear+warmup")
    added = cpu.added(warm)
    yield say(
        "at 1,024 from {}% to {}%: {} points over the small batch (95%: {}), {} against the rate "
        "kept",
        percent(cpu.point(1024, "linear").mean("test"), 0),
        percent(warm.mean("test")),
        points(added.difference),
        ends(added),
        interval(difference(cpu.point(1024, "naive"), warm)),
    )
    kept = [difference(small, gpu.point(batch, "naive")).difference for batch in BATCHES[2:]]
    yield say("the rate kept costs {} to {} points", *(percent(f(kept), 0) for f in (min, max)))
    lars = cpu.point(8192, LARS)
    best = min((p for p in gpu.points_at(8192) if not p.failure), key=lambda p: p.mean("test"))
    won = difference(lars, best)
    yield say(
        "at 8,192, {} points ({}) better than the best of the other recipes, {} worse than the "
        "small batch",
        percent(won.difference, 1),
        ends(won, 1).replace("+", ""),
        percent(cpu.added(lars).difference, 1),
    )
    yield say(
        "the training error at 16,384 is {}%.", percent(gpu.point(16384, "naive").mean("train"), 1)
    )


def _few_images():
    few = study("accuracy_fashion_cnn")
    small, large = ({p.recipe: p for p in few.points_at(batch)} for batch in (128, 1024))
    yield say(
        "with {} updates at batch 128 and {} at 1,024, the same: momentum {} and LARS {}% at 128; "
        "at 1,024 {} and {}% at the rates kept, linear with warmup {}%, linear {}%.",
        *(count(few.point(batch, "naive").steps) for batch in (128, 1024)),
        spread(small["naive"], 1),
        spread(small[LARS], 1),
        spread(large["naive"], 1),
        spread(large[LARS], 1),
        *(spread(large[recipe], 0) for recipe in ("linear+warmup", "linear")),
    )


SECTIONS = [
    Section(
        "docs/reproduction.md",
        "You 2017, LARS, and ImageNet training in minutes",
        quotes,
        said=(
            "F1, 512 wide, 15 epochs",
            "a factor of 2.5 apart over two decades",
            "What momentum loses up to 1,024 is generalisation",
            "(batch 128 and 8,192, naive, mean over five seeds",
            "128, 1,024 and LARS on two CPU cores in float32",
            "all 55,000 images",
            "90 is a net that answers the same to all images",
            "from 4,096 on hardly a seed trains at a scaled rate",
            "On the first 2,500 images",
            "same, to 4,096; beyond, it wins back part",
        ),
    )
]
