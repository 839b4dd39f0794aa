"""Whether an archive is still the one that was indexed."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.storage import PreadStorage

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["difference", "fingerprints"]

# How many headers are compared where a modification time differs, spread evenly; of a small
# archive, all.
SAMPLES: Final = 64
SAMPLE_BYTES: Final = 512
# Members of a TAR start at multiples of this.
BLOCK: Final = 512


def fingerprints(files: Sequence[str], entries: npt.NDArray[Any]) -> list[dict[str, Any]]:
    """Say of each file what tells whether it is still the same: size, time, sampled headers."""
    ranges = _sample_ranges(entries, len(files))
    return [_fingerprint(file, chosen) for file, chosen in zip(files, ranges)]


def difference(files: Sequence[str], archives: Sequence[dict[str, Any]]) -> str | None:
    """Say in what the files differ from their fingerprints; None where in nothing."""
    if len(files) != len(archives):
        return f"it speaks of {len(archives)} files, not of {len(files)}"
    for file, archive in zip(files, archives):
        try:
            if archive.get("directory"):
                return f"{file} is a directory, which is listed each time"
            status = os.stat(file)
            if status.st_size != archive["size"]:
                return f"{file} has {status.st_size} bytes where {archive['size']} were indexed"
            if status.st_mtime_ns == archive["mtime_ns"]:
                continue
            ranges = [(offset, size) for offset, size, _ in archive["samples"]]
            digests = [digest for _, _, digest in archive["samples"]]
            if _digests(file, ranges) != digests:
                return f"headers inside {file} have changed since it was indexed"
        except (FileNotFoundError, NotADirectoryError):
            return f"{file} is gone"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return f"its metadata cannot be read ({error})"
    return None


def _sample_ranges(entries: npt.NDArray[Any], files: int) -> list[list[tuple[int, int]]]:
    """For each file, the headers to compare, and what lies behind its last member."""
    ranges: list[list[tuple[int, int]]] = []
    for shard in range(files):
        rows = entries if files == 1 else entries[entries["shard"] == shard]
        if not len(rows):
            # An index of its own, such as Barecat's: SQLite counts changes in its first page.
            ranges.append([(0, SAMPLE_BYTES)])
            continue
        chosen = np.unique(np.linspace(0, len(rows) - 1, SAMPLES).astype(np.int64))
        found = [(int(rows["header"][row]), SAMPLE_BYTES) for row in chosen]
        # A TAR ends in padding, in which members can be appended while its size stays the same.
        end = int((rows["offset"] + rows["stored"]).max())
        found.append((-(-end // BLOCK) * BLOCK, 2 * BLOCK))
        ranges.append(found)
    return ranges


def _fingerprint(file: str, ranges: list[tuple[int, int]]) -> dict[str, Any]:
    status = os.stat(file)
    if stat.S_ISDIR(status.st_mode):
        return {"directory": True}
    size = status.st_size
    inside = [(offset, min(length, size - offset)) for offset, length in ranges if offset < size]
    # The end of the file tells whether something was appended or, in a ZIP, replaced.
    inside.append((max(0, size - SAMPLE_BYTES), min(size, SAMPLE_BYTES)))
    return {
        "size": size,
        "mtime_ns": status.st_mtime_ns,
        "samples": [
            [offset, length, digest]
            for (offset, length), digest in zip(inside, _digests(file, inside))
        ],
    }


def _digests(file: str, ranges: Sequence[tuple[int, int]]) -> list[str]:
    with PreadStorage(file) as storage:
        return [
            hashlib.blake2b(storage.read(offset, size), digest_size=8).hexdigest()
            for offset, size in ranges
        ]
