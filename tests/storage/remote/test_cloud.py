"""Archives in buckets: S3 by two servers, Azure and Google Cloud by one each."""

import pickle

import numpy as np
import pytest
from support.archives import write_tar

import imagearchive
from imagearchive import DataLoader, ImageArchive, LazyNPZDataset, Resize
from imagearchive.cli import main
from imagearchive.errors import (
    ArchiveNotFoundError,
    MissingDependencyError,
    OptionError,
    RemoteAccessError,
    RemoteError,
    StaleIndexError,
)
from imagearchive.storage.location import locate
from imagearchive.storage.path_options import add_options

SCHEMES = {"moto": "s3", "s3rver": "s3", "azurite": "az", "google": "gs"}
# How the options are called in the environment.
VARIABLES = {"s3": "AWS_", "az": "AZURE_STORAGE_", "gs": "GOOGLE_"}
ONCE = {"max_retries": 0}


@pytest.fixture(params=list(SCHEMES))
def store(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def put(store, tmp_path, request):
    """Store a file; returns its URL and the options to read it."""
    folder = f"t{abs(hash(request.node.name))}"

    def put_file(path, name=None):
        key = f"{folder}/{name or path.name}"
        store.put(key, path.read_bytes())
        return f"{SCHEMES[store.name]}://data/{key}"

    return put_file


@pytest.fixture
def shards(put, tmp_path, pictures):
    names = list(pictures)
    for number in range(3):
        path = write_tar(tmp_path / f"s-{number}.tar", {n: pictures[n] for n in names[number::3]})
        url = put(path)
    return url.replace("s-2", "s-{0..2}")


def test_archive_in_a_bucket_has_the_members_of_the_file(store, put, image_tar, pictures):
    url = put(image_tar)
    archive = imagearchive.open(url, storage_options=store.storage_options)
    assert dict(archive) == pictures
    assert dict(pickle.loads(pickle.dumps(archive))) == pictures
    assert archive.paths == [url]


def test_pattern_in_a_bucket_matches_what_is_listed(store, shards, pictures):
    options = store.storage_options
    for pattern in (shards, shards.replace("{0..2}", "*"), shards.replace("{0..2}", "[012]")):
        assert dict(imagearchive.open(pattern, storage_options=options)) == pictures
    with pytest.raises(ArchiveNotFoundError, match="no archive matches"):
        imagearchive.open(shards.replace("s-{0..2}", "t-*"), storage_options=options)


def test_directory_in_a_bucket_lists_its_files(store, put, tmp_path):
    (tmp_path / "x").write_bytes(b"data")
    url = put(tmp_path / "x", "sub/dir/x")
    folder = locate(add_options(url, store.storage_options)).parent
    assert [entry.name for entry in folder.list()] == ["x"]
    assert folder.status().is_directory
    assert [(one.name, one.status.is_directory) for one in folder.parent.list()] == [("dir", True)]
    assert not folder.join("none").exists()
    assert folder.join("x").status().size == 4


def test_objects_replaced_while_open_are_an_error(store, put, image_tar):
    url = put(image_tar)
    archive = imagearchive.open(url, storage_options=store.storage_options)
    archive.read(0)
    data = image_tar.read_bytes()
    store.put(url.partition("://data/")[2], data[:-512] + b"\1" * 512)
    with pytest.raises(StaleIndexError, match="replaced"):
        archive.read(0)


def test_missing_object_and_bucket_are_not_found(store, put, image_tar):
    url = put(image_tar)
    options = {**store.storage_options, "retry_config": ONCE}
    for wrong in (url + "x", url.replace("://data/", "://other/")):
        with pytest.raises(ArchiveNotFoundError, match="no such archive"):
            imagearchive.open(wrong, storage_options=options)


def test_loader_of_a_bucket_gives_the_batches_of_files(store, shards):
    def batches(source, **options):
        loader = DataLoader(
            source,
            batch_size=4,
            num_workers=2,
            transform=Resize(8, 8),
            output="numpy",
            shuffle=True,
            **options,
        )
        return [(images.copy(), np.array(labels)) for images, labels in loader]

    options = store.storage_options
    found = batches(shards, storage_options=options)
    expected = batches(ImageArchive(shards, storage_options=options))
    assert [len(labels) for _, labels in found] == [4, 4, 4]
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(found, expected))


def test_npz_in_a_bucket_gives_its_rows(store, put, tmp_path):
    np.savez(tmp_path / "train.npz", x=np.arange(12).reshape(4, 3))
    url = put(tmp_path / "train.npz")
    dataset = LazyNPZDataset(url, storage_options=store.storage_options)
    assert dataset[2]["x"].tolist() == [6, 7, 8]


def test_empty_object_has_size_zero(store, put, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    location = locate(add_options(put(tmp_path / "empty"), store.storage_options))
    assert location.status().size == 0
    with location.open("memory") as storage:
        assert storage.read(0, 0) == b""


def test_command_reads_from_a_bucket(moto, image_tar, capsys):
    moto.put("command/images.tar", image_tar.read_bytes())
    options = []
    for name in ("endpoint", "region", "access_key_id", "secret_access_key"):
        options += ["--storage-option", f"{name}={moto.storage_options[name]}"]
    assert main(["ls", "s3://data/command/images.tar", *options]) == 0
    assert "cat-b/" in capsys.readouterr().out
    assert main(["ls", "s3://data/command/images.tar", "--storage-option", "region"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["moto", "azurite", "google"])
def test_credentials_in_the_environment_are_found(name, request, image_tar, pictures, monkeypatch):
    store = request.getfixturevalue(name)
    store.put("environment/images.tar", image_tar.read_bytes())
    for option, value in store.storage_options.items():
        monkeypatch.setenv(VARIABLES[SCHEMES[name]] + option.upper(), value)
    url = f"{SCHEMES[name]}://data/environment/images.tar"
    assert dict(imagearchive.open(url)) == pictures


def test_public_bucket_of_google_is_read_without_credentials(google, image_tar, pictures):
    public = {"x-amz-acl": "public-read"}
    google.request("PUT", "public/images.tar", image_tar.read_bytes(), public)
    options = {"base_url": google.url, "skip_signature": True}
    archive = imagearchive.open("gs://data/public/images.tar", storage_options=options)
    assert dict(archive) == pictures


def test_credentials_are_in_nothing_that_is_shown_or_saved(azurite, image_tar, caplog):
    azurite.put("hidden/images.tar", image_tar.read_bytes())
    secret = azurite.storage_options["account_key"]
    archive = imagearchive.open(
        "az://data/hidden/images.tar", storage_options=azurite.storage_options
    )
    shown = repr(archive) + repr(archive.table.meta) + repr(archive.paths) + caplog.text
    wrong = {**azurite.storage_options, "account_key": secret[:-6] + "AAAA=="}
    with pytest.raises(RemoteAccessError) as caught:
        imagearchive.open("az://data/hidden/images.tar", storage_options=wrong)
    shown += str(caught.value) + repr(caught.value)
    assert secret not in shown
    assert wrong["account_key"] not in shown
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert secret.encode() not in pickle.dumps(archive)
    with open(archive.table.path, "rb") as file:
        assert secret.encode() not in file.read()


def test_server_that_is_not_there_is_an_error_that_names_the_object():
    options = {
        "endpoint": "http://127.0.0.1:9",
        "access_key_id": "x",
        "secret_access_key": "y",
        "region": "us-east-1",
        "retry_config": ONCE,
    }
    with pytest.raises(RemoteError, match=r"s3://data/a\.tar: the .*(connect|reached|refused)"):
        imagearchive.open("s3://data/a.tar", storage_options=options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpiont": "x"}, "endpiont"),
        ({"prefix": "x"}, "part of the URL"),
        ({"secret_access_key": 7}, "storage_options of s3://data"),
    ],
)
def test_option_that_does_not_exist_is_an_error(options, message):
    with pytest.raises(OptionError, match=message):
        imagearchive.open("s3://data/a.tar", storage_options=options)


def test_bucket_without_obstore_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(MissingDependencyError, match=r"imagearchive\[remote\]"):
        imagearchive.open("s3://another-bucket/a.tar")
