"""How long the updates and the evaluations took, of calls that do both."""

import numpy as np
from scipy.optimize import nnls


class Clock:
    """Divides the time of calls between their updates and their evaluations, by least squares over
    all calls so far: one evaluation, or one update, takes the same time in each."""

    def __init__(self):
        self._gram, self._moment = np.zeros((2, 2)), np.zeros(2)
        self._calls, self._elapsed, self._parts = np.zeros(2), 0.0, np.zeros(2)

    def add(self, elapsed: float, updates: int, evaluated: bool) -> tuple[float, float]:
        """By how much a call that took `elapsed` changes the seconds of all updates, and of all
        evaluations; together by `elapsed`."""
        call = np.array([updates, evaluated], float)
        if self._elapsed:  # not the first call, which loads the program
            self._gram += np.outer(call, call)
            self._moment += call * elapsed
        self._calls += call
        self._elapsed += elapsed
        shares = self._calls * nnls(self._gram, self._moment)[0]
        if not shares.any():  # nothing known: an update as long as an evaluation
            shares = self._calls if self._calls.any() else np.array([1.0, 0.0])
        before, self._parts = self._parts, self._elapsed * shares / shares.sum()
        return tuple((self._parts - before).tolist())
