"""Credentials are in nothing that is shown, logged, or written, whatever happens."""

import base64
import logging
import multiprocessing
import os
import pickle
import traceback

import psutil
import pytest
from support.archives import write_tar
from support.servers.faults import Drop, IgnoreRange, Redirect, Status
from support.servers.object_stores import HTTP_BUCKETS, http_bucket

import imagearchive
from imagearchive import DataLoader, ImageArchive, Resize
from imagearchive.cli import main
from imagearchive.errors import ImageArchiveError

ONCE = {"max_retries": 0}
# How credentials are given, by a short name.
WAYS = [*HTTP_BUCKETS, "header", "user", "signature"]


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture
def source(faulty_server, way, tmp_path, pictures):
    """Return the URL of an archive, and the options to read it with credentials."""
    tar = write_tar(tmp_path / "images.tar", pictures).read_bytes()
    faulty_server.put({"data/images.tar": tar})
    url = faulty_server.url("data/images.tar")
    if way in HTTP_BUCKETS:
        options = http_bucket(way, faulty_server.url(), retry_config=ONCE)
        return f"{way}://data/images.tar", options
    options = {"retry_config": ONCE}
    if way == "header":
        options["client_options"] = {"default_headers": {"Authorization": "Bearer hidden-token"}}
    elif way == "user":
        url = url.replace("://", "://reader:hidden-key@")
    else:
        url += "?X-Amz-Signature=hidden-token&token=hidden-key"
    return url, options


def secrets():
    """Return what must not be found."""
    keys = ["hidden", base64.b64encode(b"hidden-key").decode()]
    keys += [base64.b64encode(b"reader:hidden-key").decode()]
    return [key.encode() for key in keys]


def assert_hidden(*texts):
    for text in texts:
        data = text if isinstance(text, bytes) else text.encode()
        assert not any(secret in data for secret in secrets()), text


def test_credentials_are_in_nothing_that_is_shown_or_written(
    faulty_server, source, tmp_path, monkeypatch, caplog, capfd
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    caplog.set_level(logging.DEBUG)
    url, options = source
    sent = {"storage_options": options, "cache_dir": tmp_path / "blocks"}
    with ImageArchive(url, ipath=tmp_path / "joined.idx.npy", **sent) as dataset:
        dataset[0]
        loader = DataLoader(
            dataset, batch_size=4, num_workers=2, output="numpy", transform=Resize(8, 8)
        )
        assert len(list(loader)) == 3
        shown = [repr(dataset), repr(loader), repr(loader.state_dict()), repr(vars(dataset))]
        assert_hidden(pickle.dumps(dataset), *shown)
    with imagearchive.open(url, **sent) as archive:
        meta = archive.table.meta
        assert_hidden(repr(archive), repr(archive.paths), repr(meta), pickle.dumps(archive))
        assert_hidden(repr(archive.info(0)), repr(imagearchive.verify(archive)))
    # The server was told.
    asked = faulty_server.requests[-1]
    if "signature" not in url.lower():
        assert "authorization" in asked.headers
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 4
    for path in written:
        assert_hidden(str(path), path.read_bytes())
    assert_hidden(caplog.text, *capfd.readouterr())


@pytest.mark.parametrize(
    "fault",
    [
        Status(403),
        Status(400, body=b"<Error><Code>ExpiredToken</Code></Error>"),
        Status(500, body=b"hidden-token"),
        Drop(),
        IgnoreRange(),
        Redirect("/data/images.tar"),
        Status(200, {"content-type": "text/html"}, b"<html>hidden-key"),
    ],
    ids=lambda fault: f"{type(fault).__name__}{getattr(fault, 'status', '')}",
)
def test_credentials_are_in_no_error(faulty_server, source, fault, caplog):
    caplog.set_level(logging.DEBUG)
    url, options = source
    faulty_server.fail(fault)
    with pytest.raises(ImageArchiveError) as caught:
        imagearchive.open(url, storage_options=options, overwrite_index=True)
    lines = traceback.format_exception(caught.value)
    assert_hidden("".join(lines), repr(caught.value), pickle.dumps(caught.value), caplog.text)


def test_credentials_are_in_nothing_that_a_command_prints(faulty_server, source, capfd):
    url, options = source
    flat = {}
    for name, value in options.items():
        parts = value if isinstance(value, dict) else {None: value}
        for part, inner in parts.items():
            pairs = inner if isinstance(inner, dict) else {None: inner}
            for last, text in pairs.items():
                flat[".".join(one for one in (name, part, last) if one)] = str(text)
    given = [word for item in flat.items() for word in ("--storage-option", "=".join(item))]
    for command in (["ls", url], ["info", url], ["info", "--json", url], ["verify", url]):
        assert main([*command, *given]) == 0
    faulty_server.fail(Status(403))
    assert main(["ls", url, *given]) == 1
    out, err = capfd.readouterr()
    assert "images.tar" in out
    assert "access is denied" in err
    assert_hidden(out, err)


def _read_and_describe(source):
    """Read in a child, and return the command lines of its own children."""
    url, options = source
    with imagearchive.open(url, storage_options=options) as archive:
        archive.read(0)
    children = psutil.Process().children(recursive=True)
    return [(child.cmdline(), child.environ()) for child in children]


def test_credentials_are_not_in_the_arguments_of_a_helper_process(faulty_server, source, way):
    url, options = source
    with imagearchive.open(url, storage_options=options) as archive:
        archive.read(0)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        described = pool.apply(_read_and_describe, (source,))
    assert bool(described) == (way in HTTP_BUCKETS)
    assert_hidden(repr(described))
    assert_hidden(repr(psutil.Process().cmdline()), repr(dict(os.environ)))
