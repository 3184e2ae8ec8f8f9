import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.train.checkpoint import Checkpoints
from scaling.train.step import TrainState


def _state(step):
    key = jax.random.key(step)
    params = {"dense": {"kernel": jax.random.normal(key, (30, 40))}, "empty": {}}
    trace = (jnp.full(3, step, jnp.bfloat16), jnp.int32(step))
    return TrainState(jnp.int32(step), params, {}, trace)


def _saved(path, steps=(1, 2, 3)):
    checkpoints = Checkpoints(path, keep=2)
    for step in steps:
        checkpoints.save(step, _state(step), {"step": step, "none": None})
    checkpoints.close()


def _restored(path):
    checkpoints = Checkpoints(path, keep=2)
    found = checkpoints.restore(_state(0))
    checkpoints.close()
    return found


def _same(restored, step):
    found, state, extra = restored
    jax.tree.map(np.testing.assert_array_equal, state, jax.device_get(_state(step)))
    types = lambda tree: [leaf.dtype for leaf in jax.tree.leaves(tree)]
    assert extra == {"step": step, "none": None} and types(state) == types(_state(1))
    return found == step


def test_the_newest_comes_back_whole_and_old_ones_go(tmp_path):
    assert _restored(tmp_path / "none") is None
    _saved(tmp_path / "c")
    assert _same(_restored(tmp_path / "c"), 3)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["2", "3"]


def test_truncating_or_altering_any_file_of_the_newest_falls_back_or_does_no_harm(tmp_path, capsys):
    """Every file in turn: what is restored is step 3 exactly, or step 2 with a warning."""
    _saved(tmp_path / "whole")
    inside = [p for p in (tmp_path / "whole/3").rglob("*") if p.is_file() and p.stat().st_size]
    files = [p.relative_to(tmp_path / "whole") for p in inside]
    fallbacks = 0
    for i, file in enumerate(files):
        for how in ("cut", "alter"):
            path = tmp_path / f"{how}{i}"
            shutil.copytree(tmp_path / "whole", path)
            content = bytearray((path / file).read_bytes())
            if how == "cut":
                content = content[: len(content) // 2]
            else:
                content[len(content) // 2] ^= 0xFF
            (path / file).write_bytes(bytes(content))
            restored, told = _restored(path), capsys.readouterr().err
            if restored[0] == 2:
                fallbacks += 1
                assert _same(restored, 2)
                assert told.startswith("warning: The checkpoint of step 3 is damaged (")
                assert told.count("\n") == 1
                assert (path.with_name(path.name + ".damaged") / "3").is_dir()  # not deleted
                _saved(path, (3,))  # the step can be saved again
                assert _same(_restored(path), 3)
            else:
                assert _same(restored, 3) and not told, file
    assert fallbacks >= 4


def test_a_deleted_array_file_is_one_sentence(tmp_path):
    """In a process of its own: TensorStore's threads write to the standard error itself. Of so many
    arrays some are still being read when the first fails."""
    program = (
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from scaling.train.checkpoint import Checkpoints\n"
        f"path = Path({str(tmp_path)!r}) / 'c'\n"
        "state = {str(i): np.random.rand(300, 300) for i in range(40)}\n"
        "checkpoints = Checkpoints(path, keep=2)\n"
        "for step in (1, 2): checkpoints.save(step, state, {})\n"
        "checkpoints.close()\n"
        "max((path / '2').rglob('d/*'), key=lambda file: file.stat().st_size).unlink()\n"
        "checkpoints = Checkpoints(path, keep=2)\n"
        "print(checkpoints.restore(state)[0])\n"
        "checkpoints.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "1\n"
    assert done.stderr.startswith("warning: The checkpoint of step 2 is damaged (")
    assert done.stderr.endswith("; using the one before it.\n") and done.stderr.count("\n") == 1


def test_none_readable_is_an_error_and_nothing_is_moved(tmp_path):
    _saved(tmp_path / "c")
    for file in (tmp_path / "c").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(UserError, match=r"None of the checkpoints .* delete that folder"):
        _restored(tmp_path / "c")
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["2", "3"]


def test_a_full_disk_is_one_sentence(tmp_path):
    """A real limit on file sizes, in a process of its own, as TensorStore meets it."""
    program = (
        "import resource, signal, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from scaling.train.checkpoint import Checkpoints\n"
        "from scaling.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))\n"
        f"checkpoints = Checkpoints(Path({str(tmp_path)!r}) / 'c', keep=2)\n"
        "try:\n"
        "    checkpoints.save(1, {'w': np.random.rand(10**6)}, {})\n"
        "    checkpoints.wait()\n"
        "except UserError as error: print(error); sys.exit(2)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2 and "Cannot write to" in done.stdout, done.stderr
