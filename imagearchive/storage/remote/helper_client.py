"""Requests by a helper process, for a forked child that cannot use obstore itself."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.spawn import get_executable
from typing import Any, Final

from imagearchive.errors import RemoteError
from imagearchive.errors.transport import dump_exception, load_exception
from imagearchive.storage.fork_lock import ForkSafeLock
from imagearchive.storage.path_options import AccessOptions
from imagearchive.storage.remote.client import Client, Listing, ObjectStatus
from imagearchive.storage.remote.direct_client import make_client

__all__ = ["HelperClient", "serve"]

# The caller's sys.path, because the library may have been found through it.
_START: Final = (
    "import sys; sys.path[:] = {path!r}; "
    "from imagearchive.storage.remote.helper_client import serve; serve({descriptor})"
)


class HelperClient:
    """A client whose requests a helper process makes.

    The helper is a fresh interpreter. It ends when this process does. Each thread has a connection
    to it, so that as many requests are under way as there are threads.

    Parameters
    ----------
    scheme, bucket, options
        Those of `imagearchive.storage.remote.clients.client_for`. The options travel through the
        connection, not through arguments or the environment, which other processes can read.
    """

    def __init__(self, scheme: str, bucket: str, options: AccessOptions) -> None:
        self._request = (scheme, bucket, options.values, options.lost)
        self._shown = f"{scheme}://{bucket}"
        self._threads = threading.local()

    def status(self, key: str) -> ObjectStatus:
        """See `Client.status`."""
        return ObjectStatus(*self._call("status", key))

    def read(self, key: str, offset: int, size: int, expected: ObjectStatus) -> memoryview:
        """See `Client.read`."""
        return memoryview(self._call("read", key, offset, size, expected))

    def read_start(
        self, key: str, size: int, known: str = ""
    ) -> tuple[ObjectStatus, memoryview] | None:
        """See `Client.read_start`."""
        found = self._call("read_start", key, size, known)
        return None if found is None else (ObjectStatus(*found[0]), memoryview(found[1]))

    def list(self, prefix: str) -> Listing:
        """See `Client.list`."""
        return Listing(*self._call("list", prefix))

    def put(self, key: str, path: str) -> ObjectStatus:
        """See `Client.put`."""
        return ObjectStatus(*self._call("put", key, path))

    def delete(self, key: str) -> None:
        """See `Client.delete`."""
        self._call("delete", key)

    def close(self) -> None:
        """Do nothing: the helper ends with this process."""

    def _call(self, method: str, *arguments: Any) -> Any:
        connection: Connection | None = getattr(self._threads, "connection", None)
        if connection is None:
            connection = self._threads.connection = _helper().connect()
            connection.send_bytes(pickle.dumps(self._request, 5))
        try:
            connection.send_bytes(pickle.dumps((method, arguments), 5))
            failed, value = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            self._threads.connection = None
            raise RemoteError(
                f"{self._shown}: the helper process that reads for this worker has ended; if the "
                f"system killed it for lack of memory, use fewer workers"
            ) from None
        except BaseException:
            # An interrupt: the answer would be taken for that of the next request.
            self._threads.connection = None
            connection.close()
            raise
        if failed:
            raise load_exception(value, method)
        return value


class _Helper:
    """The helper process of this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            code = _START.format(path=sys.path, descriptor=theirs.fileno())
            executable = get_executable()
            self._process = subprocess.Popen(
                [os.fsdecode(executable) if executable else sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )

    def connect(self) -> Connection:
        """Return a new connection to the helper."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            socket.send_fds(self._control, [b"c"], [theirs.fileno()])
        return Connection(ours.detach())

    def abandon(self) -> None:
        """Leave the helper to the process that started it, from a forked child."""
        self._control.close()
        # Not a child of this process, so there is nothing to wait for.
        self._process.returncode = 0

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None


_lock = ForkSafeLock()
_current: list[_Helper] = []


def _helper() -> _Helper:
    """Return the helper of this process; start it if there is none, or if it has died."""
    with _lock.of_process():
        if _current and _current[0].pid != os.getpid():
            _current.pop().abandon()
        if not _current or not _current[0].alive:
            _current[:] = [_Helper()]
        return _current[0]


def serve(descriptor: int) -> None:
    """Answer requests until the process that started the helper has ended.

    Parameters
    ----------
    descriptor : int
        Where connections arrive.
    """
    control = socket.socket(fileno=descriptor)
    try:
        while True:
            data, received, _, _ = socket.recv_fds(control, 1, 1)
            if not data:
                break
            for one in received:
                threading.Thread(target=_answer, args=(Connection(one),), daemon=True).start()
    except (OSError, KeyboardInterrupt):
        # Ctrl-C at the terminal reaches the helper, too.
        pass
    # Not through the end of the interpreter, which would wait for requests under way.
    os._exit(0)


def _answer(connection: Connection) -> None:
    """Answer the requests of one thread."""
    clients: dict[bytes, Client] = _served
    try:
        opened = connection.recv_bytes()
        while True:
            method, arguments = pickle.loads(connection.recv_bytes())
            try:
                client = clients.get(opened)
                if client is None:
                    scheme, bucket, values, lost = pickle.loads(opened)
                    options = AccessOptions(values, lost=lost)
                    client = clients.setdefault(opened, make_client(scheme, bucket, options))
                value = getattr(client, method)(*arguments)
                answer = pickle.dumps((False, _plain(value)), 5)
            except Exception as error:  # noqa: BLE001 - raised again by the caller
                answer = pickle.dumps((True, dump_exception(error)), 5)
            connection.send_bytes(answer)
    except (EOFError, OSError):
        connection.close()


_served: dict[bytes, Client] = {}


def _plain(value: Any) -> Any:
    """Return a value without views, which cannot be pickled."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, tuple):
        return tuple(_plain(one) for one in value)
    return value
