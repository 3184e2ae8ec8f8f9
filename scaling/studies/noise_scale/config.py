"""The noise scale of one tuned run, and of runs that differ in one thing (McCandlish 2018)."""

from ml_collections import ConfigDict

from scaling.limits import COUNT, NOT_NEGATIVE, POSITIVE, Limits

LIMITS = {
    "noise.rates": POSITIVE,
    "noise.batches": Limits(2, COUNT.high, "[]"),
    "noise.dip": NOT_NEGATIVE,
}
HOLDS = {"noise.batches": int}


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    c.noise_scale = True
    c.noise = ConfigDict()
    c.noise.rates = (0.25, 4.0)  # other learning rates, as multiples of this one
    c.noise.batches = ()  # other global batches; rates follow optim.scaling_rule
    c.noise.models = ConfigDict()  # other models: name -> the options in which it differs
    c.noise.dip = 16.0  # the temperature test divides the learning rate by this; 0: no such test
    c.noise.dip_from = "1 epoch"
    c.noise.dip_to = "1.5 epochs"
    c.noise.exact = False  # of the run itself, also from every example's gradient; small models
    c.noise.kind, c.noise.value = "base", ""  # which of the runs a point is; set by the study
