"""ResNet at global batch 8,192: one point of the sweep that configs/resnet.py describes.

    python launch.py --config=configs/resnet_bs8k.py:digits

@@
"""

from configs.resnet import recipe


def get_config(task: str = "cifar10"):
    return recipe(8192, task)
