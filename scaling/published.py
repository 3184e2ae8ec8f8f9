"""Published throughput of many devices, beside what `scaling.comms` makes of the same runs.

`EFFICIENCIES` are weak-scaling efficiencies; `RESNET50` images per second of MLPerf training.
"""

import dataclasses
import re
from collections.abc import Sequence

from scaling.comms import (
    JITTER,
    NET_LATENCY,
    NETWORKS,
    NVLINK3,
    NVLINK_LATENCY,
    PCIE_LATENCY,
    PERFECT,
    Device,
    Link,
    Network,
    Nodes,
    expected_maximum,
    fit_device,
    forecast,
    step_seconds,
)


@dataclasses.dataclass(frozen=True)
class Efficiency:
    """A published weak-scaling efficiency of many devices, with the model's inputs for that run.

    Attributes:
      run: who trained what.
      measured: as published.
      compute_seconds: of one update on `base` devices, without communication between those of
        more; the wait for the slowest of them is in it.
      size_bytes: of the gradients.
    """

    run: str
    devices: int
    measured: float
    compute_seconds: float
    size_bytes: float
    network: Network
    base: int = 1

    def modelled(self, jitter: float) -> float:
        """The model's efficiency of the same run, 0 to 1. All of them overlap the all-reduce."""
        alone = self.compute_seconds / (1 + jitter * expected_maximum(self.base))
        work = alone, self.size_bytes, self.devices, self.network
        return self.compute_seconds / step_seconds(*work, overlap=1.0, jitter=jitter)

    @property
    def interval(self) -> tuple[float, float]:
        """That of the published range of jitter."""
        least, most = JITTER
        return self.modelled(most), self.modelled(least)


_ROCE = Nodes(4, Link(PCIE_LATENCY, 16e9), Link(NET_LATENCY, 25e9 / 8))
EFFICIENCIES = (
    # Goyal et al. 2017 (arXiv:1706.02677): ResNet-50, 25 million gradients, 8,192 images in 0.256 s
    # (90 epochs in an hour) at about 90% of the throughput of separate servers of 8 GPUs, so links
    # inside a server are perfect here; 50 Gbit/s each.
    Efficiency(
        "Goyal 2017, ResNet-50",
        256,
        0.90,
        0.230,
        4 * 25e6,
        Nodes(8, PERFECT, Link(NET_LATENCY, 6.25e9)),
        base=8,
    ),
    # Kurth et al. 2018 (arXiv:1810.01993), float32. The gradients are counted in the authors' code.
    # Tiramisu on Piz Daint: 1.20 images/s on one P100, one per node; Cray Aries, 10 GB/s.
    Efficiency(
        "Kurth 2018, Tiramisu", 5_300, 0.790, 1 / 1.20, 4 * 7_413_523, Link(NET_LATENCY, 10e9)
    ),
    # DeepLabv3+ on Summit: 0.87 images/s on one V100, 6 per node; NVLink 2, 50 GB/s between two;
    # two InfiniBand adapters of 100 Gbit/s per node.
    Efficiency(
        "Kurth 2018, DeepLabv3+",
        27_360,
        0.907,
        1 / 0.87,
        4 * 43_669_251,
        Nodes(6, Link(NVLINK_LATENCY, 50e9), Link(NET_LATENCY, 25e9)),
    ),
    # Horovod's benchmarks (horovod, docs/benchmarks.rst): 128 servers of 4 P100, RoCE of 25 Gbit/s.
    # They leave out the rates: one P100 makes about 142, 130 and 154 images/s at batch 64 with
    # TensorFlow. PCIe 3, 16 GB/s, inside a server.
    *(
        Efficiency(f"Horovod, {net}", 512, measured, 64 / rate, 4 * weights, _ROCE)
        for net, measured, rate, weights in (
            ("Inception V3", 0.90, 142, 27.2e6),
            ("ResNet-101", 0.90, 130, 44.5e6),
            ("VGG-16", 0.68, 154, 138.4e6),
        )
    ),
    # MLPerf HPC DeepCAM, from the submitters' logs (mlcommons/hpc_results v0.7 and v1.0), images/s
    # of training: 13,632 at 1,024 and 25,917 at 2,048 A100, an image on each; 308 at 128 and 2,291
    # at 1,024 P100, two on each.
    Efficiency(
        "DeepCAM, JUWELS",
        2_048,
        25_917 / (2 * 13_632),
        1_024 / 13_632,
        4 * 56_454_720,
        Nodes(4, NVLINK3, Link(NET_LATENCY, 100e9)),
        base=1_024,
    ),
    Efficiency(
        "DeepCAM, Piz Daint",
        1_024,
        2_291 / (8 * 308),
        2 * 128 / 308,
        4 * 56_454_720,
        Link(NET_LATENCY, 10e9),
        base=128,
    ),
)


@dataclasses.dataclass(frozen=True)
class System:
    """A machine that trains ResNet-50 at several scales.

    Attributes:
      entries: (per-device batch, devices, images per second), from few devices to many.
    """

    name: str
    network: Network
    entries: Sequence[tuple[int, int, float]]

    def fit(self, entries: Sequence[tuple[int, int, float]], jitter: float) -> Device:
        """t0 and r from entries, whose jitter is taken out and whose all-reduces are taken as
        hidden behind the backward pass."""
        batches, devices, rates = zip(*entries, strict=True)
        runs = zip(batches, devices, rates, strict=True)
        seconds = [b * n / rate / (1 + jitter * expected_maximum(n)) for b, n, rate in runs]
        return fit_device(batches, seconds).device

    def held_out(self, jitter: float) -> list[float]:
        """Images per second of every entry between the first and the last, from a fit to those two
        and to every other one between: t0, r and the all-reduce."""
        found, last = {}, len(self.entries) - 1
        for start in (1, 2):
            held = range(start, last, 2)
            device = self.fit([e for i, e in enumerate(self.entries) if i not in held], jitter)
            for i in held:
                batch, devices, _ = self.entries[i]
                found[i] = forecast(
                    device, batch, devices, self.network, GRADIENT_BYTES, 1.0, jitter
                ).examples_per_second
        return [found[i] for i in sorted(found)]


# Dense FLOP/s of a device in bfloat16, from the vendors' data sheets, of SXM modules. In float32 it
# depends on the precision that products are computed in.
PEAKS = {
    "A100": 312e12,
    "H100": 989.4e12,
    "H200": 989.4e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Dense FLOP/s of a device; None where it is not known, as of PCIe cards."""
    form = r"(NVIDIA )?{}(-SXM\d(-\d+GB)?| \d+GB HBM\w+)?"  # NVIDIA H100 80GB HBM3
    known = (peak for name, peak in PEAKS.items() if re.fullmatch(form.format(name), device_kind))
    return next(known, None) if dtype == "bfloat16" else None


GRADIENT_BYTES = 4 * 25.6e6  # of ResNet-50
RESNET50_JITTER = 0.093  # fitted to all entries below
# MLPerf training v0.7 to v3.0, medians of the epochs after the first, from the submitters' logs
# (mlcommons/training_results_v0.7, v1.0, v2.0, v3.0). Chips of TPU v4, not cores.
RESNET50 = (
    System(
        "DGX A100",
        NETWORKS["dgx-a100"],
        (
            (408, 8, 26_991),
            (204, 64, 197_894),
            (51, 64, 166_835),
            (35, 1024, 2_326_751),
            (16, 4216, 6_152_062),
        ),
    ),
    System(
        "Dell A100",
        Nodes(4, NVLINK3, Link(NET_LATENCY, 100e9)),
        (
            (204, 4, 12_037),
            (204, 8, 22_509),
            (204, 16, 44_685),
            (204, 64, 174_237),
            (102, 32, 77_431),
            (128, 128, 309_106),
        ),
    ),
    System(
        "DGX H100",
        NETWORKS["dgx-h100"],
        (
            (400, 8, 55_786),
            (200, 16, 96_080),
            (50, 64, 293_467),
            (40, 512, 2_225_214),
            (42, 768, 3_387_091),
            (16, 3584, 9_817_372),
        ),
    ),
    System(
        "TPU v4",
        NETWORKS["tpu-v4"],
        (
            (256, 8, 27_825),
            (128, 64, 209_649),
            (32, 256, 573_871),
            (16, 2048, 4_798_378),
            (16, 3456, 8_083_073),
            (8, 4096, 7_788_267),
        ),
    ),
)
