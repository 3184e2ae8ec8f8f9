"""One process per core: on a CPU, points of a study side by side, each with one thread.

Two processes of one thread do nearly twice the work of one process of two threads: the operations
of a small model are too short to be shared (benchmarks/results/population.json).
"""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

from scaling.signals import Interrupted, Signals


def run_workers(count: int, command: Sequence[str], say: Callable[[str], None]) -> None:
    """Run `count` copies of `command` to their ends, passing on what they print, line by line.

    Their standard input is a pipe that ends with this process, see `stop_with_parent`.

    Raises:
      Interrupted: a signal came; it was passed on and they have ended.
    """
    environment = os.environ | {"PJRT_NPROC": "1", "JAX_PLATFORMS": "cpu"}
    with Signals() as signals:
        workers = [
            subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C reaches them through this process, once
            )
            for _ in range(count)
        ]
        readers = [threading.Thread(target=_relay, args=(w, say), daemon=True) for w in workers]
        for reader in readers:
            reader.start()
        passed_on = False
        while any(reader.is_alive() for reader in readers):
            if signals.received and not passed_on:
                passed_on = True
                for worker in workers:
                    worker.send_signal(signals.received)
            for reader in readers:
                reader.join(timeout=0.1)
        for worker in workers:
            worker.wait()
        if signals.received:
            when = "before all points were done; what was done is saved."
            raise Interrupted(signals.received, when)


def _relay(worker, say):
    for line in worker.stdout:
        say(line.rstrip("\n"))


def stop_with_parent() -> bool:
    """In a worker of `run_workers`: end as if interrupted when the process that started it is gone.

    One that a person or a scheduler started has no such pipe, and nobody to end with.

    Returns:
      Whether there is such a process.
    """

    def watch():
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    piped = stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode)
    if piped:
        threading.Thread(target=watch, daemon=True).start()
    return piped
