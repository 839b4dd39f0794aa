"""Archives that several test modules share."""

import gc
import importlib.util
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from support.ar import ArContainer
from support.archives import encoded, write_tar
from support.barecat_archives import barecat_files, write_barecat
from support.bins import packets
from support.npz import make_detector
from support.servers import nginx as nginx_server
from support.servers import object_stores
from support.servers.faulty import FaultyServer
from support.servers.program import Program

from imagearchive import write_split_data
from imagearchive.containers.registry import register_container

register_container(ArContainer())

# A shell starts background jobs with interrupts ignored, and children inherit that; the tests
# interrupt their children as a terminal would.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Permissions are compared with those that other programs set.
os.umask(0o022)

# The workers of pytest-xdist share the cores, and all arrays and models are small here.
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile(
    "tests",
    # How long an example takes depends on what else the machine does.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # New examples each time find more, but not in a change that they have nothing to do with.
    derandomize="CI" in os.environ,
)
settings.load_profile("tests")


def pytest_collection_finish():
    """Exempt modules and tests, which stay until the end, from the garbage collections to come."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    if item.get_closest_marker("needs_torch") and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Show the logs of the servers that a failed test used."""
    report = yield
    if report.failed:
        for server in getattr(item, "funcargs", {}).values():
            if isinstance(server, Program):
                report.sections.append((f"log of {server.name}", server.log_tail()))
    return report


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keep the user's cache directory out of the tests, in child processes too."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def _no_proxy():
    """Reach the servers of the tests, which are on this machine, where there is a proxy."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = f"127.0.0.1,localhost,{os.environ.get(name, '')}".rstrip(",")


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


@pytest.fixture
def mixed_tar(tmp_path, pictures):
    """A TAR of `pictures` in two splits, with other files beside them."""
    members = {"README": b"read me", "docs/manual.txt": b"text"}
    for split in ("train", "test"):
        members |= {f"images/{split}/{name}": data for name, data in pictures.items()}
    members["images/train/notes.txt"] = b"notes"
    members["images/train/cat/x.JPG"] = encoded(np.zeros((4, 4, 3), np.uint8), "JPEG")
    return write_tar(tmp_path / "mixed.tar", members)


@pytest.fixture
def split_set(tmp_path):
    """A set of 13 split bins: its directory, and its packets."""
    data = packets()
    write_split_data(tmp_path / "set", data, splits=13)
    return str(tmp_path / "set"), data


@pytest.fixture
def detector(tmp_path):
    """An NPZ as a detector is trained on: its path, and its arrays."""
    path = tmp_path / "train_detector.npz"
    return path, make_detector(path)


@pytest.fixture(scope="session")
def nginx(tmp_path_factory):
    """nginx, which serves the files that tests put into `nginx.files`."""
    with nginx_server.nginx(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    """A store that speaks S3."""
    with object_stores.moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def google(moto):
    """The same store, by the protocol of Google Cloud Storage."""
    return object_stores.google(moto)


@pytest.fixture(scope="session")
def s3rver(tmp_path_factory):
    """Another store that speaks S3, without `If-Match`."""
    with object_stores.s3rver(tmp_path_factory.mktemp("s3rver")) as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory):
    """A store that speaks the protocol of Azure's blobs."""
    with object_stores.azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def _faulty_process():
    with FaultyServer() as server:
        yield server


@pytest.fixture
def faulty_server(_faulty_process):
    """An HTTP server without objects and faults, to which the test adds some."""
    _faulty_process.reset()
    return _faulty_process
