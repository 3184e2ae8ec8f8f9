"""Debian packages for tests."""

import shutil
import subprocess

import pytest

debian = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="makes Debian packages")


def package(folder, name, files):
    """A .deb with the files {path: (content, mode)}."""
    root = folder / name
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: no one\nDescription: none\n"
    )
    for path, (content, mode) in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        (root / path).chmod(mode)
    command = ["dpkg-deb", "--root-owner-group", "-b", root, folder / f"{name}_1.0_all.deb"]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(root)
