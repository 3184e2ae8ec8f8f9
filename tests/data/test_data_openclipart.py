"""Drawings of Debian packages to images and tags."""

import dataclasses

import cv2
import numpy as np
import pytest
from debs import debian, package

from scaling.data import directories, openclipart, prepare, sources
from scaling.errors import UserError
from scaling.tasks import MultiLabel

SVG = """<svg><metadata><rdf:RDF><cc:Work>
<dc:subject><rdf:Bag>{}</rdf:Bag></dc:subject>
<dc:creator><cc:Agent><dc:title>{}</dc:title></cc:Agent></dc:creator>
</cc:Work></rdf:RDF></metadata></svg>"""


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def colour(i):
    """A picture of one colour, in OpenCV's order, with an alpha channel."""
    return np.full((32, 32, 4), (i % 256, i // 256, 7, 255), np.uint8)


def packages(folder, drawings):
    """Debian packages of [(image, author, tags)]."""
    items = lambda tags: "".join(f"<rdf:li>{tag}</rdf:li>" for tag in tags)
    place = "usr/share/openclipart/{0}/things/d{1:04d}.{0}"
    images = {place.format("png", i): (png(d[0]), 0o644) for i, d in enumerate(drawings)}
    texts = [SVG.format(items(tags), author).encode() for _, author, tags in drawings]
    vectors = {place.format("svg", i): (text, 0o644) for i, text in enumerate(texts)}
    package(folder, "openclipart-png", images)
    package(folder, "openclipart-svg", vectors)


@pytest.fixture
def drawings():
    """Sixty authors of five drawings with tags of their own and shared ones, and one of 300."""
    few = [
        (colour(5 * a + i), f"Author {a}", ["Cat &amp; Dog", f"own{a}", "", "red" if i else "blue"])
        for a in range(60)
        for i in range(5)
    ]
    return few + [(colour(1000 + i), "Many", ["style", "red"]) for i in range(300)]


@debian
def test_no_author_and_no_image_is_in_two_splits(tmp_path, drawings):
    packages(tmp_path, [*drawings, (colour(3), "Many", ["red"]), (colour(4000), "Many", [])])
    splits, tags = openclipart.read(str(tmp_path))
    assert tags == ["cat & dog", "red"]  # "blue" is on too few, "style" of one author
    authors = {}
    for split, arrays in splits.items():
        code = arrays["image"][:, 0, 0, ::-1].astype(int)  # red, green, blue -> as drawn
        assert (arrays["image"] == arrays["image"][:, :1, :1]).all()
        for blue, green, red in code:
            assert red == 7
            i = blue + 256 * green
            author = "Many" if i >= 1000 else i // 5
            assert authors.setdefault(author, split) == split
        first = [i < 1000 and i % 5 == 0 for i in code @ [1, 256, 0]]
        many = code @ [1, 256, 0] >= 1000
        np.testing.assert_array_equal(arrays["label"], np.stack([~many, ~np.array(first)], 1))
    assert authors["Many"] == "train" and len(authors) == 61
    assert sum(len(arrays["label"]) for arrays in splits.values()) == 600  # one of two equal images
    assert {s: len(a["image"]) > 20 for s, a in splits.items()} == dict.fromkeys(
        sources.SPLITS, True
    )


def test_drawings_are_on_white_in_the_middle_of_a_square(tmp_path):
    image = np.zeros((64, 16, 4), np.uint8)
    image[..., 2], image[:32, :, 3] = 255, 255  # the upper half red, the lower transparent
    path = tmp_path / "a.png"
    path.write_bytes(png(image))
    small = openclipart._image(path)
    assert (small[:16, 12:20] == [255, 0, 0]).all()
    small[:16, 12:20] = 255
    assert (small == 255).all()
    path.write_bytes(png(np.full((8, 8), 90, np.uint8)))  # grey, without an alpha channel
    assert (openclipart._image(path) == 90).all()


@debian
def test_it_is_prepared_whole_or_not_at_all(tmp_path, drawings, monkeypatch, capsys):
    packages(tmp_path, drawings)
    flags = ["openclipart", f"--from={tmp_path}"]
    assert prepare.main(flags) == 2  # not the drawings of the real package
    assert "is incomplete" in capsys.readouterr().err
    root = directories.data_root()
    assert not list(root.iterdir())
    splits, tags = openclipart.read(str(tmp_path))
    sizes = {split: len(arrays["image"]) for split, arrays in splits.items()}
    example = {"image": ((32, 32, 3), "uint8"), "label": ((len(tags),), "uint8")}
    info = sources.INFOS["openclipart"]
    info = dataclasses.replace(info, example=example, num_classes=len(tags), sizes=sizes)
    monkeypatch.setitem(sources.INFOS, "openclipart", info)
    assert prepare.main(flags) == 0 and prepare.main(flags) == 0
    assert "already prepared" in capsys.readouterr().out
    np.testing.assert_array_equal(
        sources.load("openclipart", "test")["label"], splits["test"]["label"]
    )
    assert MultiLabel.outputs_of(info.example) == info.num_classes
    (root / "openclipart/label-test.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"label-test\.npy cannot be read"):
        sources.check_available("openclipart")


def test_a_missing_set_says_how_to_get_it():
    with pytest.raises(UserError, match=r"scaling\.data.prepare openclipart"):
        sources.check_available("openclipart")
