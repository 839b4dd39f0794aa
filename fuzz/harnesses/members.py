"""Reads the members of a scanned archive, as everything above the containers does."""

from __future__ import annotations

import zlib
from collections.abc import Hashable
from random import Random

from imagearchive.containers.container import Container
from imagearchive.containers.rows import RowBuffer
from imagearchive.errors import ImageArchiveError
from imagearchive.index.resolve import resolve
from imagearchive.storage.local import MemoryStorage

# Members of one input that are read, and bytes of each.
MOST_MEMBERS = 40
MOST_BYTES = 1 << 18


def read_members(container: Container, storage: MemoryStorage, rows: RowBuffer) -> Hashable:
    """Read the ends of all members, and those that are small as a whole; count what was refused."""
    resolved = resolve(rows)
    refused: set[str] = set()
    for row in resolved.entries[:MOST_MEMBERS]:
        try:
            size = int(row["size"])
            member = container.open_member(storage, row, "member")
            if size <= MOST_BYTES:
                whole = bytes(member.read(0, member.size))
                again = bytes(container.read_member(storage, row, "member"))
                if whole != again or len(whole) != size:
                    raise AssertionError(f"two ways to read {row} differ")
            else:
                member.read(0, 100)
                member.read(member.size - 100, 100)
        except ImageArchiveError as error:
            refused.add(type(error).__name__)
    kinds = frozenset(rows.entries[: rows.rows]["kind"].tolist()[:MOST_MEMBERS])
    return min(rows.rows, 8), kinds, frozenset(refused), len(resolved.directories) > 0


def sometimes(data: bytes, one_of: int) -> bool:
    """Whether to do what is too slow for every input; the same for the same input."""
    return zlib.crc32(data) % one_of == 0


def chance(rng: Random, probability: float) -> bool:
    """Return True with that probability."""
    return rng.random() < probability
