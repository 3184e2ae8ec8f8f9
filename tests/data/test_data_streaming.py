"""The stream: the same batches on any hosts and threads, and each record in its turn."""

import io
import itertools
import threading
import time

import cv2
import numpy as np
import pytest
from photos import jpeg, photo

from scaling.data import sources, streaming
from scaling.data.streaming import ImageStream, eval_batches
from scaling.errors import UserError

SIZE = 16


class Photos:
    """An in-memory source; the label is the record's index."""

    def __init__(self, count):
        self.jpegs = [jpeg(photo(i)) for i in range(count)]

    def __len__(self):
        return len(self.jpegs)

    def __getitem__(self, i):
        return self.jpegs[i], i

    def __repr__(self):
        return "photos"


@pytest.fixture(scope="module")
def photos():
    return Photos(26)


def stream(source, layout=(2, 4, 3), host_devices=range(4), seed=5, threads=1, **options):
    return ImageStream(
        source,
        layout=layout,
        host_devices=host_devices,
        seed=seed,
        image_size=SIZE,
        threads=threads,
        **options,
    )


def take(count, iterator):
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    assert len(batches) == count
    return batches


def assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for got, want in zip(batches, expected, strict=True):
        assert got.keys() == want.keys()
        for key in want:
            np.testing.assert_array_equal(got[key], want[key])


# ---- Order ----


def test_shapes_and_types(photos):
    (batch,) = take(1, stream(photos).batches())
    assert set(batch) == {"image", "label"}
    assert (batch["image"].shape, batch["image"].dtype) == ((2, 4, 3, SIZE, SIZE, 3), np.uint8)
    assert (batch["label"].shape, batch["label"].dtype) == ((2, 4, 3), np.int32)


@pytest.mark.parametrize("layout", [(2, 4, 3), (1, 1, 7), (1, 2, 40), (3, 1, 1)])
def test_every_epoch_holds_every_record_once(photos, layout):
    count, batch = len(photos), np.prod(layout)
    steps = int(np.ceil(3 * count / batch))
    batches = take(steps, stream(photos, layout, range(layout[1])).batches())
    labels = np.concatenate([batch["label"].ravel() for batch in batches])
    epochs = labels[: 3 * count].reshape(3, count)
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_every_epoch_crops_a_record_anew(photos):
    first, second = take(2, stream(photos, (1, 1, 26), range(1)).batches())
    crops = [
        {
            int(label): image.tobytes()
            for label, image in zip(b["label"].flat, b["image"][0, 0], strict=True)
        }
        for b in (first, second)
    ]
    assert all(crops[0][record] != crops[1][record] for record in range(26))


def test_order_and_crops_follow_the_seed(photos):
    (first,), (again,), (other,) = (take(1, stream(photos, seed=s).batches()) for s in (5, 5, 6))
    assert_equal([again], [first])
    assert (first["label"] != other["label"]).any()


def test_layout_only_reshapes_the_global_batch(photos):
    def flat(layout):
        batch = take(2, stream(photos, layout, range(layout[1])).batches())[1]
        return {key: v.reshape(24, *v.shape[3:]) for key, v in batch.items()}

    for layout in ((1, 2, 12), (4, 1, 6), (1, 24, 1)):
        assert_equal([flat(layout)], [flat((2, 4, 3))])


class Counting(Photos):
    """Counts the records that were read."""

    reads = 0

    def __getitem__(self, i):
        self.reads += 1
        return super().__getitem__(i)


@pytest.mark.parametrize("hosts", [[(0, 1), (2, 3)], [(0,), (1,), (2,), (3,)], [(2, 0), (3, 1)]])
def test_hosts_together_read_the_single_hosts_batch_once(photos, hosts):
    expected = take(3, stream(photos).batches(1))
    for devices in hosts:
        source = Counting(26)
        batches = take(3, stream(source, host_devices=devices).batches(1))
        local = [{k: v[:, list(devices)] for k, v in batch.items()} for batch in expected]
        assert_equal(batches, local)
        of_a_step = 2 * len(devices) * 3
        assert 3 * of_a_step <= source.reads <= 4 * of_a_step  # and the next one


# ---- Resuming ----


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_resume_mid_epoch_is_exact_and_replays_nothing(photos, threads):
    whole = take(5, stream(photos, threads=3).batches())
    for step in range(1, 5):
        assert_equal(take(5 - step, stream(photos, threads=threads).batches(step)), whole[step:])
    source = Counting(26)
    take(1, stream(source).batches(1_000_000))
    assert 24 <= source.reads <= 48


# ---- Crops ----


def coordinates(height, width):
    """An image whose red is its row and whose green its column."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(height)[:, None]
    image[..., 1] = np.arange(width)
    return image


def crop_of(image, position, size=64):
    """(top, bottom, left, right, flipped) read off the coordinates in a crop."""
    crop = streaming.random_crop(image, size, 7, position).astype(int)
    top, bottom = crop[0, 0, 0], crop[-1, 0, 0]
    left, right = crop[0, 0, 1], crop[0, -1, 1]
    return top, bottom, min(left, right), max(left, right), left > right


def test_crop_depends_on_seed_and_position_alone():
    image = coordinates(200, 250)
    crops = [
        streaming.random_crop(image, SIZE, seed, position).tobytes()
        for seed, position in [(7, 0), (7, 1), (8, 0), (7, 2**40), (2**64 - 1, 0), (7, 0)]
    ]
    assert len(set(crops)) == 5
    assert crops[0] == crops[-1]


def test_crop_stream_never_changes():
    """A resumed run needs tomorrow's crops to be today's."""
    assert crop_of(coordinates(200, 250), 0) == (9, 141, 45, 169, True)


def test_crops_have_goyals_areas_and_aspects():
    height, width = 200, 250
    boxes = np.array([crop_of(coordinates(height, width), p) for p in range(2000)])
    heights = boxes[:, 1] - boxes[:, 0] + 1
    widths = boxes[:, 3] - boxes[:, 2] + 1
    area = heights * widths / (height * width)
    aspect = widths / heights
    # Read off pixels, so to about 2 pixels of 50.
    assert 0.07 < area.min() < 0.1
    assert 0.95 < area.max() <= 1
    assert 0.7 < aspect.min() < 0.77
    assert 1.29 < aspect.max() < 1.4
    small = area < 0.5  # These always fit, so here area and aspect are as they were drawn.
    assert abs(np.log(aspect[small]).mean()) < 0.02
    assert abs(area[small].mean() - 0.29) < 0.02
    assert abs(boxes[:, 4].mean() - 0.5) < 0.04
    # A crop may touch every edge, and lies in the middle on average.
    assert boxes[:, 0].min() == boxes[:, 2].min() == 0
    assert boxes[:, 1].max() == height - 1
    assert boxes[:, 3].max() == width - 1
    assert abs((boxes[:, 0] + boxes[:, 1]).mean() / 2 - height / 2) < 3
    assert abs((boxes[:, 2] + boxes[:, 3]).mean() / 2 - width / 2) < 3


def test_image_too_long_for_any_crop_gives_its_centre():
    for position in range(20):
        top, bottom, left, right, _ = crop_of(coordinates(4, 240), position, size=4)
        assert (top, bottom, left, right) == (0, 3, 118, 121)


def test_images_as_small_as_a_pixel_are_enlarged():
    image = np.full((1, 1, 3), 9, np.uint8)
    for crop in (streaming.random_crop(image, 8, 0, 0), streaming.centre_crop(image, 8)):
        np.testing.assert_array_equal(crop, np.full((8, 8, 3), 9))


def test_centre_crop_is_that_of_the_papers():
    """Short side to 256/224 of the size, then the central square."""
    image = cv2.resize(photo(3), (300, 450))
    resized = cv2.resize(image, (256, 384))
    expected = resized[80:304, 16:240].astype(int)
    assert np.abs(streaming.centre_crop(image, 224) - expected).max() <= 3


def test_shrinking_a_lot_does_not_alias():
    """Noise averaged over 14 x 14 pixels is nearly flat; picked out of them it stays noise."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    assert streaming.centre_crop(noise, 32).std() < 10 < noise.std() / 5


# ---- JPEG ----


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_grey_and_cmyk_files_become_rgb(mode):
    from PIL import Image

    picture = Image.fromarray(photo(0)).convert(mode)
    expected = np.asarray(picture.convert("RGB")).astype(int)
    pixels = streaming._decode(encoded(picture))
    assert (pixels.shape, pixels.dtype) == (expected.shape, np.uint8)
    assert np.abs(pixels - expected).mean() < 3


def test_orientation_is_ignored():
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # Rotated by 90 degrees.
    image = photo(0)
    assert streaming._decode(encoded(Image.fromarray(image), exif=exif)).shape == image.shape


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("damage", [lambda j: b"", lambda j: j[:-40], lambda j: b"x" * 900])
def test_unreadable_jpeg_is_named_at_its_step(damage, threads):
    source, layout = Photos(26), (1, 4, 3)
    second = take(2, stream(source, layout).batches())[1]
    record = int(second["label"][0, 2, 1])  # Of the first epoch, so not in the first batch.
    source.jpegs[record] = damage(source.jpegs[record])
    batches = stream(source, layout, threads=threads).batches()
    next(batches)
    with pytest.raises(UserError, match=f"Record {record} of photos is not a readable JPEG image"):
        next(batches)


# ---- Evaluation ----


@pytest.mark.parametrize("layout", [(4, 3), (2, 13), (1, 1), (4, 10)])
@pytest.mark.parametrize("threads", [1, 4])
def test_evaluation_reads_every_record_once_in_order(photos, layout, threads):
    devices, rows = layout
    batches = list(
        eval_batches(
            photos, layout=layout, host_devices=range(devices), image_size=SIZE, threads=threads
        )
    )
    assert len(batches) == -(-26 // (devices * rows))
    for batch in batches:
        assert batch["image"].shape == (devices, rows, SIZE, SIZE, 3)
        assert batch["label"].shape == batch["mask"].shape == layout
        assert batch["mask"].dtype == bool
        assert not batch["image"][~batch["mask"]].any()
    label, mask, image = (
        np.concatenate([batch[key].reshape(devices * rows, -1) for batch in batches])
        for key in ("label", "mask", "image")
    )
    np.testing.assert_array_equal(label[mask], np.arange(26))
    expected = [streaming.centre_crop(streaming._decode(j), SIZE).ravel() for j in photos.jpegs]
    np.testing.assert_array_equal(image[mask[:, 0]], expected)


def test_evaluation_hosts_share_the_set(photos):
    whole = list(eval_batches(photos, layout=(4, 3), host_devices=range(4), image_size=SIZE))
    for devices in ([0, 1], [2, 3]):
        source = Counting(26)
        options = {"layout": (4, 3), "image_size": SIZE, "threads": 1}
        part = list(eval_batches(source, host_devices=devices, **options))
        assert_equal(part, [{k: v[devices] for k, v in batch.items()} for batch in whole])
        assert source.reads == sum(int(batch["mask"].sum()) for batch in part)


# ---- Threads and processes ----


def test_early_stop_ends_the_threads(photos):
    def reading():
        return [t for t in threading.enumerate() if t.name.startswith("read-ahead")]

    batches = stream(photos, threads=4).batches()
    next(batches)
    assert 1 <= len(reading()) <= 4  # a pool starts no thread while one is idle
    batches.close()
    assert not reading()


def test_one_thread_for_each_core(photos, monkeypatch):
    monkeypatch.setattr(streaming, "cores", lambda: 3)
    assert stream(photos, threads=None).threads == 3


def test_the_next_batch_is_read_while_one_is_used():
    source = Counting(26)
    batches = stream(source, (1, 1, 4), range(1)).batches()
    next(batches)
    end = time.monotonic() + 60
    while source.reads < 8 and time.monotonic() < end:
        time.sleep(0.01)
    assert source.reads == 8  # and no more than that
    batches.close()


def test_opencv_leaves_the_cores_to_the_threads(photos):
    cv2.setNumThreads(2)
    streaming._opencv.cache_clear()
    take(1, stream(photos).batches())
    assert cv2.getNumThreads() == 1


# ---- ImageNet as TFDS prepares it ----


def test_imagenet_splits(imagenet):
    labels = {"train": range(20), "validation": range(20, 26), "test": range(100, 105)}
    for split, expected in labels.items():
        source = streaming.open_jpegs("imagenet", split)
        assert [source[i] for i in range(len(source))] == [(jpeg(photo(i)), i) for i in expected]
    with pytest.raises(UserError, match=r"no split 'tests'.*did you mean 'test'"):
        streaming.open_jpegs("imagenet", "tests")


def test_imagenet_missing_or_half_prepared(imagenet, tmp_path):
    with pytest.raises(UserError, match="tfds build imagenet2012"):
        streaming.open_jpegs("imagenet", "train", tmp_path)
    next(imagenet.glob("*validation*")).unlink()
    with pytest.raises(UserError, match="is incomplete"):
        streaming.open_jpegs("imagenet", "train")
    with pytest.raises(UserError, match="is incomplete"):
        sources.check_available("imagenet")


def test_imagenet_damaged_file_names_the_record(imagenet):
    shard = imagenet / "imagenet2012-train.array_record-00001-of-00003"
    data = bytearray(shard.read_bytes())
    middle = data.index(b"JFIF") + 200
    data[middle : middle + 20] = bytes(20)
    shard.write_bytes(data)
    source = streaming.open_jpegs("imagenet", "train")
    with pytest.raises(UserError, match=r"Record \d+ of the train split of .* is corrupted"):
        take(2, stream(source).batches())


def test_open_images_has_several_labels_a_picture(open_images):
    sources.check_available("open_images", open_images)
    source = streaming.open_jpegs("open_images", "train", open_images)
    image, label = source[2]
    assert image == jpeg(photo(2)) and label.tolist() == [0, 0, 1, 0, 0, 1]
    assert source[1][1].tolist() == [0] * 6
    expected = np.stack([source[i][1] for i in range(9)] + [np.zeros(6)] * 3)
    label = ((6,), "uint8")
    options = {"layout": (2, 3), "host_devices": range(2), "image_size": SIZE, "label": label}
    batches = list(eval_batches(source, **options))
    found = np.concatenate([batch["label"] for batch in batches], 0)
    np.testing.assert_array_equal(found.reshape(-1, 6), expected)
    for split, size in (("validation", 4), ("test", 5)):
        assert len(streaming.open_jpegs("open_images", split, open_images)) == size
