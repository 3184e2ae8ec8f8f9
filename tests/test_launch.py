"""The whole program, as a user runs it."""

import json
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from compare import same_runs
from program import ROOT, launch, start

from scaling.cli import Listed, load_config, workdirs_in
from scaling.errors import UserError
from scaling.record import read_metrics

CONFIG = """
from ml_collections import ConfigDict
from scaling.config import default_config

def get_config(task="short"):
    c = default_config()
    c.global_batch = 48
    c.data.augment = "crop_flip"
    c.model = ConfigDict({"name": "mlp", "widths": (16,), "norm": "ghost", "ghost_batch": 6})
    c.optim.base_lr = 0.05
    c.micro_batch = 6
    c.duration = {"short": "3 steps", "long": "9000 steps"}[task]
    c.eval.every = {"short": "2 steps", "long": "700 steps"}[task]
    c.checkpoint.every_seconds = 0.2
    return c
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "mlp.py"
    path.write_text(CONFIG)
    return str(path)


def test_a_run_and_its_record(config, tmp_path):
    code, out, err = launch(f"--config={config}", f"--workdir={tmp_path / 'w'}", fresh=True)
    assert code == 0, err
    assert "48 = 1 device x 8 microbatches x 6 examples" in out
    assert "learning rate 0.05 (not scaled)" in out
    assert "simulated" not in out
    run = tmp_path / "w" / "bs48"
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["steps"], result["examples"]) == ("complete", 3, 144)
    assert [row["step"] for row in read_metrics(run, "train")] == [1, 2, 3]
    assert [row["step"] for row in read_metrics(run, "validation")] == [2, 3]
    assert [row["step"] for row in read_metrics(run, "test")] == [3]
    assert 0 <= result["test"]["error"] <= 1
    resolved = json.loads((run / "resolved.json").read_text())
    assert resolved["plan"]["micro_batch"] == 6 and resolved["devices"]["simulated"] is False
    (origin,) = resolved["launches"]
    assert origin["packages"]["jax"] == jax.__version__ and origin["devices"]["count"] == 1

    code, out, err = launch(f"--config={config}", f"--workdir={tmp_path / 'w'}")
    assert code == 0 and "already finished" in out  # not measured again

    code, _, err = launch(
        f"--config={config}", "--config.optim.base_lr=0.1", f"--workdir={tmp_path / 'w'}"
    )
    assert code == 2 and "optim.base_lr: 0.05 there, 0.1 here" in err


STUDIES = """
from scaling.config import default_config, model_config

def get_config(study):
    c = default_config(study)
    c.global_batch = 32
    c.model = model_config("mlp", widths=(8,), norm="batch")
    if study != "steps_to_target":
        c.duration, c.eval.every = "4 steps", "2 steps"
    if study == "steps_to_target":
        c.search.trials, c.target.budget, c.target.repeats = 2, ("6 steps",), 1
        c.target.goal = 0.85
    elif study == "accuracy":
        c.batch_sizes, c.optim.base_batch, c.recipes.seeds = (32, 64), 32, 2
        c.recipes.warmup = "1 step"
    return c
"""


@pytest.mark.parametrize(
    "study",
    ["train", *(pytest.param(s, marks=pytest.mark.slow) for s in ("steps_to_target", "accuracy"))],
)
def test_64_bit_mode_of_the_environment_changes_no_number(tmp_path, study):
    (tmp_path / "study.py").write_text(STUDIES)
    for bits in ("0", "1"):
        arguments = f"--config={tmp_path / 'study.py'}:{study}", f"--workdir={tmp_path / bits}"
        code, _, err = launch(*arguments, "--workers=1", fresh=bits == "1", JAX_ENABLE_X64=bits)
        assert code == 0 and "Traceback" not in err, err
    records = sorted(path.relative_to(tmp_path / "0") for path in tmp_path.glob("0/*/*.jsonl"))
    assert records
    for record in records:
        assert (tmp_path / "1" / record).read_bytes() == (tmp_path / "0" / record).read_bytes()


def test_default_workdir_is_readable_and_the_same_again(config, tmp_path):
    arguments = (f"--config={config}:short", "--config.seed=3", "--config.eval.test=False")
    code, _, err = launch(*arguments, cwd=tmp_path)
    assert code == 0, err
    run = tmp_path / "runs/mlp-short-seed=3-eval.test=False/bs48"
    assert json.loads((run / "result.json").read_text())["test"] is None


@pytest.mark.parametrize("other", [{"study": "train"}, {"data": {"name": "mine"}}])
def test_a_workdir_of_another_study_or_of_other_data_is_refused(tmp_path, other):
    """Before anything is measured, also by workers."""
    (tmp_path / "bs16").mkdir()
    theirs = {"study": "steps_to_target", "data": {"name": "digits"}} | other
    (tmp_path / "bs16" / "config.json").write_text(json.dumps(theirs))
    code, _, err = launch("--config=configs/quickstart.py", f"--workdir={tmp_path}", "--workers=2")
    assert code == 2 and "bs16 is of the study" in err and "choose another --workdir" in err
    assert [path.name for path in tmp_path.iterdir()] == ["bs16"]


@pytest.mark.slow
def test_simulated_devices_are_labelled_and_change_nothing(config, tmp_path):
    losses = []
    for devices in (None, 1, 8):
        workdir = tmp_path / f"w{devices}"
        arguments = [f"--devices={devices}"] if devices else []
        code, out, err = launch(f"--config={config}", f"--workdir={workdir}", *arguments)
        assert code == 0, err
        losses.append([row["loss"] for row in read_metrics(workdir / "bs48", "train")])
        if devices and devices > 1:
            assert "simulated: correctness only" in out
            resolved = json.loads((workdir / "bs48" / "resolved.json").read_text())
            assert resolved["devices"] == {
                "kind": "cpu",
                "platform": "cpu",
                "count": devices,
                "simulated": True,
            }
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config.optim.base_lrr=1"], "did you mean 'base_lr'"),
        (["--config.optim.base_lr=fast"], "--config.optim.base_lr is 'fast'; it must be a number."),
        (["--config.eval.batch=2.5"], "--config.eval.batch is '2.5'; it must be a whole number."),
        (["--config.noise_scale=3"], "--config.noise_scale is '3'; it must be True or False."),
        (["--config.global_batch=50"], "Ghost batch 6 does not divide global batch 50"),
        (["--config.global_batch=0"], "global_batch is 0; it must be at least 1"),
        (["--config.devices=4"], "ask for 1 to 1, or simulate with --devices=4"),
        (["--devices=5"], "does not divide over 5 devices; the nearest that do are 45 and 50"),
        (["--devices=0"], "not a positive integer"),
        (["--points=1:2"], "none of the study's 1 points"),
        (["--config.data.name=mnist"], "python -m scaling.data.prepare mnist"),
        (["--workdri=x"], "Unknown flag --workdri: did you mean '--workdir'? Known: --"),
        (["--confg.seed=1"], "Unknown flag --confg.seed: did you mean '--config'?"),
        (["--seed=1"], "Unknown flag --seed; set keys of the config with --config.seed"),
        (["--nodry_run=1"], "--nodry_run=1 does not take an argument"),
        (["--config.=1"], "Unknown config key '' in --config.=1"),
        (["--noconfig.eval.tset"], "did you mean 'test'"),
        (["--workdir="], "--workdir is empty"),
        (["stray"], "Unknown argument 'stray'"),
        (["--config.eval.batch=0"], "eval.batch is 0"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(config, tmp_path, arguments, words):
    code, _, err = launch(
        f"--config={config}", f"--workdir={tmp_path / 'w'}", *arguments, TFDS_DATA_DIR=str(tmp_path)
    )
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("landscape.py", "landscape.statistics=foo", "Unknown landscape.statistics 'foo'"),
        ("sharpness.py", "sharpness.batch=1500", "set it to at most 598"),
        ("warm_start.py:fashion_mlp", "warm_start.batch=8", "make it larger"),
        ("branch.py", "branch.factors=(2,)", "name each factor once, and 1"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would_without_its_data(tmp_path, name, change, words):
    arguments = [f"--config=configs/{name}", f"--config.{change}", "--dry_run"]
    code, out, err = launch(*arguments, TFDS_DATA_DIR=str(tmp_path))
    assert code == 2 and out == "" and words in err and err.count("\n") == 1


def test_bad_configs_and_places(config, tmp_path):
    for arguments, words in (
        ([f"--config={config}x"], "There is no config file"),
        (["--config="], "--config= has no file"),
        ([f"--config={tmp_path}"], "is a folder; name a file"),
        ([f"--confi={config}"], "did you mean '--config'"),
        (["--config.seed=1"], "--config.seed sets a key of a config, and there is none"),
        (["--report="], "--report is empty"),
        ([], "There is no config; name one"),
        (
            ["--config=configs/quickstart.py", "--config.seed=1", "--config.global_batch=64"],
            "--config.global_batch=64 has no effect",
        ),
        (["--config=configs/resnet_bs8k.py:digit"], "did you mean 'digits'"),
        (["--config=configs/quickstart.py:digits"], "has no tasks; remove :digits"),
        ([f"--config={config}", f"--workdir={config}/inside"], "choose another --workdir"),
    ):
        code, _, err = launch(*arguments)
        assert code == 2 and err.startswith("error: ") and words in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "content, words",
    [
        ("x = 1", "{file} has no function get_config; add one that returns a ConfigDict"),
        ("get_config = 3", "{file} has no function get_config"),
        ("def get_config(:", "{file} cannot be read (invalid syntax in line 1)"),
        ("x = '\0'", "{file} cannot be read (source code "),
        ("def get_config(task): pass", "name one, as in --config={file}:TASK"),
        ("def get_config(): pass", "get_config of {file} returns NoneType; return a ConfigDict "),
        ("def get_config(): return {'study': 'train'}", "returns dict; return a ConfigDict"),
        (
            "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'a': 1})",
            "returns a ConfigDict without the keys of a study",
        ),
        (
            "from ml_collections import FrozenConfigDict\n"
            "def get_config(): return FrozenConfigDict({'study': 'train'})",
            "returns FrozenConfigDict",
        ),
    ],
)
def test_a_file_that_is_no_config(tmp_path, content, words):
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(UserError, match=re.escape(words.format(file=file))):
        load_config(str(file))


@pytest.mark.parametrize(
    "content, arguments, raised",
    [
        ("import no_such_module", [], "ModuleNotFoundError: No module named 'no_such_module'"),
        ("open('gone.txt')", ["--config.seed=1"], "FileNotFoundError: [Errno 2]"),
        ("def get_config(): return [][0]", ["--config.seed=1"], "IndexError: list index out of"),
        ("def get_config(): return {}['a']", ["--config.seed=1"], "KeyError: 'a'"),
        (
            "def get_config(): return get_config.a",
            ["--config.seed=1"],
            "AttributeError: ",
        ),
        ("def get_config(): return int('a')", [], "ValueError: invalid literal for int()"),
    ],
)
def test_what_a_config_file_raises_keeps_its_traceback(tmp_path, content, arguments, raised):
    file = tmp_path / "mine.py"
    file.write_text(content)
    code, _, err = launch(f"--config={file}", *arguments)
    assert code == 2
    first, second, place, *_, last = err.splitlines()
    assert first.startswith(f"error: Your config file {file} raised {raised}")
    assert first.endswith("; its traceback follows.")
    assert second.startswith("Traceback") and place.startswith(f'  File "{file}", line 1, in ')
    assert last.startswith(raised)


def test_a_tilde_is_the_home_folder(config, tmp_path):
    home, there = tmp_path / "home", tmp_path / "there"
    home.mkdir(), there.mkdir()
    (home / "mine.py").write_text(CONFIG)
    arguments = "--config=~/mine.py", "--workdir=~/a"
    code, _, err = launch(*arguments, cwd=there, HOME=str(home))
    assert code == 0 and (home / "a/bs48/result.json").exists(), err
    code, _, err = launch("--report=~/b", cwd=there, HOME=str(home))
    assert code == 2 and f"There is no workdir {home}/b." in err
    missing = "--config.data.name=mnist", "--config.data.dir=~/sets"
    arguments = "--config=~/mine.py", "--workdir=~/c"
    code, _, err = launch(*arguments, *missing, cwd=there, HOME=str(home))
    assert code == 2 and f"'mnist' is not in {home}/sets" in err
    assert list(there.iterdir()) == []


def test_flags_may_be_written_with_a_space(config, tmp_path):
    code, _, err = launch("--config", config, "--config.optim.base_lrr", "1", cwd=tmp_path)
    assert code == 2 and "did you mean 'base_lr'" in err
    code, _, err = launch("--config", f"{config}:short", "--config.seed", "3", cwd=tmp_path)
    assert code == 0 and (tmp_path / "runs/mlp-short-seed=3/bs48/result.json").exists(), err


@pytest.mark.parametrize(
    "text, value",
    [
        ("naive,lars+warmup", ("naive", "lars+warmup")),
        ("('naive', 'a,b')", ("naive", "a,b")),
        ("16, 256", (16, 256)),
        ("(16,)", (16,)),
        ("()", ()),
        ("runs/a b/bs16,runs/2", ("runs/a b/bs16", "runs/2")),
        ("8 epochs,100 steps", ("8 epochs", "100 steps")),
    ],
)
def test_tuples_need_no_quotes(text, value):
    assert Listed().parse(text) == value


def test_output_that_nobody_reads_to_its_end(config, tmp_path):
    command = f"'{sys.executable}' '{ROOT}/launch.py' --config='{config}' --dry_run | true"
    script = f"{command}; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_help():
    _, out, _ = launch("--help", fresh=True)
    assert "--workdir" in out and "--[no]dry_run" in out


def test_a_signal_ends_a_sweep_not_only_its_point(config, tmp_path):
    process = start(
        f"--config={config}:long", f"--workdir={tmp_path}", "--config.batch_sizes=48,96"
    )
    _wait_for_rows(tmp_path / "bs96", process)  # the largest batch comes first
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert not (tmp_path / "bs48").exists()


@pytest.mark.slow
def test_a_ghost_batch_across_devices(config, tmp_path):
    arguments = f"--config={config}", "--config.micro_batch=2", "--config.model.ghost_batch=6"
    code, _, err = launch(*arguments, f"--workdir={tmp_path}", "--devices=6")
    assert code == 0, err
    assert len(read_metrics(tmp_path / "bs48", "train")) == 3


def test_a_batch_above_the_data_set(config, tmp_path):
    code, _, err = launch(
        f"--config={config}", f"--workdir={tmp_path}", "--config.global_batch=3000"
    )
    assert code == 0, err
    assert read_metrics(tmp_path / "bs3000", "train")[-1]["step"] == 3


def test_divergence_is_a_result_with_its_curve(config, tmp_path):
    code, out, err = launch(
        f"--config={config}:long",
        f"--workdir={tmp_path}",
        "--config.optim.base_lr=1e4",
        "--config.optim.weight_decay=1e6",
    )
    assert code == 0, err
    assert "diverged" in out
    result = json.loads((tmp_path / "bs48" / "result.json").read_text())
    rows = read_metrics(tmp_path / "bs48", "train")
    assert result["status"] == "diverged" and result["steps"] == rows[-1]["step"] == len(rows)
    assert result["test"] is None
    assert all(row["loss"] is not None for row in rows[:-1])
    assert None in (rows[-1]["loss"], rows[-1]["grad_sq_norm"])


def _size(run):
    """Bytes of its curves."""
    path = run / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def _wait_for_rows(run, process, after=0):
    """Until twenty are recorded after so many bytes."""
    while process.poll() is None and _size(run) <= after + 150 * 20:
        time.sleep(0.02)


@pytest.mark.parametrize(
    "signals",
    [
        {signal.SIGINT: 130, signal.SIGUSR1: 138},
        pytest.param({signal.SIGTERM: 143, signal.SIGUSR2: 140}, marks=pytest.mark.slow),
    ],
)
def test_signals_save_and_say_how_to_resume(config, tmp_path, signals):
    """One run, stopped by each in turn."""
    arguments = f"--config={config}:long", "--config.checkpoint.every_seconds=100"
    stopped, run = (*arguments, f"--workdir={tmp_path / 'stopped'}"), tmp_path / "stopped/bs48"
    for signum, code in signals.items():
        before, process = _size(run), start(*stopped)
        _wait_for_rows(run, process, before)
        process.send_signal(signum)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        assert f"Stopped by {signum.name} after step" in err and "Traceback" not in err
        assert "saved. Run the same command again to resume." in err
    exit_code, out, err = launch(*stopped)
    assert exit_code == 0 and "resumed  after step" in out, err
    assert len(json.loads((run / "resolved.json").read_text())["launches"]) == 3
    assert launch(*arguments, f"--workdir={tmp_path / 'whole'}")[0] == 0
    same_runs(run, tmp_path / "whole/bs48")


@pytest.mark.slow
def test_two_launches_in_one_workdir(config, tmp_path):
    endless = f"--config={config}:long", f"--workdir={tmp_path}", "--config.duration=1e7 steps"
    process = start(*endless)
    _wait_for_rows(tmp_path / "bs48", process)
    code, _, err = launch(*endless)
    process.kill()
    process.communicate()
    assert code == 2 and f"in use by process {process.pid}" in err


@pytest.mark.parametrize(
    "kills, length", [(2, 12_000), pytest.param(10, 30_000, marks=pytest.mark.slow)]
)
def test_killed_at_random_moments_the_run_is_bit_identical(config, tmp_path, kills, length):
    arguments = f"--config={config}:long", f"--config.duration={length} steps"
    began = time.monotonic()
    assert launch(*arguments, f"--workdir={tmp_path / 'whole'}")[0] == 0
    seconds = time.monotonic() - began
    dice = random.Random(kills)
    for _ in range(kills):
        process = start(*arguments, f"--workdir={tmp_path / 'killed'}")
        try:
            process.wait(dice.uniform(0.1, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    assert launch(*arguments, f"--workdir={tmp_path / 'killed'}")[0] == 0
    same_runs(tmp_path / "whole" / "bs48", tmp_path / "killed" / "bs48")
    steps = [row["step"] for row in read_metrics(tmp_path / "killed" / "bs48", "train")]
    assert steps == list(range(1, length + 1))


@pytest.mark.slow
def test_thirty_runs_on_eight_simulated_devices_never_hang(config, tmp_path):
    for i in range(30):
        arguments = f"--workdir={tmp_path / str(i)}", "--devices=8", "--config.duration=200 steps"
        code, _, err = launch(f"--config={config}:long", *arguments)
        assert code == 0, err


def test_dry_run_trains_nothing(config, tmp_path):
    code, out, err = launch(f"--config={config}", f"--workdir={tmp_path / 'w'}", "--dry_run")
    assert code == 0, err
    assert "3 steps = 144 examples" in out and "FLOPs per step" in out and "GiB per device" in out
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_dry_run_of_resnet50_at_32k():
    code, out, err = launch("--config=configs/resnet_bs32k.py:imagenet", "--dry_run")
    assert code == 0, err
    assert "25,557,032 parameters" in out and "32,768 = 1 device" in out


@pytest.mark.slow
def test_tensorboard_files(config, tmp_path):
    pytest.importorskip("tensorboardX")
    code, _, err = launch(
        f"--config={config}", f"--workdir={tmp_path}", "--config.metrics.tensorboard=True"
    )
    assert code == 0, err
    assert list((tmp_path / "bs48" / "tensorboard").glob("events*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "panel", ["lm1b_transformer", "lm1b_lstm", "common_crawl_transformer", "open_images_resnet50"]
)
def test_panels_whose_data_are_not_here_have_a_dry_run(panel, tmp_path):
    code, out, err = launch(
        f"--config=configs/shallue.py:{panel}", "--dry_run", f"--config.data.dir={tmp_path}"
    )
    assert code == 0 and "device-hours" in out, err


def test_runs_inside_the_points_of_a_study_are_no_studies_of_a_folder(tmp_path):
    """A point may hold a run of its own, as the tracked ones of pareto and advise."""

    study = tmp_path / "study"
    for point in ("bs8", "bs8/tracked"):
        (study / point).mkdir(parents=True)
        (study / point / "result.json").write_text("{}")
    assert workdirs_in(study) == workdirs_in(tmp_path) == [study]
