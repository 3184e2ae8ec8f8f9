"""Examples per second against batch and devices (Kurth 2018, Goyal 2017)."""

from ml_collections import ConfigDict

from scaling.limits import COUNT, Limits

LIMITS = {
    "throughput.per_device_batches": COUNT,
    "throughput.devices": COUNT,
    "throughput.microbatches": COUNT,
    "throughput.projected": Limits(1, 1_000_000, "[]"),
    "throughput.rounds": Limits(3, 1000, "[]"),
    "throughput.seconds": Limits(0, 60, "(]"),
}
HOLDS = {"throughput.devices": int, "throughput.microbatches": int, "throughput.projected": int}
ONE_PER_CORE = False


def section(c: ConfigDict) -> None:
    """Add its keys, at their defaults."""
    c.throughput = ConfigDict()
    c.throughput.per_device_batches = tuple(2**i for i in range(3, 11))
    c.throughput.devices = ()  # numbers of devices; (): powers of two up to those here
    c.throughput.microbatches = (1, 4, 16)  # of the largest batch, to see what they cost
    c.throughput.rounds = 8  # the first is dropped; intervals of fewer are too narrow
    c.throughput.seconds = 0.1  # of each timing
    c.throughput.network = "100gbe"  # nominal, see scaling/comms.py, for more devices than are here
    c.throughput.projected = (8, 64, 512, 4096)  # numbers of devices
