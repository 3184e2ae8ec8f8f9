"""ResNet at global batch 1,024: one point of the sweep that configs/resnet.py describes.

    python launch.py --config=configs/resnet_bs1k.py:digits

@@
"""

from configs.resnet import recipe


def get_config(task: str = "cifar10"):
    return recipe(1024, task)
