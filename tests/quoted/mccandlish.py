"""McCandlish 2018 in docs/reproduction.md."""

from quoted.quotes import Section, Table, say
from quoted.records import count, number, percent, study
from scaling.studies.adaptive_batch.savings import allowed
from scaling.studies.noise_scale.analysis import equal_loss_spread, levels, slope

TASKS = {
    "Fashion-MNIST, MLP": ("pareto_fashion_mnist", "MNIST 4.5, SVHN 8"),
    "digits, MLP": ("pareto_digits", ""),
    "digits, Simple CNN narrow": ("pareto_digits_cnn", ""),
}
HEAD = (
    "task",
    "B_crit start",
    "B_crit average",
    "B_simple start",
    "B_simple average",
    "ratio of averages",
    "paper",
)


def quotes():
    """Table 1, critical batches by loss, the noise scale and its variants, the adaptive batch."""
    yield _table()
    yield from _fronts()
    yield from _variants(study("noise_scale_fashion_mnist"), study("noise_scale_digits"))
    yield from _exact(study("noise_scale_fashion_mnist"), study("noise_scale_digits"))
    yield _adaptive()


def _table():
    rows = [list(HEAD)]
    for task, (name, paper) in TASKS.items():
        found = study(name)
        critical = map(_whole, (found.critical_start, found.critical_average))
        noise = map(_whole, (found.noise_start, found.noise_average))
        rows.append([task, *critical, *noise, f"{found.ratio:.1f}", paper])
    return Table("mccandlish_table1", rows)


def _whole(value):
    return "not resolved" if value is None else f"{value:.0f}"


def _fronts():
    studies = [study(name) for name, _ in TASKS.values()]
    fashion, digits, cnn = (some.fronts for some in studies)
    ends = lambda values: (f"{min(values):.0f}", f"{max(values):.0f}")
    noise = {front.goal: studies[0].noise_at(front.goal) for front in fashion}
    known = [(goal, scale) for goal, scale in noise.items() if scale]
    yield say(
        "Fashion-MNIST, loss {} to {}: B_crit {} to {}; B_simple {} at {}, {} at {}. Digits: {} to "
        "{} from loss {} to {}. The CNN on digits: B_crit {} to {}, no trend",
        *(number(front.goal) for front in (fashion[0], fashion[-1])),
        *(_whole(front.critical_batch) for front in (fashion[0], fashion[-1])),
        *(text for goal, scale in (known[0], known[-1]) for text in (_whole(scale), number(goal))),
        *(_whole(front.critical_batch) for front in (digits[0], digits[-1])),
        *(number(front.goal) for front in (digits[0], digits[-1])),
        *ends([front.critical_batch for front in cnn]),
    )
    first, *others = ([r for f in some.fronts if (r := some.ratio_at(f))] for some in studies)
    ratios = [first, [r for some in others for r in some]]
    yield say(
        "ratio {} to {} at single goals on Fashion-MNIST, {} to {} on digits",
        *(f"{end(some):.1f}" for some in ratios for end in (min, max)),
    )


def _variants(fashion, digits):
    batches, found = levels(fashion.variants("batch"), "global_batch")
    assert not levels(digits.variants("batch"), "global_batch")[0]
    yield say(
        "Fashion-MNIST, batch {}: average {}; on digits too little of the runs is resolved |",
        ", ".join(map(count, batches)),
        ", ".join(map(_whole, found)),
    )
    rates = levels(fashion.variants("rate"), "learning_rate")
    runs = sorted(fashion.variants("rate"), key=lambda point: point.learning_rate)
    yield say(
        "Fashion-MNIST, rates 1/4 to 4 times: {} on average over the run, power {}; at the start "
        "{} | not on average",
        ", ".join(map(_whole, rates[1])),
        f"{slope(*rates):.2f}",
        ", ".join(_whole(point.noise_scale.start.noise_scale) for point in runs),
    )
    models = fashion.variants("model")
    *smaller, largest = map(count, sorted(p.parameters for p in models))
    yield say(
        "Fashion-MNIST, {} and {} parameters: within a factor of {} (median over losses); digits "
        "{} | same",
        ", ".join(smaller),
        largest,
        f"{equal_loss_spread(models):.2f}",
        f"{equal_loss_spread(digits.variants('model')):.1f}",
    )


def _exact(fashion, digits):
    last, exact = (
        fashion.base.noise_scale.end,
        [s.base.noise_scale.exact["end"] for s in (fashion, digits)],
    )
    assert digits.base.noise_scale.end.noise_scale is None
    yield say(
        "on Fashion-MNIST {} ({} to {}) over the last fifth of the run, and {} exactly after its "
        "end. On digits it lies above the exact value (above {} against {}):",
        *map(_whole, (last.noise_scale, last.low, last.high, exact[0].noise_scale)),
        *map(_whole, (digits.base.noise_scale.end.low, exact[1].noise_scale)),
    )
    shares = [found.hessian_noise_scale / found.noise_scale for found in exact]
    yield say(
        "B_noise, with the Hessian, is {} and {} of B_simple at the ends of these runs",
        *(f"{share:.2f}" for share in shares),
    )


def _adaptive():
    digits, fashion = (
        [(some.saving(point), allowed(point.gamma)) for point in some.points_of("adaptive")]
        for some in map(study, ("adaptive_batch_digits", "adaptive_batch_fashion_mnist"))
    )
    (share,) = {percent(allowed, 0) for _, allowed in fashion}
    return say(
        "digits, ten seeds: saves {}%, {}% and {}% (intervals about {}% to +{}%) where gamma "
        "allows {}%, {}% and {}%. Fashion-MNIST, five seeds: {}, {} and {}, gamma allows {}% |",
        *(percent(found.share, 1) for found, _ in digits),
        percent(min(found.low for found, _ in digits), 0),
        percent(max(found.high for found, _ in digits), 0),
        *(percent(share, 1) for _, share in digits),
        *(
            f"{found.share:.0%} ({percent(found.low, 0)} to {percent(found.high, 0)})"
            for found, _ in fashion
        ),
        share,
    )


SECTIONS = [
    Section(
        "docs/reproduction.md",
        "McCandlish 2018, An empirical model of large-batch training",
        quotes,
        said=(
            "(32 learning rates at each batch size, 16 for the CNN;",
            "an MLP with 64 hidden units on digits",
            "an MLP 64-64-64 on Fashion-MNIST",
            # Of the updates in the cut alone, which the committed records leave out.
            "cut the temperature by 16 for half an epoch: B_simple rises by as much, and returns | "
            "Fashion-MNIST: inside the cut 1,420 (95%: 867 to 4,030), 5.4 times the base run's at "
            "the same steps, and back at once; digits: not resolved | same direction and return; "
            "5.4 times (about 3 to 15), not 16 |",
            "batches without replacement from 1,197 examples",
            "and 16 or 32 rates are a coarse grid",
        ),
    )
]
