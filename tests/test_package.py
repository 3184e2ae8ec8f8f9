"""The package that `pip install .` makes."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_installed_command_runs_a_config_that_comes_with_it(tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    folder = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (folder / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    programs = tmp_path / "venv" / "bin"
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--no-deps", ROOT]
    subprocess.run(pip, check=True, cwd=tmp_path)
    config = "--config=fashion_mlp_comparisons:sgd"  # which imports another
    done = subprocess.run(
        [programs / "scaling", config, "--dry_run"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "fashion_mnist" in done.stdout
    where = "import scaling.cli; print(scaling.cli.__file__)"
    python = [programs / "python", "-c", where]
    path = subprocess.run(python, capture_output=True, text=True, cwd=tmp_path).stdout
    assert str(tmp_path) in path and sys.prefix not in path
