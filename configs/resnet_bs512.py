"""ResNet at global batch ,512: one point of the sweep that configs/resnet.py describes.

    python launch.py --config=configs/resnet_bs512.py:digits

@@
"""

from configs.resnet import recipe


def get_config(task: str = "cifar10"):
    return recipe(512, task)
