"""ResNet at global batch 2,048: one point of the sweep that configs/resnet.py describes.

    python launch.py --config=configs/resnet_bs2k.py:digits

Paper: Goyal 2017 (a sweep over batch sizes at fixed epochs), Hoffer 2017 (sqrt scaling, ghost batch
norm). Expected on digits, seed 0: 146 updates, 1.0% validation and 2.0% test error, in one to
two minutes on two CPU cores.
"""

from configs.resnet import recipe


def get_config(task: str = "cifar10"):
    return recipe(2048, task)
