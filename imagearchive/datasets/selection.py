"""Which members of an archive are samples, and of which class: pure selection, nothing is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive._scan.classes import class_directories
from imagearchive._scan.names import ends_with, normalise
from imagearchive.errors import MemberNotFoundError, OptionTypeError
from imagearchive.tree import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imagearchive.index import IndexTable

__all__ = ["IMAGE_EXTENSIONS", "Classes", "find_classes", "root_prefix", "select"]

#: What counts as an image where members of one sample have to be told apart.
IMAGE_EXTENSIONS: Final = (
    "bmp", "gif", "jpeg", "jpg", "png", "ppm", "pgm", "pbm", "tif", "tiff", "webp",
)  # fmt: skip


class Classes(NamedTuple):
    """The class directories below a root."""

    names: list[str]
    numbers: npt.NDArray[np.int64]
    """For each selected member the number of its class, -1 outside of any."""


def root_prefix(table: IndexTable, root: str) -> bytes:
    """Return what the names below `root` begin with.

    Raises
    ------
    MemberNotFoundError
        No member lies below it.
    """
    name = normalise(encode(root))
    if not name:
        return b""
    low, high = table.lookup.bounds(name + b"/")
    if low == high:
        raise MemberNotFoundError(
            f"root={root!r}: no member lies in such a directory; list the archive with "
            f"imagearchive ls"
        )
    return name + b"/"


def select(
    table: IndexTable,
    prefix: bytes,
    extensions: Sequence[str] | str | None,
    is_valid_file: Callable[[str], bool] | None,
) -> npt.NDArray[np.int64] | None:
    """Return the positions of the members wanted, ascending; None where those are all."""
    chosen: npt.NDArray[np.int64] | None = None
    if prefix:
        low, high = table.lookup.bounds(prefix)
        chosen = np.sort(table.name_order[low:high]).astype(np.int64)
    if extensions is not None:
        suffixes = [extensions] if isinstance(extensions, str) else list(extensions)
        if not all(isinstance(suffix, str) for suffix in suffixes):
            raise OptionTypeError(f"extensions={extensions!r}: strings such as '.jpg' are wanted")
        # An empty string stands for every file, as with str.endswith.
        wanted = [encode(s if s.startswith(".") or not s else "." + s) for s in suffixes]
        mask = ends_with(table.names, table.name_offsets, wanted)
        chosen = np.flatnonzero(mask) if chosen is None else chosen[mask[chosen]]
    if is_valid_file is not None:
        candidates = range(len(table)) if chosen is None else chosen.tolist()
        valid = [position for position in candidates if is_valid_file(table.name(position))]
        chosen = np.array(valid, np.int64)
    return chosen


def find_classes(table: IndexTable, prefix: bytes, chosen: npt.NDArray[np.int64] | None) -> Classes:
    """Number the directories below the root that hold a selected member, sorted by name."""
    directories, numbers = class_directories(table.lookup, table.name_order, prefix)
    selected = numbers if chosen is None else numbers[chosen]
    used = np.unique(selected[selected >= 0])
    if len(used) < len(directories):
        # The last place stands for -1.
        renumber = np.full(len(directories) + 1, -1, np.int64)
        renumber[used] = np.arange(len(used))
        selected = renumber[selected]
    return Classes([decode(directories[i]) for i in used], selected)
