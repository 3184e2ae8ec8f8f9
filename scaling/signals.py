"""Stopping when asked to: SIGINT and SIGTERM."""

import signal


class Interrupted(Exception):
    """A signal asked the program to stop; what it did is saved and can be resumed.

    Args:
      signum: the signal.
      when: the end of the sentence "Stopped by SIGINT ...".
    """

    def __init__(self, signum: int, when: str):
        super().__init__(f"Stopped by {signal.Signals(signum).name} {when}")
        self.exit_code = 128 + signum


class Signals:
    """Inside its `with`, notes the first SIGINT or SIGTERM for others to look at.

    The second one acts as usual, for whoever can't wait.
    """

    received: int | None = None

    def __enter__(self) -> "Signals":
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum, _):
        self.received = signum
        signal.signal(signum, self._before[signum])
