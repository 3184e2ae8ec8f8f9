"""ResNet at global batch 16,384: one point of the sweep that configs/resnet.py describes.

    python launch.py --config=configs/resnet_bs16k.py:digits

@@
"""

from configs.resnet import recipe


def get_config(task: str = "cifar10"):
    return recipe(16384, task)
