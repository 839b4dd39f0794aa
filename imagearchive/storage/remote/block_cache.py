"""Blocks of remote objects on local disk, shared by all processes of a machine.

A block is a file whose name is a digest of the object (URL, identity, size) and of the number of
the block. It appears by a rename when it is whole, and says itself which block it is, with a
checksum for each page. So a reader needs no lock: what it opens is a whole block of the right state
of the right object, or it is dropped and fetched again.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator

from imagearchive.storage.path_options import BlockCacheOptions
from imagearchive.storage.remote.block_file import BLOCK, BlockReader
from imagearchive.storage.remote.block_folder import BlockFolder, open_folder
from imagearchive.storage.remote.ranges import MAX_REQUEST

__all__ = ["ObjectBlocks", "open_blocks"]

_Request = Callable[[int, int], memoryview]


class _Flight:
    """A block that a thread of this process is fetching, for others that need it, too."""

    __slots__ = ("_finished", "data", "done")

    def __init__(self) -> None:
        # A copy, because without the GIL, threads cannot share a view.
        self.data: bytes | None = None
        self._finished = False
        # A lock and not an event, so that an interrupt leaves nobody waiting.
        self.done = threading.Lock()
        self.done.acquire()

    def finish(self) -> None:
        """Let the others go on; a second call does nothing."""
        # Not `done.locked()`, as it also is while one of the others goes on.
        if not self._finished:
            self._finished = True
            self.done.release()

    def wait(self) -> bytes | None:
        """Return the block; None if it could not be fetched."""
        with self.done:
            return self.data


_flights: dict[tuple[bytes, int], _Flight] = {}


def open_blocks(options: BlockCacheOptions, name: str, identity: str, size: int) -> ObjectBlocks:
    """Return the blocks of one state of an object.

    Parameters
    ----------
    options : BlockCacheOptions
    name : str
        What distinguishes the object from all others on all servers, without credentials.
    identity : str
        What distinguishes its state from others; see `ObjectStatus`.
    size : int
        Of the object, in bytes.
    """
    text = repr((name, identity, size)).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=32, person=b"imagearchive").digest()
    return ObjectBlocks(open_folder(options), digest, size)


class ObjectBlocks:
    """The blocks of one state of an object, in the cache or on their way into it.

    Safe for threads and processes, and after a fork. Nothing that happens to the folder is an
    error: what cannot be read from it is requested, and what cannot be written is not cached.

    Parameters
    ----------
    folder : BlockFolder
    digest : bytes
        Of the object and its state.
    size : int
        Of the object.
    """

    def __init__(self, folder: BlockFolder, digest: bytes, size: int) -> None:
        self._folder = folder
        self._digest = digest
        self._size = size

    def holds(self, offset: int, size: int) -> bool:
        """Whether all of a range seems to be in the cache."""
        return all(
            os.path.exists(self._folder.path_of(self._digest, number))
            for number, _, _ in _split(offset, size)
        )

    def read(self, offset: int, size: int) -> bytes | None:
        """Return a range, or None if a part of it is not in the cache."""
        reader = BlockReader(size)
        for number, start, stop in _split(offset, size):
            if not self._folder.load(reader, self._digest, number, start, stop):
                return None
        return reader.result()

    def fetch(self, offset: int, size: int, request: _Request) -> memoryview:
        """Return a range, and cache what had to be requested for it.

        Parameters
        ----------
        offset, size : int
        request : callable
            Requests offset and size. It is called for whole blocks, neighbors together. A block
            that another thread is requesting is not requested again.
        """
        found = bytearray(size)
        missing: list[int] = []
        for number, start, stop in _split(offset, size):
            reader = BlockReader(stop - start)
            if self._folder.load(reader, self._digest, number, start, stop):
                at = number * BLOCK + start - offset
                found[at : at + stop - start] = reader.result()
            else:
                missing.append(number)

        def keep(number: int, data: bytes | memoryview) -> None:
            start = max(offset, number * BLOCK)
            stop = min(offset + size, number * BLOCK + len(data))
            found[start - offset : stop - offset] = data[
                start - number * BLOCK : stop - number * BLOCK
            ]

        mine: list[tuple[int, _Flight]] = []
        others: list[tuple[int, _Flight]] = []
        try:
            self._claim(missing, mine, others)
            for run in _runs(mine):
                blocks = self._request(run[0][0], len(run), request)
                for (number, flight), data in zip(run, blocks):
                    flight.data = bytes(data)
                    flight.finish()
                    keep(number, data)
                self._folder.store(self._digest, run[0][0], blocks)
        finally:
            for number, flight in mine:
                flight.finish()
                if _flights.get((self._digest, number)) is flight:
                    del _flights[self._digest, number]
        # Last, so that no two threads wait for each other.
        for number, flight in others:
            theirs = flight.wait()
            keep(number, self._request(number, 1, request)[0] if theirs is None else theirs)
        return memoryview(found).toreadonly()

    def _claim(
        self,
        missing: list[int],
        mine: list[tuple[int, _Flight]],
        others: list[tuple[int, _Flight]],
    ) -> None:
        """Divide blocks into those that the caller requests, and those that others request."""
        for number in missing:
            # In the list first, so that an interrupt leaves no flight that nobody finishes.
            mine.append((number, _Flight()))
            flight = _flights.setdefault((self._digest, number), mine[-1][1])
            if flight is not mine[-1][1]:
                mine.pop()
                others.append((number, flight))

    def _request(self, first: int, count: int, request: _Request) -> list[memoryview]:
        start = first * BLOCK
        data = request(start, min(count * BLOCK, self._size - start))
        return [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]


def _split(offset: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield the blocks of a range, each with the beginning and end of the range within it."""
    end = offset + size
    for number in range(offset // BLOCK, -(-end // BLOCK)):
        start = number * BLOCK
        yield number, max(offset - start, 0), min(end - start, BLOCK)


def _runs(flights: list[tuple[int, _Flight]]) -> Iterator[list[tuple[int, _Flight]]]:
    """Yield flights of neighboring blocks together, as far as one request should go."""
    run: list[tuple[int, _Flight]] = []
    for flight in flights:
        if run and (flight[0] != run[-1][0] + 1 or len(run) * BLOCK >= MAX_REQUEST):
            yield run
            run = []
        run.append(flight)
    if run:
        yield run


def _forget_parent() -> None:
    # Blocks under way are the parent's.
    _flights.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
