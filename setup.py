"""The packages; all else is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["scaling", "scaling.*"]), "scaling.configs"],
    package_dir={"scaling.configs": "configs"},
)
