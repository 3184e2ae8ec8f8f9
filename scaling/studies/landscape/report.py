"""The loss around nets of a small and a large batch, and between them."""

from collections.abc import Iterator, Sequence
from zipfile import BadZipFile

import numpy as np

from scaling.report import records
from scaling.report.blocks import Note, Picture, Reliefs, Section
from scaling.report.kind import Kind, about_all
from scaling.report.reading import RecordError
from scaling.report.records import Directory, Workdir, check_alike, read_points
from scaling.report.tables import Column, Table, within
from scaling.report.wording import count, listed, metric_value, number, subject
from scaling.studies.landscape import charts
from scaling.studies.landscape.charts import SPLITS
from scaling.studies.landscape.record import EIGENVALUES
from scaling.studies.landscape.views import RISE, Point, Width

STATISTICS = {
    "recomputed": "recomputed at every place over {} training examples",
    "frozen": "those of the trained net, or of the first of a path",
    "interpolated": "interpolated along paths, and frozen elsewhere",
    "none": "none, the model has no batch norm",
}


def read(workdir: Workdir) -> records.Study:
    """The study in one work directory, by weight decay."""
    points = read_points(workdir, Point, arrays=_arrays)
    points.sort(key=lambda point: (point.weight_decay or 0.0, point.directory.name))
    check_alike(workdir.path, points, lambda point: point.directory.recipe)
    return records.Study(workdir.path, points, workdir.unfinished)


def _arrays(directory: Directory) -> dict[str, list[np.ndarray]]:
    """The surfaces that the record is of, by the names of their files."""
    alive = [net for net in directory.result["nets"] if not net["diverged"]]
    both = [f"net{index}" for index, _ in enumerate(alive)] + ["line", "arc"] * (len(alive) > 1)
    names = [f"{name}_{split}" for name in both for split in directory.result["splits"]]
    for index, net in enumerate(alive):
        names += [f"track{index}"] * bool(net["track"] and directory.result["plane"] > 1)
        names += [f"map{index}"] * bool(directory.result["map"])
    arrays = {}
    for name in names:
        try:
            with np.load(directory.path / f"{name}.npz") as file:
                arrays[name] = [file[key] for key in sorted(file)]
        except OSError:
            raise RecordError(f"lacks {name}.npz") from None
        except (ValueError, BadZipFile) as error:
            raise RecordError(f"has {name}.npz, which cannot be read ({error})") from None
    return arrays


def answer(study: records.Study) -> str:
    """How wide the minima are, and what lies between them."""
    points = [point for point in study.points if point.views]
    if not points:
        return f"{subject(study)}, every net diverged."
    texts = []
    for point in points:
        sides = [f"{_width(view.width, False)} for {view.name}" for view in point.views]
        texts.append(f"{listed(sides)}" + (f" ({point.label})" if point.label else ""))
    text = (
        f"{subject(study)}, the training loss rises by {RISE:g} at this distance from the weights, "
        f"in units of their filters' norms: {'; '.join(texts)}."
    )
    barriers = [(point, point.barrier) for point in points if point.barrier is not None]
    rises = [
        number(value) + (f" ({point.label})" if point.label else "")
        for point, value in barriers
        if value
    ]
    if rises:
        above = f"it rises above the worse one's by {listed(rises)}"
        text += f" On the straight line between the nets {above}."
    elif barriers:
        text += " On the straight line between the nets it is nowhere above the worse one's."
    return text


def _width(width: Width, deviation: bool = True) -> str:
    text = f"{'' if width.reached else 'over '}{width.mean:.2f}"
    return text + (f" ± {width.deviation:.2f}" if deviation else "")


def _columns(study):
    name, metric = study.headline
    centre = lambda split, metric: lambda s, p, view: view.centre(p.splits[split], metric)
    held_out = SPLITS[study.points[0].splits[1]]
    share = lambda value: metric_value(metric, value)
    return [
        Column("weight decay", lambda s, p, view: p.weight_decay, number, "weight_decay"),
        Column("net", "name", str, "net"),
        Column("steps", lambda s, p, view: view.net.steps, count, "steps"),
        Column("learning rate", lambda s, p, view: view.net.learning_rate, number, "learning_rate"),
        Column("training loss", centre(0, "loss"), number, "train_loss"),
        Column(f"{held_out} loss", centre(1, "loss"), number, f"{held_out}_loss"),
        Column(f"{held_out} {metric.words}", centre(1, name), share, f"{held_out}_{name}"),
        Column("‖w‖", lambda s, p, view: view.net.norm, number, "weight_norm"),
        Column("half-width", "width", _width),
        Column("loss half-way beyond", "beyond", number),
    ]


def table(studies: Sequence[records.Study]) -> Table:
    """A row per net."""
    rows = within(studies, lambda point: point.views)
    return Table(_columns(studies[0]), rows, "landscape.csv")


def sections(studies: Sequence[records.Study]) -> Iterator[Section]:
    """The page from top to bottom."""
    nothing = "no net was trained without diverging, or there is one alone"
    caption = (
        "Along random directions whose filters have the norms of the net's own (Li 2018), drawn "
        "from the same random numbers for all nets. Faint: each direction; bold: their mean. "
        "Widths can be compared between nets whose weights differ in scale."
    )
    around = Picture("landscape_lines", caption, charts.lines(studies), nothing)
    yield Section("Around the nets", [around, Note(_what(studies))])
    blocks = []
    for metric in charts.metrics_of(studies[0]):
        words = (
            f"Training {metric} on the plane of the first two directions; all panels have the same "
            "contour levels."
        )
        panels = charts.planes(studies, metric)
        blocks.append(Picture(f"landscape_plane_{metric}", words, panels, "planes were left out"))
    titles, heights = charts.reliefs(studies)
    caption = (
        "The same training losses as heights, on one logarithmic scale; drag one to turn them all."
    )
    yield Section("Planes", [*blocks, *([Reliefs(caption, titles, heights)] if titles else [])])
    caption = (
        "Training loss on the plane of the first two principal components of the weights along the "
        "training (Li 2018, Fig. 9), and the trajectory projected onto it, up to the last, ×. The "
        "weights themselves lie off this plane, where the loss differs."
    )
    no_tracks = "no trajectory was recorded"
    tracks = Picture("landscape_tracks", caption, charts.tracks(studies), no_tracks)
    yield Section("Trajectories", [tracks])
    caption = (
        "|λ_min / λ_max| of the Hessian of the training loss, on the plane of the first two "
        "directions: where it is 0 the loss is convex, and near 1 it is as concave as convex (Li "
        "2018, section 6)."
    )
    maps = Picture("landscape_maps", caption, charts.maps(studies), "no map was asked for")
    yield Section("Convexity", [maps, Note(_eigenvalues(studies))])
    beyond = " and beyond"
    if studies[0].points[0].statistics == "interpolated":
        beyond = ", beyond which interpolated variances turn negative"
    words = {
        "line": f"On the straight line between the nets{beyond} (Keskar 2016, Fig. 3).",
        "arc": "On the arc sin(πa/2), cos(πa/2) between them (Keskar 2016, Fig. 7).",
    }
    yield Section(
        "Between the nets",
        [
            Picture(f"landscape_{k}", text, charts.paths(studies, k), nothing)
            for k, text in words.items()
        ],
    )
    note = (
        f"Half-width: the distance at which the training loss has risen by {RISE:g}, by linear "
        "interpolation, mean ± standard deviation over the directions; 'over' where a line ends "
        "before. Loss half-way beyond: on the straight line, half of the distance between the nets "
        "beyond each. Every place is in tables/landscape_places.csv."
    )
    caption = (
        "The weights of all kernels, without the largest 0.1%. Steps of one size along directions "
        "that are not normalised move small weights further than large ones (Li 2018, Fig. 2)."
    )
    weights = Picture("landscape_weights", caption, charts.histograms(studies), nothing)
    yield Section("Weights", [weights])
    places = within(studies, _places)
    yield Section(
        "Net by net",
        [table(studies), Note(note), Table(PLACES, places, "landscape_places.csv", shown=False)],
    )


PLACES = [
    Column("surface", lambda s, p, row: row[0], str, "surface"),
    Column("place", lambda s, p, row: row[1], str, "place"),
    Column("metrics", lambda s, p, row: row[2], str, "metric"),
]


def _places(point: Point):
    """(file, place, metrics) of all that were evaluated."""
    names = lambda file: EIGENVALUES if file.startswith("map") else point.metrics
    return [
        (file, place.tolist(), dict(zip(names(file), map(float, values), strict=True)))
        for file, (places, *columns) in point.arrays.items()
        for place, *values in zip(places, *columns, strict=True)
    ]


def _eigenvalues(studies: Sequence[records.Study]) -> str:
    """The products, the examples, and how well the least eigenvalues converged."""
    texts = []
    for study in studies:
        point, found = study.points[0], [v.map() for p in study.points for v in p.views]
        values = [each[1] for each in found if each is not None]
        if not values:
            continue
        shares = np.concatenate([(v["least_bound"] / v["largest"]).ravel() for v in values])
        own = ", whose batch statistics it has," if point.statistics == "recomputed" else ""
        text = (
            f"{point.map_steps} products of Lanczos with the Hessian of {point.map_examples:,} "
            f"training examples{own} at every place, in all weights; the error bound of λ_min is "
            f"at most {np.nanmax(shares):.1%} of λ_max, {np.nanmedian(shares):.1%} at the median."
        )
        texts.append(study.noted(text))
    return " ".join(texts)


def _what(studies: Sequence[records.Study]) -> str:
    """Statistics, examples, directions and seeds."""
    texts = []
    for study in studies:
        point = study.points[0]
        read = [f"{point.examples[s]:,} {SPLITS[s]} examples" for s in point.splits]
        statistics = STATISTICS[point.statistics].format(f"{point.group:,}")
        text = (
            f"Batch statistics: {statistics}. Every place: {listed(read)}. Directions: "
            f"{len(point.seeds)}, seeds {', '.join(map(str, point.seeds))}, biases and batch "
            "norm's scales unmoved."
        )
        ratios = [
            ratio for p in study.points for view in p.views for ratio in view.net.direction_norms
        ]
        if point.directory.config["model"].get("norm") == "ghost":
            text += " Ghost batch norm is evaluated as batch norm."
        if ratios:
            text += f" ‖direction‖ / ‖w‖ {min(ratios):.2f} to {max(ratios):.2f}."
        texts.append(study.noted(text))
    return " ".join(texts)


def cautions(study: records.Study) -> list[str]:
    """One sentence each."""
    return about_all(
        study.points,
        ("some nets diverged.", lambda point: any(net.diverged for net in point.nets)),
        (
            "with frozen batch statistics the surfaces are steeper than the training loss.",
            lambda point: point.statistics == "frozen",
        ),
    )


KIND = Kind("Landscape", read, answer, table, sections, cautions)
