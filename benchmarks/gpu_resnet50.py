"""ResNet-50, 224x224, bfloat16 on one GPU, side by side with PyTorch compiled, channels_last.

    pip install torch timm && python benchmarks/gpu_resnet50.py [--batch=256]

Training steps on images that are on the device already: gradients with batch norm and Nesterov
momentum at the same batch. Images per second, medians of alternating repeats, and the share of the
chip's peak, from the FLOPs that XLA counts for one step. --peak is in TFLOP/s of dense bfloat16.
"""

import argparse

from common import machine, seconds, side_by_side, write


def torch_rate(batch, size):
    """() -> images per second of the compiled PyTorch step."""
    import timm
    import torch
    from torch.nn import functional as F

    net = timm.create_model("resnet50", num_classes=1000)
    net = net.cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, nesterov=True, fused=True)
    images = torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8, device="cuda")
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (size,), device="cuda")

    @torch.compile(mode="max-autotune")
    def loss_of(x, y):
        with torch.autocast("cuda", torch.bfloat16):
            return F.cross_entropy(net((x.float() / 255 - 0.45) / 0.225), y)

    def step():
        index = torch.randint(0, size, (batch,), device="cuda")
        optimizer.zero_grad()
        loss_of(images[index], labels[index]).backward()
        optimizer.step()

    def steps():
        for _ in range(10):
            step()
        torch.cuda.synchronize()

    steps()
    return lambda: 10 * batch / seconds(steps, 3.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=4096, help="images on the device")
    parser.add_argument("--peak", type=float, default=989.0, help="H100 and H200 SXM")
    options = parser.parse_args()

    import jax
    from vs_torch import ours

    model = {"name": "resnet", "depth": 50, "norm": "batch", "dtype": "bfloat16"}
    rate, plan, flops = ours(options.batch, (224, 224, 3), model, classes=1000, size=options.size)
    contestants = {"ours": rate, "torch compiled": torch_rate(options.batch, options.size)}
    rates = side_by_side(contestants)
    ratio = rates["ours"]["median"] / rates["torch compiled"]["median"]
    share = {
        name: rate["median"] / options.batch * flops / (options.peak * 1e12)
        for name, rate in rates.items()
    }
    result = {
        "machine": machine() | {"device": jax.devices()[0].device_kind},
        "batch": options.batch,
        "plan": plan,
        "images_per_second": rates,
        "ratio": round(ratio, 3),
        "share_of_peak": share,
    }
    write("gpu_resnet50", result)


if __name__ == "__main__":
    main()
