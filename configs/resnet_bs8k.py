from configs.resnet import recipe


def get_config(task="cifar10"):
    return recipe(8192, task)
