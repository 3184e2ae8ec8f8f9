"""Segmentation of storms in maps of the atmosphere, as Kurth 2018 trains it (arXiv:1810.01993).

    python launch.py --config=configs/kurth.py             # weights of classes, lag; two CPU cores
    python launch.py --config=configs/kurth.py:small_deeplab
    python launch.py --config=configs/kurth.py:deeplab --dry_run

`small`, the default, compares weights of classes on a Tiramisu of 47,635 parameters and maps of
96 x 144: none, inverse and inverse square root of their frequencies, and with the last a lag of 1,
where an update applies the gradient of the one before. `small_deeplab` is the same on a DeepLabv3+
of an eighth of the paper's channels. The others are single runs of the papers' nets at 768 x 1152
on 64 synthetic maps, for accelerators; on MLPerf HPC's data with --config.data.name=deepcam and
--config.data.image_shape=(), whose maps may have any size. A dry run compiles for minutes on a
CPU.

    tiramisu    Kurth 2018's on Summit; on Piz Daint it had --config.model.filters=48
    deeplab     DeepLabv3+ of Kurth 2018, batch norm over the 4 examples of a microbatch
    deepcam     MLPerf HPC's: LAMB, weights f^-1/8 of frequencies f, batch norm over 2 examples
"""

from scaling.config import default_config, model_config
from scaling.errors import look_up

WEIGHTINGS = ("none", "inverse", "inverse_sqrt")


def _small(c, model, **options):
    c.model = model_config(model, **options)
    c.global_batch, c.micro_batch, c.duration, c.eval.every = 4, 4, "240 steps", "40 steps"
    c.data.validation_size = 32
    c.optim.base_batch, c.optim.base_lr = 4, 3e-3
    c.schedule.name, c.schedule.warmup = "cosine", "10 steps"
    pieces = {name: {"loss": {"weighting": name}} for name in WEIGHTINGS}
    c.recipes.pieces.update(pieces | {"lag1": {"optim": {"lag": 1}}})
    c.recipes.names, c.recipes.seeds = (*WEIGHTINGS, "inverse_sqrt+lag1"), 3


def _full(c, model, micro_batch, **options):
    c.model = model_config(model, dtype="bfloat16", **options)
    c.data.image_shape, c.data.train_size, c.data.validation_size = (768, 1152, 16), 64, 16
    c.global_batch, c.micro_batch, c.duration = 32, micro_batch, "8 epochs"
    c.optim.lag, c.loss.weighting = 1, "inverse_sqrt"


def _deepcam(c):
    _full(c, "deepcam", 2, norm="ghost", ghost_batch=2)
    c.optim.lag, c.loss.weighting = None, "eighth_root"
    c.optim.name, c.optim.weight_decay, c.optim.max_grad_norm = "lamb", 0.01, 1.0
    # The reference's rate at a batch of 128; it is proportional to the batch up to 512.
    c.optim.base_lr, c.optim.base_batch, c.optim.scaling_rule = 1e-3, 128, "linear"


TASKS = {
    "small": lambda c: _small(c, "tiramisu", growth=8, blocks=(2, 2, 2), filters=16, kernel=3),
    "small_deeplab": lambda c: _small(c, "deeplab", width=8, norm="ghost", ghost_batch=4),
    "tiramisu": lambda c: _full(c, "tiramisu", 1),
    "deeplab": lambda c: _full(c, "deeplab", 4, norm="ghost", ghost_batch=4),
    "deepcam": _deepcam,
}


def get_config(task: str = "small"):
    look_up("task", task, TASKS)
    c = default_config("accuracy" if task.startswith("small") else "train")
    c.title = f"Storms in maps of the atmosphere: {task}"
    c.data.name = "synthetic_climate"
    c.optim.name, c.optim.base_lr = "larc_adam", 1e-3
    c.eval.batch = 16
    TASKS[task](c)
    return c
