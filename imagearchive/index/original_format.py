"""Read index files of the original ImageArchive: a 2-D array of index, offset, size, and labels."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.containers.rows import ENTRY_DTYPE
from imagearchive.errors import CorruptIndexError
from imagearchive.index.file_format import NotAnIndexError

__all__ = ["original_columns"]

# Beyond any file; larger numbers do not fit the columns.
_TOO_LARGE: Final = 2.0**63


def original_columns(ipath: str, rows: npt.NDArray[Any]) -> dict[str, Any]:
    """Return the columns of an index table; members are named by their number.

    Raises
    ------
    NotAnIndexError
        The array is not such an index.
    CorruptIndexError
        An offset or size is not a whole number from 0.
    """
    if rows.ndim != 2 or rows.shape[1] < 3 or rows.dtype.kind not in "iuf":
        raise NotAnIndexError(
            f"{ipath}: an array of {rows.dtype} {rows.shape} is not an index; delete it, or name "
            f"another file"
        )
    count = len(rows)
    places = rows[:, 1:3]
    # Comparisons with NaN are false.
    if not ((places >= 0) & (places < _TOO_LARGE) & (places == np.trunc(places))).all():
        raise CorruptIndexError(f"{ipath}: offsets and sizes must be whole numbers from 0")
    entries = np.zeros(count, ENTRY_DTYPE)
    entries["index"] = np.arange(count)
    entries["offset"] = entries["header_offset"] = rows[:, 1]
    entries["size"] = entries["stored_size"] = rows[:, 2]
    width = max(8, len(str(count)))
    digits = np.char.zfill(np.arange(count).astype(f"S{width}"), width)
    positions = np.arange(count + 1, dtype=np.uint64)
    return {
        "entries": entries,
        "label_values": np.ascontiguousarray(rows[:, 3:], np.float64).reshape(-1),
        "label_offsets": positions * np.uint64(rows.shape[1] - 3),
        "names": np.frombuffer(digits.tobytes(), np.uint8),
        "name_offsets": positions * np.uint64(width),
        "name_order": positions[:-1],
    }
