"""ResNet at nine global batches, 128 to 32,768: the sweep that configs/resnet.py describes.

    python launch.py --config=configs/resnet_sweep.py:digits
    python launch.py --config=configs/resnet_sweep.py:digits --points=0:3     # only the first three

Every point equals that of its own file, configs/resnet_bs128.py to configs/resnet_bs32k.py.
"""

from configs.resnet import recipe


def get_config(task: str = "cifar10"):
    c = recipe(128, task)
    c.title = f"ResNet at nine global batches on {task}"
    c.batch_sizes = tuple(128 * 2**i for i in range(9))
    return c
