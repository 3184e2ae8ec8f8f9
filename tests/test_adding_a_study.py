"""The study that docs/adding_a_study.md writes, built from that page and run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONFIG = """
from scaling.config import default_config, model_config

def get_config():
    c = default_config("seeds")
    c.batch_sizes, c.duration, c.seeds.number = (64, 256), "3 epochs", 3
    c.model = model_config("mlp", widths=(16,))
    return c
"""


@pytest.fixture
def tree(tmp_path):
    """The code with the example in it."""
    shutil.copytree(ROOT / "scaling", tmp_path / "scaling")
    page = (ROOT / "docs" / "adding_a_study.md").read_text()
    files = re.findall(r"```python\n# (scaling/studies/\S+)\n(.*?)```", page, re.DOTALL)
    assert len(files) == 4
    for name, code in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    registry = tmp_path / "scaling" / "studies" / "__init__.py"
    registry.write_text(
        registry.read_text().replace('    "train",\n', '    "train",\n    "seeds",\n')
    )
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path


def test_the_example_of_the_page_runs_and_reports(tree):
    environment = os.environ | {"PYTHONPATH": str(tree), "XLA_FLAGS": ""}
    arguments = ["--config=config.py", "--workdir=out", "--config.seeds.number=4"]
    program = [sys.executable, "-c", "from scaling.cli import cli; cli()", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tree, env=environment)
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in sorted(tree.glob("out/*/result.json"))]
    assert [result["global_batch"] for result in results] == [256, 64]
    assert all(len(result["errors"]) == 4 for result in results)
    assert "varies most with the seed at batch" in done.stdout
    assert (tree / "out" / "figures" / "seeds.png").exists()
    lines = (tree / "out" / "tables" / "seeds.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[0].startswith("study,workdir,point,global_batch,steps,mean")
    refused = [*program[:-1], "--config.seeds.number=1"]
    done = subprocess.run(refused, capture_output=True, text=True, cwd=tree, env=environment)
    assert done.returncode == 2 and "seeds.number is 1; it must be at least 2" in done.stderr
