"""Shallue 2018, Figure 1: steps to a goal against batch size, tuned at every size.

    python launch.py --config=configs/shallue.py:mnist_cnn --dry_run      # its cost
    python launch.py --config=configs/shallue.py:fashion_mnist_cnn

Panels, with the paper's models, goals, batch sizes and 100 trials per size:

    mnist_cnn           (a) Simple CNN base, validation error below 1%
    fashion_mnist_cnn   (b) Simple CNN base with dropout, below 10%
    cifar10_resnet8     (c) ResNet-8 without batch norm, below 30%
    imagenet_resnet50   (d) ResNet-50 (v1.5, not the paper's v2), ghost batch 32, below 25%
    imagenet_vgg11      (h) VGG-11, below 35%
    lm1b_transformer    Transformer base on LM1B, below 3.9 nats per token; also _shallow, _wide and
                        _narrow_and_shallow
    lm1b_lstm           LSTM of 2,048 cells, the same goal, 50 trials
    open_images_resnet50   (i) ResNet-50, ghost batch 32, average precision above 0.31, on the 1.74
                        million images of TFDS's open_images_v4, not the paper's 4.5 million
    common_crawl_transformer   Transformer base, the same goal, 50 trials, on FineWeb-Edu

The search space of (d) is the paper's for batch 256, with decay steps as a fraction of the budget,
to apply at every batch size. The other spaces and all budgets are ours, as the paper states none.
Of (i) it does not say whether precision is of all labels together or a mean over labels; the goal
is on the former. ImageNet and Open Images are streamed: images are decoded once for all trials of a
batch size, which therefore share their order.

Of the language models the paper gives goals, batch sizes and numbers of trials. Ours are: spaces,
budgets, the vocabulary (32,000 of byte pair encoding), rows of 128 packed tokens as the unit of a
batch, evaluation on 2,048 of them, and the sizes of all Transformers but base. Before a text is
prepared (`python -m scaling.data.prepare lm1b --from=ARCHIVE`), a dry run takes about its tokens.
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up

POWERS = lambda low, high: tuple(2**i for i in range(low, high + 1))
MOMENTUM = ("reverse_log", 0.5, 0.999)


def _cnn(c, data, goal, dropout):
    c.data.name = data
    c.batch_sizes = (1, 2, 8, 32, 128, 512, 2048, 8192, 32768, 55000)
    c.model = model_config("simple_cnn", size="base", dropout=dropout)
    c.search.space = {"learning_rate": ("log", 1e-4, 1.0), "momentum": MOMENTUM}
    c.target.goal = goal
    c.target.budget = ("2000 steps", "30 epochs")


def _mnist_cnn(c):
    _cnn(c, "mnist", 0.01, 0.0)


def _fashion_mnist_cnn(c):
    _cnn(c, "fashion_mnist", 0.10, 0.4)
    c.batch_sizes = c.batch_sizes[1:]


def _cifar10_resnet8(c):
    c.data.name = "cifar10"
    c.batch_sizes = POWERS(1, 13)
    c.model = model_config("resnet", depth=8, norm="none", preactivation=True)
    c.schedule.name = "linear"
    c.search.space = {
        "learning_rate": ("log", 1e-4, 10.0),
        "momentum": MOMENTUM,
        "end_factor": ("log", 1e-4, 0.1),
        "decay_share": ("linear", 0.5, 1.0),
    }
    c.target.goal = 0.30
    c.target.budget = ("3000 steps", "60 epochs")


def _imagenet(c, goal, sizes):
    c.data.name = "imagenet"
    c.batch_sizes = sizes
    c.schedule.name = "linear"
    c.search.space = {
        "learning_rate": ("log", 1e-4, 10.0),
        "momentum": ("reverse_log", 0.9, 0.9999),
        "end_factor": ("log", 1e-4, 0.1),
        "decay_share": ("linear", 0.5, 1.0),
        "label_smoothing": ("discrete", 0.0, 0.01, 0.1),
    }
    c.target.goal = goal
    c.target.budget = ("10000 steps", "120 epochs")  # 600,000 steps at batch 256 are 120 epochs


def _imagenet_resnet50(c):
    _imagenet(c, 0.25, POWERS(6, 16))
    c.model = model_config("resnet", depth=50, norm="ghost", ghost_batch=32, dtype="bfloat16")


def _imagenet_vgg11(c):
    _imagenet(c, 0.35, (32, *POWERS(6, 6), *POWERS(8, 16)))
    del c.search.space["label_smoothing"]
    c.model = model_config("vgg", depth=11, dtype="bfloat16")


def _open_images_resnet50(c):
    _imagenet(c, 0.31, POWERS(6, 15))
    del c.search.space["label_smoothing"]
    c.data.name, c.target.metric = "open_images", "ap"
    c.model = model_config("resnet", depth=50, norm="ghost", ghost_batch=32, dtype="bfloat16")


def _language(c, data, sizes):
    c.data.name, c.data.length, c.data.validation_size = data, 128, 2048
    c.batch_sizes, c.eval.batch = sizes, 64
    c.search.space = {"learning_rate": ("log", 1e-4, 10.0), "momentum": MOMENTUM}
    c.target.metric, c.target.goal = "loss", 3.9
    c.target.budget = ("20000 steps", "2 epochs")


def _lm1b_transformer(c, size="base"):
    _language(c, "lm1b", POWERS(4, 15))
    c.model = model_config("transformer", size=size, dtype="bfloat16")


def _lm1b_lstm(c):
    _language(c, "lm1b", (*(4**i for i in range(2, 8)), 32768))
    c.model = model_config("lstm", dtype="bfloat16")
    c.search.trials = 50


def _common_crawl_transformer(c):
    _language(c, "fineweb_edu", (32, 64, 256, 1024, 4096, 16384))
    c.data.streamed = True  # 18 GB of tokens
    c.model = model_config("transformer", dtype="bfloat16")
    c.search.trials = 50


PANELS = {
    "mnist_cnn": _mnist_cnn,
    "fashion_mnist_cnn": _fashion_mnist_cnn,
    "cifar10_resnet8": _cifar10_resnet8,
    "imagenet_resnet50": _imagenet_resnet50,
    "imagenet_vgg11": _imagenet_vgg11,
    "open_images_resnet50": _open_images_resnet50,
    "lm1b_transformer": _lm1b_transformer,
    "lm1b_transformer_shallow": lambda c: _lm1b_transformer(c, "shallow"),
    "lm1b_transformer_narrow_and_shallow": lambda c: _lm1b_transformer(c, "narrow_and_shallow"),
    "lm1b_transformer_wide": lambda c: _lm1b_transformer(c, "wide"),
    "lm1b_lstm": _lm1b_lstm,
    "common_crawl_transformer": _common_crawl_transformer,
}


def get_config(panel: str = "mnist_cnn"):
    c = default_config("steps_to_target")
    c.title = f"Shallue 2018, Figure 1: {panel}"
    c.optim.name = "nesterov"
    c.search.trials = 100
    look_up("panel", panel, PANELS)(c)
    return c
