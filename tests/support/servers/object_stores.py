"""Object stores: moto and s3rver, which speak S3, and azurite, which speaks Azure's protocol.

moto also stands in for Google Cloud Storage, whose XML interface shares with S3 all requests that
obstore makes: ranges, conditions, lists, and uploads in parts. The emulators that can be installed
from PyPI and npm have only Google's JSON interface, which obstore does not use.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import hmac
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from support.servers.client import Answer, send
from support.servers.program import Program, node_command, running

BUCKET = "data"
REGION = "us-east-1"
AZURE_ACCOUNT = "tests"
AZURE_KEY = base64.b64encode(b"only for tests, and long enough!").decode()
AZURE_VERSION = "2021-08-06"


@dataclass
class ObjectStore(Program):
    """A running store with one bucket, or container, named `BUCKET`.

    `storage_options` are those of obstore, with which the store can be read and written.
    """

    storage_options: dict[str, Any]

    def sign(self, method: str, path: str, headers: Mapping[str, str], body: bytes):
        """Return the headers to send for a request, with its signature."""
        raise NotImplementedError

    def path_of(self, key: str) -> str:
        """Return the path of an object in requests; of the bucket, if the key is empty."""
        return urllib.parse.quote(f"/{BUCKET}/{key}".rstrip("/"))

    def request(
        self,
        method: str,
        key: str = "",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        query: str = "",
    ) -> Answer:
        """Send a signed request about an object, or about the bucket."""
        target = self.path_of(key) + (f"?{query}" if query else "")
        signed = self.sign(method, target, headers or {}, body)
        return send(self.url + target, method, body, signed)

    def put(self, key: str, data: bytes) -> None:
        """Store an object."""
        answer = self.request("PUT", key, data, self.put_headers())
        assert answer.status in {200, 201}, answer

    def get(self, key: str) -> bytes:
        """Return an object."""
        answer = self.request("GET", key)
        assert answer.status == 200, answer
        return answer.body

    def put_headers(self) -> dict[str, str]:
        """Return the headers that the store asks for with a new object."""
        return {}


@dataclass
class S3Server(ObjectStore):
    """A store that speaks S3. Neither of ours verifies signatures."""

    @property
    def keys(self) -> tuple[str, str]:
        options = self.storage_options
        return options["access_key_id"], options["secret_access_key"]

    def sign(self, method, path, headers, body):
        """Sign as AWS documents "Signature Version 4"."""
        access, secret = self.keys
        path, _, query = path.partition("?")
        now = datetime.datetime.now(datetime.timezone.utc)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        digest = hashlib.sha256(body).hexdigest()
        signed = {
            "host": f"127.0.0.1:{self.port}",
            "x-amz-content-sha256": digest,
            "x-amz-date": stamp,
        }
        names = ";".join(signed)
        lines = [method, path, _sorted_query(query)]
        lines += [f"{name}:{value}" for name, value in signed.items()]
        canonical = "\n".join([*lines, "", names, digest])
        scope = f"{day}/{REGION}/s3/aws4_request"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        key = f"AWS4{secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
        signature = hmac.new(key, text.encode(), "sha256").hexdigest()
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={access}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return {**headers, **signed, "authorization": authorization}


@dataclass
class GoogleStore(ObjectStore):
    """The objects of a moto that runs, by the protocol of Google Cloud Storage.

    Objects are stored by S3. `storage_options` read and write them through `gs://`.
    """

    server: S3Server

    def path_of(self, key):
        return self.server.path_of(key)

    def sign(self, method, path, headers, body):
        return self.server.sign(method, path, headers, body)


@dataclass
class Azurite(ObjectStore):
    """A store that speaks the protocol of Azure's blobs."""

    def path_of(self, key):
        return f"/{AZURE_ACCOUNT}{super().path_of(key)}"

    def put_headers(self):
        return {"x-ms-blob-type": "BlockBlob"}

    def sign(self, method, path, headers, body):
        """Sign as Azure documents "Shared Key"."""
        path, _, query = path.partition("?")
        now = datetime.datetime.now(datetime.timezone.utc)
        sent = {name.lower(): value for name, value in headers.items()}
        sent |= {"x-ms-date": format_datetime(now, usegmt=True), "x-ms-version": AZURE_VERSION}
        content = [sent.get(f"content-{name}", "") for name in ("encoding", "language")]
        content += [str(len(body)) if body else ""]
        content += [sent.get(f"content-{name}", "") for name in ("md5", "type")]
        conditions = ["modified-since", "match", "none-match", "unmodified-since"]
        lines = [method, *content, sent.get("date", "")]
        lines += [sent.get(f"if-{name}", "") for name in conditions]
        lines += [sent.get("range", "")]
        lines += [f"{name}:{sent[name]}" for name in sorted(sent) if name.startswith("x-ms-")]
        lines += [f"/{AZURE_ACCOUNT}{path}"]
        parameters = sorted(urllib.parse.parse_qsl(query, keep_blank_values=True))
        lines += [f"{name}:{value}" for name, value in parameters]
        key = base64.b64decode(AZURE_KEY)
        signature = base64.b64encode(hmac.digest(key, "\n".join(lines).encode(), "sha256")).decode()
        return sent | {"authorization": f"SharedKey {AZURE_ACCOUNT}:{signature}"}


def _sorted_query(query: str) -> str:
    parameters = sorted(urllib.parse.parse_qsl(query, keep_blank_values=True))
    return urllib.parse.urlencode(parameters, quote_via=urllib.parse.quote)


@contextlib.contextmanager
def _s3_server(name, command, folder, access_key, secret_key, env=None) -> Iterator[S3Server]:
    with running(name, command, folder, env=env) as server:
        options = {
            "endpoint": server.url,
            "region": REGION,
            "access_key_id": access_key,
            "secret_access_key": secret_key,
        }
        store = S3Server(server.name, server.port, server.log, options)
        answer = store.request("PUT")
        assert answer.status == 200, answer
        yield store


def moto(folder: Path) -> contextlib.AbstractContextManager[S3Server]:
    """Run moto's S3 server, which keeps everything in memory."""

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]

    return _s3_server("moto", command, folder, "moto-key", "moto-secret")


def google(server: S3Server) -> GoogleStore:
    """Return the store of a moto, as Google Cloud Storage."""
    options = {
        "base_url": server.url,
        # moto looks for its service in what it takes for a signature of S3.
        "bearer_token": f"token/20260101/{REGION}/s3/aws4_request",
    }
    return GoogleStore("google", server.port, server.log, options, server)


#: Options by scheme that read the objects below `BUCKET` of an HTTP server, without the endpoint.
#: Each has a credential that contains "hidden".
HTTP_BUCKETS: dict[str, dict[str, Any]] = {
    "s3": {
        "access_key_id": "reader",
        "secret_access_key": "hidden-key",
        "token": "hidden-token",
        "region": REGION,
    },
    "gs": {"bearer_token": "hidden-token"},
    "az": {"account_name": "reader", "account_key": base64.b64encode(b"hidden-key").decode()},
}


def http_bucket(scheme: str, url: str, **options: Any) -> dict[str, Any]:
    """Return the options that read from an HTTP server as from a bucket.

    Parameters
    ----------
    scheme : str
    url : str
        Of the server, without a path.
    **options
        More options.
    """
    endpoint = "base_url" if scheme == "gs" else "endpoint"
    return {**HTTP_BUCKETS[scheme], endpoint: url.rstrip("/"), **options}


def s3rver(folder: Path) -> contextlib.AbstractContextManager[S3Server]:
    """Run s3rver, which keeps its objects in files, and knows no `If-Match`."""

    def command(port: int) -> list[str]:
        program = node_command("s3rver", "bin/s3rver.js")
        return [*program, "-d", str(folder), "-a", "127.0.0.1", "-p", str(port)]

    # Its only pair of keys.
    return _s3_server("s3rver", command, folder, "S3RVER", "S3RVER")


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[Azurite]:
    """Run azurite, which keeps its blobs in files and checks signatures."""

    def command(port: int) -> list[str]:
        return [
            *node_command("azurite", "dist/src/blob/main.js"),
            *("--blobPort", str(port), "--location", str(folder)),
            *("--disableTelemetry", "--skipApiVersionCheck"),
        ]

    accounts = {"AZURITE_ACCOUNTS": f"{AZURE_ACCOUNT}:{AZURE_KEY}"}
    with running("azurite", command, folder, env=accounts) as server:
        options = {
            "account_name": AZURE_ACCOUNT,
            "account_key": AZURE_KEY,
            "endpoint": f"{server.url}/{AZURE_ACCOUNT}",
        }
        store = Azurite(server.name, server.port, server.log, options)
        answer = store.request("PUT", query="restype=container")
        assert answer.status == 201, answer
        yield store
