"""ResNet at global batch 512: one point of the sweep that configs/resnet.py describes.

    python launch.py --config=configs/resnet_bs512.py:digits

Paper: Goyal 2017 (a sweep over batch sizes at fixed epochs), Hoffer 2017 (sqrt scaling, ghost batch
norm). Expected on digits, seed 0: 584 updates, 1.3% validation and 1.0% test error, in one to
two minutes on two CPU cores.
"""

from configs.resnet import recipe


def get_config(task: str = "cifar10"):
    return recipe(512, task)
