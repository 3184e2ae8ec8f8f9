"""A batch that follows the noise scale, against batches that stay (McCandlish 2018, Fig. 16).

A point is one fixed batch size, or one price r of a step in examples at which the batch follows
sqrt(r B_simple), eq. D.6. Both train by the same code, at the learning rate that the law A.3 gives
to the present batch, until a metric on training data, by default the loss, is better than the
hardest goal. If the noise scale grows
over training, a fixed batch is too large at first and too small later; what that costs follows from
gamma, eq. D.5. Fixed batches give the curve of steps against examples, and an adaptive run
saves as much as it lies below that. It may be more than gamma allows for: a batch that grows lowers
the temperature, the learning rate over the batch (App. C), as a decay of the rate would.

The metric is evaluated on the first training examples, as many as are held out for validation,
without dropout or augmentation. A goal is reached at the first evaluation strictly better than it.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from scaling import noise
from scaling.batch import plans
from scaling.config import default_config
from scaling.data import sources
from scaling.errors import UserError
from scaling.paired import mean_and_deviation
from scaling.record import RunDir
from scaling.report.wording import measure_text
from scaling.signals import Signals
from scaling.studies.adaptive_batch.record import Crossing, Record, Run
from scaling.studies.adaptive_batch.savings import gamma_of
from scaling.studies.shared import batch_name, check_goals, metric_of
from scaling.train import planning
from scaling.train.phases import Rules, train_phases
from scaling.train.point import Point, data_info, resolve
from scaling.train.resolved import dry_run as train_dry_run
from scaling.train.resolved import point_values
from scaling.train.trials import Outcome, seconds_of

STATUSES = ("reached", "target_not_reached", "diverged")  # the worst seed's is the point's
# What follows from the batch or from the question, and so stays at the study's default.
DECIDED = {
    "schedule.name": "the learning rate changes with the batch only",
    "schedule.warmup": "the learning rate changes with the batch only",
    "optim.scaling_rule": "the learning rate follows from adaptive.rate_star and batch_star",
    "optim.base_lr": "the learning rate follows from adaptive.rate_star and batch_star",
    "micro_batch": "adaptive.parts says into how many microbatches a batch is cut",
    "noise_scale": "the batch follows it",
    "noise_every": "the noise is measured at every update",
    "eval.test": "only training data are evaluated",
    "metrics.weight_distance": "it is of the 'train' study",
    "metrics.tensorboard": "it is of the 'train' study",
    "sharpness.track": "it is of the 'train' study",
}


def points(config: ConfigDict) -> list[ConfigDict]:
    """One config for each fixed batch, then one for each r.

    Raises:
      UserError: batch_sizes, which are of other studies.
    """
    if config.batch_sizes:
        raise UserError(
            "batch_sizes is of other studies; name fixed batches in adaptive.batches and leave it "
            "empty."
        )
    adaptive, points = config.adaptive, []
    fixed = [((batch,), ()) for batch in adaptive.batches]
    for batches, r in [*fixed, *(((), (r,)) for r in adaptive.r)]:
        point = config.copy_and_resolve_references()
        point.adaptive.batches, point.adaptive.r = batches, r
        point.global_batch = batches[0] if batches else adaptive.first_batch
        points.append(point)
    return points


def name(config: ConfigDict) -> str:
    """The name of a point's directory: fixed_bs64, adaptive_r100."""
    adaptive = config.adaptive
    return f"adaptive_r{adaptive.r[0]:g}" if adaptive.r else f"fixed_{batch_name(config)}"


def check_values(config: ConfigDict) -> None:
    """The config can be used, wherever its data are.

    Raises:
      UserError: a value that cannot be.
    """
    study, adaptive = default_config(config.study), config.adaptive
    metric = metric_of(config, adaptive.metric, "adaptive.metric")
    for path, why in DECIDED.items():
        section, _, key = path.rpartition(".")
        found, left = ((c[section] if section else c)[key] for c in (config, study))
        if found != left:
            raise UserError(f"{path} is {found!r}, but here {why}; leave it {left!r}.")
    if not adaptive.goals:
        raise UserError(f"adaptive.goals is empty; name at least one training {metric.words}.")
    noise.adaptive_batch(1.0, 1.0, adaptive.smallest, adaptive.largest)  # there is a power of two
    if not adaptive.smallest <= adaptive.first_batch <= adaptive.largest:
        raise UserError(
            f"adaptive.first_batch is {adaptive.first_batch}; it must be within adaptive.smallest "
            f"and adaptive.largest, {adaptive.smallest} and {adaptive.largest}."
        )
    if "step" in config.duration:
        raise UserError(
            f"duration is {config.duration!r}, but steps of different batches do not compare; "
            "write it in epochs or examples."
        )
    info = data_info(config.data)
    if info.streaming:
        raise UserError(f"{info.name} is streamed; this study needs a data set in memory.")
    batches, size = _possible_batches(config), info.sizes["train"]
    if (largest := max(batches)) > size:
        raise UserError(
            f"The batch may come to {largest:,}, which holds the {size:,} training examples more "
            "than once, and gives no noise scale; lower adaptive.largest or adaptive.batches to "
            f"{size:,}."
        )
    for batch in batches:
        point_at(config, batch)


def check(config: ConfigDict) -> None:
    """The same, and it fits this machine, and its data set is there.

    Raises:
      UserError: it does not, or it is not.
    """
    check_values(config)
    adaptive = config.adaptive
    sources.check_available(config.data.name, config.data.dir)
    check_goals(config, "adaptive.goals", adaptive.goals, adaptive.metric, "train")


def _possible_batches(config) -> Sequence[int]:
    """Every batch that training may come to."""
    adaptive = config.adaptive
    if not adaptive.r:
        return (config.global_batch,)
    powers = (2**i for i in range(adaptive.largest.bit_length()))
    return (adaptive.first_batch, *(batch for batch in powers if batch >= adaptive.smallest))


def rate_at(config: ConfigDict, batch: int) -> float:
    """The learning rate at `batch`, eq. A.3."""
    law = config.adaptive
    return float(noise.central_rate(batch, law.rate_star, law.batch_star, law.alpha))


def point_at(config: ConfigDict, batch: int) -> Point:
    """The point of a phase at `batch`: its learning rate, and the parts that its noise comes from.

    The parts are `adaptive.parts` over all devices, so that the noise measured does not depend on
    their number; fewer where the batch has no such divisor or its normalisation needs it in one
    piece (see `step.noise_parts`), more where convolutions run faster in small microbatches.

    Raises:
      UserError: the config cannot be used, or the batch does not divide over the devices.
    """
    c = config.copy_and_resolve_references()
    c.global_batch, c.micro_batch, c.noise_every = int(batch), None, 1
    c.optim.base_lr = rate_at(config, batch)
    point = resolve(c)
    devices = len(point.devices)
    layouts = plans(c.global_batch, devices, point.ghost_batch)
    most = max(1, c.adaptive.parts // devices)
    parts = max((p for p in layouts if p.accum_steps <= most), key=lambda p: p.accum_steps)
    fastest = planning.for_the_cache(point, layouts)
    c.micro_batch = min(parts.micro_batch, fastest.micro_batch)
    return resolve(c)


def rules_of(config: ConfigDict) -> Rules:
    """How the runs of a point go."""
    adaptive, info = config.adaptive, data_info(config.data)
    better = metric_of(config, adaptive.metric).better
    return Rules(
        first_batch=config.global_batch,
        goals=tuple(sorted(adaptive.goals, reverse=better == "lower")),
        resolution=adaptive.resolution,
        budget=info.steps(config.duration, 1),
        r=adaptive.r[0] if adaptive.r else None,
        smallest=adaptive.smallest,
        largest=adaptive.largest,
        memory=adaptive.memory,
        metric=adaptive.metric,
        better=better,
    )


def measure(config: ConfigDict, run: RunDir, name: str, signals: Signals) -> Record:
    """Train every seed of one point."""
    rules = rules_of(config)
    point = point_at(config, rules.first_batch)
    values = point_values(point)
    run.launched(values | {"budget_examples": rules.budget})
    seeds = [config.seed + k for k in range(config.adaptive.seeds)]
    at = lambda batch: point_at(config, batch)
    outcomes = train_phases(at, rules, seeds, run, name, signals)
    runs = [_run_of(*each, rules) for each in zip(seeds, outcomes, strict=True)]
    batches = sorted({batch for each in runs for _, batch in each.schedule})
    return Record(
        study=config.study,
        kind="fixed" if rules.r is None else "adaptive",
        status=max((each.status for each in runs), key=STATUSES.index),
        global_batch=rules.first_batch if rules.r is None else None,
        r=rules.r,
        metric=rules.metric,
        goals=list(rules.goals),
        runs=runs,
        gamma=None if rules.r is None else _mean_gamma(runs),
        train_size=point.info.sizes["train"],
        learning_rates={str(batch): rate_at(config, batch) for batch in batches},
        seconds=seconds_of(outcomes),
        devices=values["devices"],
    )


def _run_of(seed: int, outcome: Outcome, rules: Rules) -> Run:
    """One seed's part of the result."""
    (history,) = outcome.histories
    steps, examples, scales = map(history.columns.get, ("step", "examples", "noise_scale"))
    crossings = [rules.crossing(history, goal) for goal in rules.goals]
    reached = [found and found[1] for found in crossings]
    status = "target_not_reached" if None in reached else "reached"
    return Run(
        seed=seed,
        status="diverged" if history.diverged_at is not None else status,
        goals=[
            Crossing(goal, step, None if step is None else examples[steps.index(step)])
            for goal, step in zip(rules.goals, reached, strict=True)
        ],
        schedule=[tuple(change) for change in outcome.observed[0]["schedule"]],
        noise_scale=list(zip(steps, scales, strict=True)),
    )


def _mean_gamma(runs):
    gammas = [gamma_of(run.schedule, run.noise_scale) for run in runs if run.status == "reached"]
    return mean_and_deviation(gammas)[0]


def dry_run(points: dict[str, ConfigDict]) -> str:
    """The resolved plan of every point at its first batch."""
    texts = []
    for name, config in points.items():
        rules = rules_of(config)
        follows = "constant"
        if rules.r is not None:
            follows = f"sqrt({rules.r:g} B_simple), {rules.smallest:,} to {rules.largest:,}"
        goals = ", ".join(f"{goal:g}" for goal in rules.goals)
        metric = metric_of(config, rules.metric)
        side = "below" if metric.better == "lower" else "above"
        aim = f"{measure_text(metric, 'train')} {side} {goals}"
        texts.append(
            f"{name}: dry run, nothing is trained\n"
            f"{train_dry_run(point_at(config, rules.first_batch).config)}\n"
            f"{'changes':>10}  {follows}\n"
            f"{'goals':>10}  {aim}; at most {rules.budget:,} examples for "
            f"each of {config.adaptive.seeds} seeds"
        )
    return "\n".join(texts)
