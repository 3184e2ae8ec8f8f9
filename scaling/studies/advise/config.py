"""Which batch size on how many devices, from what is measured here (McCandlish 2018)."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from scaling.limits import COUNT, NOT_NEGATIVE, POSITIVE, UP_TO_ONE, Limits

LIMITS = {
    "advise.goal": POSITIVE,
    "advise.devices": Limits(1, 1_000_000, "[]"),
    "advise.batches": COUNT,
    "advise.largest": Limits(1, 2**24, "[]"),
    "advise.seconds": Limits(0, 3600, "(]"),
    "advise.price": NOT_NEGATIVE,
    "advise.max_hours": Limits(0, 1e9, "(]"),
    "advise.max_cost": Limits(0, 1e12, "(]"),
    "advise.latency": Limits(0, 3600, "[]"),
    "advise.bandwidth": Limits(0, 1e15, "(]"),
    "advise.overlap": UP_TO_ONE,
}
HOLDS = {"advise.records": str, "advise.batches": int}


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    c.noise_scale = True
    c.advise = ConfigDict()
    c.advise.records = ()  # workdirs of finished steps_to_target studies of the same task
    c.advise.goal = placeholder(float)  # headline metric on validation, of a run that is done
    c.advise.devices = (1, 2, 4, 8, 16, 32, 64)  # numbers of devices to consider
    c.advise.batches = ()  # global batches to consider; (): powers of two up to the training set
    c.advise.largest = 65536  # per-device batch to try
    c.advise.seconds = 0.2  # per timing
    c.advise.rule = "sqrt"  # how learning rates follow the batch: none, linear, sqrt
    c.advise.price = 1.0  # per device and hour
    c.advise.currency = "USD"
    c.advise.max_hours = placeholder(float)
    c.advise.max_cost = placeholder(float)
    c.advise.network = "100gbe"  # nominal, see scaling/comms.py, where it cannot be measured
    c.advise.latency = placeholder(float)  # seconds per message, of a network of your own
    c.advise.bandwidth = placeholder(float)  # bytes per second and device, likewise
    c.advise.overlap = 0.0  # share of the all-reduce that hides behind the backward pass
