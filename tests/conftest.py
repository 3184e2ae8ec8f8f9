"""Eight simulated devices for every test, and a cache of compiled programs between them.

Where no file is named, tests run in a process per core, file by file. Tests that take long are
marked slow here, by slow.txt: a file, a function, or with "+" all but the first case of one.

And small TFDS directories of array_record files, written without TensorFlow.
"""

import dataclasses
import gc
import os
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    + " --xla_backend_optimization_level=0"  # most of the time is compilation
)
os.environ["JAX_PLATFORMS"] = "cpu"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["PJRT_NPROC"] = "1"  # the other cores have processes of their own
SLOW = Path(__file__).with_name("slow.txt")
CACHE = os.path.join(tempfile.gettempdir(), f"scaling-tests-{os.getuid()}")
os.environ["SCALING_CACHE_DIR"] = CACHE

import jax  # noqa: E402
import pytest  # noqa: E402

from scaling.data import sources  # noqa: E402
from scaling.models import cnn  # noqa: E402

jax.config.update("jax_compilation_cache_dir", os.path.join(CACHE, "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def pytest_xdist_auto_num_workers(config):
    """A worker takes seconds to start, and has eight devices: none for a few tests."""
    named = any(".py" in argument for argument in config.args)
    return 0 if named else min(os.cpu_count(), 8)


@pytest.hookimpl(tryfirst=True)  # before marks are selected by
def pytest_collection_modifyitems(items):
    slow, seen = set(SLOW.read_text().split()), set()
    for item in items:
        function = item.nodeid.partition("[")[0]
        file = function.partition("::")[0]
        again = f"{function}+" in slow and function in seen
        if again or not slow.isdisjoint((file, function)):
            item.add_marker(pytest.mark.slow)
        seen.add(function)


@pytest.fixture(scope="module", autouse=True)
def _let_go_of_programs():
    """Every compiled program holds memory maps, of which a process may have 65,530."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def tiny_cnn(monkeypatch):
    """A config of a convolutional net that compiles and trains fast."""
    monkeypatch.setitem(cnn.SIZES, "tiny", (4, 4, 16))
    return {"name": "simple_cnn", "size": "tiny"}


@pytest.fixture
def set_sizes(monkeypatch):
    """set_sizes(name, train, validation, test) makes a data set as small as a test needs."""

    def set_sizes(name, train, validation, test):
        info = dataclasses.replace(
            sources.INFOS[name], sizes={"train": train, "validation": validation, "test": test}
        )
        monkeypatch.setitem(sources.INFOS, name, info)

    return set_sizes


@pytest.fixture
def write_tfds():
    """write_tfds(root, name, {split: [(encoded image, label)]}) -> the directory it wrote."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()

    def write_tfds(root, tfds_name, splits, version="1.0.0", shards=1, encoding="png"):
        class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            name = tfds_name
            VERSION = tfds.core.Version(version)

            def _info(self):
                features = {
                    "file_name": tfds.features.Text(),
                    "image": tfds.features.Image(encoding_format=encoding),
                    "label": tfds.features.ClassLabel(num_classes=1000),
                }
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in splits}

            def _generate_examples(self, split):
                for i, (image, label) in enumerate(splits[split]):
                    yield i, {"file_name": f"{i}", "image": image, "label": label}

        builder = Builder(data_dir=root)
        config = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=shards)
        builder.download_and_prepare(file_format="array_record", download_config=config)
        return builder.data_path

    return write_tfds


@pytest.fixture
def imagenet(tmp_path, set_sizes, write_tfds):
    """The directory of an ImageNet of 20 training, 6 validation and 5 test images.

    The splits have three shards each; `tmp_path / "tfds"` is TFDS's root.
    """
    from photos import jpeg, photo

    set_sizes("imagenet", 20, 6, 5)
    splits = {
        "train": [(jpeg(photo(i)), i) for i in range(26)],
        "validation": [(jpeg(photo(i)), i) for i in range(100, 105)],
    }
    folder = tmp_path / "tfds"
    return Path(write_tfds(folder, "imagenet2012", splits, "5.1.0", shards=3, encoding="jpeg"))


@pytest.fixture
def open_images(tmp_path, monkeypatch):
    """An Open Images of 9, 4 and 5 images with 6 labels: the root of TFDS."""
    import dataclasses

    import numpy as np
    import tensorflow_datasets as tfds
    from photos import jpeg, photo

    from scaling.data import sources

    names = tfds.features.ClassLabel(num_classes=6)
    sizes = {"train": 9, "validation": 4, "test": 5}

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "open_images_v4"
        VERSION = tfds.core.Version("2.1.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="300k")]  # noqa: RUF012

        def _info(self):
            labels = {"label": names, "confidence": np.int32}
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "objects": tfds.features.Sequence(labels),
                "objects_trainable": tfds.features.Sequence(labels),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in sizes}

        def _generate_examples(self, split):
            for i in range(sizes[split]):
                every = {"label": [0, 1], "confidence": [10, 10]}
                trainable = {"label": [i % 6, 3, 5], "confidence": [10, 4, 5]}
                if i == 1:  # a picture without labels
                    trainable = {"label": [], "confidence": []}
                yield i, {"image": jpeg(photo(i)), "objects": every, "objects_trainable": trainable}

    root = tmp_path / "open"
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    Builder(data_dir=root, config="300k").download_and_prepare(
        file_format="array_record", download_config=config
    )
    example = {"image": ((32, 32, 3), "uint8"), "label": ((6,), "uint8")}
    info = dataclasses.replace(
        sources.INFOS["open_images"], example=example, num_classes=6, sizes=sizes
    )
    monkeypatch.setitem(sources.INFOS, "open_images", info)
    return root
