"""A server of the page of an archive, and archives for it."""

import contextlib
import io
import json
import tarfile
import threading

import numpy as np

import imagearchive
from imagearchive.cli.viewer.server import ViewerServer
from support.archives import encoded
from support.servers.client import send

HOSTILE = "<script>alert(1)</script>.jpg"


def write_members(path, members):
    """Write a TAR of names and bytes, whatever the names are."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def gradient(number):
    """An image of 24 x 16 pixels."""
    return encoded(np.full((16, 24, 3), (number * 20 % 256, 90, 200), np.uint8))


@contextlib.contextmanager
def serving(path):
    """Serve the page of an archive from a thread."""
    with imagearchive.open(path) as archive, serving_archive(archive) as server:
        yield server


@contextlib.contextmanager
def serving_archive(archive, samples=None):
    """Serve the page of an open archive from a thread."""
    with ViewerServer(archive, samples=samples) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def request(server, target, **headers):
    """Send a request to a server as its page would."""
    own = {"Cookie": f"{server.cookie}={server.token}"} | headers
    return send(f"http://{server.hosts[0]}{target}", headers=own)


def ask_server(server, target, status=200):
    """Send a request to a server, and return the JSON that answers it."""
    answer = request(server, target)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    return json.loads(answer.body)
