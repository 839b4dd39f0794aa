"""An HTTP server that makes mistakes when told to, and is as slow as it is told to be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from support.servers.faults import Fault
from support.servers.faulty_process import Request, Settings, Totals

_TESTS = Path(__file__).parents[2]


class FaultyServer:
    """Serves objects over HTTP/1.1 from a process of its own.

    It knows ranges, ETags, `If-Match`, `If-None-Match`, `If-Range`, and `HEAD`. It ends with the
    `with` block, or when the process that started it ends in any way.

    Parameters
    ----------
    objects : mapping, optional
        Bytes, or files, by path. A file is mapped, not copied.
    latency : float
        Seconds of a round trip: what each response waits for. The first one of each connection
        waits twice.
    jitter : float
        Up to this many seconds more, at random.
    bandwidth : float, optional
        Bytes of bodies per second, for all connections together.
    record : bool
        Whether to remember every request; benchmarks do not.

    Notes
    -----
    Only the process that started it may use the object; any process may use `url`.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes | Path] | None = None,
        *,
        latency: float = 0.0,
        jitter: float = 0.0,
        bandwidth: float | None = None,
        record: bool = True,
    ) -> None:
        self._objects = dict(objects or {})
        self._settings = Settings(latency, jitter, bandwidth, record)

    def __enter__(self) -> FaultyServer:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c"),
                    "import sys; from support.servers.faulty_process import main; "
                    "main(int(sys.argv[1]))",
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": str(_TESTS)},
            )
        self._socket = ours
        self._control = Connection(os.dup(ours.fileno()))
        self.port: int = self._control.recv()
        self.put(self._objects)
        self._call("settings", self._settings)
        return self

    def __exit__(self, *exc: object) -> None:
        # Not only closed: forked children may still have it.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._control.close()
        self._process.wait()

    def _call(self, *command: Any) -> Any:
        self._control.send(command)
        return self._control.recv()

    def url(self, path: str = "", host: str = "127.0.0.1") -> str:
        """Return the URL of an object. `localhost` is another host that leads here as well."""
        return f"http://{host}:{self.port}/{path}"

    def put(self, objects: Mapping[str, bytes | Path | None]) -> None:
        """Set objects, or remove those that are None."""
        self._call("put", dict(objects))

    def etag(self, path: str) -> str:
        """Return the ETag of an object."""
        return self._call("etag", path)

    def configure(
        self,
        *,
        latency: float = 0.0,
        jitter: float = 0.0,
        bandwidth: float | None = None,
        round_gap: float = 0.0,
    ) -> None:
        """Set how slow the server is; the other arguments are those of the class.

        With `round_gap`, requests are answered in rounds, which `totals` counts: all that came,
        once no other came for so many seconds. So there are as many rounds as requests of which
        each had to wait for the one before, however slow the machine is.
        """
        record = self._settings.record
        self._settings = Settings(latency, jitter, bandwidth, record, round_gap)
        self._call("settings", self._settings)

    def fail(self, *faults: Fault) -> None:
        """Add faults. Each counts requests from now on; all that apply to a request are used."""
        self._call("faults", faults)

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in the order in which they came."""
        return self._call("requests")

    @property
    def totals(self) -> Totals:
        """How many requests, rounds, connections, and bytes there were, and so on."""
        return self._call("totals")

    def forget(self) -> None:
        """Forget all faults and requests, but keep the objects."""
        self._call("forget")

    def reset(self) -> None:
        """Be as after the start, without objects."""
        self._settings = Settings()
        self._call("reset")
