"""Kills and starts of one run over two processes of this machine.

    python benchmarks/hosts.py [--kills=20] [--starts=100]

Kills: both processes run in the restart loop of docs/many_machines.md, and one of them, in turn, is
killed (SIGKILL) at a random moment of the run's usual time, its start included. One that is killed
when the other has ended the run is not started again. Afterwards metrics.jsonl must be that of an
undisturbed run, byte for byte. `told` are the seconds until the other process ended too.
Starts: both processes train three updates and end with 0.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import ROOT, machine, write

from scaling.hosts import LOST

CONFIG = """
from ml_collections import ConfigDict
from scaling.config import default_config

def get_config():
    c = default_config()
    c.global_batch, c.duration, c.eval.every = 64, "1000 steps", "250 steps"
    c.model = ConfigDict({"name": "mlp", "widths": (32,)})
    c.optim.base_lr, c.noise_scale, c.checkpoint.every_seconds = 0.05, True, 1.0
    return c
"""


class Host:
    """One process of two, started again in a loop until it ends as it should."""

    def __init__(self, command, environment, again=True):
        self.codes, self.ended, self._again, self.other = [], [], again, None
        self._command, self._environment = command, environment
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def _loop(self):
        for _ in range(20):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(self._command, env=self._environment, **quiet)
            self.codes.append(self.process.wait())
            self.ended.append(time.monotonic())
            if not self._again or self.codes[-1] in (0, 130, 143):
                return
            time.sleep(1)
            if self.other.codes[-1:] == [0]:
                return

    def wait(self):
        """The exit codes, in order."""
        self._thread.join()
        return self.codes


def both(config, workdir, *flags, again=True):
    """The two processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    program = [sys.executable, str(ROOT / "launch.py"), f"--config={config}", *flags]
    own = lambda i: (f"--hosts=127.0.0.1:{port},2,{i}", f"--workdir={workdir}{'-1' * i}")
    pair = [Host([*program, *own(i)], environment, again) for i in (0, 1)]
    pair[0].other, pair[1].other = pair[1], pair[0]
    return pair


def kill(config, workdir, victim, after):
    """One run with a kill: exit codes, and seconds until the other ended; None: it need not, for
    they had not met yet, or the run had ended."""
    pair = both(config, workdir)
    time.sleep(after)
    pair[victim].process.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    codes = [host.wait() for host in pair]
    first = pair[1 - victim].ended[0] - killed
    return {
        "victim": victim,
        "after": round(after, 2),
        "codes": codes,
        "told": round(first, 2) if codes[1 - victim][0] == LOST else None,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--starts", type=int, default=100)
    asked = parser.parse_args()
    facts, draw = machine(), random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config = folder / "mlp.py"
        config.write_text(CONFIG)
        record = lambda workdir: (workdir / "bs64" / "metrics.jsonl").read_bytes()
        for name in ("compiled", "undisturbed"):
            begin = time.monotonic()
            assert [host.wait() for host in both(config, folder / name)] == [[0], [0]]
            usual = time.monotonic() - begin
        kills = []
        for i in range(asked.kills):
            workdir = folder / f"kill{i}"
            kills.append(kill(config, workdir, i % 2, draw.uniform(0.1, usual)))
            kills[-1]["same"] = record(workdir) == record(folder / "undisturbed")
            print(kills[-1], flush=True)
        short, started = ("--config.duration=3 steps", "--config.eval.every=3 steps"), 0
        for i in range(asked.starts):
            pair = both(config, folder / f"start{i}", *short, again=False)
            started += [host.wait() for host in pair] == [[0], [0]]
    facts["load_average_at_end"] = os.getloadavg()[0]
    told = [each["told"] for each in kills if each["told"] is not None]
    content = {
        "machine": facts,
        "undisturbed_seconds": round(usual, 1),
        "kills": len(kills),
        "same_record": sum(each["same"] for each in kills),
        "told_seconds": {"most": max(told, default=None), "all": told},
        "starts": asked.starts,
        "started": started,
        "each": kills,
    }
    write("hosts", content)


if __name__ == "__main__":
    main()
