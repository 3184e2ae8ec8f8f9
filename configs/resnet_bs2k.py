"""ResNet at global batch 2,048: one point of the sweep that configs/resnet.py describes.

    python launch.py --config=configs/resnet_bs2k.py:digits

@@
"""

from configs.resnet import recipe


def get_config(task: str = "cifar10"):
    return recipe(2048, task)
