"""What a server is asked for, whatever protocol it speaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from imagearchive.errors import StaleIndexError
from imagearchive.errors.hints import Hint

__all__ = ["Client", "Listing", "ObjectStatus", "replaced"]


class ObjectStatus(NamedTuple):
    """What a server says about an object.

    Attributes
    ----------
    size : int
        In bytes.
    identity : str
        ``etag="..."``, ``version=...``, or ``modified=...``, the first that the server offers;
        empty if it offers none.
    mtime_ns : int
        When it was written, in nanoseconds since 1970, 0 if unknown.
    """

    size: int
    identity: str
    mtime_ns: int = 0


class Listing(NamedTuple):
    """What is below a prefix: the names of directories, and names and status of objects."""

    directories: list[str]
    objects: list[tuple[str, ObjectStatus]]


class Client(Protocol):
    """Requests to one bucket or server; safe for threads, not for processes.

    A key is what names an object there. Errors of every method: FileNotFoundError if there is no
    such object, `imagearchive.errors.RemoteAccessError` if it may not be read, `RemoteError` if
    the server cannot be reached or answers wrongly after all retries.
    """

    def status(self, key: str) -> ObjectStatus:
        """Return size and identity of an object."""
        ...

    def read(self, key: str, offset: int, size: int, expected: ObjectStatus) -> memoryview:
        """Return a range of an object, by one request.

        Raises
        ------
        StaleIndexError
            The object is not the expected one.
        """
        ...

    def read_start(
        self, key: str, size: int, known: str = ""
    ) -> tuple[ObjectStatus, memoryview] | None:
        """Return the status of an object and up to `size` bytes from its start.

        None if the object still has the identity `known`.
        """
        ...

    def list(self, prefix: str) -> Listing:
        """List what is below a prefix, which is empty or ends with a slash."""
        ...

    def put(self, key: str, path: str) -> ObjectStatus:
        """Upload a local file; the object appears when it is complete.

        Returns its status, as the next `status` would if nobody replaces it meanwhile. If it
        fails or is interrupted, nothing of it stays on the server.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object; some servers say nothing if there is none."""
        ...

    def close(self) -> None:
        """Release what is kept for further requests, which may be made nevertheless."""
        ...


#: Returns a client that may be used in the current process.
ClientFactory = Callable[[], Client]


def replaced(shown: str) -> StaleIndexError:
    """Return the error for an object that is not the one that was opened, or indexed."""
    return StaleIndexError(
        f"{shown}: the object was replaced after it was opened or indexed; open the archive again",
        hints=[Hint("overwrite_index=True", "to build a joined index again")],
    )
