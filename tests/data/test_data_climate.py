"""Maps of the atmosphere: the rules of their labels, how many pixels they are, files of DeepCAM."""

import math
import sys

import numpy as np
import pytest

from scaling.data import climate, sources
from scaling.data.climate import CYCLONE, RIVER, Grid, Storm
from scaling.errors import UserError

FREQUENCIES = sources.INFOS["synthetic_climate"].options["frequencies"]


@pytest.fixture(scope="module")
def maps():
    """(maps by name, cyclones) of some examples."""
    grid = Grid(96, 144)
    return [climate._state(grid, np.random.default_rng([0, i])) for i in range(12)]


def labelled(state):
    maps, storms = state
    return climate.labels(*(maps[name] for name in ("TMQ", "U850", "V850", "PRECT")), storms)


def shares(count):
    label = climate.synthetic(0, count)["label"]
    return np.bincount(label.ravel(), minlength=3) / label.size


@pytest.mark.slow
def test_classes_are_as_frequent_as_in_deepcam():
    np.testing.assert_allclose(shares(200)[[0, 2]], np.take(FREQUENCIES, [0, 2]), rtol=0.05)
    assert shares(200)[CYCLONE] == pytest.approx(FREQUENCIES[CYCLONE], rel=0.15)


def test_classes_of_few_maps_are_about_as_frequent():
    found = shares(40)
    assert found[RIVER] == pytest.approx(FREQUENCIES[RIVER], rel=0.3)
    assert found[CYCLONE] == pytest.approx(FREQUENCIES[CYCLONE], rel=0.6)


@pytest.mark.parametrize("columns", [1, 37, 143])
def test_labels_turn_with_the_globe(maps, columns):
    for state, storms in maps:
        turned = {name: np.roll(each, columns, 1) for name, each in state.items()}
        moved = [s._replace(longitude=(s.longitude + columns * 2.5) % 360) for s in storms]
        expected = np.roll(labelled((state, storms)), columns, 1)
        np.testing.assert_array_equal(labelled((turned, moved)), expected)
    assert sum(len(storms) for _, storms in maps) > 3


def filled(mask, row, column):
    """The region of a pixel, by neighbours in rows and columns around the globe."""
    height, width = mask.shape
    region, waiting = {(row, column)}, [(row, column)]
    while waiting:
        i, j = waiting.pop()
        for place in ((i - 1, j), (i + 1, j), (i, (j - 1) % width), (i, (j + 1) % width)):
            if 0 <= place[0] < height and mask[place] and place not in region:
                region.add(place)
                waiting.append(place)
    return region


def kilometres(a, b):
    """Between two (latitude, longitude), by the angle of their vectors."""

    def vector(latitude, longitude):
        latitude, longitude = np.radians([latitude, longitude])
        level = np.cos(latitude)
        return np.array([level * np.cos(longitude), level * np.sin(longitude), np.sin(latitude)])

    return 6371 * math.acos(min(1.0, vector(*a) @ vector(*b)))


def test_every_river_is_long_and_narrow_and_no_other_region_is(maps):
    """By a flood fill, and areas between circles of latitude."""
    grid, rivers, others = Grid(96, 144), 0, 0
    edges = np.radians(np.linspace(-90, 90, 97))
    areas = 6371**2 * np.diff(np.sin(edges)) * 2 * np.pi / 144
    for state, _ in maps:
        found = climate.rivers(state["TMQ"])
        damping = 1 - np.exp(-(grid.latitudes**2) / (2 * 19**2))
        mask, seen = state["TMQ"] * damping[:, None] > 24, set()
        assert not (found & ~mask).any()
        for place in zip(*np.nonzero(mask), strict=True):
            if place in seen:
                continue
            region = filled(mask, *place)
            seen |= region
            rows, columns = (np.array(sorted(set(each))) for each in zip(*region, strict=True))
            gap = max(np.diff([*columns, columns[0] + 144]))
            south, north = grid.latitudes[[rows[0], rows[-1]]]
            diagonal = kilometres((south, 0.0), (north, (144 - gap) * 2.5))
            length = kilometres((south, 0.0), (north, 0.0))
            area = sum(areas[row] for row, _ in region)
            is_river = length > 0 and diagonal > 1500 and area / length < 1000
            assert all(found[pixel] == is_river for pixel in region)
            rivers, others = rivers + is_river, others + (not is_river)
    assert rivers > 20 and others > 20


def test_a_cyclone_by_hand():
    """The highest 7% of a box of every map, in one piece; a separate peak is left out."""
    grid = Grid(96, 144)
    storm = Storm(latitude=20.0, longitude=1.0, radius=2.0)  # the box reaches across 0 degrees
    north = np.abs(grid.latitudes - 20) <= 8.6
    columns = [j for j in range(144) if min(j * 2.5 - 1 % 360, 360 - j * 2.5 + 1) <= 8.6]
    rows = np.flatnonzero(north)
    size = len(rows) * len(columns)
    one, other = np.zeros(grid), np.zeros(grid)
    one[rows[3], 0] = one[rows[3], 143] = 5.0
    one[rows[0], 2] = 4.0  # above the percentile too, and alone
    other[rows[4], 1] = 6.0  # joined to the first by a corner
    assert 0.07 * size > 3  # the percentile is 0
    found = np.zeros(grid, bool)
    found[climate.cyclone((one, other), storm)] = True
    assert set(zip(*np.nonzero(found), strict=True)) == {
        (rows[3], 0),
        (rows[3], 143),
        (rows[4], 1),
    }


def test_cyclones_are_over_rivers():
    lat = Grid(96, 144).latitudes[:, None]
    tmq = np.where((np.abs(lat - 35) < 15) & (np.arange(144) < 3), 60.0, 0.0)
    flat = np.zeros((96, 144))
    alone = climate.labels(tmq, flat, flat, flat, [])
    assert set(np.unique(alone)) == {0, RIVER}
    rain = flat.copy()
    rain[66, 2:5] = 1.0  # at 35 degrees, over the river's edge
    both = climate.labels(tmq, flat, flat, rain, [Storm(35.0, 2.5, 1.0)])
    changed = both != alone
    assert (both == CYCLONE).sum() == changed.sum() == rain.sum() and (
        alone[rain > 0] == RIVER
    ).any()


def test_an_example_does_not_depend_on_how_many_there_are():
    few, more = climate.synthetic(1, 2, 48, 72), climate.synthetic(1, 3, 48, 72)
    for name in ("image", "label"):
        np.testing.assert_array_equal(few[name], more[name][:2])
    assert few["image"].shape == (2, 48, 72, 16) and few["image"].dtype == np.float32
    assert few["label"].shape == (2, 48, 72) and few["label"].dtype == np.uint8
    assert not np.array_equal(few["image"], climate.synthetic(2, 2, 48, 72)["image"])


def test_channels_are_standardised():
    image = climate.synthetic(0, 12)["image"].reshape(-1, 16)
    assert np.isfinite(image).all() and len(climate.CHANNELS) == 16
    np.testing.assert_allclose(image.mean(0), 0, atol=0.2)
    np.testing.assert_allclose(image.std(0), 1, atol=0.25)


def test_the_set_is_generated_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_CACHE_DIR", str(tmp_path))
    info = sources.describe("synthetic_climate", image_shape=(32, 48, 16))
    info.sizes["test"] = 3
    first = sources.load(info, "test")
    assert first["image"].shape == (3, 32, 48, 16) and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(climate, "synthetic", None)
    again = sources.load(info, "test")
    for name in ("image", "label"):
        np.testing.assert_array_equal(first[name], again[name])
    np.testing.assert_array_equal(sources.INFOS["synthetic_climate"].example["label"][0], (96, 144))


@pytest.mark.parametrize("shape", [(32, 48, 3), (32, 48), (12, 32, 16), (16, 24, 16)])
def test_maps_of_other_channels_or_too_small_are_refused(shape):
    with pytest.raises(UserError, match=r"data\.image_shape is \(\d+, \d+"):
        sources.describe("synthetic_climate", image_shape=shape)


# ---- Files of DeepCAM ----


@pytest.fixture(params=["DeepCAM", "CAM5"])
def folder(tmp_path, monkeypatch, request):
    """Files with the least that those of either form have, and their arrays by file."""
    cam5 = request.param == "CAM5"
    h5py = pytest.importorskip("h5py")
    random, made = np.random.default_rng(0), {}
    for split, count in (("train", 5), ("validation", 2)):
        (tmp_path / "deepcam" / split).mkdir(parents=True)
        for i in range(count):
            path = tmp_path / "deepcam" / split / f"data-{i}.h5"
            made[path] = random.normal(3, 2, (4, 6, 16)), random.integers(0, 3, (4, 6))
            with h5py.File(path, "w") as file:
                data, label = made[path]
                if cam5:
                    others = random.integers(0, 3, (2, 4, 6))
                    file["climate/data"] = np.moveaxis(data, -1, 0)
                    file["climate/labels"] = np.concatenate([label[None], others])
                else:
                    file["climate/data"], file["climate/labels_0"] = data, label
    low, high = np.linspace(-5, 0, 16), np.linspace(6, 10, 16)
    with h5py.File(tmp_path / "deepcam/stats.h5", "w") as file:
        if cam5:
            file["climate/stats"] = np.stack([0 * low, high, low, 1 + 0 * low], 1)
        else:
            file["climate/minval"], file["climate/maxval"] = low, high
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path, made, low, high


def test_files_of_deepcam(folder):
    root, made, low, high = folder
    sources.check_available("deepcam", root)
    info = sources.describe("deepcam", root)
    assert info.sizes == {"train": 5, "validation": 2, "test": 2}
    for split, count in (("train", 5), ("test", 2)):
        arrays = sources.load(info, split, root)
        paths = climate.files(root / "deepcam", split)
        assert len(paths) == len(set(paths)) == count
        for path, image, label in zip(paths, arrays["image"], arrays["label"], strict=True):
            data, classes = made[path]
            np.testing.assert_allclose(image, (data - low) / (high - low), rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(label, classes)
        assert arrays["label"].dtype == np.uint8 and arrays["image"].dtype == np.float32
        places = np.array([[1, 0], [1, 1]])
        for name, some in sources.rows_of(info, split)(places).items():
            np.testing.assert_array_equal(some, arrays[name][places])
    info.sizes["train"] = 2
    assert len(sources.load(info, "train", root)["label"]) == 2


def test_files_that_are_not_deepcams_are_told(folder, monkeypatch):
    h5py, (root, *_) = pytest.importorskip("h5py"), folder
    info = sources.describe("deepcam", root)
    with monkeypatch.context() as without, pytest.raises(UserError, match="pip install h5py"):
        without.setitem(sys.modules, "h5py", None)
        sources.load(info, "train", root)
    broken = climate.files(root / "deepcam", "validation")[0]
    broken.write_bytes(b"not HDF5")
    with pytest.raises(UserError, match=f"{broken.name} is not a file of DeepCAM or CAM5: .*;"):
        sources.load(info, "validation", root)
    with h5py.File(broken, "w") as file:
        file["climate/data"] = np.zeros((4, 6, 16))
    with pytest.raises(UserError, match="it has no climate/data and climate/labels; get it again"):
        sources.load(info, "validation", root)
    stats = root / "deepcam/stats.h5"
    whole = stats.read_bytes()
    with h5py.File(stats, "w") as file:
        file["climate/stats"] = np.zeros((16, 2))
    with pytest.raises(UserError, match=r"stats of \(16, 2\), where .* \(channels, 4\); get it"):
        sources.load(info, "train", root)
    stats.write_bytes(whole)
    _, second, third, *_ = climate.files(root / "deepcam", "train")
    for path, classes, cell, says in (
        (second, np.full((4, 6), 7), 0.0, "classes other than 0, 1 and 2"),
        (second, np.ones((4, 6)), np.nan, "not finite"),
        (third, np.ones((4, 5)), 0.0, r"maps of \(4, 5, 16\) and classes of \(4, 5\)"),
    ):
        whole = path.read_bytes()
        with h5py.File(path, "w") as file:
            file["climate/data"] = np.full((*classes.shape, 16), cell)
            file["climate/labels_0"] = classes
        with pytest.raises(UserError, match=f"{path.name} has .*{says}"):
            sources.load(info, "train", root)
        path.write_bytes(whole)
    for path in climate.files(root / "deepcam", "train"):
        path.unlink()
    with pytest.raises(UserError, match=r"is incomplete: train has no \*\.h5"):
        sources.describe("deepcam", root)


def test_deepcam_that_is_not_there(tmp_path):
    assert sources.describe("deepcam", tmp_path).sizes["train"] == 121_266
    with pytest.raises(UserError, match=r"'deepcam' is not in .* get it from MLPerf HPC"):
        sources.check_available("deepcam", tmp_path)
