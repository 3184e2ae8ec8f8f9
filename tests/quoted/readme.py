"""README.md, docs/speed.md, and what docs/architecture.md quotes from benchmarks."""

from quoted.mccandlish import TASKS
from quoted.quotes import Section, Table, say
from quoted.records import count, percent, result, study
from quoted.shallue import caption
from scaling.train.planning import CPU_MICRO_BATCH, MANY_WEIGHTS, WITH_MANY_WEIGHTS

SETS = ("digits MLP", "Fashion-MNIST MLP")
BATCHES = (8, 64, 512)


def _benchmark(name):
    return result(f"benchmarks/results/{name}.json")


def _cases(name):
    return _benchmark(name)["cases"]


def _times(ratio):
    """9.9, 42"""
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"


def measured():
    """The table of benchmarks, and what follows it."""
    machine = _benchmark("vs_torch")["machine"]
    python, torch = (
        ".".join(version.split(".")[:2])
        for version in (machine["python"], machine["packages"]["torch"])
    )
    yield say(
        "have Python {}, jax {}, PyTorch {}; the rest", python, machine["packages"]["jax"], torch
    )
    yield from _overheads()
    yield from _against_torch()
    yield from _curvature()
    yield from _populations()
    yield from _noise()
    ratios = [f"{study(name).ratio:.1f}" for name, _ in TASKS.values()]
    yield say("digits CNN | {} ([reproduction]", ", ".join(ratios))
    large = result("docs/results/fashion_mnist_bs8k/result.json")
    yield say(
        "the 8k recipe's {} updates (15 epochs) reach {}% validation and {}% test error",
        count(large["steps"]),
        *(percent(large[split]["error"], 1) for split in ("validation", "test")),
    )


def _overheads():
    yield say(
        "| {} (MLP, batch 8), {} (MLP, batch 512), {} (ResNet-8, batch 128): no measurable "
        "overhead",
        *(f"{case['ratio']:.2f}" for case in _cases("loop_overhead").values()),
    )
    first = _benchmark("first_step")
    yield say(
        "| {} s, {} s once compiled programs are cached",
        *(f"{first[when]['median']:.1f}" for when in ("cold", "warm")),
    )
    tracked = [percent(case["overhead"], 1) + "%" for case in _cases("noise_overhead").values()]
    yield say("five layers of 512, ResNet-8 | {} |", ", ".join(tracked))


def _against_torch():
    *nets, surface = (case["ratios"] for case in _cases("vs_torch").values())
    small, large, resnet, cnn, *language, small_1, large_1, resnet_1, cnn_1 = nets
    mlps = [
        _times(ratios[f"ours / torch{way}"])
        for ratios in (small, large, small_1, large_1)
        for way in ("", ", compiled")
    ]
    yield say(
        "loop / through torch.compile | {}x / {}x at batch 8, {}x / {}x at batch 512; one thread "
        "{}x / {}x, {}x / {}x",
        *mlps,
    )

    def each(ratios, ours="ours"):
        """Over the default layout, channels_last, and the faster of both compiled."""
        layouts = [ratios[f"{ours} / {name}"] for name in ("torch", "torch channels_last")]
        compiled = min(ratios[f"{ours} / torch{x}, compiled"] for x in ("", " channels_last"))
        return [f"{ratio:.2f}" for ratio in (*layouts, compiled)]

    yield say(
        "| {}x / {}x / {}x with every core a device, as it is launched; as one device {}x / {}x / "
        "{}x; one thread {}x / {}x / {}x",
        *each(resnet),
        *each(resnet, "ours, one device"),
        *each(resnet_1),
    )
    yield say(
        "the same | {}x / {}x / {}x; as one device {}x / {}x / {}x; one thread {}x / {}x / {}x",
        *each(cnn),
        *each(cnn, "ours, one device"),
        *each(cnn_1),
    )
    default = ("ours / torch", "ours / torch fused Adam")
    yield say(
        "Transformers of 133k and 1.06M parameters at a batch of 8 and 16, an LSTM of 558k at 16; "
        "its default / fused Adam | {}x / {}x; {}x / {}x; {}x / {}x one thread each",
        *(f"{ratios[name]:.2f}" for ratios in language for name in default),
    )
    yield say(
        "in pieces of 1,000 / as Li 2018's released code reads it | {}x / {}x",
        *(f"{surface[f'ours / {way}']:.2f}" for way in ("torch", "torch, released way")),
    )


def _curvature():
    now, newest = (_benchmark(name)["times"] for name in ("curvature", "curvature_jax012"))
    of = lambda times, *tops: [f"{times[top]['median']:.2f}" for top in tops]
    products = "kept_product_over_gradient", "product_over_gradient"
    yield say(
        "1 GiB); without | {}; {}; with jax 0.12 {}; {} |",
        *(of(now, *products) + of(newest, *products)),
    )
    steps = "lanczos_over_products"
    yield say("bare products | {}; with jax 0.12 {} |", *(of(now, steps) + of(newest, steps)))


def _populations():
    ratios = lambda name, data: " / ".join(
        f"{_times(_cases(name)[f'{data}, batch {batch}']['ours / torch'])}x" for batch in BATCHES
    )
    for data, head in zip(SETS, ("batch 8 / 64 / 512", "784-64-64-64-10"), strict=True):
        yield say(
            f"{head} | AMD EPYC {{}}; Intel Xeon, with smaller blocks, {{}} |",
            ratios("population_amd", data),
            ratios("population", data),
        )
    best = lambda case, kind: max(rate for name, rate in case.items() if name.startswith(kind))
    blocks = _cases("population_blocks")
    shares = [
        [
            f"{best(case, 'block') / best(case, 'bare step'):.2f}"
            for case in (blocks[f"{data}, batch {batch}"] for batch in BATCHES)
        ]
        for data in SETS
    ]
    yield say(
        "at batch 8 / 64 / 512, digits {}, Fashion-MNIST {}: the rest", *map(" / ".join, shares)
    )


def _noise():
    benchmark = _benchmark("noise_coverage")
    found = [
        setting
        for setting in benchmark["settings"]
        if (setting["per_shard"], setting["steps"]) == (128, 1000)
        and setting["grad_sq_norm"] == "constant"
    ]
    (truth,) = {setting["b_simple"] for setting in found}
    ends = lambda key: [end(setting[key] for setting in found) for end in (min, max)]
    yield say(
        "B_simple {} from 1,000 steps of 8 x 128 examples, {} draws | 95% intervals hold the truth "
        "in {} to {}%; within 10% in {} to {}%, the fewer",
        count(truth),
        count(benchmark["draws"]),
        *(percent(share, 1) for share in ends("coverage")),
        *(percent(share, 0) for share in ends("within_10_percent")),
    )


def architecture():
    """Blocks of a population, and convolutions."""
    blocks = [case for name, case in _cases("population_blocks").items() if "MLP" in name]
    best = [max(rate for key, rate in c.items() if key.startswith("block")) for c in blocks]
    gains = [
        max(most / case[key] for most, case in zip(best, blocks, strict=True))
        for key in ("block 64", "block 1")
    ]
    yield say(
        "is worth up to {}x over all 64 side by side and {}x over one at a time",
        *(f"{gain:.1f}" for gain in gains),
    )
    resnet, cnn = _cases("conv_methods").values()
    ways = {
        "`xla`, its own gradients": "xla",
        "`patches`, patches times a matrix": "patches",
        "`forward_only`": "forward_only",
    }
    rows = [["way", "ResNet-8, batch 128", "Simple CNN base, batch 256"]]
    rows += [[told, *(_fastest(case, way) for case in (resnet, cnn))] for told, way in ways.items()]
    yield Table("conv_methods", rows)
    ratios = [
        _cases(name)["ResNet-8, 32x32, batch 128"]["ratios"]["ours / torch"]
        for name in ("vs_torch", "vs_torch_no_onednn")
    ]
    yield say(
        "ResNet-8 has {} of the rate of PyTorch's default layout with them and {} without "
        "(benchmarks/results/vs_torch.json, vs_torch_no_onednn.json);",
        *(f"{ratio:.2f}" for ratio in ratios),
    )
    yield say(
        "`forward_only` in one piece gives {} and {}",
        *(count(case["forward_only, one piece"]) for case in (resnet, cnn)),
    )
    nets = _benchmark("microbatches")["nets"].values()
    slower = []
    for net in nets:
        many = net["weights per activation"] > MANY_WEIGHTS
        rate = net["rates"][str(WITH_MANY_WEIGHTS if many else CPU_MICRO_BATCH)]
        slower.append(1 - rate / max(net["rates"].values()))
    yield say(
        "So a CPU takes {} examples, and {} where the weights outnumber the activations of an "
        "example {} times: of seven nets that is within {}% of the best of five sizes",
        str(CPU_MICRO_BATCH),
        str(WITH_MANY_WEIGHTS),
        str(MANY_WEIGHTS),
        f"{100 * max(slower):.0f}",
    )


def _fastest(case, way):
    """988 (microbatch 32)"""
    rates = {key: rate for key, rate in case.items() if key.startswith(f"{way}, ")}
    best = max(rates, key=rates.get)
    return f"{count(rates[best])} ({best.removeprefix(f'{way}, ')})"


SECTIONS = [
    Section(
        "README.md",
        "",
        caption,
        said=(
            "Python 3.11 to 3.13",
            "*Digits, an MLP with 64 hidden units, 64 trials",
            "steps until 2.5% validation error",
            "One search of 64 trials",
        ),
    ),
    Section(
        "README.md", "What it answers", tuple, said=("one training run: ResNet-8 at batch 8,192",)
    ),
    Section("README.md", "Ask your own question", tuple, said=("in the same file, 40 lines",)),
    Section("README.md", "Guarantees", tuple),
    Section("README.md", "Documentation", tuple),
    Section(
        "docs/speed.md",
        "",
        measured,
        said=(
            "the rest Python 3.11 and jax 0.10.2",
            "an MLP 784-64-64-64-10 against",
            "an MLP 784-5x128-10 with batch norm, 5,000 images",
            "the same net, 10,000 images",
            "30 steps of Lanczos",
            "(32x32, batch 128) against",
            "(28x28, batch 256), the same",
            "of 64 trials against PyTorch eager, one after another: digits MLP 64-64-64-10,",
            "eleven batch sizes, 64 trials each | 64 minutes on a shared machine",
            "29 minutes on one core of a shared machine",
            "MLP batch 8, 512, five layers",
            "| 31 s |",
            "the paper's own: 2 to 8)",
            "with three times its learning rate 28.0% validation",
        ),
    ),
    Section("docs/architecture.md", "The flow of a run", architecture, complete=False),
]
