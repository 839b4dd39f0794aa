"""From an archive to the columns of its index table."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.containers.registry import scan_location
from imagearchive.index.class_directories import class_directories
from imagearchive.index.freshness import Signature, fingerprints, signatures
from imagearchive.index.lookup import Lookup
from imagearchive.index.resolve import resolve
from imagearchive.storage.location import Location

__all__ = ["Built", "build_columns", "directory_labels"]


class Built(NamedTuple):
    """A table under construction.

    Attributes
    ----------
    columns : dict of str to ndarray
        The columns of `imagearchive.index.table.IndexTable`.
    files : list of str
        The files that hold the bytes.
    meta : dict
    verified : dict of str to Signature
        What the files were when they were scanned.
    unchanged : bool
        Whether the archive stayed the same during the scan.
    """

    columns: dict[str, Any]
    files: list[str]
    meta: dict[str, Any]
    verified: dict[str, Signature]
    unchanged: bool


def build_columns(location: Location, *, strict: bool = True) -> Built:
    """Scan an archive; errors as `imagearchive.containers.registry.scan_location`."""
    for _ in range(2):
        before = signatures([location])
        scanned = scan_location(location, strict=strict)
        resolved = resolve(scanned.rows)
        prints = fingerprints(scanned.files, resolved.entries, scanned.ends)
        unchanged = signatures([location]) == before
        if unchanged:
            break
    container, files, base = scanned.container, scanned.files, location.parent
    meta: dict[str, Any] = {
        "containers": [{"name": container.name, "version": container.version, "first_file": 0}],
        "archives": [{"path": base.relative(file.path), **one} for file, one in zip(files, prints)],
        "directories": [name.decode("utf-8", "surrogateescape") for name in resolved.directories],
    }
    if scanned.damage:
        meta["damage"] = scanned.damage
    lookup = Lookup(resolved.entries, resolved.names, resolved.name_offsets, resolved.name_order)
    values, offsets = directory_labels(lookup, resolved.name_order)
    columns = {
        "entries": resolved.entries,
        "label_values": values,
        "label_offsets": offsets,
        "names": resolved.names,
        "name_offsets": resolved.name_offsets,
        "name_order": resolved.name_order,
    }
    verified = {
        file.path: (one["size"], one["identity"])
        for file, one in zip(files, prints)
        if "size" in one
    }
    return Built(columns, [file.path for file in files], meta, verified, unchanged)


def directory_labels(
    lookup: Lookup, order: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint64]]:
    """Label every member with the number of its top-level directory."""
    labels = class_directories(lookup, order, b"")[1].astype(np.float64)
    labeled = labels >= 0
    offsets = np.zeros(lookup.count + 1, np.uint64)
    np.cumsum(labeled, out=offsets[1:])
    return labels[labeled], offsets
