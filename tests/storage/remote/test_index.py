"""Indexes of archives on servers: beside them, uploaded, and joined."""

import os
import zipfile

import numpy as np
import pytest
from support.archives import write_tar
from support.servers.faults import Status

import imagearchive
from imagearchive import ImageArchive, IndexTable, LazyNPZDataset, SampleArchive
from imagearchive.cli import main
from imagearchive.errors import OptionError, StaleIndexError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Give each test a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path, pictures):
    names = list(pictures)
    return {
        f"s-{number}.tar": write_tar(
            tmp_path / f"s-{number}.tar", {name: pictures[name] for name in names[number::3]}
        )
        for number in range(3)
    }


@pytest.fixture
def bucket(moto, shards, request):
    """Store the shards; returns the URL of their folder and how to reach it."""
    folder = f"i{abs(hash(request.node.name))}"
    for name, path in shards.items():
        moto.put(f"{folder}/{name}", path.read_bytes())
    return f"s3://data/{folder}", moto.storage_options


def on_command_line(options):
    return [part for item in options.items() for part in ("--storage-option", "=".join(item))]


def test_index_beside_an_object_is_fetched_once_and_then_compared(faulty_server, shards, pictures):
    path = shards["s-0.tar"]
    IndexTable.open(path)
    index = path.with_suffix(".idx.npy")
    faulty_server.put({"s-0.tar": path.read_bytes(), "s-0.idx.npy": index.read_bytes()})
    url = faulty_server.url("s-0.tar")
    table = IndexTable.open(url)
    assert [one.status for one in faulty_server.requests if one.path == "s-0.idx.npy"] == [206]
    assert len(table) == 4
    # Its archive was compared with it once, and then the index was saved on this machine.
    faulty_server.forget()
    again = IndexTable.open(url)
    assert again.path.startswith(os.environ["XDG_CACHE_HOME"])
    assert {one.path for one in faulty_server.requests} == {"s-0.tar"}


def test_copy_of_an_index_is_used_until_the_index_changes(faulty_server, shards):
    from imagearchive.index import file_format
    from imagearchive.storage.location import locate

    path = shards["s-0.tar"]
    IndexTable.open(path)
    index = path.with_suffix(".idx.npy").read_bytes()
    faulty_server.put({"a.idx.npy": index})
    location = locate(faulty_server.url("a.idx.npy"))
    for expected in (206, 304, 304):
        faulty_server.forget()
        assert len(file_format.load(location).sections["entries"]) == 4
        assert [one.status for one in faulty_server.requests] == [expected]
    IndexTable.open(shards["s-1.tar"])
    other = shards["s-1.tar"].with_suffix(".idx.npy").read_bytes()
    faulty_server.put({"a.idx.npy": other})
    assert file_format.load(location).storage.read(0, len(other)) == other
    folder = os.path.join(os.environ["XDG_CACHE_HOME"], "imagearchive", "remote")
    # The first copy is gone.
    assert len(os.listdir(folder)) == 2


def test_copy_that_was_deleted_or_cut_is_fetched_again(faulty_server, shards):
    from imagearchive.index import file_format
    from imagearchive.storage.location import locate

    IndexTable.open(shards["s-0.tar"])
    faulty_server.put({"a.idx.npy": shards["s-0.tar"].with_suffix(".idx.npy").read_bytes()})
    location = locate(faulty_server.url("a.idx.npy"))
    file_format.load(location)
    folder = os.path.join(os.environ["XDG_CACHE_HOME"], "imagearchive", "remote")
    (copy,) = (name for name in os.listdir(folder) if not name.endswith(".json"))
    for damage in (os.unlink, lambda path: os.truncate(path, 100)):
        damage(os.path.join(folder, copy))
        assert len(file_format.load(location).sections["entries"]) == 4


def test_long_copy_is_fetched_in_parts(faulty_server):
    from imagearchive.storage.location import locate

    data = np.random.default_rng(0).bytes(20_000_000)
    faulty_server.put({"long.bin": data})
    storage = locate(faulty_server.url("long.bin")).open_copy()
    assert storage.read(0, len(data)) == data
    assert len(faulty_server.requests) == 3


def test_uploaded_index_is_used_on_another_machine(bucket, moto, pictures, tmp_path, monkeypatch):
    folder, options = bucket
    url = f"{folder}/s-0.tar"
    archive = imagearchive.open(url, storage_options=options, save_index="remote")
    assert archive.table.path == f"{folder}/s-0.idx.npy"
    assert moto.get(f"{folder.partition('://data/')[2]}/s-0.idx.npy")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    found = imagearchive.open(url, storage_options=options)
    assert found.table.path == f"{folder}/s-0.idx.npy"
    assert len(dict(found)) == 4


def test_upload_command_saves_the_indexes_beside_the_objects(bucket, moto, capsys):
    folder, options = bucket
    arguments = [f"{folder}/s-{{0..2}}.tar", "--upload", *on_command_line(options)]
    assert main(["index", *arguments]) == 0
    assert f"-> {folder}/s-2.idx.npy" in capsys.readouterr().out
    for number in range(3):
        assert moto.get(f"{folder.partition('://data/')[2]}/s-{number}.idx.npy")


@pytest.mark.parametrize("place", ["machine", "bucket"])
def test_upload_with_a_joined_index_that_exists_saves_each(bucket, moto, tmp_path, place):
    folder, options = bucket
    pattern = f"{folder}/s-{{0..2}}.tar"
    joined = tmp_path / "all.idx.npy" if place == "machine" else f"{folder}/all.idx.npy"
    imagearchive.open(pattern, ipath=joined, storage_options=options).close()
    imagearchive.open(pattern, ipath=joined, storage_options=options, save_index="remote").close()
    for number in range(3):
        assert moto.get(f"{folder.partition('://data/')[2]}/s-{number}.idx.npy")


def test_upload_of_the_index_of_a_file_is_an_error(shards):
    with pytest.raises(OptionError, match="only for an archive at a URL"):
        imagearchive.open(shards["s-0.tar"], save_index="remote")


def test_upload_to_an_http_server_is_an_error(faulty_server, shards):
    faulty_server.put({"a.tar": shards["s-0.tar"].read_bytes()})
    url = faulty_server.url("a.tar")
    for options in ({"save_index": "remote"}, {"ipath": faulty_server.url("a.idx.npy")}):
        with pytest.raises(OptionError, match="cannot be uploaded to an HTTP server") as caught:
            imagearchive.open(url, **options)
        assert str(caught.value).count("a.idx.npy") == 1


def test_upload_command_for_an_http_server_fails_once_before_any_request(
    faulty_server, shards, capsys
):
    faulty_server.put({name: path.read_bytes() for name, path in shards.items()})
    pattern = faulty_server.url("s-{0..2}.tar")
    for more in ((), ("--workers", "2"), ("--joined", "all.idx.npy")):
        assert main(["index", pattern, "--upload", *more]) == 1
        (error,) = capsys.readouterr().err.splitlines()
        assert "s-0.tar: its index cannot be uploaded to an HTTP server; index a copy" in error
        assert "s-0.idx.npy" in error
    assert not faulty_server.requests


def test_joined_index_in_a_bucket_is_opened_without_asking_for_the_shards(
    bucket, moto, pictures, capsys
):
    folder, options = bucket
    pattern, joined = f"{folder}/s-{{0..2}}.tar", f"{folder}/all.idx.npy"
    assert main(["index", pattern, "--joined", joined, *on_command_line(options)]) == 0
    log = moto.log.read_text()
    archive = imagearchive.open(pattern, ipath=joined, storage_options=options)
    asked = moto.log.read_text()[len(log) :]
    assert "s-0.tar HTTP" not in asked
    assert "s-1.tar HTTP" not in asked
    assert asked.count("all.idx.npy HTTP") <= 2
    assert dict(archive) == pictures
    with pytest.raises(StaleIndexError, match="built for others"):
        imagearchive.open(pattern.replace("0..2", "0..1"), ipath=joined, storage_options=options)


def test_joined_index_on_this_machine_is_opened_without_asking_for_the_shards(
    faulty_server, shards, pictures, tmp_path
):
    faulty_server.put({name: path.read_bytes() for name, path in shards.items()})
    pattern, joined = faulty_server.url("s-{0..2}.tar"), tmp_path / "all.idx.npy"
    imagearchive.open(pattern, ipath=joined).close()
    before = faulty_server.totals.requests
    archive = imagearchive.open(pattern, ipath=joined)
    assert faulty_server.totals.requests == before
    assert dict(archive) == pictures
    with pytest.raises(StaleIndexError, match="built for others"):
        imagearchive.open(faulty_server.url("s-{0..1}.tar"), ipath=joined)
    faulty_server.put({"s-1.tar": shards["s-0.tar"].read_bytes()})
    with pytest.raises(StaleIndexError, match=r"s-1\.tar.*pass overwrite_index=True"):
        dict(imagearchive.open(pattern, ipath=joined))


def test_joined_index_of_an_object_and_files_notices_files_that_changed(
    faulty_server, shards, tmp_path
):
    faulty_server.put({"s-0.tar": shards["s-0.tar"].read_bytes()})
    paths = [faulty_server.url("s-0.tar"), shards["s-1.tar"], shards["s-2.tar"]]
    joined = tmp_path / "all.idx.npy"
    imagearchive.open(paths, ipath=joined).close()
    shards["s-1.tar"].write_bytes(shards["s-2.tar"].read_bytes())
    with pytest.raises(StaleIndexError, match=r"s-1\.tar.*pass overwrite_index=True"):
        dict(imagearchive.open(paths, ipath=joined))


def test_joined_index_of_a_shard_that_was_replaced_is_an_error_when_it_is_read(
    bucket, moto, tmp_path
):
    folder, options = bucket
    pattern, joined = f"{folder}/s-{{0..2}}.tar", f"{folder}/all.idx.npy"
    imagearchive.open(pattern, ipath=joined, storage_options=options).close()
    other = write_tar(tmp_path / "other.tar", {"x": b"another member, longer than before"})
    moto.put(f"{folder.partition('://data/')[2]}/s-1.tar", other.read_bytes())
    archive = imagearchive.open(pattern, ipath=joined, storage_options=options)
    assert archive.read(0)
    with pytest.raises(StaleIndexError, match=r"s-1\.tar"):
        archive.read(5)
    built = imagearchive.open(pattern, ipath=joined, storage_options=options, overwrite_index=True)
    assert built["x"] == b"another member, longer than before"


def test_outage_while_an_index_is_looked_for_does_not_stop_the_scan(faulty_server, shards):
    faulty_server.put({"a.tar": shards["s-0.tar"].read_bytes()})
    faulty_server.fail(Status(status=403, path="a.idx.npy"))
    assert len(imagearchive.open(faulty_server.url("a.tar"))) == 4


def scanned(server, tmp_path, write, name="big"):
    path = write(tmp_path / name)
    server.put({name: path})
    server.forget()
    table = IndexTable.build(server.url(name))
    return len(table), path.stat().st_size, server.totals


def test_scan_of_a_tar_of_small_members_reads_it_through_once(faulty_server, tmp_path):
    members = {f"{number}.bin": bytes(100_000) for number in range(300)}
    before = faulty_server.totals
    count, size, after = scanned(faulty_server, tmp_path, lambda path: write_tar(path, members))
    assert count == 300
    # Headers that are compared later, 64 of them, are requests of their own.
    assert after.requests - before.requests < 100
    assert after.sent - before.sent < 1.2 * size


def test_scan_of_a_tar_of_large_members_reads_its_headers(faulty_server, tmp_path):
    members = {f"{number}.bin": bytes(4 << 20) for number in range(8)}
    before = faulty_server.totals
    count, size, after = scanned(faulty_server, tmp_path, lambda path: write_tar(path, members))
    assert count == 8
    assert after.requests - before.requests < 6 * count
    assert after.sent - before.sent < 0.1 * size


def test_scan_of_a_zip_of_large_members_requests_its_headers_at_once(faulty_server, tmp_path):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(10):
                # One header is longer than what is read of most.
                name = f"{number}" * (6000 if number == 4 else 1)
                archive.writestr(f"{name}.bin", bytes(3 << 20))
        return path

    path = write(tmp_path / "big.zip")
    faulty_server.put({"big.zip": path})
    faulty_server.configure(latency=0.03)
    table = IndexTable.build(faulty_server.url("big.zip"))
    faulty_server.configure()
    assert len(table) == 10
    assert faulty_server.totals.most_in_flight >= 5
    assert faulty_server.totals.sent < 1_000_000
    local = IndexTable.build(path)
    assert np.array_equal(table.entries, local.entries)


@pytest.mark.parametrize("kind", ["images", "samples", "rows"])
def test_dataset_saves_its_index_beside_the_archive_if_asked(
    moto, tmp_path, monkeypatch, pictures, kind
):
    options = {"storage_options": moto.storage_options}
    path = write_tar(tmp_path / "x.tar", pictures)
    if kind == "rows":
        np.savez(tmp_path / "x.npz", x=np.arange(6).reshape(3, 2))
        path = tmp_path / "x.npz"
    key = f"saved-{kind}/{path.name}"
    moto.put(key, path.read_bytes())
    url = f"s3://data/{key}"

    def open_dataset(**more):
        if kind == "images":
            return ImageArchive(url, **options, **more)
        if kind == "samples":
            return SampleArchive(url, {"image": "{key}.png"}, **options, **more)
        return LazyNPZDataset(url, **options, **more)

    def listed():
        return moto.request("GET", query=f"list-type=2&prefix=saved-{kind}/").body.count(b"<Key>")

    with open_dataset():
        assert listed() == 1
    with open_dataset(save_index="remote") as dataset:
        # The pairing of samples is saved beside the index.
        assert listed() == (3 if kind == "samples" else 2)
        expected = dataset[1]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    with open_dataset() as dataset:
        assert len(dataset) == (3 if kind == "rows" else 12)
        assert repr(dataset[1]).split(" at 0x")[0] == repr(expected).split(" at 0x")[0]
    with pytest.raises(OptionError, match="save_index must be"):
        open_dataset(save_index="both")
