"""Seconds of an update on n devices, b examples on each, and of its parts:

    T(b, n) = (t0 + b / r) (1 + cv e(n)) + max(0, AR - h c)

t0 is what an update takes whatever its batch, r the examples per second of a device beyond it; e(n)
the expected maximum of n standard normal variables: all wait for the slowest, whose time varies by
`cv` of the mean; AR an all-reduce of the gradients, of which the backward pass, h = 2/3 of the
compute c, may hide a part. Examples per second are n b / T, or what the input gives if less.

A message of m bytes takes `latency + m / bandwidth`, independent of other traffic. An all-reduce is
a number of sequential messages and a number of bytes through the link of the busiest device. For S
bytes over n devices:

    algorithm            messages     bytes
    ring                 2 (n - 1)    2 (n - 1) / n S
    halving_doubling     2 log2 n     2 (n - 1) / n S
    recursive_doubling   log2 n       log2(n) S
    tree                 2 log2 n     2 S / 0.92

Ring: Patarasuk & Yuan 2009 (J. Parallel Distrib. Comput. 69), who show that no algorithm sends
fewer bytes. Halving and doubling: Rabenseifner 2004 (LNCS 3036). Comparison of all three: Thakur,
Rabenseifner & Gropp 2005 (Int. J. High Perform. Comput. Appl. 19). Tree: two binary trees, each of
half the bytes, at 0.92 of the bandwidth (NVIDIA's NCCL 2.30, src/graph/tuning.cc).

If n is not a power of two, the last two algorithms first fold the excess devices into others and
send them the result at the end: 2 messages and 2 S bytes more, as in MPICH. "best" is the fastest
of the four, as libraries choose by size and number of devices: beyond some 64 nodes never a ring.

A real all-reduce is slower: the model leaves out the additions, shared links and links below their
nominal bandwidth. `scaling.published` compares the whole with published measurements.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy

from scaling.errors import UserError, look_up
from scaling.limits import COUNT, UP_TO_ONE, Limits

FROM_0, ABOVE_0 = Limits(0, ends="[)"), Limits(0)  # and finite
# The backward pass's share of a gradient's time: about twice the operations of the forward pass.
BACKWARD_SHARE = 2 / 3
BEST = "best"
# cv, the range of published tables: Kurth 2018 .025 and .072, Horovod .037 to .055, Goyal .091,
# ResNet-50 of MLPerf .093.
JITTER = (0.03, 0.10)
MOST_DEVIATION = 0.05  # of a measured time from the line t0 + b / r, above which reports tell it
Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Link:
    """A link between any two devices of a network.

    Raises:
      UserError: a negative or infinite latency, or a bandwidth that is not positive.
    """

    latency: float  # seconds per message
    bandwidth: float  # bytes per second that a device sends, while receiving as many
    call: float = 0.0  # seconds of every all-reduce, to start it

    def __post_init__(self):
        FROM_0.check(f"The latency of a link is {self.latency} seconds", self.latency)
        bandwidth = f"The bandwidth of a link is {self.bandwidth} bytes/s"
        Limits(0, ends="(]").check(bandwidth, self.bandwidth)


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Nodes of several devices: a fast link inside, a slower one between them."""

    devices_per_node: int
    inside: Link
    between: Link  # of all adapters of a node together


Network = Link | Nodes

PERFECT = Link(latency=0.0, bandwidth=math.inf)

# Nominal bandwidths, as stated by vendors, in one direction. All-reduces achieve less: `fit_link`.
# Latencies of NVLink, PCIe and networks, and of a call's start, are those with which NVIDIA's NCCL
# chooses its algorithm (hwLat and baseLat, Simple protocol, in src/graph/tuning.cc at 5067397c).
NVLINK_LATENCY, PCIE_LATENCY, NET_LATENCY, _CALL = 3.4e-6, 5.7e-6, 14.0e-6, 8.4e-6
NVLINK3 = Link(NVLINK_LATENCY, 300e9, _CALL)  # NVIDIA A100 data sheet: 600 GB/s, both directions
NVLINK4 = Link(NVLINK_LATENCY, 450e9, _CALL)  # NVIDIA H100 data sheet: 900 GB/s, both directions
NETWORKS: dict[str, Network] = {
    "perfect": PERFECT,
    "nvlink3": NVLINK3,
    "nvlink4": NVLINK4,
    # NVIDIA A100 and H100 data sheets: 64 and 128 GB/s over 16 lanes, both directions.
    "pcie4": Link(PCIE_LATENCY, 32e9, _CALL),
    "pcie5": Link(PCIE_LATENCY, 64e9, _CALL),
    # IEEE 802.3 and InfiniBand names state the rate: 10, 100, 200 and 400 Gbit/s.
    "10gbe": Link(NET_LATENCY, 1.25e9, _CALL),
    "100gbe": Link(NET_LATENCY, 12.5e9, _CALL),
    "infiniband-hdr": Link(NET_LATENCY, 25e9, _CALL),
    "infiniband-ndr": Link(NET_LATENCY, 50e9, _CALL),
    # NVIDIA DGX user guides: 8 GPUs and 8 adapters, of 200 (A100) and 400 Gbit/s (H100).
    "dgx-a100": Nodes(8, inside=NVLINK3, between=Link(NET_LATENCY, 200e9)),
    "dgx-h100": Nodes(8, inside=NVLINK4, between=Link(NET_LATENCY, 400e9)),
    # Google Cloud, TPU v4: all-reduce bandwidth per pod 1.1 PB/s, pod of 4,096 chips. About 1 us
    # per hop: Austin et al. 2025, How to Scale Your Model. One ring through the whole torus has
    # more hops than a ring along each axis.
    "tpu-v4": Link(1e-6, 1.1e15 / 4096),
}


def all_reduce_seconds(
    size_bytes: float, devices: int, network: Network, algorithm: str = "ring"
) -> float:
    """Seconds of an all-reduce of `size_bytes` per device.

    Over nodes: reduce-scatter inside each node, all-reduce of the shards between nodes, which
    together use a node's whole bandwidth, all-gather inside; `algorithm` on both levels. The time
    is that of one all-reduce inside and one between, as in the hybrid of Kurth et al. 2018
    (arXiv:1810.01993). Devices fill one node after another; the fullest sets the time inside.

    Args:
      size_bytes: of the gradients, as sent.
      devices: number that share the batch; a single one takes no time.
      network: a `Link` or `Nodes`.
      algorithm: "ring", "halving_doubling", "recursive_doubling", "tree" or "best".

    Raises:
      UserError: unknown algorithm, a negative size or fewer than 1 device.
    """
    FROM_0.check(f"The gradients have {size_bytes} bytes", size_bytes, "the size")
    COUNT.check(f"The device count is {devices}", devices)
    costs = look_up("all-reduce algorithm", algorithm, _COSTS)

    def over(link, count):
        terms = [cost(size_bytes, count) for cost in costs]
        moved = min(messages * link.latency + sent / link.bandwidth for messages, sent in terms)
        return moved + link.call * (count > 1)

    if isinstance(network, Link):
        return over(network, devices)
    inside = over(network.inside, min(devices, network.devices_per_node))
    return inside + over(network.between, math.ceil(devices / network.devices_per_node))


def expected_maximum(count: int) -> float:
    """Of `count` independent standard normal variables, within 5% (Blom 1958)."""
    return float(scipy.stats.norm.ppf((count - 0.375) / (count + 0.25)))


def step_seconds(
    compute_seconds: float,
    size_bytes: float,
    devices: int,
    network: Network,
    overlap: float = 0.0,
    jitter: float = 0.0,
) -> float:
    """Seconds of one update: gradients, the wait for the slowest device, and the exposed part of
    the fastest all-reduce.

    Args:
      compute_seconds: of one device's gradients; with accumulation, of the last microbatch.
      overlap: share of the all-reduce hidden behind the backward pass, 0 to 1; at most the time of
        the backward pass, `BACKWARD_SHARE` of the compute, is hidden.
      jitter: standard deviation of a device's compute, as a share of its mean.

    Raises:
      UserError: compute that is not positive, an overlap outside 0 to 1, and as
        `all_reduce_seconds`.
    """
    ABOVE_0.check(f"The compute time is {compute_seconds} seconds", compute_seconds)
    UP_TO_ONE.check(f"The overlap is {overlap}", overlap)
    reduce = all_reduce_seconds(size_bytes, devices, network, BEST)
    waiting = compute_seconds * jitter * expected_maximum(devices)
    hidden = min(overlap * reduce, BACKWARD_SHARE * compute_seconds)
    return compute_seconds + waiting + reduce - hidden


@dataclasses.dataclass(frozen=True)
class Device:
    """Seconds of an update on one device by its batch b: t0 + b / r."""

    fixed_seconds: float  # t0
    seconds_per_example: float  # 1 / r

    def seconds(self, batch: float) -> float:
        """Of an update."""
        return self.fixed_seconds + batch * self.seconds_per_example

    @property
    def half_rate_batch(self) -> float:
        """The batch with half the peak rate, n_half = t0 r (Hockney & Jesshope 1981); infinite
        where examples take no time."""
        examples = self.seconds_per_example
        return self.fixed_seconds / examples if examples else math.inf

    def batch_at(self, share: float) -> float:
        """The batch with a share of the peak rate, 0 < share < 1."""
        return self.half_rate_batch * share / (1 - share)


@dataclasses.dataclass(frozen=True)
class DeviceFit:
    """A `Device` fitted to measured times, and 95% intervals; None of fewer than three batches, and
    of n_half where it is infinite.

    Attributes:
      deviation: the largest of a measured time from the line, relative to it.
    """

    device: Device
    fixed_seconds: Interval | None
    seconds_per_example: Interval | None
    half_rate_batch: Interval | None
    deviation: float


def fit_device(batches: Sequence[float], seconds: Sequence[float]) -> DeviceFit:
    """t0 and r from measured times, by non-negative least squares of relative errors.

    Intervals are those of linear regression, by Student's t, that of n_half by the delta method.
    They count what the line misses as noise. Of a single batch, t0 is taken as 0.

    Args:
      batches: [k] per device.
      seconds: [k] of an update, positive.
    """
    batches, seconds = np.asarray(batches, float), np.asarray(seconds, float)
    terms = np.stack([np.ones_like(batches), batches], 1) / seconds[:, None]
    if several := len(set(batches)) > 1:
        device = Device(*_least_squares(terms))
    else:
        device = Device(0.0, float(np.median(seconds / batches)))
    misses = terms @ [device.fixed_seconds, device.seconds_per_example] - 1
    deviation = float(np.abs(misses).max())
    freedom = len(batches) - 2
    if freedom < 1 or not several:
        return DeviceFit(device, None, None, None, deviation)
    covariance = np.linalg.inv(terms.T @ terms) * (misses @ misses) / freedom
    quantile = scipy.stats.t.ppf(0.975, freedom)

    def interval(value, *slopes):
        """Of a number, from its derivatives by t0 and by 1 / r."""
        far = float(quantile * math.sqrt(np.array(slopes) @ covariance @ slopes))
        return max(0.0, value - far), value + far

    fixed, each, half = device.fixed_seconds, device.seconds_per_example, device.half_rate_batch
    halved = interval(half, 1 / each, -half / each) if each else None
    return DeviceFit(device, interval(fixed, 1, 0), interval(each, 0, 1), halved, deviation)


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Seconds of an update on several devices, term by term.

    Attributes:
      fixed, examples: t0 and b / r of a device.
      waiting: for the slowest device.
      all_reduce: what the backward pass does not hide of it.
      input: that an update waits for its examples.
      examples_per_second: of all devices.
    """

    fixed: float
    examples: float
    waiting: float
    all_reduce: float
    input: float
    examples_per_second: float

    @property
    def bound(self) -> str:
        """The term that takes longest."""
        terms = dataclasses.asdict(self)
        del terms["examples_per_second"]
        return max(terms, key=terms.get)


def forecast(
    device: Device,
    per_device_batch: int,
    devices: int,
    network: Network,
    size_bytes: float,
    overlap: float = 0.0,
    jitter: float = 0.0,
    input_rate: float = math.inf,
) -> Forecast:
    """T(b, n) and its terms.

    Args:
      input_rate: examples per second that the input gives, over all devices.

    Raises:
      UserError: as `step_seconds`.
    """
    compute, rows = device.seconds(per_device_batch), per_device_batch * devices
    step = step_seconds(compute, size_bytes, devices, network, overlap, jitter)
    waiting = compute * jitter * expected_maximum(devices)
    longest = max(step, rows / input_rate)
    return Forecast(
        device.fixed_seconds,
        compute - device.fixed_seconds,
        waiting,
        step - compute - waiting,
        longest - step,
        rows / longest,
    )


def fit_link(sizes: Sequence[float], seconds: Sequence[float], devices: int) -> Link:
    """Latency and bandwidth from measured ring all-reduces.

    Non-negative least squares of relative errors, so that short messages, which determine the
    latency, weigh as much as long ones, which determine the bandwidth.

    Args:
      sizes: [k] bytes, of at least two different sizes.
      seconds: [k] per all-reduce, positive.
      devices: at least 2.

    Raises:
      UserError: long messages take no longer than short ones.
    """
    terms = np.array([_ring(size, devices) for size in sizes]) / np.reshape(seconds, (-1, 1))
    latency, per_byte = _least_squares(terms)
    if per_byte == 0:
        raise UserError(
            f"All-reduces of {max(sizes):.3g} bytes took no longer than those of "
            f"{min(sizes):.3g}, so they do not determine the bandwidth; measure larger ones."
        )
    return Link(latency=latency, bandwidth=1 / per_byte)


def _least_squares(terms: np.ndarray) -> list[float]:
    """The non-negative numbers [2] whose products with terms [k, 2] are nearest to 1."""
    unit = np.linalg.norm(terms, axis=0)  # scales few messages and billions of bytes
    return (scipy.optimize.nnls(terms / unit, np.ones(len(terms)))[0] / unit).tolist()


# (size in bytes, devices) -> (messages, bytes).


def _ring(size: float, devices: int) -> tuple[float, float]:
    return 2 * (devices - 1), 2 * (devices - 1) / devices * size


def _halving_doubling(size: float, devices: int) -> tuple[float, float]:
    rounds, folds = _rounds(devices)
    return 2 * (rounds + folds), 2 * (1 - 0.5**rounds + folds) * size


def _recursive_doubling(size: float, devices: int) -> tuple[float, float]:
    rounds, folds = _rounds(devices)
    return rounds + 2 * folds, (rounds + 2 * folds) * size


def _tree(size: float, devices: int) -> tuple[float, float]:
    rounds, folds = _rounds(devices)
    return 2 * (rounds + folds), 2 * size / 0.92 * (devices > 1)


def _rounds(devices: int) -> tuple[int, bool]:
    """log2 of the largest power of two <= devices, and whether devices exceed it."""
    rounds = int(devices).bit_length() - 1
    return rounds, devices > 1 << rounds


_COSTS = {
    "ring": (_ring,),
    "halving_doubling": (_halving_doubling,),
    "recursive_doubling": (_recursive_doubling,),
    "tree": (_tree,),
    BEST: (_ring, _halving_doubling, _recursive_doubling, _tree),
}
