"""Single runs, written as their records are."""

import json

from synthetic import CPU
from synthetic_noise import write_run

STEPS = 1000


def write_train_run(path, batch, error, loss=lambda step: 1 / step, title="Runs", **changes):
    """A run without "study", as older records are, and a validation after every 100 steps."""
    result = {
        "status": "complete",
        "global_batch": batch,
        "steps": STEPS,
        "examples": STEPS * batch,
        "learning_rate": 0.1,
        "train": {"loss": loss(STEPS), "error": 0.01},
        "validation": {"step": STEPS, "loss": 0.2, "error": error},
        "test": {"loss": 0.3, "error": 2 * error},
        "seconds": {"compile": 1.0, "train": 8.0, "eval": 1.0, "input_wait": 0.0},
        "examples_per_second": 125.0 * batch,
        "devices": CPU,
    } | changes
    write_run(path, result | {"study": "train"}, title=title)
    (path / "result.json").write_text(json.dumps(result))
    rows = [{"step": s, "split": "train", "loss": loss(s)} for s in range(1, STEPS + 1)]
    rows += [{"step": s, "split": "validation", "error": s / 1e5} for s in range(100, 1001, 100)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
