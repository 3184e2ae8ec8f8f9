"""launch.py in a process of its own, on one device."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def start(*arguments, cwd=ROOT, **environment):
    """The running process."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(*arguments, **kwargs):
    """(exit code, standard output, standard error)."""
    process = start(*arguments, **kwargs)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err
