"""Steps to a macro average precision of 0.17 on drawings with several tags, an MLP.

    python -m scaling.data.prepare openclipart
    python launch.py --config=configs/openclipart.py

The offline stand-in for panel (i) of Shallue's Figure 1, Open Images: 6,681 drawings of 32 x 32
pixels with 22 labels, by other authors in each split. The goal is on the mean over labels, whose
chance is 0.06: the precision of all labels pooled jumps by a third from one look to the next.
Variant configs/openclipart.py:cnn: the narrow Simple CNN, for a GPU.
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up

MODELS = {
    "mlp": lambda: model_config("mlp", widths=(128, 128)),
    "cnn": lambda: model_config("simple_cnn", size="narrow"),
}


def get_config(model: str = "mlp"):
    c = default_config("steps_to_target")
    c.batch_sizes = tuple(4**i for i in range(1, 6))
    c.data.name = "openclipart"
    c.model = look_up("model", model, MODELS)()
    c.optim.name = "adam"
    c.search.trials = 16
    c.search.space = {"learning_rate": ("log", 1e-4, 1e-2)}
    c.target.metric, c.target.goal = "ap_macro", 0.17
    c.target.budget = ("600 steps", "12 epochs")
    c.title = f"Steps to a macro average precision on openclipart: {model}"
    return c
