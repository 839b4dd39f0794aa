"""`HttpResponse` reads what `http.client` reads, and refuses what cannot be read."""

import contextlib
import http.client
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagearchive.storage.remote.http_response import HttpResponse

SHORT = b'HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nETag: "x"\r\n\r\nhello'


def answered(data, parts=1):
    """Return a response to which these bytes are sent, in parts, before the connection ends."""
    ours, theirs = socket.socketpair()

    def send():
        # The reader may have given up.
        with theirs, contextlib.suppress(BrokenPipeError):
            step = -(-len(data) // parts) or 1
            for start in range(0, len(data), step):
                theirs.sendall(data[start : start + step])
                if parts > 1:
                    time.sleep(0.0005)

    threading.Thread(target=send).start()
    ours.settimeout(5)
    return ours


def response_of(data, parts=1):
    with answered(data, parts) as connected:
        response = HttpResponse(connected, time.monotonic() + 5)
        return response, body_of(response)


def body_of(response, size=1 << 20):
    body = b""
    buffer = memoryview(bytearray(size))
    while received := response.readinto(buffer):
        body += bytes(buffer[:received])
    return body


def chunked(parts, trailer=b""):
    sizes = b"".join(b"%X;x=1\r\n%s\r\n" % (len(part), part) for part in parts if part)
    return sizes + b"0\r\n" + trailer + b"\r\n"


def values_of(response, name):
    return [value.strip() for value in response.getheader(name).split(",")]


names = st.sampled_from(["ETag", "Last-Modified", "X-Thing", "content-type", "Set-Cookie"])
values = st.text('abc "\t,:;=\xe9', max_size=20)
bodies = st.lists(st.binary(max_size=300), max_size=4)


@given(
    headers=st.lists(st.tuples(names, values), max_size=5),
    body=bodies,
    is_chunked=st.booleans(),
    interim=st.booleans(),
    newline=st.sampled_from(["\r\n", "\n"]),
    parts=st.integers(1, 3),
    status=st.sampled_from([200, 206, 304, 404, 416, 503]),
)
def test_response_is_what_http_client_reads(
    headers, body, is_chunked, interim, newline, parts, status
):
    # `http.client` would read a chunk where there is no body.
    is_chunked = is_chunked and status != 304
    whole = b"".join(body)
    framing = ("Transfer-Encoding", "chunked") if is_chunked else ("Content-Length", len(whole))
    lines = [f"HTTP/1.1 {status} Some Reason", *(f"{n}: {v}" for n, v in [*headers, framing])]
    data = newline.join([*lines, "", ""]).encode("latin-1")
    if interim:
        data = b"HTTP/1.1 100 Continue\r\n\r\n" + data
    if status != 304:
        data += chunked(body, b"X-Trailer: 1\r\n") if is_chunked else whole
    found, content = response_of(data, parts)
    with answered(data) as connected:
        expected = http.client.HTTPResponse(connected)
        expected.begin()
        assert content == expected.read()
        assert (found.status, found.reason) == (expected.status, expected.reason)
        for name in {name for name, _ in headers}:
            assert values_of(found, name) == values_of(expected, name)
    assert found.can_be_followed


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
    ],
)
def test_connection_that_the_server_closes_is_not_used_again(head):
    response, body = response_of(head + b"hello")
    assert body in (b"hello", b"hell")
    assert not response.can_be_followed


def test_connection_is_not_used_again_before_the_body_is_read():
    with answered(SHORT) as connected:
        response = HttpResponse(connected, time.monotonic() + 5)
        assert response.length == 5
        assert not response.can_be_followed
        response.finish(4)
        assert not response.can_be_followed
        response.finish(5)
        assert response.can_be_followed


def test_long_value_goes_on_in_the_next_line():
    response, _ = response_of(b"HTTP/1.1 200 OK\r\nA: one\r\n\ttwo\r\nContent-Length: 0\r\n\r\n")
    assert response.getheader("a") == "one two"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 10_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 20_000,
    ],
    ids=lambda data: repr(data[:70]),
)
def test_response_that_is_not_http_is_an_error(data):
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        response_of(data)


@given(st.binary(max_size=200))
def test_response_of_any_bytes_is_read_or_an_error(data):
    for prefix in (b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        try:
            response_of(prefix + data)
        except (http.client.HTTPException, ConnectionError):
            pass


def test_chunk_size_that_arrives_too_slowly_is_an_error():
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1")
            # Long enough for the headers on a busy machine.
            deadline = time.monotonic() + 0.5
            response = HttpResponse(ours, deadline)
            while time.monotonic() <= deadline:
                time.sleep(0.05)
            theirs.sendall(b"1")
        with pytest.raises(TimeoutError):
            body_of(response)


def test_headers_that_arrive_too_slowly_are_an_error():
    with answered(b"HTTP/1.1 200 OK\r\n" * 10, parts=10) as connected, pytest.raises(TimeoutError):
        HttpResponse(connected, time.monotonic() - 1)
