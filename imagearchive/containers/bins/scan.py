"""A directory of split bins: ``index.dat`` and ``binNNNNNNNN.dat``.

``index.dat`` holds three little-endian u32 for each packet, in the order in which they were
written: the number of its bin, the position in the bin at which it starts, and its length. At that
position, the length is repeated as a u32, followed by the packet.
"""

from __future__ import annotations

import logging
import re
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.containers.left_out import DAMAGED
from imagearchive.containers.rows import ENTRY_DTYPE, RowBuffer
from imagearchive.errors import ArchiveNotFoundError, CorruptArchiveError
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    from imagearchive.storage.location import Location
    from imagearchive.storage.protocol import Storage

__all__ = ["bin_name", "is_bin_name", "scan_location", "sniff"]

logger = logging.getLogger(__name__)

INDEX_NAME: Final = "index.dat"
TRIPLET: Final = np.dtype([("bin", "<u4"), ("position", "<u4"), ("length", "<u4")])
PREFIX_BYTES: Final = 4
# Names are positions, padded so that the order of names is the order of packets.
NAME_DIGITS: Final = 8
PERMISSIONS: Final = 0o644

# Prefixes closer together than this are read together with the bytes between them: a system call
# takes as long as copying a few kilobytes.
_NEAR: Final = 8192
_WINDOW: Final = 1 << 22
_NAMES_AT_ONCE: Final = 1 << 18


def bin_name(number: int) -> str:
    """Return the file name of a bin."""
    return f"bin{number:08d}.dat"


def is_bin_name(name: str) -> bool:
    """Whether a file of that name is a bin."""
    return re.fullmatch(r"bin\d{8,10}\.dat", name) is not None


def sniff(location: Location) -> bool:
    """Whether a directory holds split bins: an index, and a bin unless the index is empty."""
    try:
        size = location.join(INDEX_NAME).status().size
        others = (entry.name for entry in location.list() if entry.name != INDEX_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return any(map(is_bin_name, others)) if size else all(map(is_bin_name, others))


def scan_location(location: Location, strict: bool = True) -> tuple[RowBuffer, list[Location]]:
    """Read the index of a set of bins, and check it against every packet's own length.

    Parameters
    ----------
    location : Location
        The directory.
    strict : bool
        Whether damage is an error; otherwise the packets before the first damaged one are
        returned, and the loss is logged.

    Returns
    -------
    RowBuffer
        One row for each packet, named by its position; ``header_offset`` is that of its length.
    list of Location
        The bins that hold packets, in the order of their numbers, then ``index.dat``: no row
        refers to it, but if it changes, the archive has changed.

    Raises
    ------
    ArchiveNotFoundError
        There is no ``index.dat``.
    CorruptArchiveError
        A bin is missing or too short, a packet's length differs from the index, or packets overlap.
    """
    index = location.join(INDEX_NAME)
    triplets, damage = _read_index(index)
    numbers, shards = np.unique(triplets["bin"], return_inverse=True)
    files = [location.join(bin_name(int(number))) for number in numbers]
    # Grouped by bin and sorted by position: each bin is read once, from front to end.
    order = np.lexsort((triplets["position"], shards))
    bounds = np.searchsorted(shards[order], np.arange(len(files) + 1))
    for shard, file in enumerate(files):
        rows = order[bounds[shard] : bounds[shard + 1]]
        found = _check_bin(file, triplets[rows], rows)
        if found is not None and (damage is None or found < damage):
            damage = found
    lost = 0
    if damage is not None:
        if strict:
            raise CorruptArchiveError(damage[1])
        # The archive warns of what is left out, if there is any after the damage.
        lost = len(triplets) - damage[0]
        level = logging.INFO if lost else logging.WARNING
        before = pluralize(damage[0], "packet before it is", "packets before it are")
        logger.log(level, "%s; the %s served", damage[1], before)
        triplets = triplets[: damage[0]]
        # A bin that holds none of them may not even exist.
        used, shards = np.unique(shards[: damage[0]], return_inverse=True)
        files = [files[shard] for shard in used]
    buffer = _rows(triplets, shards)
    buffer.left_out.add_count(DAMAGED, lost)
    return buffer, [*files, index]


def _read_index(index: Location) -> tuple[npt.NDArray[Any], tuple[int, str] | None]:
    """Return the triplets, and the damage if the last one is incomplete."""
    try:
        with closing(index.open("pread")) as storage:
            count, rest = divmod(storage.size, TRIPLET.itemsize)
            triplets = np.empty(count, TRIPLET)
            if count:
                storage.readinto(0, triplets.view(np.uint8).data)
    except FileNotFoundError:
        raise ArchiveNotFoundError(
            f"{index.path}: no such file; either this is not a directory of split bins, or "
            f"writing it was interrupted"
        ) from None
    if not rest:
        return triplets, None
    return triplets, (
        count,
        f"{index.path}: {count * TRIPLET.itemsize + rest} bytes are not a whole number of entries "
        f"of {TRIPLET.itemsize} bytes; entry {count} at offset {count * TRIPLET.itemsize} is cut",
    )


def _check_bin(
    file: Location, triplets: npt.NDArray[Any], rows: npt.NDArray[np.intp]
) -> tuple[int, str] | None:
    """Compare one bin's packets, sorted by position, with the index; return the first damage."""
    path = file.path
    try:
        storage = file.open("pread")
    except (FileNotFoundError, NotADirectoryError):
        first = int(rows.min())
        return first, f"{path}: no such bin, though packet {first} of the index is in it"
    except OSError as error:
        raise CorruptArchiveError(f"{path}: cannot be read: {error.strerror}") from error
    with closing(storage):
        size = storage.size
        positions = triplets["position"].astype(np.int64)
        ends = positions + PREFIX_BYTES + triplets["length"]
        outside = ends > size
        inside = np.flatnonzero(~outside)
        stored = triplets["length"].copy()
        try:
            stored[inside] = _prefixes(storage, positions[inside])
        except OSError as error:
            raise CorruptArchiveError(f"{path}: cannot be read: {error.strerror}") from error
    # Several entries may be the same packet: those at one position have one length, or are damaged.
    overlapping = np.zeros(len(ends), np.bool_)
    overlapping[1:] = (positions[1:] < np.maximum.accumulate(ends)[:-1]) & (
        positions[1:] != positions[:-1]
    )
    bad = np.flatnonzero(outside | (stored != triplets["length"]) | overlapping)
    if not len(bad):
        return None
    worst = bad[rows[bad].argmin()]
    row, position, length = int(rows[worst]), int(positions[worst]), int(triplets["length"][worst])
    if outside[worst]:
        what = (
            f"{pluralize(length, 'byte is', 'bytes are')} not within the file of "
            f"{pluralize(size, 'byte')}: it was truncated"
        )
    elif overlapping[worst]:
        what = "it overlaps another packet: the index is damaged"
    else:
        what = f"the length there is {stored[worst]}, but {length} in the index"
    return row, f"{path}: packet {row} at offset {position}: {what}"


def _prefixes(storage: Storage, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Read the u32 at each of the sorted positions."""
    count = len(positions)
    if not count:
        return np.empty(0, np.uint32)
    if (positions[-1] - positions[0]) / count > _NEAR:
        data = b"".join([storage.read(offset, PREFIX_BYTES) for offset in positions.tolist()])
        return _as_u32(np.frombuffer(data, np.uint8))
    found = np.empty((count, PREFIX_BYTES), np.uint8)
    buffer = np.empty(_WINDOW, np.uint8)
    spread = np.arange(PREFIX_BYTES)
    low = 0
    while low < count:
        start = int(positions[low])
        filled = min(_WINDOW, storage.size - start)
        storage.readinto(start, buffer[:filled].data)
        high = max(low + 1, int(np.searchsorted(positions, start + filled - PREFIX_BYTES, "right")))
        found[low:high] = buffer[(positions[low:high] - start)[:, None] + spread]
        low = high
    return _as_u32(found.reshape(-1))


def _as_u32(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    values: npt.NDArray[np.uint32] = data.view("<u4")
    return values


def _rows(triplets: npt.NDArray[Any], shards: npt.NDArray[np.intp]) -> RowBuffer:
    count = len(triplets)
    digits = max(NAME_DIGITS, len(str(max(count - 1, 0))))
    buffer = RowBuffer(1)
    buffer.reserve(count, count * digits)
    entries = np.zeros(len(buffer.window), ENTRY_DTYPE)
    rows = entries[:count]
    rows["index"] = np.arange(count)
    rows["header_offset"] = triplets["position"]
    rows["offset"] = rows["header_offset"] + np.uint64(PREFIX_BYTES)
    rows["size"] = rows["stored_size"] = triplets["length"]
    rows["shard"] = shards
    rows["mode"] = PERMISSIONS
    buffer.window = entries
    ends = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(digits)
    buffer.name_ends[:count] = ends
    buffer.link_ends[:count] = ends
    powers = 10 ** np.arange(digits - 1, -1, -1, dtype=np.int64)
    names = buffer.names[: count * digits].reshape(count, digits)
    for start in range(0, count, _NAMES_AT_ONCE):
        positions = np.arange(start, min(start + _NAMES_AT_ONCE, count), dtype=np.int64)
        names[start : start + len(positions)] = positions[:, None] // powers % 10 + ord("0")
    buffer.rows = count
    buffer.name_bytes = count * digits
    return buffer
