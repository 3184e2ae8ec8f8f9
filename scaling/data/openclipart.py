"""Small drawings with tags, from Debian's packages of the Open Clip Art Library (public domain).

An offline stand-in for Open Images: several labels an image, in 8,121 drawings of which 8,003 have
tags. Sets of icons repeat a style, and a few authors drew most: no author is in two splits.
"""

import collections
import gzip
import hashlib
import html
import math
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scaling.data.corpora import debian
from scaling.errors import UserError

SIZE = 32  # pixels a side
SHARE = 0.02  # authors of a larger share of the drawings are for training: a held-out split of
# one such author would be of one style
LARGEST = 2**25  # pixels; a few drawings have 600 million
COMMON = 50, 5  # training drawings and authors of a tag that is a label
PACKAGES = ("openclipart-png", "openclipart-svg")
FOLDERS = ("usr/share/openclipart/png", "usr/share/openclipart/svg")


class Drawing(NamedTuple):
    png: Path
    author: str
    tags: frozenset[str]


def read(source: str | None) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """The splits, each with image uint8 [N, 32, 32, 3] and label uint8 [N, K], and the K tags.

    Drawings are on white, with margins to a square. Of equal images the first is kept. A quarter
    of the authors who drew little, by a hash of their name, are for validation and a quarter for
    testing.

    Args:
      source: folder of the .deb files; None: the installed packages, or a download.

    Raises:
      UserError: the packages are not to be had, or have no drawings.
    """
    with debian(PACKAGES, FOLDERS, source) as (png, svg):
        drawings = list(_drawings(png, svg))
        if not drawings:
            raise UserError("Debian's openclipart packages have no drawings with tags; get others.")
        images = {_image(drawing.png).tobytes(): drawing for drawing in reversed(drawings)}
    drawn = collections.Counter(drawing.author for drawing in drawings)
    parts: dict[str, list[tuple[bytes, Drawing]]] = {"train": [], "validation": [], "test": []}
    for pixels, drawing in reversed(images.items()):
        many = drawn[drawing.author] > SHARE * len(drawings)
        parts["train" if many else _split(drawing.author)].append((pixels, drawing))
    tags = _labels([drawing for _, drawing in parts["train"]])
    arrays = {}
    for split, part in parts.items():
        pixels = np.frombuffer(b"".join(image for image, _ in part), np.uint8)
        label = np.array([[tag in drawing.tags for tag in tags] for _, drawing in part], np.uint8)
        arrays[split] = {"image": pixels.reshape(-1, SIZE, SIZE, 3), "label": label}
    return arrays, tags


def _drawings(png: Path, svg: Path):
    """Those with tags, in the order of their names."""
    for path in sorted(svg.rglob("*.svg*")):
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8", "replace")
        name = re.sub(r"\.svgz?(\.gz)?$", ".png", str(path.relative_to(svg)))
        subject = re.search(r"<dc:subject>(.*?)</dc:subject>", text, re.DOTALL)
        items = re.findall(r"<rdf:li>(.*?)</rdf:li>", subject[1] if subject else "", re.DOTALL)
        tags = {html.unescape(item).strip().lower() for item in items} - {""}
        creator = re.search(r"<dc:creator>.*?<dc:title>(.*?)</dc:title>", text, re.DOTALL)
        if tags and _pixels(png / name) <= LARGEST:
            author = creator[1].strip().lower() if creator else ""
            yield Drawing(png / name, author, frozenset(tags))


def _pixels(path: Path) -> float:
    """Of a PNG file; infinite without one."""
    try:
        with path.open("rb") as file:
            width, height = struct.unpack_from(">II", file.read(24), 16)
    except (OSError, struct.error):
        return math.inf
    return width * height


def _image(path: Path) -> np.ndarray:
    """uint8 [32, 32, 3] in RGB."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UserError(f"{path} is not a readable image; get the package again.")
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    opacity = image[..., 3:] / 255 if image.shape[-1] == 4 else 1.0
    image = (255 + opacity * (image[..., :3].astype(np.float64) - 255)).astype(np.float32)
    height, width, _ = image.shape
    side = max(height, width)
    square = np.full((side, side, 3), 255, np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    small = cv2.resize(square, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return np.rint(small[..., ::-1]).astype(np.uint8)


def _split(author: str) -> str:
    quarter = hashlib.sha256(author.encode()).digest()[0] // 64
    return ("validation", "test", "train", "train")[quarter]


def _labels(drawings: list[Drawing]) -> list[str]:
    """Tags of enough drawings by enough authors: a tag of one author marks a style."""
    authors = collections.defaultdict(list)
    for drawing in drawings:
        for tag in drawing.tags:
            authors[tag].append(drawing.author)
    least, different = COMMON
    return sorted(t for t, a in authors.items() if len(a) >= least and len(set(a)) >= different)
