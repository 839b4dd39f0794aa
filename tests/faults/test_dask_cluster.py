"""A Dask cluster of several processes, one of which is killed in the middle of the work."""

import subprocess
import sys

import pytest
from support.archives import write_tar
from support.dask_cluster import dask_cluster, run_and_kill_a_worker

from imagearchive import IndexTable, build_indexes


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of the scheduler."""
    with dask_cluster(tmp_path_factory.mktemp("dask")) as address:
        yield address


@pytest.fixture
def shards(tmp_path):
    """Twelve TARs in a directory `shards`, and a pattern for them."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(12):
        members = {f"{number}/{i}.txt": b"%d" % i * 1000 for i in range(20)}
        write_tar(folder / f"s-{number:02d}.tar", members)
    return str(folder / "s-*.tar")


def test_build_indexes_killed_worker_changes_nothing(address, shards, tmp_path):
    call = (
        f"print([one.members for one in imagearchive.build_indexes({shards!r}, executor=executor)])"
    )
    assert run_and_kill_a_worker(address, call) == f"{[20] * 12}\n"
    found = {path.name: path.read_bytes() for path in tmp_path.glob("shards/*.idx.npy")}
    build_indexes(shards, overwrite=True)
    assert found == {path.name: path.read_bytes() for path in tmp_path.glob("shards/*.idx.npy")}
    assert len(found) == 12


def test_index_dask_option_uses_the_cluster(address, shards, tmp_path):
    command = [sys.executable, "-m", "imagearchive", "index", shards, "--dask", address]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    names = [f"shards/s-{number:02d}" for number in range(12)]
    assert done.stdout == "".join(f"{name}.tar: 20 members -> {name}.idx.npy\n" for name in names)
    assert len(IndexTable.load(str(tmp_path / "shards" / "s-03.idx.npy"))) == 20
