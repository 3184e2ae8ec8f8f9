"""One run per batch size: what every other study is made of."""

from ml_collections import ConfigDict

ONE_PER_CORE = False


def section(c: ConfigDict) -> None:
    """It has no keys of its own."""
