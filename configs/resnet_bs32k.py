"""ResNet at global batch 32,768: one point of the sweep that configs/resnet.py describes.

    python launch.py --config=configs/resnet_bs32k.py:digits

@@
"""

from configs.resnet import recipe


def get_config(task: str = "cifar10"):
    return recipe(32768, task)
