"""ResNet at global batch 256: one point of the sweep that configs/resnet.py describes.

    python launch.py --config=configs/resnet_bs256.py:digits

Paper: Goyal 2017 (a sweep over batch sizes at fixed epochs), Hoffer 2017 (sqrt scaling, ghost batch
norm). Expected on digits, seed 0: 1,169 updates, 2.0% validation and 1.3% test error, in one to
two minutes on two CPU cores.
"""

from configs.resnet import recipe


def get_config(task: str = "cifar10"):
    return recipe(256, task)
