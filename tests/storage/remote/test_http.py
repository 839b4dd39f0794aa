"""Archives on HTTP servers: their bytes, and what the servers do wrong."""

import base64
import gzip
import io
import pickle
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.archives import write_tar, zip_bytes
from support.servers.faults import (
    Cut,
    Delay,
    Drip,
    Drop,
    Header,
    IgnoreRange,
    Redirect,
    Replace,
    Shorten,
    Status,
)
from support.servers.nginx import PASSWORD, USER

import imagearchive
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    OptionError,
    RemoteAccessError,
    RemoteError,
    StaleIndexError,
    UnsupportedArchiveError,
)
from imagearchive.storage.location import locate
from imagearchive.storage.path_options import add_options
from imagearchive.storage.remote.retries import RetryPolicy, TransientError

QUICK = {
    "retry_config": {"max_retries": 3, "backoff": {"init_backoff": "1ms", "max_backoff": "20ms"}}
}


@pytest.fixture
def tar(tmp_path, pictures):
    return write_tar(tmp_path / "images.tar", pictures).read_bytes()


@pytest.fixture
def url(faulty_server, tar):
    faulty_server.put({"set/images.tar": tar})
    return faulty_server.url("set/images.tar")


def opened(url, **options):
    return imagearchive.open(url, storage_options={**QUICK, **options})


def test_archive_of_an_http_url_has_the_members_of_the_file(url, pictures):
    with imagearchive.open(url) as archive:
        assert dict(archive) == pictures
        assert archive.info(0).archive == url


def test_archive_of_an_http_url_with_its_index_is_opened_without_a_scan(faulty_server, url):
    opened(url).close()
    faulty_server.forget()
    with opened(url) as archive:
        before = len(faulty_server.requests)
        assert archive["cat/0.png"]
        # One member is one request.
        assert len(faulty_server.requests) == before + 1
    assert faulty_server.totals.sent < 1000


def test_archive_of_an_https_url_needs_the_certificate(nginx, tar, pictures):
    (nginx.files / "images.tar").write_bytes(tar)
    url = f"{nginx.tls_url}/images.tar"
    with pytest.raises(RemoteError, match="certificate of the server is not trusted"):
        opened(url)
    certificate = nginx.tls_context().get_ca_certs(binary_form=True)[0]
    text = base64.encodebytes(certificate).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n"
    with opened(url, client_options={"root_certificate": pem}) as archive:
        assert dict(archive) == pictures


@pytest.mark.parametrize("way", ["url", "headers"])
def test_archive_behind_a_password_is_read_with_it(nginx, tar, pictures, way):
    (nginx.files / "private.tar").write_bytes(tar)
    url = f"{nginx.url}/private/private.tar"
    with pytest.raises(RemoteAccessError, match="access is denied"):
        opened(url)
    if way == "url":
        archive = opened(url.replace("://", f"://{USER}:{PASSWORD}@"))
    else:
        token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {token}"}
        archive = opened(url, client_options={"default_headers": headers})
    with archive:
        assert dict(archive) == pictures
        assert archive.paths == [url]


@pytest.mark.parametrize(
    "fault",
    [
        Status(status=503, times=2),
        Status(status=429, times=1, headers={"retry-after": "0"}),
        Cut(after=100, times=2),
        Cut(after=100, reset=True, times=2),
        Drop(times=2),
        Drop(reset=False, times=2),
    ],
    ids=str,
)
def test_read_is_repeated_after_a_failure_that_passes(faulty_server, url, tar, fault):
    with locate(add_options(url, QUICK)).open() as storage:
        faulty_server.fail(fault)
        assert storage.read(0, 2000) == tar[:2000]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Status(status=503), r"the server answered 503 .*\(4 attempts"),
        (Cut(after=100), "the body ended|connection was closed|IncompleteRead"),
        (Drop(), "the connection was closed"),
        (Shorten(missing=5), "bytes from 0 on instead of"),
        (Header(name="content-range", value=None), "does not say which range"),
        (Header(name="content-range", value="bytes 5-2/9"), "as the bytes from 5 to 3 of 9"),
        (Redirect(location="/set/images.tar"), "more than 10 redirects"),
        (Redirect(location="ftp://example.invalid/x"), "not HTTP"),
        (Redirect(location="http://[example/x"), "not HTTP"),
        (Redirect(location="http://localhost:99999/x"), "not HTTP"),
        (Redirect(location="http://\xe9..invalid/x"), "not HTTP"),
        (Status(status=418), "the server answered 418"),
        (Status(status=403), "access is denied"),
    ],
    ids=str,
)
def test_read_that_keeps_failing_is_an_error_that_names_the_object(
    faulty_server, url, fault, message
):
    with locate(add_options(url, QUICK)).open() as storage:
        faulty_server.fail(fault)
        with pytest.raises(RemoteError, match=f"set/images.tar: .*{message}"):
            storage.read(0, 2000)


def test_read_of_a_slow_body_is_given_up_after_the_timeout(faulty_server, url):
    options = {"retry_config": {"max_retries": 0}, "client_options": {"timeout": "200ms"}}
    with locate(add_options(url, options)).open() as storage:
        faulty_server.fail(Drip(chunk=10, interval=0.05))
        with pytest.raises(RemoteError, match=r"bytes arrived in 0.2 s"):
            storage.read(0, 2000)
        faulty_server.forget()
        faulty_server.fail(Delay(seconds=5))
        with pytest.raises(RemoteError, match="did not answer in time"):
            storage.read(0, 2000)


def test_server_that_ignores_ranges_is_an_error_that_says_so(faulty_server, url):
    faulty_server.fail(IgnoreRange())
    with pytest.raises(UnsupportedArchiveError, match="ignores the header Range"):
        imagearchive.open(url, overwrite_index=True)


def test_server_that_ignores_ranges_later_is_an_error_that_says_so(faulty_server, url):
    with opened(url) as archive:
        faulty_server.fail(IgnoreRange())
        with pytest.raises(UnsupportedArchiveError, match="ignores the header Range"):
            archive.read(0)


def test_page_instead_of_data_is_an_error_that_asks_for_a_login(faulty_server, url):
    page = Status(status=200, headers={"content-type": "text/html"}, body=b"<html>Log in</html>")
    faulty_server.fail(page)
    with pytest.raises(RemoteAccessError, match="web page instead of data"):
        opened(url)


@pytest.mark.parametrize("honest", [True, False])
def test_object_replaced_while_open_is_an_error(faulty_server, url, tar, honest):
    other = tar.replace(b"PNG", b"GNP")
    with opened(url) as archive:
        archive.read(0)
        faulty_server.put({"set/images.tar": other})
        if not honest:
            # The server ignores If-Match and sends the new bytes.
            faulty_server.fail(
                Status(
                    status=206,
                    headers={
                        "content-range": f"bytes 1536-1635/{len(tar)}",
                        "etag": '"new"',
                    },
                    body=other[1536:1636],
                )
            )
        with pytest.raises(StaleIndexError, match=r"set/images\.tar: the object was replaced"):
            archive.read(0)


def test_object_replaced_by_a_longer_one_is_an_error(faulty_server, url, tar):
    with opened(url) as archive:
        faulty_server.fail(Replace(data=tar + tar))
        with pytest.raises(StaleIndexError):
            archive.read(1)


def test_object_without_etag_is_recognized_by_its_time(faulty_server, url, pictures):
    faulty_server.fail(Header(name="etag", value=None))
    faulty_server.fail(Header(name="last-modified", value="Fri, 01 May 2026 10:00:00 GMT"))
    with opened(url) as archive:
        assert dict(archive) == pictures
        faulty_server.fail(Header(name="last-modified", value="Fri, 01 May 2026 10:00:01 GMT"))
        with pytest.raises(StaleIndexError):
            archive.read(0)


def test_missing_object_is_not_found(faulty_server, url):
    with pytest.raises(ArchiveNotFoundError, match=r"set/none\.tar"):
        opened(faulty_server.url("set/none.tar"))


def test_retries_that_last_are_a_warning_for_the_first_of_many_requests(caplog):
    retries = RetryPolicy(max_retries=6, init_backoff=0, max_backoff=0)

    def refuse():
        raise TransientError("Connection refused")

    for name in ("a.tar", "b.tar"):
        with pytest.raises(RemoteError):
            retries.run(refuse, lambda reason, name=name: RemoteError(f"{name}: {reason}"))
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "a.tar: Connection refused"
    ]


def test_retries_that_help_soon_are_no_warning(caplog):
    failures = iter([TransientError("reset")] * 3)

    def call():
        for failure in failures:
            raise failure
        return "answer"

    assert RetryPolicy(init_backoff=0).run(call, RemoteError) == "answer"
    assert caplog.records == []


@pytest.mark.parametrize("end", ["", "/"])
def test_url_of_a_server_without_a_path_is_an_error_that_names_it(url, end):
    server = "/".join(url.split("/")[:3]) + end
    with pytest.raises(UnsupportedArchiveError, match="not an archive; add the path") as caught:
        opened(server)
    assert str(caught.value).startswith(server)


def test_wildcard_on_an_http_server_is_an_error_that_says_why(url):
    with pytest.raises(UnsupportedArchiveError, match="cannot be listed"):
        opened(url.replace("images", "im*"))


def test_braces_on_an_http_server_name_several_objects(faulty_server, tmp_path, pictures):
    names = list(pictures)
    for number in range(3):
        shard = write_tar(tmp_path / "s.tar", {n: pictures[n] for n in names[number::3]})
        faulty_server.put({f"s-{number}.tar": shard.read_bytes()})
    with opened(faulty_server.url("s-{0..2}.tar")) as archive:
        assert dict(archive) == pictures
    with pytest.raises(ArchiveNotFoundError, match=r"s-3\.tar"):
        opened(faulty_server.url("s-{0..3}.tar"))


def _damaged(kind, tar):
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        second = archive.getmembers()[1].offset
    if kind == "header":
        return tar[:second] + b"\xff" * 512 + tar[second + 512 :]
    if kind == "tar":
        return tar[: second + 100]
    if kind == "tar.gz":
        whole = gzip.compress(tar)
    elif kind == "zip":
        whole = zip_bytes({f"{name}.txt": bytes(500) for name in "abc"})
    else:
        file = io.BytesIO()
        np.savez(file, x=np.array([[1], [2, 3], {"a": 4}] * 20, dtype=object))
        whole = file.getvalue()
    return whole[: len(whole) // 2]


@pytest.mark.parametrize("kind", ["tar", "header", "tar.gz", "zip", "npz"])
def test_damaged_object_is_the_same_error_as_a_damaged_file(faulty_server, tmp_path, tar, kind):
    name = f"damaged.{kind}"
    (tmp_path / name).write_bytes(_damaged(kind, tar))
    faulty_server.put({name: (tmp_path / name).read_bytes()})
    errors = []
    for path in (str(tmp_path / name), faulty_server.url(name)):
        with pytest.raises(CorruptArchiveError) as caught:
            imagearchive.open(path)
        assert path in str(caught.value)
        errors.append(str(caught.value).replace(path, "PATH"))
    assert errors[0] == errors[1]


def test_array_of_objects_on_a_server_is_read(faulty_server):
    rows = np.empty(3, object)
    rows[:] = [[1], [2, 3], {"a": 4}]
    file = io.BytesIO()
    np.save(file, rows)
    faulty_server.put({"rows.npy": file.getvalue()})
    dataset = imagearchive.LazyNPZDataset(faulty_server.url("rows.npy"))
    assert [next(iter(dataset[index].values())) for index in range(3)] == list(rows)


def test_empty_object_is_an_error_as_an_empty_file_is(faulty_server):
    faulty_server.put({"empty.tar": b""})
    assert locate(faulty_server.url("empty.tar")).status().size == 0
    with pytest.raises(imagearchive.errors.ImageArchiveError, match=r"empty\.tar"):
        opened(faulty_server.url("empty.tar"))


def test_name_with_spaces_and_percent_is_quoted(nginx, tar, pictures):
    (nginx.files / "a b%c.tar").write_bytes(tar)
    with opened(f"{nginx.url}/a%20b%25c.tar") as archive:
        assert dict(archive) == pictures
    assert locate(f"{nginx.url}/a%20b%25c.tar").name == "a b%c.tar"
    assert locate(nginx.url + "/").join("a b%c.tar").exists()


def test_redirect_to_another_host_is_followed_without_the_headers(faulty_server, url, pictures):
    faulty_server.put({"moved.tar": b""})
    # `localhost` is another host than 127.0.0.1.
    target = url.replace("127.0.0.1", "localhost")
    faulty_server.fail(Redirect(location=target, path="moved.tar"))
    moved = faulty_server.url("moved.tar")
    headers = {"Authorization": "Bearer hidden", "X-Token": "hidden"}
    with opened(moved, client_options={"default_headers": headers}) as archive:
        assert dict(archive) == pictures
    for request in faulty_server.requests:
        sent = "hidden" in str(request.headers)
        assert sent == (request.path == "moved.tar" or request.path.endswith(".idx.npy"))
    # The target is remembered, so a read is one request.
    assert sum(request.path == "moved.tar" for request in faulty_server.requests) <= 2


def test_redirect_whose_target_expires_is_asked_for_again(faulty_server, url, pictures):
    faulty_server.put({"moved.tar": b""})
    faulty_server.fail(Redirect(location=url + "?signature=1", path="moved.tar"))
    with opened(faulty_server.url("moved.tar")) as archive:
        faulty_server.fail(Status(status=403, path="set/images.tar", times=1))
        assert dict(archive) == pictures


def test_redirect_whose_target_expires_is_asked_for_again_by_all_threads(faulty_server, url, tar):
    faulty_server.put({"moved.tar": b""})
    faulty_server.fail(Redirect(location=url + "?signature=1", path="moved.tar"))
    moved = faulty_server.url("moved.tar")
    with locate(add_options(moved, QUICK)).open() as storage, ThreadPoolExecutor(4) as threads:
        # All threads have sent their requests before the first of them is refused.
        faulty_server.fail(Delay(seconds=0.2, path="set/images.tar", times=4))
        faulty_server.fail(Status(status=403, path="set/images.tar", times=4))
        for data in threads.map(lambda offset: storage.read(offset, 3000), range(4)):
            assert bytes(data) in tar


@pytest.mark.parametrize("host", ["[bad", "\xe9..invalid", "\xe9" * 70])
def test_url_without_a_valid_host_is_an_error(host):
    with pytest.raises(OptionError, match=f"{re.escape(host)}: not a valid host"):
        imagearchive.open(f"http://{host}/images.tar")


def test_part_that_is_larger_than_asked_for_is_not_allocated(faulty_server, url):
    size = 10**15
    faulty_server.fail(Header("content-range", f"bytes 0-{size - 1}/{size}"))
    faulty_server.fail(Header("content-length", str(size)))
    with pytest.raises(RemoteError, match="the server sends 1000000000000000 bytes instead of"):
        opened(url)


def test_query_is_sent_and_its_signature_is_not_shown(faulty_server, url, pictures):
    signed = url + "?download=true&X-Amz-Signature=hidden&token=hidden"
    with opened(signed) as archive:
        assert dict(archive) == pictures
        assert archive.paths == [url + "?download=true"]
        assert "hidden" not in repr(archive) + repr(archive.table.meta)
        assert b"hidden" not in pickle.dumps(archive)
        assert dict(pickle.loads(pickle.dumps(archive))) == pictures
        index = archive.table.path
    with open(index, "rb") as file:
        assert b"hidden" not in file.read()
    assert all(
        "X-Amz-Signature=hidden" in request.query
        for request in faulty_server.requests
        if request.path == "set/images.tar"
    )
    faulty_server.fail(Status(status=403))
    with pytest.raises(RemoteAccessError) as caught:
        opened(signed)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": "x"}, "there is no 'region'"),
        ({"client_options": {"speed": 1}}, "client_options has no 'speed'"),
        ({"client_options": {"timeout": "soon"}}, "must be a duration"),
        ({"retry_config": {"tries": 3}}, "retry_config has no 'tries'"),
    ],
)
def test_option_that_http_does_not_have_is_an_error(url, options, message):
    with pytest.raises(OptionError, match=message):
        imagearchive.open(url, storage_options=options)


@pytest.mark.parametrize("header", ["Bearer hidden\n", "Bearer hidden\u2026", b"hidden\r\nX: 1"])
def test_header_that_cannot_be_sent_is_an_error_that_does_not_show_it(url, header):
    with pytest.raises(OptionError, match="the header 'Authorization'") as caught:
        opened(url, client_options={"default_headers": {"Authorization": header}})
    assert "hidden" not in str(caught.value)


def test_signed_query_with_spaces_is_quoted(faulty_server, url, pictures):
    with opened(url + "?X-Amz-Signature=a b\u00e9&name=c d") as archive:
        assert dict(archive) == pictures
    assert faulty_server.requests[-1].query == "name=c%20d&X-Amz-Signature=a%20b%C3%A9"


@pytest.mark.parametrize("host", ["a b", "a\tb", "x" * 70, "a..b", "a:port"])
def test_host_that_cannot_exist_is_an_error_that_hides_the_signature(host):
    with pytest.raises((OptionError, RemoteError), match=r"not a valid|no such host") as caught:
        opened(f"http://{host}/a.tar?sig=hidden")
    assert "hidden" not in str(caught.value)


def test_large_member_read_in_order_is_fetched_ahead(faulty_server):
    buffer = io.BytesIO()
    content = bytes(range(256)) * 100_000
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("large.bin")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    faulty_server.put({"large.tar": buffer.getvalue()})
    with opened(faulty_server.url("large.tar")) as archive:
        before = len(faulty_server.requests)
        found = bytearray()
        with archive.open("large.bin") as file:
            while data := file.read(1 << 20):
                found += data
        assert found == content
    assert faulty_server.totals.sent < 1.3 * len(content)
    assert len(faulty_server.requests) - before < 15


def test_scattered_reads_in_order_fetch_nothing_ahead(faulty_server):
    content = bytes(range(256)) * 65_536
    faulty_server.put({"large.bin": content})
    with locate(faulty_server.url("large.bin")).open() as storage:
        scattered = storage.scattered()
        for offset in range(0, 1 << 20, 1 << 17):
            found = scattered.read(offset, 4096)
            assert found == content[offset : offset + 4096]
    assert faulty_server.totals.sent < 100_000
