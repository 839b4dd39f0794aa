"""The table in an index file: loaded, saved, and checked."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagearchive.errors import CorruptIndexError
from imagearchive.index import file_format
from imagearchive.index.cache import is_cached
from imagearchive.index.column_checks import COLUMNS, UNBOUNDED, check_columns, take_columns
from imagearchive.index.freshness import Signature, difference
from imagearchive.index.member_table import MemberTable
from imagearchive.index.metadata import (
    changed_scanner,
    check_metadata,
    derived_files,
    file_sizes,
    shard_sizes,
)
from imagearchive.index.original_format import original_columns
from imagearchive.index.recorded_files import FILES, describe_files
from imagearchive.storage.local import MmapStorage
from imagearchive.storage.location import Location, locate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self

    from imagearchive.index.file_format import IndexDraft, Section

__all__ = ["SavedTable", "save_columns"]

logger = logging.getLogger(__name__)


class SavedTable(MemberTable):
    """A table with an index file, which loads, saves, and checks it.

    Base of `imagearchive.index.table.IndexTable`, which finds the file of an archive.
    """

    # --- loading ----------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        ipath: str,
        apath: str | os.PathLike[str] | None = None,
        sizes: npt.ArrayLike | None = None,
    ) -> Self:
        """Map an index file without checking whether the archive is still the same.

        All columns are checked, once per process and state of the file.

        Besides our own files, this reads the index of the original ImageArchive: one numeric 2-D
        array of index, offset, size and labels. Such a file has no names, so its members are
        named by their number.

        Parameters
        ----------
        ipath : str
            The index file.
        apath : path-like, optional
            The archive. By default the files that the index names, relative to its directory.
        sizes : array-like of int, optional
            The size in bytes of each file of the archive. By default what the index says.

        Raises
        ------
        FileNotFoundError
            There is no such index file.
        CorruptIndexError
            It is damaged, or leads outside the archive.
        """
        return cls._load(ipath, apath, sizes, check=True)

    @classmethod
    def _load(
        cls,
        ipath: str,
        apath: str | os.PathLike[str] | None,
        sizes: npt.ArrayLike | None = None,
        *,
        check: bool,
    ) -> Self:
        """As `load`; `check` is false if nothing is looked up, or this process wrote the file."""
        sections, meta, identity, storage = file_format.load(locate(ipath))
        if not meta:
            if apath is None:
                raise file_format.NotAnIndexError(f"{ipath}: it does not name its archive")
            archive = locate(apath)
            original = original_columns(ipath, sections["entries"])
            check_columns(ipath, identity, original, [archive.status().size])
            return cls(**original, files=[archive.path], meta={}, path=ipath, storage=storage)
        columns = take_columns(ipath, sections)
        base = locate(ipath if apath is None else apath).parent
        check_metadata(ipath, meta)
        archives = meta["archives"]
        seekable = file_sizes(ipath, archives) if sizes is None else sizes
        limits = shard_sizes(ipath, seekable, derived_files(ipath, meta))
        if check:
            state = storage.state if isinstance(storage, MmapStorage) else ""
            check_columns(ipath, identity, columns, limits, state)
        if apath is not None and len(archives) == 1:
            # A renamed archive keeps its index.
            files = [locate(apath).path]
        else:
            files = [base.join(archive["path"]).path for archive in archives]
        return cls(**columns, files=files, meta=meta, extra=sections, path=ipath, storage=storage)

    # --- saving -----------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str] | Location) -> Self:
        """Save the table and return the mapped one.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        location = locate(path)
        written = self.write(location)
        return self.load_written(location, self.files, self.file_signatures, written)

    def write(self, location: Location) -> Signature | None:
        """Save the table; returns what `file_format.save` does, and raises as `save`."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        return save_columns(location, columns, self.extra, self.meta, self.file_signatures)

    @classmethod
    def load_written(
        cls,
        location: Location,
        files: Sequence[str],
        file_signatures: Mapping[str, Signature],
        written: Signature | None,
    ) -> Self:
        """Map the table that `write` has just saved; `written` is what it returned."""
        unknown = (UNBOUNDED, "")
        archive = files[0] if files else None
        sizes = [file_signatures.get(file, unknown)[0] for file in files]
        table = cls._load(location.path, archive, sizes, check=written is None)
        mapped = table.storage
        if mapped is not None and written not in (None, (mapped.size, mapped.identity)):
            # Another process has replaced the file.
            table = cls.load(location.path, archive, sizes)
        table.files, table.file_signatures = files, file_signatures
        return table

    def add_extra(self, sections: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add named sections to the table and, if it can be written, to the index file.

        Each save writes the whole file, so only the first, second, fourth, eighth and so on
        addition is saved at once; the others with the next one, or by `save_extra`.
        """
        self.extra = {**self.extra, **sections}
        self._added += 1
        self._unsaved = self.path is not None
        if self._added & (self._added - 1) == 0:
            self.save_extra()

    def save_extra(self) -> None:
        """Save the sections that were added and are not saved yet; a failure is logged."""
        if not self._unsaved or self.path is None:
            return
        self._unsaved = False
        try:
            self.save(self.path)
        except OSError as error:
            logger.warning("%s: further sections cannot be saved: %s", self.path, error.strerror)

    def checkpoints(self, position: int) -> SavedCheckpoints:
        """Return where the checkpoints of a compressed member are kept."""
        return SavedCheckpoints(self, f"checkpoints/{position}/points")

    # --- checking ---------------------------------------------------------------------------

    def check_unchanged(self) -> None:
        """Raise if the index file was changed in place since it was opened.

        Raises
        ------
        StaleIndexError
            It has another size or modification time.
        OSError
            Bytes of it could not be read.
        """
        if self.storage is not None:
            self.storage.check_unchanged()

    def staleness(self) -> str | None:
        """Return why the index no longer describes its archive, or None if it does.

        Sizes are compared first. If an identity differs, the headers of up to 4,096 members are
        compared, so a copied or touched archive keeps its index.
        """
        if not self.meta:
            return None
        name = changed_scanner(self.meta)
        if name is not None:
            return f"it was built by another version of the {name} scanner"
        files = [locate(file) for file in self.files]
        found: dict[str, Signature] = {}
        reason = difference(files, self.meta["archives"], self.entries, found)
        if reason is None:
            self.file_signatures = found
        return reason

    def check(self) -> None:
        """Read the whole index file, and compare every section with its checksum.

        Raises
        ------
        CorruptIndexError
            A section differs.
        """
        if self.path is None:
            return
        sections, meta, *_ = file_format.load(locate(self.path))
        for section in meta.get("sections", []):
            if file_format.checksum(sections[section["name"]]) != section["crc32"]:
                raise CorruptIndexError(
                    f"{self.path}: section {section['name']!r} is damaged; delete the index and "
                    f"open the archive again"
                )


def save_columns(
    location: Location,
    columns: Mapping[str, Section],
    extra: Mapping[str, Section],
    meta: Mapping[str, Any],
    file_signatures: Mapping[str, Signature],
    draft: IndexDraft | None = None,
) -> Signature | None:
    """Save the columns of a table; parameters are its attributes, and the rest as for `write`.

    If `draft` is one of this location, it is saved.
    """
    sections = {name: columns[name] for name in COLUMNS}
    sections.update(sorted(extra.items()))
    if is_cached(location):
        # The name of a cached index does not tell whose it is.
        sections[FILES] = describe_files(file_signatures)
    described = {key: value for key, value in meta.items() if key != "sections"}
    if draft is not None and draft.location is location:
        return draft.save(sections, described)
    return file_format.save(location, sections, described)


class SavedCheckpoints:
    """The checkpoints of one member, in a section of its index file."""

    def __init__(self, table: SavedTable, section: str) -> None:
        self._table = table
        self._section = section

    def load(self) -> memoryview | None:
        """Return the saved checkpoints, or None."""
        points = self._table.extra.get(self._section)
        return None if points is None else points.data

    def save(self, checkpoints: bytes) -> None:
        """Save checkpoints; see `SavedTable.add_extra`."""
        self._table.add_extra({self._section: np.frombuffer(checkpoints, np.uint8)})
