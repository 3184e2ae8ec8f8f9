"""ResNet-50 in plain PyTorch with its compiled training step, for comparison in gpu.py.

The same network as ours, "v1.5" with the stride on the 3x3 convolution; bfloat16 by autocast, batch
norm, channels_last, fused Nesterov momentum, `torch.compile` in its default mode (max-autotune
takes many minutes for this network). Images are uint8 on the device, drawn and normalised in the
step.
"""

import time

import torch
from common import seconds
from torch import nn
from torch.nn import functional as F

STAGES = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    """1x1, 3x3, and 1x1 convolution to four times the width, with a shortcut."""

    def __init__(self, before, width, stride):
        super().__init__()
        layers, sizes = [], [(before, width, 1, 1), (width, width, 3, stride)]
        for inside, outside, size, step in [*sizes, (width, 4 * width, 1, 1)]:
            layers += [nn.Conv2d(inside, outside, size, step, size // 2, bias=False)]
            layers += [nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])  # the last ReLU follows the sum
        self.shortcut = nn.Identity()
        if stride != 1 or before != 4 * width:
            convolution = nn.Conv2d(before, 4 * width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(4 * width))

    def forward(self, x):
        return F.relu(self.layers(x) + self.shortcut(x))


def resnet(stages=STAGES, classes=1000):
    """ResNet-50, or one with other numbers of blocks per stage."""
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, blocks in enumerate(stages):
        width = 64 * 2**stage
        for block in range(blocks):
            layers += [Bottleneck(channels, width, 2 if stage and not block else 1)]
            channels = 4 * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*layers)


def step_rate(batch, side, size, stages=STAGES, updates=10):
    """(() -> images per second, facts) of training on `size` images of `side` x `side`."""
    start = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    layout = {"device": device, "memory_format": torch.channels_last}
    net = resnet(stages).to(**layout)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, nesterov=True, fused=True)
    images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8).to(**layout)
    labels = torch.randint(0, 1000, (size,), device=device)

    @torch.compile
    def loss_of(x, y):
        with torch.autocast(device, torch.bfloat16):
            return F.cross_entropy(net((x.float() / 255 - 0.45) / 0.225), y)

    def steps():
        for _ in range(updates):
            index = torch.randint(0, size, (batch,), device=device)
            optimizer.zero_grad()
            loss = loss_of(images[index], labels[index])
            loss.backward()
            optimizer.step()
        loss.item()  # synchronises

    steps()
    facts = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "seconds_to_start": round(time.perf_counter() - start, 1),
    }
    return (lambda: updates * batch / seconds(steps)), facts
