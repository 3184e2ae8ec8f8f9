"""Small TFDS directories of array_record files, written without TensorFlow."""

import dataclasses

import pytest

from scaling.data import sources


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No test reads or writes a folder of the user's."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("SCALING_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


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
