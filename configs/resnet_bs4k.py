"""ResNet at global batch 4,096: one point of the sweep that configs/resnet.py describes.

    python launch.py --config=configs/resnet_bs4k.py:digits

@@
"""

from configs.resnet import recipe


def get_config(task: str = "cifar10"):
    return recipe(4096, task)
