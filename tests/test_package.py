"""The public face: names, laziness, version."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import imagearchive
from imagearchive import errors, transforms


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


def test_the_source_tree_without_its_native_modules_says_so(tmp_path):
    source = Path(imagearchive.__file__).parent
    shutil.copytree(source, tmp_path / "imagearchive", ignore=shutil.ignore_patterns("*.so"))
    for command in (
        ["-c", "from imagearchive import DataLoader"],
        ["-c", "import imagearchive; imagearchive.open('x.tar')"],
        ["-m", "imagearchive", "ls", "x.tar"],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "source tree" in done.stderr.splitlines()[-1]
        assert "pip install -e ." in done.stderr.splitlines()[-1]


def test_every_transform_is_in_the_top_level():
    bases = {"GeometricTransform", "Transform"}
    for name in transforms.__all__:
        value = getattr(transforms, name)
        if isinstance(value, type) and issubclass(value, transforms.Transform):
            assert name in bases or getattr(imagearchive, name) is value
    assert imagearchive.Compose is transforms.Compose
