import os
import signal

import pytest

from scaling.signals import ASKS_TO_STOP, Interrupted, Signals


@pytest.mark.parametrize("signum", ASKS_TO_STOP)
def test_the_first_is_noted_and_the_second_acts_as_usual(signum):
    usual = []
    before = signal.signal(signum, lambda *_: usual.append(signum))
    try:
        with Signals() as signals:
            assert signals.received is None
            os.kill(os.getpid(), signum)
            assert signals.received == signum and not usual
            os.kill(os.getpid(), signum)
            assert usual == [signum]
        os.kill(os.getpid(), signum)
        assert usual == [signum] * 2
    finally:
        signal.signal(signum, before)
    assert Interrupted(signum, "").exit_code == 128 + signum


@pytest.mark.parametrize("signum", ASKS_TO_STOP)
def test_a_worker_told_twice_still_saves(signum):
    """By its scheduler, and by the process that started it."""
    with Signals(again=False) as signals:
        for _ in range(2):
            os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signum
