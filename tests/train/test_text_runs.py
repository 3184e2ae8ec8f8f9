"""Runs on a folder of tokens: what is known of it, resident and streamed, and other files."""

import json
import shutil

import numpy as np
import pytest
from compare import same_runs
from ml_collections import ConfigDict

from scaling.config import default_config
from scaling.data import prepare, sources, text
from scaling.errors import UserError
from scaling.record import RunDir, read_metrics
from scaling.studies.running import run_study
from scaling.train.feed import ResidentFeed, RowFeed, evaluation_shapes, make_feed
from scaling.train.point import data_info, resolve
from scaling.train.single import train_point


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set "small" of bytes."""
    root, texts = tmp_path_factory.mktemp("sets"), tmp_path_factory.mktemp("texts")
    words = ["light", "and", "day", "the", "night", "sea", "of"]
    for i in range(80):
        content = " ".join(np.random.default_rng(i).choice(words, 40))
        (texts / f"{i}.txt").write_text(content)
    flags = ["--tokenizer=bytes", "--held_out=0.1", f"--from={texts}", f"--data_dir={root}"]
    assert prepare.main(["text", "--name=small", *flags]) == 0
    return root / "small"


@pytest.fixture
def config(folder):
    c = default_config()
    c.data.name, c.data.dir, c.data.length = "small", str(folder.parent), 8
    c.data.validation_size = 50
    c.model = ConfigDict({"name": "transformer", "layers": 1, "width": 8, "ffn": 16, "heads": 2})
    c.global_batch, c.duration, c.devices, c.micro_batch = 8, "8 steps", 1, 4
    c.eval.every, c.eval.batch, c.optim.base_lr = "3 steps", 16, 0.1
    return c


def train(path, config):
    with RunDir(path) as run:
        run.begin(json.loads(config.to_json_best_effort()))
        run.finish(train_point(config, run, "test", None))


def test_what_is_known_of_a_folder(config, folder):
    info, meta = data_info(config.data), text.read_meta(folder)
    rows = {split: meta.splits[split]["tokens"] // 8 for split in text.SPLITS}
    assert info.sizes == rows | {"validation": 50} and rows["validation"] > 50
    assert (info.task, info.num_classes, info.bytes_each) == ("language", 257, 16)
    assert info.options == {"start": 256, "bytes_per_token": meta.bytes_per_token}
    stream = np.load(folder / "train.npy")
    np.testing.assert_array_equal(
        sources.load(info, "train")["tokens"], stream[: 8 * rows["train"]].reshape(-1, 8)
    )
    held_out = sources.load(info, "test")["tokens"]
    in_order = np.load(folder / "test.npy")[: 8 * rows["test"]].reshape(-1, 8)
    assert not np.array_equal(held_out, in_order)
    np.testing.assert_array_equal(np.sort(held_out, 0), np.sort(in_order, 0))
    assert info.steps("1 epoch", 8) == round(rows["train"] / 8)
    assert info.steps("1000 tokens", 5) == 25


@pytest.mark.slow
def test_streamed_rows_are_those_of_the_resident_run(config, tmp_path):
    train(tmp_path / "resident", config)
    config.data.streamed = True
    train(tmp_path / "streamed", config)
    for split, count in (("train", 8), ("validation", 3), ("test", 1)):
        one, other = (read_metrics(tmp_path / run, split) for run in ("resident", "streamed"))
        assert len(one) == len(other) == count
        for key in {"loss", "error", "grad_sq_norm", "bits_per_byte"} & one[0].keys():
            values = [[row[key] for row in rows] for rows in (other, one)]
            np.testing.assert_allclose(*values, rtol=1e-5, err_msg=f"{split} {key}")
    assert {"loss", "bits_per_byte"} <= one[0].keys()
    config.devices, config.micro_batch = 2, 2
    train(tmp_path / "two", config)
    values = [
        [row["loss"] for row in read_metrics(tmp_path / run, "train")]
        for run in ("two", "streamed")
    ]
    np.testing.assert_allclose(*values, rtol=1e-4)


def test_evaluation_shapes_of_streamed_rows(config):
    import jax

    config.data.streamed, config.devices = True, 2
    point = resolve(config)
    feed = make_feed(point, None)
    assert isinstance(feed, RowFeed)
    seen = 0
    for pair in feed.evaluation("validation"):
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), pair)
        assert evaluation_shapes(point, "validation") == shapes
        seen += pair[1]["mask"].sum()
    assert seen == 50
    config.data.streamed = False
    assert isinstance(make_feed(resolve(config), None), ResidentFeed)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "smal"}, "Unknown data set 'smal': .*prepare text --name=smal --from=DIR` makes"),
        ({"name": "text"}, "Unknown data set 'text'"),
        ({"length": None}, "small is text; set data.length to the tokens of a row"),
        ({"length": 5000}, "data.length is 5000, and the validation split of small has .* tokens"),
        ({"validation_size": 10**6}, "validation_size is 1000000 and small has .* validation ex"),
        ({"train_size": 10**6}, "train_size is 1000000 and small has .* training examples"),
        ({"train_size": 10, "streamed": True}, "small is streamed whole; leave it None"),
        ({"num_classes": 5}, "'small' has no option 'num_classes'; it has length, streamed"),
        ({"name": "digits"}, "Data set 'digits' has no option 'length'; it has none"),
    ],
)
def test_wrong_data_is_told(config, changes, message):
    for key, value in changes.items():
        config.data[key] = value
    with pytest.raises(UserError, match=message):
        resolve(config)


def test_a_text_that_is_not_prepared_is_planned_and_not_trained(config, tmp_path):
    config.data.name, config.data.dir = "kjv", str(tmp_path)
    assert resolve(config).info.sizes["train"] == 1_657_437 // 8
    with pytest.raises(UserError, match=f"'kjv' is not in {tmp_path}: .*scaling.data.prepare kjv"):
        sources.check_available("kjv", tmp_path)
    with pytest.raises(UserError, match="Unknown data set 'small'"):
        sources.check_available("small", tmp_path)


def test_damage_is_told_before_anything_starts(config, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "small")
    sources.check_available("small", tmp_path)
    path = tmp_path / "small/test.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(UserError, match=r"the checksum of test.npy differs.*prepare text"):
        sources.check_available("small", tmp_path)


def test_a_study_goes_on_with_the_files_it_began_with(config, folder, tmp_path):
    train(tmp_path / "study/bs8", config)
    source = text.read_meta(folder).command.split("--from=")[1].split()[0]
    flags = ["--vocabulary=290", "--held_out=0.1", f"--from={source}"]
    sets = tmp_path / "sets"
    assert prepare.main(["text", "--name=small", *flags, f"--data_dir={sets}"]) == 0
    train(tmp_path / "study/bs9", config)  # the same files in another place would do too
    config.data.dir = str(sets)
    for name in ("bs8", "bs10"):
        with pytest.raises(UserError) as error:
            train(tmp_path / "study" / name, config)
        assert "bs8 was measured on other files of small" in str(error.value)
        assert "eos: 256 there, 1 here" in str(error.value)
    config.global_batch = 8
    run_study(config, tmp_path / "again", None, print)
    config.data.dir = str(folder.parent)
    with pytest.raises(UserError, match="bs8 was measured on other files of small"):
        run_study(config, tmp_path / "again", None, print)
    train(tmp_path / "other/bs8", config)
    same_runs(tmp_path / "study/bs8", tmp_path / "study/bs9")
