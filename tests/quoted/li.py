"""Li 2018 in docs/reproduction.md."""

from quoted.quotes import Section, Table, say
from quoted.records import count, number, percent, study

HEAD = [
    *("weight decay", "batch", "updates", "training loss", "test error, %"),
    *("norm of the weights", "half-width", "loss half-way beyond"),
]


def quotes():
    """Figures 2, 3 and 9, and the map of eigenvalues."""
    points = study("landscape_fashion_mlp").points
    rows = [HEAD]
    for point in points:
        for view in point.views:
            net, width = view.net, view.width
            reached = "" if width.reached else "over "
            rows.append(
                [
                    *(number(point.weight_decay), count(net.global_batch), count(net.steps)),
                    *(f"{view.centre('train', 'loss'):.3f}", percent(view.centre("test", "error"))),
                    number(net.norm),
                    f"{reached}{width.mean:.2f} ± {width.deviation:.2f}",
                    number(view.beyond),
                ]
            )
    yield Table("li", rows)
    views = [view for point in points for view in point.views]
    yield say(
        "half-way beyond them the loss is {} and {} without, {} and {} with it",
        *(number(view.beyond) for view in views),
    )
    yield say("norms of {} and {}, and of {} and {}", *(number(view.net.norm) for view in views))
    yield say("half-width {} and {}, over {} and {}", *(f"{view.width.mean:.2f}" for view in views))
    yield say(
        "lies {} above the worse net's without weight decay and {} with it",
        *(number(point.barrier) for point in points),
    )
    shares = [sum(view.net.track.explained) for view in views]
    yield say(
        "two components hold {} to {}% of the variance",
        percent(min(shares), 0),
        percent(max(shares), 0),
    )
    near = [_share(view) for view in views]
    yield say(
        "at the weights is {} and {} for batch 128 and {} and {} for batch 8,192",
        *(f"{near[i]:.2f}" for i in (0, 2, 1, 3)),
    )
    high = [view.convexity[1].max() for view in views]
    yield say(
        "on the plane at most {} and {} for batch 128, {} and {} for batch 8,192",
        *(f"{high[i]:.2f}" for i in (0, 2, 1, 3)),
    )
    moved = [view.lines("train", "loss")[1] for view in views]
    apart = max(float((lines.max(0) / lines.min(0)).max()) for lines in moved)
    yield say("three directions' losses are within {} times of each other", number(apart))


def _share(view):
    """|least / largest eigenvalue| at the weights."""
    alpha, shares = view.convexity
    return shares[len(alpha) // 2, len(alpha) // 2]


SECTIONS = [
    Section(
        "docs/reproduction.md",
        "Li 2018, Visualizing the loss landscape of neural nets",
        quotes,
        said=(
            "F1 with five layers of 128",
            "at a rate of 0.1",
            "batch 128 for 20 epochs and batch 8,192 for 60",
            "with 5e-4",
            "Every place on 5,000 training images",
            "A plane of 51x51 places takes 27 s",
            "the training loss has risen by 0.5",
            "the paper has less than 0.01",
        ),
    )
]
