"""The resolved plan of a point, from its config and the compiler alone."""

from ml_collections import ConfigDict

from scaling.train import planning
from scaling.train.point import resolve
from scaling.train.resolved import plan_text


def dry_run(config: ConfigDict) -> str:
    """What training would do, as text. Compiles; reads no data and runs nothing.

    Raises:
      UserError: the config cannot be used.
    """
    point = resolve(config)
    text = plan_text(point, planning.choose(point, timing=False))
    if planning.would_time(point):
        text += "\n      note  the microbatch is assumed: training times some on this machine first"
    return text
