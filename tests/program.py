"""launch.py in a process of its own, on one device."""

import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAM = str(ROOT / "launch.py")


class Forked:
    """As much of `subprocess.Popen` as the tests use, of a process that `forks.py` made."""

    returncode = None

    def __init__(self, arguments, cwd, environment):
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        what = {"arguments": arguments, "cwd": str(cwd), "environment": environment}
        self.pid = _ask(what, [out_end, err_end])
        os.close(out_end), os.close(err_end)
        self._ended, self._pipes = os.pidfd_open(self.pid), {out: b"", err: b""}

    def poll(self):
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            self.returncode = os.waitstatus_to_exitcode(_ask(self.pid))
            os.close(self._ended)
        return self.returncode

    def wait(self, timeout):
        if self.returncode is None and not select.select([self._ended], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(PROGRAM, timeout)
        return self.poll()

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout=None):
        """(standard output, standard error), once all who write to them have closed them."""
        open_ = list(self._pipes)
        while open_:
            ready = select.select(open_, [], [], timeout)[0]
            if not ready:
                raise subprocess.TimeoutExpired(PROGRAM, timeout)
            for pipe in ready:
                self._pipes[pipe] += (read := os.read(pipe, 2**16))
                if not read:
                    open_.remove(pipe)
                    os.close(pipe)
        self.wait(timeout)
        return tuple(text.decode() for text in self._pipes.values())


@functools.cache
def _forks():
    """The socket of a process that forks; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, str(ROOT / "tests/forks.py"), str(theirs.fileno())]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    pass_on = {"pass_fds": [theirs.fileno()], "stdin": subprocess.DEVNULL}
    subprocess.Popen(command, cwd=ROOT, env=environment, **pass_on)
    theirs.close()
    return ours


def _ask(what, descriptors=()):
    socket.send_fds(_forks(), [json.dumps(what).encode()], descriptors)
    return json.loads(_forks().recv(2**10))


def start(*arguments, cwd=ROOT, fresh=False, within=(), **environment):
    """The running process; `fresh`: by an interpreter of its own, as a user starts it; `within`: by
    that command."""
    command = [PROGRAM, *map(str, arguments)]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)} | environment
    if "PYTEST_XDIST_WORKER" in environment:
        environment.pop("PJRT_NPROC")  # conftest.py's
    if not (fresh or within) and hasattr(os, "pidfd_open"):  # Linux
        return Forked(command, cwd, environment)
    return subprocess.Popen(
        [*within, sys.executable, *command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(*arguments, **kwargs):
    """(exit code, standard output, standard error)."""
    process = start(*arguments, **kwargs)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err
