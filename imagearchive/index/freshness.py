"""Check whether an archive is still the one that was indexed."""

from __future__ import annotations

import hashlib
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.containers.packed_rows import PackedRows
from imagearchive.errors import StaleIndexError
from imagearchive.errors.hints import Hint
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.location import statuses
from imagearchive.storage.protocol import RangesStorage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagearchive.storage.location import Location

__all__ = [
    "READ_PARTLY",
    "REBUILD",
    "Signature",
    "difference",
    "file_changed",
    "fingerprints",
    "signatures",
    "spread",
]

REBUILD: Final = Hint("overwrite_index=True", "to build it again, or delete it")
READ_PARTLY: Final = Hint("strict=False", "to read the members before it")

#: Size in bytes, and identity; see `imagearchive.storage.location.Status`.
Signature = tuple[int, str]

# How many headers are compared if a modification time differs, spread evenly over the members.
# Reading them from the page cache takes milliseconds, and is done once.
SAMPLES: Final = 4096
# The same of a file that is on a server when it is indexed.
REMOTE_SAMPLES: Final = 64
SAMPLE_BYTES: Final = 512
# Members of a TAR start at multiples of this.
BLOCK: Final = 512


def signatures(files: Sequence[Location]) -> list[Signature | None]:
    """Return size and identity of each file; None for a directory.

    Raises
    ------
    OSError
        A file is missing, or cannot be read.
    """
    return [
        None if status.is_directory else (status.size, status.identity)
        for status in statuses(files)
    ]


def fingerprints(
    files: Sequence[Location],
    entries: npt.NDArray[Any] | PackedRows,
    ends: Sequence[int],
    compressed: bool = False,
) -> list[dict[str, Any]]:
    """Describe each file, so that `difference` can tell whether it has changed.

    Parameters
    ----------
    files : sequence of Location
    entries : ndarray of ENTRY_DTYPE
        The rows of the index.
    ends : sequence of int
        For each file, where its last member ends.
    compressed : bool
        Whether the files are compressed, so that the rows do not refer to their bytes.

    Returns
    -------
    list of dict
        ``size``, ``identity``, ``end``, and a digest of ``headers``; only ``directory`` for a
        directory.
    """
    found: list[dict[str, Any]] = []
    for shard, (file, signature, end) in enumerate(zip(files, signatures(files), ends)):
        if signature is None:
            found.append({"directory": True})
            continue
        # Each may be a request to a server.
        samples = SAMPLES if file.local_path is not None else REMOTE_SAMPLES
        if compressed:
            headers = _places(signature[0], samples)
        else:
            headers = _headers(entries, shard, len(files), samples)
        found.append(
            {
                "size": signature[0],
                "identity": signature[1],
                "end": end,
                "headers": _digest(file, headers, end),
            }
        )
        if samples != SAMPLES:
            found[-1]["samples"] = samples
        if compressed:
            found[-1]["compressed"] = True
    return found


def difference(
    files: Sequence[Location],
    archives: Sequence[dict[str, Any]],
    entries: npt.NDArray[Any],
    found: dict[str, Signature],
) -> str | None:
    """Return why the files do not match their fingerprints, or None if they do.

    What is found out about each file, by its path, is added to `found`.
    """
    if len(files) != len(archives):
        return f"it describes {pluralize(len(archives), 'file')}, not {len(files)}"
    # Asked for together, because each may be a request to a server.
    asked = dict(zip(files, signatures(files))) if _all_remote(files) else {}
    for shard, (file, archive) in enumerate(zip(files, archives)):
        path = file.path
        try:
            signature = asked[file] if file in asked else signatures([file])[0]
            if signature is not None:
                found[path] = signature
            if signature is None or archive.get("directory"):
                return f"{path} is a directory, which is listed each time"
            if signature[0] != archive["size"]:
                size = pluralize(signature[0], "byte")
                return f"{path} has {size}, but {archive['size']} when it was indexed"
            if signature[1] == archive["identity"]:
                continue
            samples = min(SAMPLES, int(archive.get("samples", SAMPLES)))
            if archive.get("compressed"):
                headers = _places(signature[0], samples)
            else:
                headers = _headers(entries, shard, len(files), samples)
            if _digest(file, headers, int(archive["end"])) != archive["headers"]:
                return f"headers inside {path} have changed since it was indexed"
        except (FileNotFoundError, NotADirectoryError):
            return f"{path} is gone"
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            return f"its metadata cannot be read ({error})"
    return None


def _all_remote(files: Sequence[Location]) -> bool:
    return bool(files) and all(file.local_path is None for file in files)


def file_changed(path: str) -> StaleIndexError:
    """Return the error for a file that is not the one that its index describes."""
    return StaleIndexError(
        f"{path}: the file has changed since it was indexed; open the archive again",
        hints=[Hint("overwrite_index=True", "to build a joined index again")],
    )


def spread(last: int, count: int = SAMPLES) -> npt.NDArray[np.int64]:
    """Return up to `count` different numbers from 0 to `last`, evenly spaced."""
    numbers: npt.NDArray[np.int64] = np.linspace(0, last, count).astype(np.int64)
    # np.unique would import numpy.ma, which takes as long as packing a thousand files.
    different = np.ones(len(numbers), np.bool_)
    different[1:] = numbers[1:] != numbers[:-1]
    return numbers[different]


def _places(size: int, samples: int) -> list[int]:
    """Return where to compare a compressed file, of which any part may have changed."""
    places: list[int] = spread(max(0, size - SAMPLE_BYTES), samples).tolist()
    return places


def _headers(
    entries: npt.NDArray[Any] | PackedRows, shard: int, files: int, samples: int
) -> list[int]:
    """Return where the headers to compare begin."""
    headers: list[int]
    if isinstance(entries, PackedRows):
        positions = spread(len(entries) - 1, samples).astype(np.uint64)
        headers = entries.header_offsets(positions).tolist()
        return headers
    rows = entries if files == 1 else entries[entries["shard"] == shard]
    if not len(rows):
        # A file without members, such as the index of Barecat: SQLite counts changes in its
        # first page.
        return [0]
    headers = rows["header_offset"][spread(len(rows) - 1, samples)].tolist()
    return headers


def _digest(file: Location, headers: Sequence[int], end: int) -> str:
    """Digest the headers, the bytes after the last member, and the end of the file.

    A TAR ends with padding, into which members can be appended without changing its size; a ZIP
    ends with its directory.
    """
    digest = hashlib.blake2b(digest_size=16)
    with closing(file.open("pread")) as storage:
        after_last = -(-end // BLOCK) * BLOCK
        ranges = [(header, SAMPLE_BYTES) for header in headers]
        ranges += [(after_last, 2 * BLOCK), (max(0, storage.size - SAMPLE_BYTES), SAMPLE_BYTES)]
        ranges = [(at, min(size, storage.size - at)) for at, size in ranges if at < storage.size]
        if isinstance(storage, RangesStorage):
            storage.prefetch_ranges(ranges)
        read = storage.read
        digest.update(b"".join([read(offset, size) for offset, size in ranges]))
    return digest.hexdigest()
