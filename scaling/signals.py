"""Stopping when asked to: by Ctrl-C, by a scheduler that ends a job or warns that it will."""

import signal

ASKS_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


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
    """Inside its `with`, notes the first of `ASKS_TO_STOP` for others to look at.

    Args:
      again: the second one acts as usual, for whoever can't wait. False: it does nothing; a
        scheduler signals every process of a job, so a worker gets one from it and one passed on.
    """

    received: int | None = None

    def __init__(self, again: bool = True):
        self._again = again

    def __enter__(self) -> "Signals":
        self._before = {s: signal.signal(s, self._note) for s in ASKS_TO_STOP}
        return self

    def __exit__(self, *_) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum, _):
        self.received = self.received or signum
        if self._again:
            signal.signal(signum, self._before[signum])
