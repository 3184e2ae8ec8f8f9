"""The accuracy studies of the papers: their networks, data sets, batch sizes and recipes.

    python launch.py --config=configs/accuracy.py:hoffer_f1                  # on Fashion-MNIST
    python launch.py --config=configs/accuracy.py:hoffer_resnet44 --dry_run  # its cost

Hoffer 2017, Table 1: small batch (naive at 128), large batch (naive at 4,096), +LR (sqrt), +GBN,
+RA (regime adaptation).

    hoffer_f1        F1, here on Fashion-MNIST; `hoffer_f1_mnist` is the paper's MNIST
    hoffer_c1        C1, two convolutions, CIFAR-10; hoffer_c3: the same on CIFAR-100
    hoffer_resnet44  ResNet-44, CIFAR-10
    hoffer_vgg       VGG, CIFAR-10
    hoffer_wresnet   Wide ResNet 16-4, CIFAR-100, small batch 256

Keskar 2016, Table 2: Adam at 256 against a tenth of the training set.

    keskar_f1, keskar_c1, keskar_c2, keskar_c3, keskar_c4

Goyal 2017, Tables 1 and 2 and Figure 1: ResNet-50 on ImageNet, 64 to 65,536.

    goyal_resnet50

You 2017: with LARS and without, ImageNet, at the batch sizes of the papers' tables.

    you_alexnet, you_alexnet_bn, you_resnet50

Differences from the papers and their code: LARS has one rate and no scaling rule, whereas You has a
rate for each batch (2, 10, 14, 23); `--config.accuracy.trials=8` tunes it at every batch. All of
You's recipes have the same warmup epochs (his Table 1b has none), from a fraction of the rate, not
from 0.001. Ghost batches have the size of the small batch, also 256 for the Wide ResNet, which is
Zagoruyko's, not the post-activation one of Hoffer's code; the GBN script there also clips gradients
(`+clip`). CIFAR images are cropped and flipped, MNIST and Fashion-MNIST not augmented (Hoffer's
code also flips digits). C1's momentum, not set in Hoffer's code, is 0. Keskar's nets train for a
fixed number of epochs.
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up

HOFFER = ("naive", "sqrt", "sqrt+gbn", "sqrt+gbn+adapt")
F1 = model_config("mlp", widths=(512,) * 5, norm="batch")


def _hoffer(c, data, model, duration, boundaries, factors, small=128, rate=0.1):
    c.data.name, c.model = data, model
    c.data.augment = "crop_flip" if data.startswith("cifar") else "none"
    c.batch_sizes, c.optim.base_batch = (small, 4096), small
    c.recipes.names = HOFFER
    c.optim.name, c.optim.momentum, c.optim.weight_decay = "momentum", 0.9, 1e-4
    c.optim.base_lr = rate
    c.schedule.name, c.duration = "step", f"{duration} epochs"
    c.schedule.boundaries = tuple(f"{epoch} epochs" for epoch in boundaries)
    c.schedule.decay_factors = factors


def _hoffer_f1(data):
    return lambda c: _hoffer(c, data, F1, 50, (10, 20, 30), (0.1, 0.1, 0.1))


def _hoffer_shallow(data):
    def change(c):
        model = model_config("shallow_cnn")
        _hoffer(c, data, model, 200, (60, 120, 180), (10.0, 0.1, 0.1), rate=1e-3)
        c.optim.momentum, c.optim.weight_decay = 0.0, 5e-4

    return change


def _hoffer_resnet44(c):
    model = model_config("resnet", depth=44, norm="batch")
    _hoffer(c, "cifar10", model, 200, (81, 122, 164), (0.1, 0.1, 0.1))


def _hoffer_vgg(c):
    model = model_config("vgg", depth=16, hidden=(512,), norm="batch")
    _hoffer(c, "cifar10", model, 200, (81, 122, 164), (0.1, 0.1, 0.1))


def _hoffer_wresnet(c):
    model = model_config("resnet", depth=16, width=4, preactivation=True, norm="batch")
    _hoffer(c, "cifar100", model, 200, (60, 120, 140), (0.2, 0.2, 0.025), small=256)


def _keskar(data, model, batches):
    def change(c):
        c.data.name, c.model = data, model
        c.batch_sizes, c.optim.base_batch = batches, batches[0]
        c.optim.name, c.optim.base_lr = "adam", 1e-3
        c.duration, c.recipes.names = "100 epochs", ("naive",)

    return change


C1 = model_config("shallow_cnn")
C2 = model_config("vgg", depth=16, hidden=(512,), norm="batch", dropout=0.5)


def _imagenet(c):
    c.data.name = "imagenet"
    c.optim.name, c.optim.momentum = "momentum", 0.9
    c.eval.every, c.eval.batch, c.checkpoint.every_seconds = "1 epoch", 2048, 600.0
    c.schedule.name = "polynomial"
    c.recipes.names = ("linear+warmup+poly", "lars+warmup+poly")


def _resnet50(c):
    c.model = model_config(
        "resnet", depth=50, norm="ghost", ghost_batch=32, dtype="bfloat16", zero_init_residual=True
    )
    c.optim.weight_decay, c.duration = 1e-4, "90 epochs"


def _goyal_resnet50(c):
    _imagenet(c)
    _resnet50(c)
    c.batch_sizes = tuple(2**i for i in range(6, 17))
    c.optim.name, c.optim.base_lr, c.optim.base_batch = "nesterov", 0.1, 256
    c.schedule.name = "step"
    c.schedule.boundaries = tuple(f"{epoch} epochs" for epoch in (30, 60, 80))
    c.recipes.names = ("naive", "sqrt+warmup", "linear", "linear+constant_warmup", "linear+warmup")


def _you_alexnet(norm, largest):
    def change(c):
        _imagenet(c)
        c.model = model_config("alexnet", norm=norm, dtype="bfloat16")
        c.batch_sizes = tuple(b for b in (512, 4096, 8192, 16384, 32768) if b <= largest)
        c.optim.base_lr, c.optim.base_batch, c.optim.weight_decay = 0.02, 512, 5e-4
        c.duration, c.recipes.warmup = "100 epochs", "2 epochs" if norm == "none" else "5 epochs"

    return change


def _you_resnet50(c):
    _imagenet(c)
    _resnet50(c)
    c.batch_sizes = (256, 8192, 16384, 32768)
    c.optim.base_lr, c.optim.base_batch = 0.2, 256
    c.recipes.rates.lars = 0.6


CHOICES = {
    "hoffer_f1": _hoffer_f1("fashion_mnist"),
    "hoffer_f1_mnist": _hoffer_f1("mnist"),
    "hoffer_c1": _hoffer_shallow("cifar10"),
    "hoffer_c3": _hoffer_shallow("cifar100"),
    "hoffer_resnet44": _hoffer_resnet44,
    "hoffer_vgg": _hoffer_vgg,
    "hoffer_wresnet": _hoffer_wresnet,
    "keskar_f1": _keskar("mnist", F1, (256, 5500)),
    "keskar_c1": _keskar("cifar10", C1, (256, 4500)),
    "keskar_c2": _keskar("cifar10", C2, (256, 4500)),
    "keskar_c3": _keskar("cifar100", C1, (256, 4500)),
    "keskar_c4": _keskar("cifar100", C2, (256, 4500)),
    "goyal_resnet50": _goyal_resnet50,
    "you_alexnet": _you_alexnet("none", 16384),
    "you_alexnet_bn": _you_alexnet("batch", 32768),
    "you_resnet50": _you_resnet50,
}


def get_config(choice: str = "hoffer_f1"):
    c = default_config("accuracy")
    change = look_up("choice", choice, CHOICES)
    change(c)
    c.title = f"Accuracy at large batches: {choice}"
    return c
