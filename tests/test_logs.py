import json
import math
import struct

import pytest

from scaling.errors import UserError
from scaling.limits import COUNT
from scaling.logs import Log, Row, read_log


def write(path, text):
    path.write_text(text)
    return path


def test_csv(tmp_path):
    path = write(tmp_path / "runs.csv", "# from the cluster\nBatch Size, lr\n8,0.1\n\n16,nan\n")
    log = read_log(path)
    assert [row.values for row in log.rows] == [
        {"Batch Size": "8", "lr": "0.1"},
        {"Batch Size": "16", "lr": "nan"},
    ]
    assert [row.place for row in log.rows] == [f"line 3 of {path}", f"line 5 of {path}"]
    assert log.find("batch") == "Batch Size" and log.find("learning_rate") == "lr"
    assert log.find("tokens") is None
    assert log.rows[0].number("Batch Size", COUNT, whole=True) == 8
    assert math.isnan(log.rows[1].number("lr"))


def test_jsonl(tmp_path):
    path = write(tmp_path / "runs.jsonl", '{"bs": 8, "eval/loss": 3.5}\n{"bs": 16}\n')
    log = read_log(path)
    assert log.columns == ["bs", "eval/loss"] and log.find("metric") == "eval/loss"
    assert [row.has("eval/loss") for row in log.rows] == [True, False]


@pytest.mark.parametrize(
    "columns, meaning, column",
    [
        (["batch_size", "global_batch"], "batch", "global_batch"),  # a device's, and all of them
        (["train/lr", "optim.wd"], "learning_rate", "train/lr"),
        (["train/lr", "optim.wd"], "weight_decay", "optim.wd"),
        (["loss", "Validation Loss"], "metric", "Validation Loss"),
        (["validation/loss", "train/loss"], "metric", "validation/loss"),
        (["blr"], "learning_rate", None),
    ],
)
def test_columns_by_meaning(tmp_path, columns, meaning, column):
    assert Log(tmp_path, [Row("", dict.fromkeys(columns, 1))]).find(meaning) == column


@pytest.mark.parametrize(
    "text, says",
    [
        ("batch\n", "has no rows"),
        ("", "has no rows"),
        ("batch,steps\n8\n", "line 2 of .*runs.csv has 1 values under 2 column names"),
        ("size\n8\n", "has no column global_batch .or .*batch, .*; its columns are size"),
        ("batch\n\n8\n \n''\n", "line 5 of .*: batch is \"''\", which is no number"),
        ("batch,x\n,1\n", "line 2 of .*runs.csv has no batch; fill it in, or remove the row"),
        ("batch\n0\n", "line 2 of .*: batch is 0; it must be at least 1"),
        ("batch\ninf\n", "batch is inf; it must be at least 1 and at most"),
        ("batch\n8.5\n", "batch is 8.5; it must be a whole number"),
        ('batch,note\n8,"one\ntwo"\n8.5,\n', "line 4 of .* batch is 8.5"),
        ("batch,note\n8," + "x" * 200_000, "line 2 of .* cannot be read .*field larger"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, text, says):
    with pytest.raises(UserError, match=says):
        log = read_log(write(tmp_path / "runs.csv", text))
        [row.number(log.need("batch"), COUNT, whole=True) for row in log.rows]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"There is no log .*nope.csv; name a file"):
        read_log(tmp_path / "nope.csv")
    with pytest.raises(UserError, match=r"line 2 of .* is not a JSON object"):
        read_log(write(tmp_path / "a.jsonl", '{"a": 1}\n[1]\n'))
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"b.csv cannot be read"):
        read_log(tmp_path / "b.csv")
    with pytest.raises(UserError, match="is a folder without event files"):
        read_log(tmp_path)


# ---- TensorBoard ----


@pytest.fixture
def events(tmp_path):
    """Two runs, of which one was written in two parts."""
    tensorboardX = pytest.importorskip("tensorboardX")

    def scalars(name, rows, **constant):
        with tensorboardX.SummaryWriter(
            str(tmp_path / "tb" / name), filename_suffix=f".{rows[0][0]}"
        ) as writer:
            for key, value in constant.items():
                writer.add_scalar(key, value, 0)
            for step, value in rows:
                writer.add_scalar("validation/loss", value, step)

    scalars("bs8k_lr1e-3", [(1, 3.0), (2, 2.5)])
    scalars("bs8k_lr1e-3", [(2, 2.25), (4, 2.0)])
    scalars("other", [(3, 1.5)], batch_size=64, learning_rate=0.5)
    return tmp_path / "tb"


def test_event_files(events):
    log = read_log(events)
    runs = [{k: row.values[k] for k in sorted(row.values)} for row in log.rows]
    first = {"batch": 8192, "learning_rate": 0.001, "run": "bs8k_lr1e-3"}
    assert runs[:3] == [
        first | {"step": 1, "validation/loss": 3.0},
        first | {"step": 2, "validation/loss": 2.25},
        first | {"step": 4, "validation/loss": 2.0},
    ]
    assert runs[-1] == {
        "batch_size": 64,
        "learning_rate": 0.5,
        "run": "other",
        "step": 3,
        "validation/loss": 1.5,
    }
    assert log.find("metric") == "validation/loss"


def test_an_event_file_that_is_still_written(events):
    [path] = (events / "other").iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    assert [row.values["step"] for row in read_log(path).rows] == [0]
    assert "step 0 of" in read_log(path).rows[0].place


def test_scalars_as_tensorflow_2_writes_them(tmp_path):
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    content = b""
    for step, value in ((1, 0.5), (2, 0.25)):
        event = proto.Event(step=step)
        tensor = event.summary.value.add(tag="loss").tensor
        tensor.dtype = 1
        if step == 1:
            tensor.float_val.append(value)
        else:
            tensor.tensor_content = struct.pack("<f", value)
        body = event.SerializeToString()
        content += struct.pack("<Q", len(body)) + bytes(4) + body + bytes(4)
    path = tmp_path / "bs=16" / "events.out.tfevents.1"
    path.parent.mkdir()
    path.write_bytes(content)
    assert [(r.values["step"], r.values["loss"]) for r in read_log(path).rows] == [
        (1, 0.5),
        (2, 0.25),
    ]
    assert json.loads(json.dumps(read_log(path).rows[0].values))["batch"] == 16
