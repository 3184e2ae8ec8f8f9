"""Maps of the atmosphere with tropical cyclones and atmospheric rivers, as Kurth 2018 segments.

`synthetic` draws them, and `labels` finds both by the rules with which the climate data of that
paper and of MLPerf HPC's DeepCAM were labelled; `reader` reads those data. Maps are [H, W]
from 90 degrees south to north, and around the globe from 0 degrees east.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from scaling.errors import UserError
from scaling.limits import cores

BACKGROUND, CYCLONE, RIVER = CLASSES = range(3)
# The channels of CAM5's files in their order: water vapour of the column; winds at 850 hPa and of
# the lowest level; humidity; pressure at the surface and at sea level; temperatures at 200 and 500
# hPa; rain; temperature of the surface and of the air above; heights at 1000 and 200 hPa and of the
# lowest level. With the mean and the scale by which `synthetic` standardises its maps.
CHANNELS = {
    "TMQ": (13.0, 14.0),
    "U850": (0.0, 10.0),
    "V850": (0.0, 3.0),
    "UBOT": (0.0, 7.0),
    "VBOT": (0.0, 2.3),
    "QREFHT": (4.5, 4.9),
    "PS": (974.0, 26.0),
    "PSL": (1011.0, 6.2),
    "T200": (219.5, 3.5),
    "T500": (246.0, 11.4),
    "PRECT": (0.6, 1.6),
    "TS": (264.0, 18.0),
    "TREFHT": (263.0, 18.0),
    "Z1000": (90.0, 51.0),
    "Z200": (11_460.0, 430.0),
    "ZBOT": (58.0, 4.2),
}
KILOMETRES = 6371.0  # radius of the Earth
THRESHOLD = 24.0  # kg/m^2 of water vapour in a river, after the tropics are damped
RIVERS, CYCLONES = 14.6, 0.58  # drawn for a map, on average


class Storm(NamedTuple):
    """A tropical cyclone: its centre and its radius in degrees."""

    latitude: float
    longitude: float
    radius: float


class Grid(NamedTuple):
    """Places of the pixels of a map."""

    height: int
    width: int

    @property
    def latitudes(self) -> np.ndarray:
        """Of the rows, [H], in degrees."""
        return (np.arange(self.height) + 0.5) * 180 / self.height - 90

    @property
    def longitudes(self) -> np.ndarray:
        """Of the columns, [W], in degrees from 0 to 360."""
        return np.arange(self.width) * 360 / self.width

    def offsets(self, latitude, longitude) -> tuple[np.ndarray, np.ndarray]:
        """Degrees to the north and to the east of a place, [H, W]; shorter eastward near a pole."""
        north = np.broadcast_to((self.latitudes - latitude)[:, None], self)
        east = (self.longitudes - longitude + 180) % 360 - 180
        return north, east * np.cos(np.radians(self.latitudes))[:, None]


# ---- Labels ----


def labels(
    tmq: np.ndarray, u850: np.ndarray, v850: np.ndarray, prect: np.ndarray, storms: list[Storm]
) -> np.ndarray:
    """The class of every pixel, uint8 [H, W], from four maps and the centres of the cyclones.

    The rules of ClimDeepLearn's create_multichannel_multithreshold_labels.py (`labels_0`), here on
    a globe: nothing changes at 0 degrees east. Cyclones are drawn over rivers.
    """
    found = np.where(rivers(tmq), RIVER, BACKGROUND).astype(np.uint8)
    for storm in storms:
        found[cyclone((tmq, u850, v850, prect), storm)] = CYCLONE
    return found


def rivers(tmq: np.ndarray) -> np.ndarray:
    """Whether each pixel is in an atmospheric river, bool [H, W].

    Water vapour, damped near the equator, above `THRESHOLD`; of the regions of neighbours by row
    and column those whose bounding box has a diagonal above 1,500 km, and whose area over the
    length of the box from south to north is below 1,000 km.
    """
    grid = Grid(*tmq.shape)
    damped = tmq * (1 - np.exp(-(grid.latitudes**2) / (2 * 19.0**2)))[:, None]
    regions, found = _regions(damped > THRESHOLD), np.zeros(grid, bool)
    steps = np.radians(180 / grid.height) * np.radians(360 / grid.width)
    areas = KILOMETRES**2 * steps * np.cos(np.radians(grid.latitudes))
    for region in np.unique(regions[regions > 0]):
        rows, columns = np.nonzero(regions == region)
        south, north = grid.latitudes[[rows.min(), rows.max()]]
        length = np.radians(north - south) * KILOMETRES
        if length > 0 and _diagonal(south, north, _arc(columns, grid.width)) > 1500:
            found[rows, columns] = areas[rows].sum() / length < 1000
    return found


def _regions(mask):
    """Numbers from 1 of the regions of neighbours by row and column around the globe; else 0."""
    regions, _ = ndimage.label(mask)
    for row in range(len(regions)):  # reads what the rows before have left
        first, last = regions[row, 0], regions[row, -1]
        if first and last and first != last:
            regions[regions == last] = first
    return regions


def _arc(columns, width):
    """Degrees from the first to the last of some columns, around the globe the shorter way."""
    columns = np.unique(columns)
    gaps = np.diff(columns, append=columns[0] + width)
    return (width - gaps.max()) * 360 / width


def _diagonal(south, north, east):
    """Kilometres on a great circle between opposite corners of a box of degrees."""
    south, north, east = np.radians([south, north, east])
    half = np.sin((north - south) / 2) ** 2 + np.cos(south) * np.cos(north) * np.sin(east / 2) ** 2
    return 2 * KILOMETRES * np.arcsin(np.sqrt(half))


def cyclone(maps: tuple[np.ndarray, ...], storm: Storm) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of a cyclone, (rows, columns).

    In the box of its centre and radius and 6.6 degrees more: of every map the pixels above the
    box's 93rd percentile, of these the largest region of neighbours, diagonal ones too; and of all
    maps' regions together the largest again.
    """
    grid = Grid(*maps[0].shape)
    reach = storm.radius + 6.6
    rows = np.flatnonzero(np.abs(grid.latitudes - storm.latitude) <= reach)
    first, last = (
        int(np.floor((storm.longitude + side * reach) * grid.width / 360)) for side in (-1, 1)
    )
    columns = np.arange(first + 1, last + 1) % grid.width
    box = np.ix_(rows, columns)
    parts = [_largest(each[box] > np.percentile(each[box], 93)) for each in maps]
    chosen = np.nonzero(_largest(np.any(parts, 0)))
    return rows[chosen[0]], columns[chosen[1]]


def _largest(mask):
    """The largest region of neighbours, diagonal ones too; all of those that are as large."""
    regions, _ = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    return mask & (sizes[regions] == sizes.max())


# ---- Synthesis ----


def synthetic(split: int, count: int, height: int = 96, width: int = 144) -> dict[str, np.ndarray]:
    """{"image": float32 [count, H, W, 16], standardised, "label": uint8 [count, H, W]}.

    A map is a mean state by latitude, stirred by a random stream function; narrow plumes of water
    vapour from 20 to 45 degrees; and vortices. `labels` reads nothing else. Example i of a split is
    the same whatever the count.

    Args:
      split: number of the split: each has examples of its own.
    """
    grid, images, found = Grid(height, width), [], []
    for i in range(count):
        maps, storms = _state(grid, np.random.default_rng([split, i]))
        images.append(np.stack([(maps[k] - m) / s for k, (m, s) in CHANNELS.items()], -1))
        found.append(labels(maps["TMQ"], maps["U850"], maps["V850"], maps["PRECT"], storms))
    return {"image": np.float32(images), "label": np.stack(found)}


def _state(grid, random) -> tuple[dict[str, np.ndarray], list[Storm]]:
    """The maps of `CHANNELS` in their units, and the cyclones in them."""
    field = lambda slope: _power_law(grid, random, slope)
    lat = grid.latitudes[:, None]
    stream = field(6.0)
    slopes = np.gradient(stream, 180 / grid.height, 360 / grid.width)
    north, east = (each / np.std(slopes) for each in slopes)
    stirred = lambda values: _moved(np.broadcast_to(values, grid), 5 * east, -5 * north)
    warm = np.exp(-((lat / 32) ** 2))

    maps = {
        "TMQ": stirred(4 + 40 * np.exp(-((lat / 19) ** 2)) + sum(_plumes(grid, random))),
        "U850": 8 * np.sin(np.radians(4 * np.abs(lat) - 90)) - 5 * north + 2 * field(3.0),
        "V850": 5 * east + 2 * field(3.0),
        "PSL": 1011
        + 5 * np.cos(np.radians(4 * lat))
        + 6 * np.sin(np.radians(lat)) * stream
        + field(2.5),
    }
    maps["TMQ"] *= np.exp(0.12 * field(3.0))
    storms = [_storm(random) for _ in range(random.poisson(CYCLONES))]
    rain = np.maximum(maps["TMQ"] / 40, 0) ** 2 * np.exp(0.8 * field(2.0))
    warmer = np.zeros(grid)
    for storm in storms:
        rain, warmer = _add(maps, rain, warmer, grid, storm, random)
    t_500 = stirred(236 + 32 * warm) + 1.5 * field(3.0) + 0.3 * warmer
    surface = stirred(248 + 52 * warm) + 2 * field(2.5)
    heights = np.abs(_power_law(grid, np.random.default_rng(0), 3.0))  # of the ground, the same
    maps |= {
        "UBOT": 0.7 * maps["U850"] + field(2.5),
        "VBOT": 0.7 * maps["V850"] + field(2.5),
        "QREFHT": 0.35 * maps["TMQ"] + 0.8 * field(2.5),
        "PS": maps["PSL"] - 45 * heights,
        "T200": 222 - 8 * warm + 2 * field(3.0) + 0.4 * warmer,
        "T500": t_500,
        "PRECT": 2 * rain,
        "TS": surface,
        "TREFHT": surface - 1 + field(2.5),
        "Z1000": 8.3 * (maps["PSL"] - 1000),
        "Z200": 11_000 + 38 * (t_500 - 234) + 40 * field(3.0),
        "ZBOT": 62 * surface / 283 + field(2.5),
    }
    return maps, storms


def _power_law(grid, random, slope):
    """A random map of mean 0 and deviation 1, the power of wave number k falling as k^-slope.

    It is periodic to the east. To the north it is half of a map that is.
    """
    noise = random.normal(size=(2 * grid.height, grid.width))
    north = np.fft.fftfreq(2 * grid.height) * grid.height
    waves = np.hypot(north[:, None], np.arange(grid.width // 2 + 1))
    waves[0, 0] = np.inf
    values = np.fft.irfft2(np.fft.rfft2(noise) * waves ** (-slope / 2), noise.shape)[: grid.height]
    return (values - values.mean()) / values.std()


def _moved(values, north, east):
    """Values from so many degrees to the north and to the east of each pixel."""
    height, width = values.shape
    rows = np.arange(height)[:, None] + north * height / 180
    columns = np.arange(width) + east * width / 360
    places = [np.clip(rows, 0, height - 1), columns % width]
    return ndimage.map_coordinates(values, places, order=1, mode="grid-wrap")


def _plumes(grid, random) -> Iterator[np.ndarray]:
    """Water vapour of curves that run poleward and eastward from 20 to 45 degrees, [H, W]."""
    for _ in range(random.poisson(RIVERS)):
        side, start, along = random.choice([-1, 1]), random.uniform(0, 360), np.linspace(0, 1, 33)
        latitudes = side * (random.uniform(18, 24) + random.uniform(18, 26) * along)
        longitudes = start + random.uniform(15, 40) * along ** random.uniform(0.7, 1.5)
        peak, breadth = random.uniform(30, 44), random.uniform(1.7, 3.1)
        near = np.flatnonzero(np.abs(side * grid.latitudes - 35) < 28)
        rows = grid.latitudes[near, None, None]
        east = (grid.longitudes - longitudes[:, None] + 180) % 360 - 180
        squares = (rows - latitudes[:, None]) ** 2 + (east * np.cos(np.radians(rows))) ** 2
        plume = np.zeros(grid)
        plume[near] = peak * np.exp(-squares.min(1) / breadth**2)
        yield plume


def _storm(random) -> Storm:
    latitude = random.choice([-1, 1]) * random.uniform(9, 27)
    return Storm(latitude, random.uniform(0, 360), random.uniform(0.5, 2.5))


def _add(maps, rain, warmer, grid, storm, random):
    """A vortex (Holland 1980) in the maps of wind, pressure and vapour; (rain, warmer) with its."""
    north, east = grid.offsets(storm.latitude, storm.longitude)
    distance = np.hypot(north, east) + 1e-6
    inner = 0.8 * storm.radius + 1.0
    profile = np.exp(-((inner / distance) ** 1.4))  # pressure, from 0 in the centre to 1
    wind = random.uniform(25, 45) * np.sqrt((inner / distance) ** 1.4 * profile * np.e)
    wind *= np.exp(-((distance / (5 * inner)) ** 2))
    spin = np.sign(storm.latitude)
    maps["U850"] -= spin * wind * north / distance
    maps["V850"] += spin * wind * east / distance
    maps["PSL"] -= random.uniform(20, 50) * (1 - profile) * np.exp(-((distance / 15) ** 2))
    core = np.exp(-((distance / (1.3 * inner)) ** 2))
    maps["TMQ"] += 18 * core
    return rain + random.uniform(8, 16) * core, warmer + 8 * core


# ---- Files of CAM5's output and of DeepCAM, which was made of them ----


def files(folder: Path, split: str) -> list[Path]:
    """The files of a split, one example each, in an order that is random but fixed.

    Where there is no folder "test" it is "validation", as in MLPerf HPC.
    """
    own = folder / split
    found = sorted((own if own.is_dir() else folder / "validation").glob("*.h5"))
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def _arrays(path: Path, *forms: tuple[str, ...]) -> list[np.ndarray]:
    """The arrays of a file by their names in the first form that it has."""
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path.name} is an HDF5 file; to read it, pip install h5py.") from None
    try:
        with h5py.File(path) as file:
            for names in forms:
                if all(f"climate/{name}" in file for name in names):
                    return [file[f"climate/{name}"][()] for name in names]
        error = f"it has no climate/{' and climate/'.join(names)}"
    except OSError as reason:
        error = str(reason)
    raise UserError(f"{path} is not a file of DeepCAM or CAM5: {error}; get it again.")


def _maps(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(channels [H, W, C], classes [H, W]) of a file. CAM5's has its channels first, and may have
    classes by several thresholds, of which the first is taken, as in DeepCAM."""
    data, label = _arrays(path, ("data", "labels_0"), ("data", "labels"))
    label = label[0] if label.ndim == 3 else label
    channels_first = data.shape[1:] == label.shape != data.shape[:-1]
    return np.moveaxis(data, 0, -1) if channels_first else data, label


def _ends(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest value of every channel."""
    found = _arrays(path, ("minval", "maxval"), ("stats",))
    if len(found) == 1:
        (stats,) = found
        if stats.ndim != 2 or stats.shape[1] != 4:
            raise UserError(
                f"{path} has climate/stats of {stats.shape}, where each channel has its mean, "
                "largest, least and standard deviation, (channels, 4); get it again."
            )
        found = stats[:, 2], stats[:, 1]
    return tuple(found)


def grid_of(folder: Path) -> tuple[int, ...]:
    """(H, W) of the maps in a folder, by a file of its training set.

    Raises:
      UserError: as of `reader`.
    """
    return _maps(files(folder, "train")[0])[1].shape


def reader(folder: Path, split: str) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """read(places): those of `files`, as `synthetic` gives them but for the scale: channels go from
    0 to 1 between the least and the largest value of the training set, in stats.h5: of DeepCAM
    "minval" and "maxval", of CAM5 "stats", [C, 4], mean, largest, least and standard deviation.

    It returns "image" [*places.shape, H, W, 16] and "label" [*places.shape, H, W].

    Raises:
      UserError: h5py is missing, or a file has another form; of an example, when it is read.
    """

    def example(path):
        data, label = _maps(path)
        if (data.shape, label.shape) != ((*grid, len(low)), grid):
            raise UserError(
                f"{path} has maps of {data.shape} and classes of {label.shape}, where the first "
                f"file's are of {(*grid, len(low))} and {grid}; leave it out."
            )
        if not np.isin(label, CLASSES).all() or not np.isfinite(data).all():
            raise UserError(
                f"{path} has values that are not finite, or classes other than 0, 1 and 2; get it "
                "again."
            )
        return np.float32((data - low) / (high - low)), label.astype(np.uint8)

    def read(places):
        with ThreadPoolExecutor(cores()) as pool:
            examples = pool.map(example, [paths[place] for place in places.ravel()])
        image, label = map(np.stack, zip(*examples, strict=True))
        shape = lambda array: array.reshape(*places.shape, *array.shape[1:])
        return {"image": shape(image), "label": shape(label)}

    low, high = _ends(folder / "stats.h5")
    paths, grid = files(folder, split), grid_of(folder)
    return read
