"""Goyal 2017 in docs/reproduction.md."""

from quoted.errors import error_table
from quoted.quotes import Section, say
from quoted.records import ends, percent, points, spread, study

ROWS = {
    "none (`naive`)": "naive",
    "sqrt": "sqrt",
    "sqrt, gradual warmup": "sqrt+warmup",
    "sqrt, ghost batch norm": "sqrt+gbn",
    "linear, no warmup": "linear",
    "linear, constant warmup": "linear+constant_warmup",
    "linear, gradual warmup": "linear+warmup",
    "linear, gradual warmup, ghost batch norm": "linear+warmup+gbn",
    "`noise` (Hoffer's multiplicative noise, rate kept)": "noise",
}
LARGE = (1024, 4096, 8192, 16384)


def quotes():
    """The table, the paper's findings, and the run at full width."""
    yield from _quarter(study("accuracy_fashion_mlp"))
    yield from _full(study("accuracy_f1_h200"))


def _quarter(mlp):
    yield say("at batch 128 all rules are one, {}:", spread(mlp.reference))
    yield error_table("goyal", [mlp], ROWS, LARGE, "rule")
    error = lambda batch, recipe, split="test": percent(mlp.point(batch, recipe).mean(split), 1)
    kept, broken = (mlp.added(mlp.point(batch, "linear+warmup")) for batch in LARGE[:2])
    yield say(
        "holds at 1,024, eight times the small batch: {} points (95%: {}); {} at 4,096; of no use "
        "from 8,192 on",
        points(kept.difference),
        ends(kept),
        points(broken.difference, 1),
    )
    yield say(
        "at 4,096: {} against {} and {}; constant warmup",
        *(error(4096, recipe) for recipe in ("linear+warmup", "linear", "linear+constant_warmup")),
    )
    yield say(
        "at 1,024 with warmup: {}, {}, {}. From 4,096 on sqrt is the best rule",
        *(error(1024, recipe) for recipe in ("linear+warmup", "sqrt+warmup", "naive")),
    )
    small, large = mlp.reference, mlp.point(16384, "naive")
    yield say(
        "({}% at 128, {}% at 16,384, naive), and the gap between them shrinks, from {} to {} "
        "points",
        *(percent(p.mean("train"), 1) for p in (small, large)),
        *(percent(p.gap, 1) for p in (small, large)),
    )


def _full(f1):
    of = lambda batch, recipe: spread(f1.point(batch, recipe))
    kept = f1.added(f1.point(1024, "linear+warmup"))
    yield say(
        "small batch {}%: linear with warmup holds at 1,024 as well ({}, {} points, 95%: {}; kept "
        "rate {}, sqrt with warmup {}), and at 4,096 has failed ({}), where sqrt with warmup is "
        "best ({}). From 8,192 on the rate kept is best of the rules, {} and {}%",
        spread(f1.reference),
        of(1024, "linear+warmup"),
        points(kept.difference),
        ends(kept),
        of(1024, "naive"),
        of(1024, "sqrt+warmup"),
        spread(f1.point(4096, "linear+warmup"), 1),
        of(4096, "sqrt+warmup"),
        *(percent(f1.point(batch, "naive").mean("test"), 1) for batch in LARGE[2:]),
    )
    naive = f1.point(1024, "naive")
    yield say(
        "training error is lower than at 128 ({}% against {}%) and test error {} points higher",
        *(percent(p.mean("train")) for p in (naive, f1.reference)),
        percent(f1.added(naive).difference, 1),
    )


SECTIONS = [
    Section(
        "docs/reproduction.md",
        "Goyal 2017, Accurate, large minibatch SGD",
        quotes,
        said=(
            "five layers of 128, batch norm",
            "momentum 0.9, warmup two epochs, Hoffer's rate 0.1 for batch 128",
            "29 minutes beside other programs",
            "the paper holds 32 times, at 90 epochs of ImageNet",
            "beats none at 8k",
            "full width of 512",
            "15 epochs, six seeds",
            "Here a gap of generalisation does show, at 1,024",
            "From 4,096 on it is training that falls short",
        ),
    )
]
