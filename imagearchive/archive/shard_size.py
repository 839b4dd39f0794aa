"""How large a shard becomes, to begin the next one before it exceeds its limit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from imagearchive.containers.tar.ustar import BLOCK, header
from imagearchive.containers.tar.writer import RECORD
from imagearchive.containers.zip.stream import END_SIZE, MemberHeader

__all__ = ["ShardMember", "ShardSize"]


class ShardMember(NamedTuple):
    """A member to be: its name, bytes, and modification time in seconds since 1970."""

    name: bytes
    size: int
    mtime: int


class ShardSize:
    """The size of the shard that is being written.

    Parameters
    ----------
    limit : int
        Maximum size of a shard in bytes. A larger sample gets a shard of its own.
    zipped : bool
        Whether shards are ZIP archives rather than TAR archives.
    """

    def __init__(self, limit: int, zipped: bool = False) -> None:
        self._limit = limit
        self._zipped = zipped
        self._used = 0

    def sample_size(self, members: Iterable[ShardMember]) -> int:
        """Return how many bytes a sample takes, headers included."""
        if self._zipped:
            return sum(one.size + MemberHeader.largest_size(len(one.name)) for one in members)
        return sum(
            len(header(one.name, one.size, one.mtime)) + one.size + -one.size % BLOCK
            for one in members
        )

    def exceeds(self, size: int) -> bool:
        """Whether a sample of this size needs a new shard."""
        if not self._used:
            return False
        whole = self._used + size
        if self._zipped:
            whole += END_SIZE
        else:
            whole += 2 * BLOCK
            whole += -whole % RECORD
        return whole > self._limit

    def add(self, size: int) -> None:
        """Count a sample in this shard."""
        self._used += size

    def start(self) -> None:
        """Begin a new shard."""
        self._used = 0
