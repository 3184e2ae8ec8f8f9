"""Time of a gradient all-reduce, and the resulting scaling efficiency.

A message of m bytes takes `latency + m / bandwidth`, independent of other traffic. An all-reduce is
a number of sequential messages and a number of bytes through the link of the busiest device. For S
bytes over n devices:

    algorithm            messages     bytes
    ring                 2 (n - 1)    2 (n - 1) / n S
    halving_doubling     2 log2 n     2 (n - 1) / n S
    recursive_doubling   log2 n       log2(n) S

Ring: Patarasuk & Yuan 2009 (J. Parallel Distrib. Comput. 69), who show that no algorithm sends
fewer bytes. Halving and doubling: Rabenseifner 2004 (LNCS 3036). Comparison of all three: Thakur,
Rabenseifner & Gropp 2005 (Int. J. High Perform. Comput. Appl. 19).

If n is not a power of two, the last two algorithms first fold the excess devices into others and
send them the result at the end: 2 messages and 2 S bytes more, as in MPICH. "best" is the fastest
of the three, as libraries choose by size and number of devices.

A real all-reduce is slower: the model leaves out the additions, launch overhead, shared links and
links below their nominal bandwidth, and stragglers. No term grows with the probability that one of
many devices is late, so thousands of devices appear nearly free: `PUBLISHED` compares measurements
on many devices with the model.
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


@dataclasses.dataclass(frozen=True)
class Link:
    """A link between any two devices of a network.

    Raises:
      UserError: a negative or infinite latency, or a bandwidth that is not positive.
    """

    latency: float  # seconds per message
    bandwidth: float  # bytes per second that a device sends, while receiving as many

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
# Latencies of NVLink, PCIe and networks are those per ring step with which NVIDIA's NCCL chooses
# its algorithm (hwLat, Simple protocol, in src/graph/tuning.cc at commit 01afd20).
_NVLINK_LATENCY, _PCIE_LATENCY, _NET_LATENCY = 3.4e-6, 5.7e-6, 9.6e-6
NVLINK3 = Link(_NVLINK_LATENCY, 300e9)  # NVIDIA A100 data sheet: 600 GB/s, both directions
NVLINK4 = Link(_NVLINK_LATENCY, 450e9)  # NVIDIA H100 data sheet: 900 GB/s, both directions
NETWORKS: dict[str, Network] = {
    "perfect": PERFECT,
    "nvlink3": NVLINK3,
    "nvlink4": NVLINK4,
    # NVIDIA A100 and H100 data sheets: 64 and 128 GB/s over 16 lanes, both directions.
    "pcie4": Link(_PCIE_LATENCY, 32e9),
    "pcie5": Link(_PCIE_LATENCY, 64e9),
    # IEEE 802.3 and InfiniBand names state the rate: 10, 100, 200 and 400 Gbit/s.
    "10gbe": Link(_NET_LATENCY, 1.25e9),
    "100gbe": Link(_NET_LATENCY, 12.5e9),
    "infiniband-hdr": Link(_NET_LATENCY, 25e9),
    "infiniband-ndr": Link(_NET_LATENCY, 50e9),
    # NVIDIA DGX user guides: 8 GPUs and 8 adapters, of 200 (A100) and 400 Gbit/s (H100).
    "dgx-a100": Nodes(8, inside=NVLINK3, between=Link(_NET_LATENCY, 200e9)),
    "dgx-h100": Nodes(8, inside=NVLINK4, between=Link(_NET_LATENCY, 400e9)),
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
      algorithm: "ring", "halving_doubling", "recursive_doubling" or "best".

    Raises:
      UserError: unknown algorithm, a negative size or fewer than 1 device.
    """
    FROM_0.check(f"The gradients have {size_bytes} bytes", size_bytes, "the size")
    COUNT.check(f"The device count is {devices}", devices)
    costs = look_up("all-reduce algorithm", algorithm, _COSTS)

    def over(link, count):
        terms = [cost(size_bytes, count) for cost in costs]
        return min(messages * link.latency + sent / link.bandwidth for messages, sent in terms)

    if isinstance(network, Link):
        return over(network, devices)
    inside = over(network.inside, min(devices, network.devices_per_node))
    return inside + over(network.between, math.ceil(devices / network.devices_per_node))


def step_seconds(
    compute_seconds: float, size_bytes: float, devices: int, network: Network, overlap: float = 0.0
) -> float:
    """Seconds of one update: gradients, and the exposed part of the fastest all-reduce.

    Args:
      compute_seconds: of one device's gradients; with accumulation, of the last microbatch.
      overlap: share of the all-reduce hidden behind the backward pass, 0 to 1; at most the time of
        the backward pass, `BACKWARD_SHARE` of the compute, is hidden.

    Raises:
      UserError: compute that is not positive, an overlap outside 0 to 1, and as
        `all_reduce_seconds`.
    """
    ABOVE_0.check(f"The compute time is {compute_seconds} seconds", compute_seconds)
    UP_TO_ONE.check(f"The overlap is {overlap}", overlap)
    reduce = all_reduce_seconds(size_bytes, devices, network, BEST)
    return compute_seconds + reduce - min(overlap * reduce, BACKWARD_SHARE * compute_seconds)


@dataclasses.dataclass(frozen=True)
class Published:
    """A published weak-scaling efficiency of many devices, with the model's inputs for that run.

    Attributes:
      measured: in percent, as published.
      compute_seconds: of one update without communication.
      size_bytes: of the gradients.
    """

    devices: int
    measured: str
    compute_seconds: float
    size_bytes: float
    network: Network

    def modelled(self, overlap: float) -> float:
        """The model's efficiency of the same run, 0 to 1."""
        run = self.compute_seconds, self.size_bytes, self.devices, self.network
        return self.compute_seconds / step_seconds(*run, overlap)

    def __str__(self) -> str:
        """Such as "256 GPUs: about 90% measured, 88 to 100% modelled", without and with overlap."""
        percent = [round(100 * self.modelled(overlap), 6) for overlap in (0.0, 1.0)]
        low, high = map(math.floor, percent)
        return f"{self.devices:,} GPUs: {self.measured} measured, {low} to {high}% modelled"


PUBLISHED = (
    # Goyal et al. 2017 (arXiv:1706.02677): ResNet-50, 25 million gradients, 8,192 images in 0.256 s
    # (90 epochs in an hour) at about 90% of the throughput of separate servers of 8 GPUs, so links
    # inside a server are perfect here; 50 Gbit/s each.
    Published(256, "about 90%", 0.230, 4 * 25e6, Nodes(8, PERFECT, Link(_NET_LATENCY, 6.25e9))),
    # Kurth et al. 2018 (arXiv:1810.01993), float32. We counted the gradients in the authors' code.
    # Tiramisu on Piz Daint: 1.20 images/s on one P100, one per node; Cray Aries, 10 GB/s; 7.5
    # million gradients.
    Published(5_300, "79.0%", 1 / 1.20, 4 * 7.5e6, Link(_NET_LATENCY, 10e9)),
    # DeepLabv3+ on Summit: 0.87 images/s on one V100, 6 per node; NVLink 2, 50 GB/s between two;
    # two InfiniBand adapters of 100 Gbit/s per node; about 44 million gradients.
    Published(
        27_360,
        "90.7%",
        1 / 0.87,
        4 * 44e6,
        Nodes(6, Link(_NVLINK_LATENCY, 50e9), Link(_NET_LATENCY, 25e9)),
    ),
)


def nearest_published(devices: int) -> Published:
    """The measurement with the nearest number of devices, by ratio."""
    return min(PUBLISHED, key=lambda run: abs(math.log(run.devices / devices)))


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
    unit = np.linalg.norm(terms, axis=0)  # scales few messages and billions of bytes
    latency, per_byte = scipy.optimize.nnls(terms / unit, np.ones(len(terms)))[0] / unit
    if per_byte == 0:
        raise UserError(
            f"All-reduces of {max(sizes):.3g} bytes took no longer than those of "
            f"{min(sizes):.3g}, so they do not determine the bandwidth; measure larger ones."
        )
    return Link(latency=float(latency), bandwidth=float(1 / per_byte))


# (size in bytes, devices) -> (messages, bytes).


def _ring(size: float, devices: int) -> tuple[float, float]:
    return 2 * (devices - 1), 2 * (devices - 1) / devices * size


def _halving_doubling(size: float, devices: int) -> tuple[float, float]:
    rounds, folds = _rounds(devices)
    return 2 * (rounds + folds), 2 * (1 - 0.5**rounds + folds) * size


def _recursive_doubling(size: float, devices: int) -> tuple[float, float]:
    rounds, folds = _rounds(devices)
    return rounds + 2 * folds, (rounds + 2 * folds) * size


def _rounds(devices: int) -> tuple[int, bool]:
    """log2 of the largest power of two <= devices, and whether devices exceed it."""
    rounds = int(devices).bit_length() - 1
    return rounds, devices > 1 << rounds


_COSTS = {
    "ring": (_ring,),
    "halving_doubling": (_halving_doubling,),
    "recursive_doubling": (_recursive_doubling,),
    BEST: (_ring, _halving_doubling, _recursive_doubling),
}
