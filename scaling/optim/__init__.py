"""Optimizers, learning-rate schedules and learning-rate scaling rules."""

from scaling.optim.build import build_optimizer
from scaling.optim.lars import larc, lars
from scaling.optim.rules import scale_learning_rate
from scaling.optim.schedules import make_schedule

__all__ = ["build_optimizer", "larc", "lars", "make_schedule", "scale_learning_rate"]
