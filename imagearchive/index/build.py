"""Build the columns of an index table from an archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.containers.packed_rows import PackedRows
from imagearchive.containers.registry import scan_location
from imagearchive.containers.rows import RowBuffer
from imagearchive.errors import ImageArchiveError, StaleIndexError
from imagearchive.index.class_directories import class_directories
from imagearchive.index.freshness import Signature, fingerprints, signatures
from imagearchive.index.lookup import Lookup
from imagearchive.index.metadata import CHECKPOINTS
from imagearchive.index.resolve import Resolved, files_alone, name_lookup, resolve
from imagearchive.storage.answers import ask_again
from imagearchive.storage.location import Location
from imagearchive.storage.progress import Progress

if TYPE_CHECKING:
    from imagearchive.containers.compressed_scan import Look
    from imagearchive.index.file_format import IndexDraft

__all__ = ["BuiltIndex", "build_columns", "directory_labels"]


class BuiltIndex(NamedTuple):
    """The result of `build_columns`.

    Attributes
    ----------
    columns : dict of str to ndarray
        The columns of `imagearchive.index.table.IndexTable`; the entries may be `PackedRows`.
    files : list of str
        The files that hold the bytes.
    meta : dict
    extra : dict of str to ndarray
        Further sections; the checkpoints of compressed files are in `CHECKPOINTS`.
    file_signatures : dict of str to Signature
        Size and identity of the files when they were scanned, by path.
    unchanged : bool
        Whether the archive did not change during the scan.
    """

    columns: dict[str, Any]
    files: list[str]
    meta: dict[str, Any]
    extra: dict[str, npt.NDArray[np.uint8]]
    file_signatures: dict[str, Signature]
    unchanged: bool

    def head(self) -> BuiltIndex:
        """Return the same with the first member alone."""
        columns = self.columns
        entries = columns["entries"]
        count = min(1, len(entries))
        if isinstance(entries, PackedRows):
            entries = next(entries.chunks())
        label_offsets, offsets = (
            columns[name][: count + 1] for name in ("label_offsets", "name_offsets")
        )
        head = {
            "entries": entries[:count].copy(),
            "label_values": columns["label_values"][: int(label_offsets[-1])],
            "label_offsets": label_offsets,
            "names": columns["names"][: int(offsets[-1])],
            "name_offsets": offsets,
            "name_order": np.zeros(count, np.uint64),
        }
        return self._replace(columns=head)


# The archive may have changed since its index was compared with it.
@ask_again()
def build_columns(
    location: Location,
    *,
    strict: bool = True,
    progress: Progress | None = None,
    look: Look | None = None,
    draft: IndexDraft | None = None,
) -> BuiltIndex:
    """Scan an archive; other parameters and errors are those of `registry.scan_location`.

    Parameters
    ----------
    draft : IndexDraft, optional
        Of the index: the columns of a large archive are written to it as soon as they are known.

    Raises
    ------
    StaleIndexError
        The archive was changed while it was scanned, twice.
    """
    for attempt in range(2):
        before = signatures([location])
        try:
            scanned = scan_location(location, strict=strict, progress=progress, look=look)
            early = None if draft is None else files_alone(scanned.rows)
            if draft is not None and early is not None:
                draft.begin({"entries": early})
            resolved = resolve(scanned.rows, keep_packed=True, files=early)
            # The columns have taken their place.
            scanned = scanned._replace(rows=RowBuffer(0))
            columns = _columns(resolved)
            if draft is not None and columns["entries"] is early:
                draft.begin({name: columns[name] for name in columns if name != "entries"})
            prints = fingerprints(
                scanned.files,
                resolved.entries if resolved.packed is None else resolved.packed,
                scanned.ends,
                compressed=scanned.derived is not None,
            )
        except (ImageArchiveError, OSError) as error:
            if not _has_changed(location, before):
                raise
            if attempt == 0:
                continue
            raise StaleIndexError(
                f"{location.path}: changed while open: it was written to during the scan; open it "
                f"again when it is complete"
            ) from error
        unchanged = signatures([location]) == before
        if unchanged:
            break
    container, files, base = scanned.container, scanned.files, location.parent
    meta: dict[str, Any] = {
        "containers": [{"name": container.name, "version": container.version, "first_file": 0}],
        "archives": [{"path": base.relative(file.path), **one} for file, one in zip(files, prints)],
        "directories": [name.decode("utf-8", "surrogateescape") for name in resolved.directories],
    }
    left_out = resolved.left_out
    entries, packed = resolved.entries, resolved.packed
    if packed is None:
        # Rows are packed only by formats of which every member can be read.
        for reason, mask in container.unreadable(entries).items():
            left_out.add_rows(resolved.names, resolved.name_offsets, mask, reason, entries["shard"])
    if left_out:
        meta["left_out"] = left_out.to_metadata()
    if scanned.damage:
        meta["damage"] = scanned.damage
    extra = {}
    if scanned.derived is not None:
        meta["derived"] = {"0": scanned.derived.to_json()}
        extra[CHECKPOINTS] = np.frombuffer(scanned.checkpoints, np.uint8)
    file_signatures = {
        file.path: (one["size"], one["identity"])
        for file, one in zip(files, prints)
        if "size" in one
    }
    return BuiltIndex(
        columns, [file.path for file in files], meta, extra, file_signatures, unchanged
    )


def _columns(resolved: Resolved) -> dict[str, Any]:
    """Return the columns of the index, in the order of its file."""
    lookup = name_lookup(resolved.names, resolved.name_offsets, resolved.name_order)
    values, offsets = directory_labels(lookup, resolved.name_order)
    return {
        "entries": resolved.entries if resolved.packed is None else resolved.packed,
        "label_values": values,
        "label_offsets": offsets,
        "names": resolved.names,
        "name_offsets": resolved.name_offsets,
        "name_order": resolved.name_order,
    }


def _has_changed(location: Location, before: list[Signature | None]) -> bool:
    try:
        return signatures([location]) != before
    except FileNotFoundError:
        # What was open when it was deleted is read to its end.
        return False


def directory_labels(
    lookup: Lookup, order: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint64]]:
    """Label every member with the number of its top-level directory."""
    labels = class_directories(lookup, order, b"")[1].astype(np.float64)
    labeled = labels >= 0
    if labeled.all():
        return labels, np.arange(lookup.count + 1, dtype=np.uint64)
    offsets = np.zeros(lookup.count + 1, np.uint64)
    np.cumsum(labeled, out=offsets[1:])
    return labels[labeled], offsets
