"""A Dask cluster of several processes, one of which is killed in the middle of the work."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.annotated_images import digests, make_detector, process
from support.archives import write_tar
from support.dask_cluster import dask_cluster, run_and_kill_a_worker
from support.files import fill, samples

import imagearchive
from imagearchive import IndexTable, build_indexes, pack


@pytest.fixture(scope="module")
def credentials(moto):
    """The environment of a process that reads and writes moto's bucket."""
    options = moto.storage_options
    return {
        "AWS_ACCESS_KEY_ID": options["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": options["secret_access_key"],
        "AWS_REGION": options["region"],
        "AWS_ENDPOINT_URL": options["endpoint"],
        "AWS_ALLOW_HTTP": "true",
    }


@pytest.fixture(scope="module")
def address(tmp_path_factory, credentials):
    """The address of the scheduler."""
    with dask_cluster(tmp_path_factory.mktemp("dask"), credentials) as address:
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


def test_verify_dask_option_names_the_archives_as_they_are_here(address, shards, tmp_path):
    # The workers have another working directory.
    command = ["-m", "imagearchive", "verify", "shards/s-0[01].tar", "--dask", address]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert lines == ["shards/s-00.tar", "shards/s-01.tar"]


def test_verify_killed_worker_changes_nothing(address, shards, tmp_path):
    with open(tmp_path / "shards" / "s-05.tar", "r+b") as file:
        file.truncate(3000)
    call = f"""with imagearchive.open({shards!r}, strict=False) as archive:
        found = imagearchive.verify(archive, executor=executor)
    print(found.files, [os.path.basename(one.name) for one in found.failures])"""
    assert run_and_kill_a_worker(address, call) == "221 ['s-05.tar']\n"


def test_pack_and_convert_killed_worker_changes_nothing(address, tmp_path):
    fill(tmp_path / "src", samples(40))
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    call = f"""made = imagearchive.pack(
        {str(tmp_path / "src")!r}, {str(tmp_path / "there/x.tar")!r}, shards=12, executor=executor
    )
    with imagearchive.open(made) as archive:
        executor.submitted = 0
        imagearchive.convert(
            archive, {str(tmp_path / "there/y.zip")!r}, shards=10, executor=executor
        )"""
    run_and_kill_a_worker(address, call)
    made = pack(tmp_path / "src", tmp_path / "here" / "x.tar", shards=12)
    with imagearchive.open(made) as archive:
        imagearchive.convert(archive, tmp_path / "here" / "y.zip", shards=10)
    assert_same_files(tmp_path / "here", tmp_path / "there", 44)


def test_pack_to_a_bucket_killed_worker_changes_nothing(address, credentials, moto, tmp_path):
    fill(tmp_path / "src", samples(40))
    url = "s3://data/from-dask/x.tar"
    call = f"""print(imagearchive.pack(
        {str(tmp_path / "src")!r}, {url!r}, shards=12, executor=executor
    ))"""
    made = ast.literal_eval(run_and_kill_a_worker(address, call, credentials))
    assert len(made) == 12
    here = pack(tmp_path / "src", tmp_path / "x.tar", shards=12)
    for path, packed in zip(made, here):
        assert moto.get(path.removeprefix("s3://data/")) == Path(packed).read_bytes()
    with imagearchive.open(made, storage_options=moto.storage_options) as archive:
        assert len(archive) == 120


def test_process_and_repack_killed_worker_changes_nothing(address, tmp_path):
    make_detector(tmp_path / "raw", 40)
    (archive,) = pack(tmp_path / "raw" / "detector" / "more", tmp_path / "images.tar")
    for name in ("here", "there"):
        (tmp_path / name / "shards").mkdir(parents=True)
    call = f"""imagearchive.DataProcessor(
        {str(tmp_path / "raw")!r}, {str(tmp_path / "there")!r}, 3, 3, image_size=20,
        executor=executor, progress=False,
    ).process_detector()
    executor.submitted = 0
    imagearchive.repack(
        {str(archive)!r}, {str(tmp_path / "there" / "shards" / "{}.tar")!r}, resize=16,
        shard_size="10kB", executor=executor,
    )"""
    run_and_kill_a_worker(address, call)
    process(tmp_path / "raw", tmp_path / "here", image_size=20).process_detector()
    assert digests(tmp_path / "there") == digests(tmp_path / "here")
    shards = tmp_path / "here" / "shards" / "{}.tar"
    imagearchive.repack(archive, shards, resize=16, shard_size="10kB")
    assert_same_files(tmp_path / "here" / "shards", tmp_path / "there" / "shards", 6)


def assert_same_files(one, other, count):
    """Compare archives byte by byte, and that each has its index."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert len(names) == count
    for name in names:
        if not name.endswith(".idx.npy"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
