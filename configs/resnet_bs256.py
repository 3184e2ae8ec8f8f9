"""ResNet at global batch ,256: one point of the sweep that configs/resnet.py describes.

    python launch.py --config=configs/resnet_bs256.py:digits

@@
"""

from configs.resnet import recipe


def get_config(task: str = "cifar10"):
    return recipe(256, task)
