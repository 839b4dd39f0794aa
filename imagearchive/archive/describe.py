"""What an archive says about itself: its format, sizes, nesting, arrays, and damage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from imagearchive.arrays import npy
from imagearchive.errors import ImageArchiveError

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.containers.left_out import LeftOut
    from imagearchive.index.table import IndexTable

__all__ = ["describe", "describe_left_out"]

_METHODS: Final = {0: "stored", 8: "deflated"}
_MOST_EXTENSIONS: Final = 10
_MOST_ARRAYS: Final = 100


def describe(archive: Archive) -> dict[str, Any]:
    """Return facts about an archive from its index, as JSON can hold them.

    Only the headers of arrays are read from the archive itself.

    Returns
    -------
    dict of str to object
        `nested`, `arrays`, `left_out`, and `damage` are there only if there is something to say.
    """
    # Imported here, since it brings Pillow along, which no other listing needs.
    from imagearchive.codecs import extension_of

    table = archive.table
    entries = table.entries
    values, counts = np.unique(entries["method"], return_counts=True)
    extensions: dict[str, int] = {}
    for name in archive.files():
        extension = extension_of(name)
        extensions[extension] = extensions.get(extension, 0) + 1
    common = sorted(extensions.items(), key=lambda item: (-item[1], item[0]))[:_MOST_EXTENSIONS]
    derived = table.compressed
    views = [_outermost_view(table, shard) for shard in range(table.shards)]
    plain = np.array([view is None for view in views], np.bool_)[entries["shard"]]
    stored = int(entries["stored_size"][plain].sum(dtype=np.uint64))
    held = {view: derived[view].stored_size for view in views if view is not None}
    facts: dict[str, Any] = {
        "format": ", ".join(container.name for container in table.containers),
        "compressed": ", ".join(sorted({one.format for one in derived.values()})) or None,
        "files": list(table.files),
        "members": len(table),
        "directories": sum(1 for _ in archive.dirs()),
        "size": archive.total_size,
        "stored": stored + sum(held.values()),
        "largest": int(entries["size"].max()) if len(entries) else 0,
        "compression": {
            _METHODS.get(value, f"method_{value}"): count
            for value, count in zip(values.tolist(), counts.tolist())
        },
        "extensions": {f".{name}" if name else "none": count for name, count in common},
        "index": table.path,
    }
    if "nested" in table.meta:
        found = table.meta["nested"]
        facts["nested"] = {"archives": found["archives"], "levels": found["deepest"]}
    if arrays := _array_headers(archive):
        facts["arrays"] = arrays
    if archive.left_out:
        facts["left_out"] = describe_left_out(archive.left_out)
    if table.meta.get("damage"):
        facts["damage"] = table.meta["damage"]
    return facts


def describe_left_out(left_out: LeftOut) -> dict[str, Any]:
    """Return what an archive holds that is not a member, as JSON can hold it."""
    return {
        "count": len(left_out),
        "counts": left_out.counts,
        "members": [one._asdict() for one in left_out.members],
    }


def _array_headers(archive: Archive) -> dict[str, dict[str, Any]]:
    """Return dtype and shape of the arrays of an archive, the first hundred."""
    facts: dict[str, dict[str, Any]] = {}
    budget = npy.HeaderBudget()
    for position, name in enumerate(archive.files()):
        if not name.endswith(".npy"):
            continue
        if len(facts) == _MOST_ARRAYS:
            break
        try:
            header = budget.parse(
                archive.member(position), archive.info(position).stored_size, name
            )
        except (OSError, ImageArchiveError) as error:
            facts[name.removesuffix(".npy")] = {"error": str(error)}
            continue
        dtype = header.dtype.name if header.dtype.names is None else str(header.dtype)
        facts[name.removesuffix(".npy")] = {"dtype": dtype, "shape": list(header.shape)}
    return facts


def _outermost_view(table: IndexTable, shard: int) -> int | None:
    """Return the compressed file or member that contains a shard, or None if none does."""
    view = None
    number: int | None = shard
    while number is not None and number in table.derived:
        if number in table.compressed:
            view = number
        number = table.derived[number].parent
    return view
