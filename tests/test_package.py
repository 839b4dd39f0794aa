"""The public face: names, laziness, version."""

import subprocess
import sys

import pytest

import imagearchive
from imagearchive import errors


def test_importing_the_package_is_light():
    code = """
import sys, imagearchive
heavy = {"torch", "PIL", "sqlite3", "tqdm", "pandas", "multiprocessing"} & set(sys.modules)
assert not heavy, heavy
from imagearchive import ImageArchive, LazyNPZDataset, DataLoader, Compose
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_public_name_is_there():
    for name in imagearchive.__all__:
        assert getattr(imagearchive, name) is not None
        assert name in dir(imagearchive)
    assert imagearchive.__version__
    with pytest.raises(AttributeError, match="nothing"):
        imagearchive.nothing


def test_every_error_is_ours_and_a_built_in():
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.ImageArchiveError)
        if kind is not errors.ImageArchiveError:
            built_in = kind.__mro__[2] if len(kind.__bases__) == 2 else None
            assert built_in is not None
            assert any(base.__module__ == "builtins" for base in kind.__bases__)
