"""Split bins for the tests."""

import pathlib
import random


def packets(count=300, seed=0):
    """Return random packets of several sizes, some of them empty."""
    rng = random.Random(seed)
    return [rng.randbytes(rng.choice([0, 1, 5, 300, 20_000])) for _ in range(count)]


def folder_content(folder):
    """Return ``{name: bytes}`` of the files in a directory."""
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}
