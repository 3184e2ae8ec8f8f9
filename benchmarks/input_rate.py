"""Images per second of the input alone: our stream beside tf.data, decode, random crop and resize.

    python benchmarks/input_rate.py

Both read the same JPEG images of 500x375 pixels from memory and give batches of 64 crops of
224x224, each in a process of its own, in turns. Rates are per second and per second of CPU time,
which other programs on the machine disturb less. tf.data decodes only the crop, with the fast DCT.
tensorflow is needed by this benchmark alone; `--tf=PYTHON` names an interpreter that has it.
`--against=CHECKOUT` takes our stream of another checkout too.
"""

import argparse
import os
import resource
import statistics
import sys
import time

from common import ROOT, Contestant, machine, serve, write

IMAGES, BATCH, SIZE = 256, 64, 224
ROUNDS, SECONDS = 7, 3.0


def jpegs() -> list[bytes]:
    """Images with the detail of photographs at quality 90: about 50 KB each."""
    import cv2
    import numpy as np

    found, rng = [], np.random.default_rng(0)
    for _ in range(IMAGES):
        image = np.zeros((375, 500, 3))
        for size in (4, 16, 64, 250):
            coarse = rng.standard_normal((size * 3 // 4, size, 3)) * 40 / size**0.3
            image += cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(image + 128, 0, 255).astype(np.uint8)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
        found.append(cv2.imencode(".jpg", pixels, quality)[1].tobytes())
    return found


def ours(images):
    """Batches of `ImageStream`."""
    from scaling.data.streaming import ImageStream

    source = [(image, 0) for image in images]
    layout = (1, 1, BATCH)
    return ImageStream(
        source, layout=layout, host_devices=range(1), seed=0, image_size=SIZE
    ).batches()


def tf_data(images):
    """Batches of tf.data."""
    import tensorflow as tf

    def decode(image):
        shape = tf.io.extract_jpeg_shape(image)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.zeros([0, 0, 4]),
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        (top, left, _), (height, width, _) = tf.unstack(begin), tf.unstack(size)
        window = tf.stack([top, left, height, width])
        crop = tf.image.decode_and_crop_jpeg(image, window, channels=3, dct_method="INTEGER_FAST")
        crop = tf.image.resize(crop, (SIZE, SIZE), method="bilinear")
        return tf.cast(tf.image.random_flip_left_right(crop), tf.uint8)

    data = tf.data.Dataset.from_tensor_slices(images).shuffle(IMAGES).repeat()
    data = data.map(decode, num_parallel_calls=os.cpu_count()).batch(BATCH).prefetch(1)
    return iter(data)


CONTESTANTS = {"ours": ours, "tf.data": tf_data}


def rate_of(make):
    """() -> (images per second, images per second of CPU time)."""
    batches = make(jpegs())
    next(batches)

    def rate():
        count, start, cpu = 0, time.perf_counter(), _cpu()
        while time.perf_counter() - start < SECONDS:
            next(batches)
            count += BATCH
        return count / (time.perf_counter() - start), count / (_cpu() - cpu)

    return rate


def _cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and write benchmarks/results/input_rate.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", choices=CONTESTANTS)
    parser.add_argument("--against", help="the root of another checkout")
    parser.add_argument("--tf", default=sys.executable)
    parser.add_argument("--root", default=str(ROOT))
    options = parser.parse_args()
    sys.path.insert(0, options.root)
    if options.serve:
        serve(lambda: (rate_of(CONTESTANTS[options.serve]), {"pid": os.getpid()}))
        return
    from scaling.paired import median_ratio

    commands = {"ours": [sys.executable, __file__, "--serve=ours"]}
    if options.against:
        commands["before"] = [*commands["ours"], f"--root={options.against}"]
    commands["tf.data"] = [options.tf, __file__, "--serve=tf.data"]
    racers = {name: Contestant(command) for name, command in commands.items()}
    for racer in racers.values():
        racer.answer()
    rounds = [{name: racer.rate() for name, racer in racers.items()} for _ in range(ROUNDS)][1:]
    result = {"machine": machine(), "images": "500x375, quality 90", "batch": BATCH}
    for place, what in enumerate(("per_second", "per_cpu_second")):
        rates = {name: [each[name][place] for each in rounds] for name in racers}
        result[what] = {name: round(statistics.median(values)) for name, values in rates.items()}
        result[f"{what}_ratio"] = {
            f"ours over {name}": [round(end, 3) for end in median_ratio(rates[name], rates["ours"])]
            for name in racers
            if name != "ours"
        }
    for racer in racers.values():
        racer.stop()
    write("input_rate", result)


if __name__ == "__main__":
    sys.exit(main())
