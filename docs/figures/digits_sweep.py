"""The README's figure: updates and error against batch size at a fixed number of epochs.

    python launch.py --config=configs/resnet_sweep.py:digits
    python docs/figures/digits_sweep.py runs/resnet_sweep-digits

Reads the records only, and keeps what it draws beside the figure as CSV.
"""

import csv
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
NAME = "digits_sweep"
COLUMNS = ("batch", "steps", "status", "train_error", "validation_error", "test_error")


def read(workdir: Path) -> list[dict]:
    """One row per finished point, by batch."""
    rows = []
    for path in workdir.glob("*/result.json"):
        result = json.loads(path.read_text())
        errors = {
            f"{split}_error": (result[split] or {}).get("error")
            for split in ("train", "validation", "test")
        }
        head = {"batch": result["global_batch"], "steps": result["steps"]}
        rows.append(head | {"status": result["status"]} | errors)
    return sorted(rows, key=lambda row: row["batch"])


def draw(rows: list[dict]) -> plt.Figure:
    """Two panels over the same batch sizes, log2 axes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    batches = [row["batch"] for row in rows]
    left.plot(batches, [row["steps"] for row in rows], "o-", color="C0")
    left.set(ylabel="optimizer updates", yscale="log", title="Updates in 250 epochs")
    left.set_yscale("log", base=2)
    for split, color in (("validation", "C0"), ("test", "C1")):
        errors = [100 * row[f"{split}_error"] for row in rows]
        right.plot(batches, errors, "o-", color=color, label=split)
    right.set(ylabel="error after 250 epochs (%)", title="Error", yscale="log")
    right.set_yticks([1, 2, 5, 10, 20, 50, 90], ["1", "2", "5", "10", "20", "50", "90"])
    right.minorticks_off()
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [f"{b // 1024}k" if b >= 1024 else str(b) for b in batches])
        axes.set_xlabel("global batch")
        axes.grid(alpha=0.3)
    return figure


def main() -> None:
    rows = read(Path(sys.argv[1]))
    with open(HERE / f"{NAME}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    draw(rows).savefig(HERE / f"{NAME}.png", dpi=160)


if __name__ == "__main__":
    main()
