"""The faulty server is right when nothing is asked of it, and wrong as it is told to be."""

import http.client
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from support.servers.client import send
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
from support.servers.faulty import FaultyServer
from support.threads import run_in_threads

DATA = bytes(range(256)) * 400


@pytest.fixture
def server(faulty_server):
    faulty_server.put({"a.bin": DATA, "b.bin": b"other", "empty.bin": b""})
    return faulty_server


def ranged(server, first, last, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return send(server.url("a.bin"), headers={"range": f"bytes={first}-{last}", **headers})


def test_faulty_server_without_faults_serves_ranges(server):
    assert send(server.url("a.bin")).body == DATA
    answer = ranged(server, 1000, 1999)
    assert (answer.status, answer.body) == (206, DATA[1000:2000])
    assert answer.headers["content-range"] == f"bytes 1000-1999/{len(DATA)}"
    assert ranged(server, "", 10).body == DATA[-10:]
    assert ranged(server, len(DATA) - 5, "").body == DATA[-5:]
    assert ranged(server, len(DATA), "").status == 416
    assert send(server.url("empty.bin")).body == b""
    assert send(server.url("none.bin")).status == 404
    head = send(server.url("a.bin"), "HEAD")
    assert (head.headers["content-length"], head.body) == (str(len(DATA)), b"")


def test_faulty_server_etag_is_a_condition(server):
    etag = server.etag("a.bin")
    assert ranged(server, 0, 4, if_match=etag).body == DATA[:5]
    assert ranged(server, 0, 4, if_match='"other"').status == 412
    assert send(server.url("a.bin"), headers={"if-none-match": etag}).status == 304
    assert ranged(server, 0, 4, if_range='"other"').body == DATA


def test_faulty_server_requests_are_recorded(server):
    ranged(server, 10, 19, authorization="Bearer x")
    send(server.url("b%20c.bin?x=1"), "HEAD")
    first, second = server.requests
    assert (first.method, first.path, first.range) == ("GET", "a.bin", (10, 20))
    assert first.headers["authorization"] == "Bearer x"
    assert (first.status, first.sent, second.status, second.query) == (206, 10, 404, "x=1")
    assert first.connection != second.connection
    server.forget()
    assert server.requests == []


def test_faulty_server_connection_is_kept(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for path in ("a.bin", "b.bin"):
        connection.request("GET", f"/{path}")
        connection.getresponse().read()
    connection.close()
    assert server.totals.connections == 1


def test_faulty_server_status_hits_the_requests_that_it_names(server):
    server.fail(Status(503, {"retry-after": "1"}, path="a.bin", skip=1, times=2))
    found = [send(server.url("a.bin")).status for _ in range(4)]
    assert found == [200, 503, 503, 200]
    assert send(server.url("b.bin")).status == 200


def test_faulty_server_expired_token_is_refused(server):
    server.fail(Status(401, header=("authorization", "Bearer old")))
    assert send(server.url("a.bin"), headers={"authorization": "Bearer old"}).status == 401
    assert send(server.url("a.bin"), headers={"authorization": "Bearer new"}).status == 200


def test_faulty_server_cut_ends_in_the_body(server):
    server.fail(Cut(5000, path="a.bin", times=1))
    with pytest.raises(http.client.IncompleteRead) as caught:
        send(server.url("a.bin"))
    assert caught.value.partial == DATA[:5000]
    server.fail(Cut(5000, reset=True, times=1), Drop(skip=1, times=1))
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            send(server.url("a.bin"))


def test_faulty_server_wrong_ranges_are_sent(server):
    server.fail(Shorten(3, times=1), IgnoreRange(skip=1, times=1))
    short, whole = ranged(server, 10, 19), ranged(server, 10, 19)
    assert short.body == DATA[10:17]
    assert short.headers["content-range"] == f"bytes 10-16/{len(DATA)}"
    assert (whole.status, whole.body) == (200, DATA)
    server.fail(Header("etag", None))
    assert "etag" not in ranged(server, 0, 4).headers


def test_faulty_server_replace_changes_the_object(server):
    etag = server.etag("a.bin")
    server.fail(Replace(DATA[::-1], path="a.bin", skip=1, times=1))
    assert ranged(server, 0, 4, if_match=etag).status == 206
    assert ranged(server, 5, 9, if_match=etag).status == 412
    assert ranged(server, 5, 9).body == DATA[::-1][5:10]


def test_faulty_server_redirect_leads_to_another_host(server):
    elsewhere = server.url("b.bin", host="localhost")
    server.fail(Redirect(elsewhere, path="a.bin"))
    answer = send(server.url("a.bin"))
    assert (answer.status, answer.headers["location"]) == (302, elsewhere)
    assert send(elsewhere).body == b"other"
    assert server.requests[1].headers["host"] == f"localhost:{server.port}"


def test_faulty_server_slow_responses_arrive_late(server):
    server.fail(Delay(0.05, times=1), Drip(1000, 0.001, skip=1, times=1))
    for least in (0.05, 0.1):
        started = time.monotonic()
        assert send(server.url("a.bin")).body == DATA
        assert time.monotonic() - started >= least


def test_faulty_server_latency_is_waited_for_at_once(server):
    server.configure(latency=0.5, jitter=0.01, bandwidth=1e9)
    run_in_threads(lambda _: send(server.url("a.bin")), 8)
    # One whose answer has arrived may be counted for a moment more.
    assert server.totals.most_in_flight >= 8
    assert server.totals.sent == 8 * len(DATA)


def test_faulty_server_serves_files(tmp_path):
    (tmp_path / "file").write_bytes(DATA)
    (tmp_path / "none").touch()
    with FaultyServer({"f": tmp_path / "file", "n": tmp_path / "none"}, record=False) as server:
        assert send(server.url("f"), headers={"range": "bytes=7-"}).body == DATA[7:]
        assert send(server.url("n")).body == b""
        assert server.requests == []
        assert server.totals.requests == 2


def test_faulty_server_ends_before_the_children_that_were_forked_meanwhile():
    with FaultyServer():
        child = os.fork()
        if child == 0:
            time.sleep(20)
            os._exit(0)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_faulty_server_ends_with_the_process_that_started_it():
    script = """
from support.servers.faulty import FaultyServer
with FaultyServer() as server:
    print(server._process.pid, flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as owner:
        server = psutil.Process(int(owner.stdout.readline()))
        owner.send_signal(signal.SIGKILL)
    server.wait(10)
