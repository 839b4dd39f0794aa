"""The servers start, store, and serve ranges; an error in the tests of remote archives is ours."""

import base64
import os
import ssl
import sys

import pytest
from support.servers.client import send
from support.servers.nginx import PASSWORD, USER
from support.servers.program import running

DATA = bytes(range(256)) * 40


def test_nginx_range_answers_its_bytes(nginx):
    (nginx.files / "a b.bin").write_bytes(DATA)
    answer = send(f"{nginx.url}/a%20b.bin", headers={"range": "bytes=300-999"})
    assert (answer.status, answer.body) == (206, DATA[300:1000])
    assert answer.headers["content-range"] == f"bytes 300-999/{len(DATA)}"
    assert answer.headers["etag"]


def test_nginx_tls_is_trusted_with_its_certificate_only(nginx):
    (nginx.files / "tls.bin").write_bytes(DATA)
    url = f"{nginx.tls_url}/tls.bin"
    assert send(url, context=nginx.tls_context()).body == DATA
    with pytest.raises(ssl.SSLCertVerificationError):
        send(url, context=ssl.create_default_context())


def test_nginx_private_asks_for_the_password(nginx):
    (nginx.files / "secret.bin").write_bytes(DATA)
    url = f"{nginx.url}/private/secret.bin"
    token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert send(url).status == 401
    assert send(url, headers={"authorization": f"Basic {token}"}).body == DATA


@pytest.mark.parametrize("name", ["moto", "s3rver", "azurite"])
def test_object_store_range_answers_its_bytes(name, request):
    store = request.getfixturevalue(name)
    store.put("folder/a.bin", DATA)
    assert store.get("folder/a.bin") == DATA
    answer = store.request("GET", "folder/a.bin", headers={"range": "bytes=300-999"})
    assert (answer.status, answer.body) == (206, DATA[300:1000])
    assert answer.headers["content-range"] == f"bytes 300-999/{len(DATA)}"
    assert store.request("HEAD", "folder/none.bin").status == 404


@pytest.mark.parametrize("name", ["moto", "s3rver", "azurite"])
def test_object_store_etag_is_a_condition(name, request):
    store = request.getfixturevalue(name)
    store.put("condition.bin", DATA)
    etag = store.request("HEAD", "condition.bin").headers["etag"]
    store.put("condition.bin", DATA[::-1])
    assert store.request("HEAD", "condition.bin").headers["etag"] != etag
    answer = store.request("GET", "condition.bin", headers={"if-match": etag})
    # s3rver sends the new object, as some stores do: the client must compare the ETag.
    assert answer.status == (200 if name == "s3rver" else 412)
    assert answer.headers.get("etag") != etag


def test_azurite_wrong_signature_is_refused(azurite):
    azurite.put("signed.bin", DATA)
    path = azurite.path_of("signed.bin")
    signed = azurite.sign("GET", path, {}, b"")
    assert send(azurite.url + path, headers=signed).body == DATA
    wrong = signed | {"authorization": signed["authorization"][:-4] + "ABC="}
    assert send(azurite.url + path, headers=wrong).status == 403


def test_running_program_that_fails_shows_its_log(tmp_path):
    def command(port):
        return ["sh", "-c", "echo no such option >&2; exit 3"]

    with (
        pytest.raises(RuntimeError, match=r"ended with status 3 .*\n.*no such option"),
        running("broken", command, tmp_path),
    ):
        pass


def test_running_program_after_an_error_has_ended(tmp_path):
    script = f"""
import http.server, os, pathlib, sys
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
handler = http.server.SimpleHTTPRequestHandler
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), handler).serve_forever()
"""

    def command(port):
        return [sys.executable, "-c", script, str(port)]

    with pytest.raises(KeyError), running("short", command, tmp_path):
        raise KeyError("in the test")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
