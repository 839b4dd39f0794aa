"""Archives that several test modules share."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from support.ar import ArContainer
from support.archives import encoded, write_tar
from support.barecat_archives import barecat_files, write_barecat

from imagearchive.containers.registry import register_container

register_container(ArContainer())

# A shell starts background jobs with interrupts ignored, and children inherit that; the tests
# interrupt their children as a terminal would.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keep the user's cache directory out of the tests, in child processes too."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def pictures():
    """Twelve small PNGs in three class directories, ``{name: bytes}``."""
    random = np.random.default_rng(0)
    return {
        f"{name}/{number}.png": encoded(random.integers(0, 256, (9, 7, 3), np.uint8))
        for name in ("dog", "cat", "cat-b")
        for number in range(4)
    }


@pytest.fixture
def image_tar(tmp_path, pictures) -> Path:
    """A TAR of `pictures`."""
    return write_tar(tmp_path / "images.tar", pictures)


@pytest.fixture(scope="session")
def barecat_archive(tmp_path_factory):
    """A Barecat archive of several shards, and its files; not to be changed."""
    files = barecat_files()
    path = str(tmp_path_factory.mktemp("barecat") / "data.barecat")
    return write_barecat(path, files, shard_size_limit=40_000), files


@pytest.fixture
def barecat_copy(barecat_archive, tmp_path):
    """A copy of `barecat_archive` that a test may change."""
    path, files = barecat_archive
    shutil.copytree(os.path.dirname(path), tmp_path / "copy")
    for index in (tmp_path / "copy").glob("*.npy"):
        index.unlink()
    return str(tmp_path / "copy" / "data.barecat"), files
