"""Writes the numbers that the documents quote anew, from the committed records.

python tests/write_docs.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quoted import SECTIONS
from quoted.quotes import ROOT


def main() -> None:
    """Every section; says which ones changed, and what has no place in its document."""
    for section in SECTIONS:
        path = ROOT / section.document
        before, text, after = section.cut(path.read_text())
        right, lost = section.put_right(text)
        if right != text:
            path.write_text(before + right + after)
            print(f"{section}: put right")
        for error in lost:
            print(f"{section}: {error}")


if __name__ == "__main__":
    main()
