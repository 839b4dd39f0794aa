"""Archives that are written to URLs: visible when they are whole, or not at all."""

import datetime
import os
import signal
import tempfile

import numpy as np
import pytest
from support.archives import write_tar
from support.command_line import start_command
from support.files import fill, samples
from support.servers.store_proxy import StoreProxy

import imagearchive
from imagearchive import LazyNPZDataset, NpzWriter, ShardWriter, TarWriter, ZipWriter
from imagearchive.cli import main
from imagearchive.errors import (
    IncompleteError,
    OptionError,
    RemoteError,
    TargetExistsError,
    UnsupportedArchiveError,
)
from imagearchive.storage.outputs import open_output
from imagearchive.storage.path_options import add_options

SCHEMES = {"moto": "s3", "s3rver": "s3", "google": "gs", "azurite": "az"}
#: Bytes that are sent in several parts.
LARGE = 20 << 20


@pytest.fixture(params=list(SCHEMES))
def store(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def bucket(store, request):
    """The URL of an empty directory in the store."""
    scheme = SCHEMES[request.node.callspec.params["store"]]
    return f"{scheme}://data/out{abs(hash(request.node.name))}"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def source(tmp_path):
    """A directory of 6 samples."""
    return fill(tmp_path / "src", samples(6))


@pytest.fixture
def proxy(moto):
    """A proxy in front of moto, and options that lead through it."""
    with StoreProxy(moto.url).running() as running:
        backoff = {"init_backoff": datetime.timedelta(milliseconds=1)}
        running.options = {
            **moto.storage_options,
            "endpoint": running.url,
            "retry_config": {"max_retries": 2, "backoff": backoff},
        }
        yield running


def keys(store, folder):
    """Names of the objects in a folder of a store that speaks S3."""
    body = store.request("GET", query=f"list-type=2&prefix={folder}").body.decode()
    return [part.partition("</Key>")[0] for part in body.split("<Key>")[1:]]


def unfinished(store):
    """How many uploads a store that speaks S3 keeps the parts of."""
    answer = store.request("GET", query="uploads=")
    assert answer.status == 200
    return answer.body.count(b"<Upload>")


def write_large(url, options, **more):
    with TarWriter(url, storage_options=options, **more) as tar:
        tar.add("large.bin", bytes(LARGE))


def same_files(here, there, options):
    """Whether archives at URLs have the bytes of files, and their members."""
    for path, url in zip(here, there, strict=True):
        with (
            imagearchive.open(path) as expected,
            imagearchive.open(url, storage_options=options) as found,
        ):
            assert dict(found) == dict(expected)
    return True


def test_tar_writer_to_a_url_writes_the_archive_and_its_index(store, bucket, tmp_path, temporary):
    options = store.storage_options
    for path, more in ((tmp_path / "x.tar", {}), (f"{bucket}/x.tar", {"storage_options": options})):
        with TarWriter(path, **more) as tar:
            tar.add("a/0001.txt", b"a cat")
            tar.add("a/0002.bin", bytes(100_000))
    key = f"{bucket.partition('://data/')[2]}/x.tar"
    assert store.get(key) == (tmp_path / "x.tar").read_bytes()
    assert store.get(key.replace(".tar", ".idx.npy"))
    assert tar.path == f"{bucket}/x.tar"
    assert same_files([tmp_path / "x.tar"], [f"{bucket}/x.tar"], options)
    assert not os.listdir(temporary)


def test_tar_writer_to_a_url_sends_large_archives_in_parts(store, bucket):
    write_large(f"{bucket}/x.tar", store.storage_options)
    with imagearchive.open(f"{bucket}/x.tar", storage_options=store.storage_options) as archive:
        assert archive.read("large.bin") == bytes(LARGE)


def test_upload_that_waits_for_others_is_not_removed_by_a_writer_of_another_url(moto):
    first = open_output(add_options("s3://data/waiting/a", moto.storage_options))
    first.file.write(b"a")
    # As `publish_together` does.
    first.complete()
    open_output(add_options("s3://data/waiting/b", moto.storage_options)).abort()
    first.publish()
    assert moto.get("waiting/a") == b"a"


def test_index_of_an_uploaded_archive_is_found_and_fresh(proxy, moto):
    url = "s3://data/fresh/x.tar"
    with TarWriter(url, storage_options=proxy.options) as tar:
        for number in range(50):
            tar.add(f"{number}.txt", b"text")
    proxy.requests.clear()
    with imagearchive.open(url, storage_options=proxy.options) as archive:
        assert len(archive) == 50
    # The archive was asked for its state, and not scanned.
    assert ("GET", "/data/fresh/x.idx.npy") in proxy.requests
    assert len(proxy.requests) <= 3


@pytest.mark.parametrize("index", [True, False])
def test_tar_writer_overwrite_at_a_url_replaces_archive_and_index(moto, index):
    url, options = f"s3://data/again-{index}/x.tar", moto.storage_options
    for name in ("old.txt", "new.txt"):
        with TarWriter(url, overwrite=name == "new.txt", index=index, storage_options=options) as t:
            t.add(name, b"text")
        with imagearchive.open(url, storage_options=options) as archive:
            assert list(archive) == [name]
    with pytest.raises(TargetExistsError, match=r"s3://data/again-.*x\.tar exists"):
        TarWriter(url, storage_options=options)
    assert (f"again-{index}/x.idx.npy" in keys(moto, f"again-{index}")) == index


def test_npz_and_zip_writer_to_a_url(store, bucket):
    options = store.storage_options
    with NpzWriter(f"{bucket}/x.npz", storage_options=options) as writer:
        for number in range(5):
            writer.append(x=np.full((4, 4), number), name=f"row {number}")
    with LazyNPZDataset(f"{bucket}/x.npz", storage_options=options) as rows:
        assert [row["name"] for row in rows] == [f"row {number}" for number in range(5)]
        assert np.array_equal(rows[3]["x"], np.full((4, 4), 3))
    with ZipWriter(f"{bucket}/x.zip", storage_options=options) as packed:
        packed.add("a.txt", b"text")
    with imagearchive.open(f"{bucket}/x.zip", storage_options=options) as archive:
        assert dict(archive) == {"a.txt": b"text"}


def test_shard_writer_to_urls_writes_readable_shards(moto):
    options = moto.storage_options
    with ShardWriter(
        "s3://data/sw/t-{:03d}.tar", shard_samples=2, storage_options=options
    ) as writer:
        for number in range(5):
            writer.write({"__key__": f"{number}", "txt": f"{number}"})
        assert "sw/t-000.tar" in keys(moto, "sw/")
    assert writer.pattern == "s3://data/sw/t-{000..002}.tar"
    with imagearchive.open(writer.pattern) as archive:
        assert list(archive) == [f"{number}.txt" for number in range(5)]
    with pytest.raises(TargetExistsError):
        ShardWriter("s3://data/sw/t-{:03d}.tar", storage_options=options)


def test_writer_to_a_url_leaves_nothing_after_an_exception(moto, temporary):
    with (
        pytest.raises(ZeroDivisionError),
        TarWriter("s3://data/fails/x.tar", storage_options=moto.storage_options) as tar,
    ):
        tar.add("a", b"a")
        assert len(os.listdir(temporary)) == 1
        raise ZeroDivisionError
    assert not keys(moto, "fails")
    assert not os.listdir(temporary)


def test_temporary_file_of_an_upload_is_readable_by_its_owner_only(moto, temporary):
    with TarWriter("s3://data/mode/x.tar", storage_options=moto.storage_options):
        (name,) = os.listdir(temporary)
        assert os.stat(temporary / name).st_mode & 0o077 == 0


def test_upload_that_fails_in_the_middle_leaves_nothing(proxy, moto, temporary):
    proxy.mistake = lambda method, target: 503 if "partNumber=2" in target else None
    with pytest.raises(RemoteError, match=r"^s3://data/middle/x\.tar: the server answered 503$"):
        write_large("s3://data/middle/x.tar", proxy.options)
    assert not keys(moto, "middle")
    assert not unfinished(moto)
    assert not os.listdir(temporary)


def test_upload_is_repeated_after_errors_that_pass(proxy, moto):
    answers = iter([503, 500])
    proxy.mistake = lambda method, target: next(answers, None) if "partNumber=2" in target else None
    write_large("s3://data/passes/x.tar", proxy.options)
    with imagearchive.open("s3://data/passes/x.tar", storage_options=proxy.options) as archive:
        assert archive.read("large.bin") == bytes(LARGE)


def test_upload_that_is_interrupted_leaves_nothing(proxy, moto, temporary):
    def interrupt(method, target):
        if target.endswith("?uploads="):
            os.kill(os.getpid(), signal.SIGINT)

    proxy.mistake = interrupt
    with pytest.raises(KeyboardInterrupt):
        write_large("s3://data/interrupted/x.tar", proxy.options)
    assert not keys(moto, "interrupted")
    assert not unfinished(moto)
    assert not os.listdir(temporary)


def test_writer_in_a_forked_child_uploads(moto):
    url, options = "s3://data/forked/x.tar", moto.storage_options
    with TarWriter(url, storage_options=options) as tar:
        tar.add("parent.txt", b"parent")
    pid = os.fork()
    if not pid:
        status = 1
        try:
            with TarWriter(url, overwrite=True, storage_options=options) as tar:
                tar.add("child.txt", b"child")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    with imagearchive.open(url, storage_options=options) as archive:
        assert dict(archive) == {"child.txt": b"child"}


@pytest.mark.parametrize("executor", [None, 2])
def test_pack_to_urls_writes_the_same_shards_and_only_what_is_missing(
    proxy, moto, source, tmp_path, executor
):
    target = f"s3://data/pack-{executor}/x.tar"
    here = imagearchive.pack(source, tmp_path / "x.tar", shards=3)

    def pack():
        return imagearchive.pack(
            source, target, shards=3, executor=executor, storage_options=proxy.options
        )

    there = pack()
    assert there == [f"s3://data/pack-{executor}/x-00000{number}.tar" for number in range(3)]
    assert same_files(here, there, moto.storage_options)
    moto.request("DELETE", f"pack-{executor}/x-000001.tar")
    moto.request("DELETE", f"pack-{executor}/x-000002.idx.npy")
    proxy.requests.clear()
    assert pack() == there
    written = [target.rpartition("/")[2] for method, target in proxy.requests if method == "PUT"]
    assert sorted(written) == ["x-000001.idx.npy", "x-000001.tar", "x-000002.idx.npy"]
    (source / "0000.jpg").write_bytes(b"changed")
    with pytest.raises(IncompleteError, match=r"x-000000\.tar exists"):
        pack()


def test_pack_to_urls_reports_the_shards_that_fail(proxy, moto, source):
    proxy.mistake = lambda method, target: (
        503 if method == "PUT" and "x-000001.tar" in target else None
    )
    with pytest.raises(IncompleteError, match=r"x-000001\.tar: the server answered 503"):
        imagearchive.pack(
            source, "s3://data/part/x.tar", shards=3, storage_options=proxy.options, index=False
        )
    assert keys(moto, "part") == ["part/x-000000.tar", "part/x-000002.tar"]


def test_pack_to_urls_that_is_killed_goes_on_where_it_was(proxy, moto, source, temporary):
    command = ["pack", source, "s3://data/killed/x.tar", "--shards", "3", "--quiet"]
    command += [f"--storage-option=endpoint={proxy.url}", "--storage-option=region=us-east-1"]
    command += ["--storage-option=client_options.allow_http=true"]
    access, secret = moto.keys
    env = os.environ | {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
    process = start_command(*command, env=env)

    def kill(method, target):
        if method == "PUT" and target.endswith("x-000001.tar"):
            process.kill()
            return 503
        return None

    proxy.mistake = kill
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "killed/x-000001.tar" not in keys(moto, "killed")
    assert len(os.listdir(temporary)) == 1
    proxy.mistake = None
    proxy.requests.clear()
    process = start_command(*command, env=env)
    assert process.communicate() == (b"", b"")
    assert process.returncode == 0
    assert ("PUT", "/data/killed/x-000000.tar") not in proxy.requests
    assert not os.listdir(temporary)
    with imagearchive.open(
        "s3://data/killed/x-{000000..000002}.tar", storage_options=moto.storage_options
    ) as archive:
        assert sorted(archive) == sorted(os.listdir(source))


@pytest.mark.parametrize("target", ["one.tar", "one.zip"])
def test_pack_to_one_url_has_the_members(moto, source, target):
    url = f"s3://data/one/{target}"
    assert imagearchive.pack(source, url, storage_options=moto.storage_options) == [url]
    with imagearchive.open(url, storage_options=moto.storage_options) as archive:
        assert sorted(archive) == sorted(os.listdir(source))
    assert f"one/{target[:3]}.idx.npy" in keys(moto, "one")


@pytest.mark.parametrize("shards", [None, 2])
def test_convert_to_urls_has_the_members(moto, image_tar, pictures, shards):
    with imagearchive.open(image_tar) as archive:
        imagearchive.convert(
            archive,
            f"s3://data/convert-{shards}/x.zip",
            shards=shards,
            storage_options=moto.storage_options,
        )
        with pytest.raises(OptionError, match="bins cannot be written to a URL"):
            imagearchive.convert(
                archive, "s3://data/convert/bins", storage_options=moto.storage_options
            )
    pattern = f"s3://data/convert-{shards}/x*.zip"
    with imagearchive.open(pattern, storage_options=moto.storage_options) as archive:
        assert dict(archive) == pictures


def test_repack_to_urls_goes_on_after_an_interrupt(proxy, moto, image_tar, pictures):
    def repack():
        return imagearchive.repack(
            image_tar, "s3://data/repack/x-{}.tar", shard_samples=4, storage_options=proxy.options
        )

    proxy.mistake = lambda method, target: (
        503 if method == "PUT" and target.endswith("x-000001.tar") else None
    )
    with pytest.raises(RemoteError, match=r"x-000001\.tar"):
        repack()
    proxy.mistake = None
    proxy.requests.clear()
    made = repack()
    # Answers that come one after the other do not tell how fast a loader is.
    assert made.speed_before > made.speed_after == 0
    assert ("PUT", "/data/repack/x-000000.tar") not in proxy.requests
    with imagearchive.open(made.paths, storage_options=proxy.options) as archive:
        assert dict(archive) == pictures
    assert len(keys(moto, "repack")) == 6, "three shards and their indexes, and nothing else"


def test_repack_to_an_npz_at_a_url(moto, image_tar):
    url = "s3://data/repack-npz/x.npz"
    made = imagearchive.repack(image_tar, url, resize=8, storage_options=moto.storage_options)
    assert made.speed_before > made.speed_after == 0
    with LazyNPZDataset(url, storage_options=moto.storage_options) as rows:
        assert len(rows) == 12
        assert rows[0]["image"].shape == (8, 8, 3)
    with pytest.raises(TargetExistsError):
        imagearchive.repack(image_tar, url, resize=8, storage_options=moto.storage_options)


def test_joined_index_is_written_to_a_url(moto, tmp_path, pictures, capsys):
    options = [f"--storage-option={name}={moto.storage_options[name]}" for name in (
        "endpoint", "region", "access_key_id", "secret_access_key",
    )]  # fmt: skip
    path = write_tar(tmp_path / "x.tar", pictures)
    assert main(["index", str(path), "--ipath", "s3://data/ix/x.idx.npy", *options]) == 0
    assert "-> s3://data/ix/x.idx.npy" in capsys.readouterr().out
    assert keys(moto, "ix") == ["ix/x.idx.npy"]


def test_pack_to_a_file_system_of_fsspec(source):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    made = imagearchive.pack(source, "memory://out/x.tar", shards=2, filesystem=memory)
    with imagearchive.open(made, filesystem=memory) as archive:
        assert sorted(archive) == sorted(os.listdir(source))
    # The second call finds them.
    assert imagearchive.pack(source, "memory://out/x.tar", shards=2, filesystem=memory) == made
    memory.store.clear()


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("https://example.org/x.tar", OptionError, "files cannot be written to an HTTP server"),
        ("ftp://example.org/x.tar", UnsupportedArchiveError, "URLs that begin with ftp://"),
        ("s3://bucket", OptionError, "names no object"),
    ],
)
def test_writers_refuse_urls_that_cannot_be_written(image_tar, source, url, error, message):
    shards = url.replace("x.tar", "x-{}.tar").replace("s3://bucket", "ftp://x/{}.tar")
    with imagearchive.open(image_tar) as archive:
        for call in (
            lambda: TarWriter(url),
            lambda: ZipWriter(url),
            lambda: NpzWriter(url),
            lambda: imagearchive.pack(source, url),
            lambda: imagearchive.convert(archive, url, "tar"),
        ):
            with pytest.raises(error, match=message):
                call()
    for call in (lambda: ShardWriter(shards), lambda: imagearchive.repack(image_tar, shards)):
        with pytest.raises((OptionError, UnsupportedArchiveError), match=r"written|begin with"):
            call()


def test_pack_command_refuses_an_http_url(source, capsys):
    assert main(["pack", str(source), "https://example.org/x.tar"]) != 0
    assert "files cannot be written to an HTTP server" in capsys.readouterr().err
