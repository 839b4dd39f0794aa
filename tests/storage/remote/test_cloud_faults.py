"""Buckets on a server that makes mistakes: what is raised, and what it says."""

import datetime

import pytest
from support.archives import write_tar
from support.servers.faults import (
    Cut,
    Drip,
    Drop,
    Header,
    IgnoreRange,
    Redirect,
    Replace,
    Shorten,
    Status,
)
from support.servers.object_stores import HTTP_BUCKETS, http_bucket
from support.servers.program import free_port

import imagearchive
from imagearchive.errors import (
    ArchiveNotFoundError,
    RemoteAccessError,
    RemoteError,
    StaleIndexError,
    UnsupportedArchiveError,
)

ONCE = {"retry_config": {"max_retries": 0}, "client_options": {"timeout": "300ms"}}


def refusal(code, name):
    return Status(code, body=f"<Error><Code>{name}</Code></Error>".encode())


@pytest.fixture(params=list(HTTP_BUCKETS))
def scheme(request):
    return request.param


@pytest.fixture
def tar(tmp_path, pictures):
    return write_tar(tmp_path / "images.tar", pictures).read_bytes()


@pytest.fixture
def archive(faulty_server, scheme, tar):
    faulty_server.put({"data/images.tar": tar})
    options = http_bucket(scheme, faulty_server.url(), **ONCE)
    with imagearchive.open(f"{scheme}://data/images.tar", storage_options=options) as archive:
        yield archive


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (
            refusal(403, "AccessDenied"),
            RemoteAccessError,
            r"403 AccessDenied.*check the cred.*; pass storage_options=\{'skip_signature': True\}",
        ),
        (refusal(403, "RequestTimeTooSkewed"), RemoteAccessError, "the clock of this machine"),
        (refusal(400, "ExpiredToken"), RemoteAccessError, "credentials have expired"),
        (Status(401), RemoteAccessError, "access is denied"),
        (Status(404), ArchiveNotFoundError, "deleted while it was open"),
        (Status(503), RemoteError, "the server answered 503"),
        (Status(200, {"content-type": "text/html"}, b"Log in"), RemoteError, "login needed"),
        (IgnoreRange(), UnsupportedArchiveError, "ignores the header Range"),
        (Header("content-range", None), RemoteError, "does not say which range"),
        (Header("content-range", "bytes 5-2/9"), RemoteError, "another range"),
        (Shorten(7, method="GET"), RemoteError, "another range"),
        (Redirect("/data/images.tar"), RemoteError, "too many redirects"),
        (Cut(50), RemoteError, "the connection was closed"),
        (Drop(), RemoteError, "cannot be reached"),
        (Drip(10, 0.1), RemoteError, "did not answer in time"),
        (Header("etag", '"other"'), StaleIndexError, "was replaced"),
        (Replace(b"x" * 9000), StaleIndexError, "was replaced"),
    ],
    ids=str,
)
def test_bucket_that_fails_is_an_error_that_says_how(
    faulty_server, archive, scheme, fault, error, message
):
    faulty_server.fail(fault)
    with pytest.raises(error, match=rf"^{scheme}://data/images\.tar: .*{message}"):
        archive.read(0)


def test_server_that_is_not_there_is_not_mistaken_for_missing_credentials(scheme):
    options = http_bucket(scheme, f"http://127.0.0.1:{free_port()}", **ONCE)
    with pytest.raises(RemoteError, match="refused") as caught:
        imagearchive.open(f"{scheme}://tokens/credentials/a token.tar", storage_options=options)
    assert not isinstance(caught.value, RemoteAccessError)


def test_bucket_that_refuses_is_an_error_when_it_is_opened(faulty_server, scheme, tar):
    faulty_server.put({"data/images.tar": tar})
    options = http_bucket(scheme, faulty_server.url(), **ONCE)
    # The answer to HEAD has no body that says why.
    faulty_server.fail(refusal(400, "ExpiredToken"))
    with pytest.raises(RemoteAccessError, match="credentials have expired; obtain new ones"):
        imagearchive.open(f"{scheme}://data/images.tar", storage_options=options)


def test_object_replaced_by_a_shorter_one_without_conditions_is_an_error(
    faulty_server, archive, tar
):
    faulty_server.put({"data/images.tar": tar[:520]})
    # The server ignores the condition, and sends what is left of the range.
    headers = {
        "content-range": "bytes 512-519/520",
        "etag": '"new"',
        "last-modified": "Fri, 01 May 2026 10:00:00 GMT",
    }
    faulty_server.fail(Status(206, headers, tar[512:520], method="GET"))
    with pytest.raises(StaleIndexError, match="was replaced"):
        archive.read(0)


def test_failures_of_a_bucket_that_pass_are_repeated(faulty_server, scheme, tar, pictures):
    faulty_server.put({"data/images.tar": tar})
    quick = {"backoff": {"init_backoff": "1ms", "max_backoff": "5ms"}, "max_retries": 4}
    options = http_bucket(scheme, faulty_server.url(), retry_config=quick)
    url = f"{scheme}://data/images.tar"
    with imagearchive.open(url, storage_options=options) as archive:
        for fault in (
            Status(503, times=3),
            Shorten(7, method="GET", times=2),
            Drop(times=2),
            Cut(9, times=2),
        ):
            faulty_server.fail(fault)
            assert dict(archive) == pictures


def test_redirect_to_another_host_is_followed_without_authorization(faulty_server, scheme, tar):
    elsewhere = faulty_server.url("elsewhere.tar", host="localhost")
    faulty_server.put({"data/images.tar": tar, "elsewhere.tar": tar})
    faulty_server.fail(Redirect(elsewhere, path="data/images.tar"))
    options = http_bucket(scheme, faulty_server.url(), **ONCE)
    url = f"{scheme}://data/images.tar"
    with imagearchive.open(url, storage_options=options) as archive:
        assert archive.read(0)
    there = [request for request in faulty_server.requests if request.path == "elsewhere.tar"]
    assert there
    assert not any("authorization" in request.headers for request in there)


def test_credentials_that_expire_are_obtained_again(faulty_server, tar, pictures):
    faulty_server.put({"data/images.tar": tar})
    tokens = []

    def provide():
        tokens.append(f"token-{len(tokens)}")
        now = datetime.datetime.now(datetime.timezone.utc)
        keys = {"access_key_id": "reader", "secret_access_key": "hidden-key"}
        return {**keys, "token": tokens[-1], "expires_at": now}

    options = {
        "endpoint": faulty_server.url().rstrip("/"),
        "region": "us-east-1",
        "credential_provider": provide,
    }
    # The first token is refused once it has been used.
    faulty_server.fail(Status(403, header=("x-amz-security-token", "token-0"), skip=1))
    with imagearchive.open("s3://data/images.tar", storage_options=options) as archive:
        assert dict(archive) == pictures
    assert len(tokens) > 1
    assert faulty_server.requests[-1].headers["x-amz-security-token"] == tokens[-1]
