"""The index table of an archive: found, or built and saved."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from typing import TYPE_CHECKING

from imagearchive.containers.packed_rows import PackedRows
from imagearchive.containers.registry import find_container, resolve_location
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    CorruptIndexError,
    ImageArchiveError,
    OptionError,
    StaleIndexError,
)
from imagearchive.errors.os_errors import OUT_OF_FILES
from imagearchive.index import file_format
from imagearchive.index.build import BuiltIndex, build_columns
from imagearchive.index.column_checks import COLUMNS
from imagearchive.index.freshness import READ_PARTLY, REBUILD
from imagearchive.index.index_locations import (
    check_replaceable,
    index_locations,
    unwritable_index,
)
from imagearchive.index.look_inside import LookInside
from imagearchive.index.nesting import Nested, Nesting
from imagearchive.index.saved_table import SavedTable, save_columns
from imagearchive.storage.local import advise_on_path
from imagearchive.storage.location import Location, PublishingLocation, locate

if TYPE_CHECKING:
    from collections.abc import Callable

    from imagearchive.containers.compressed_scan import Look
    from imagearchive.storage.progress import Progress

__all__ = ["IndexTable"]

logger = logging.getLogger(__name__)


class IndexTable(SavedTable):
    """The members of an archive, one row each, which are saved in an index file.

    `MemberTable` describes the attributes, and `SavedTable` loads, saves, and checks a table. This
    class finds the saved table of an archive, or builds it.
    """

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        ipath: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        strict: bool = True,
        save: bool = True,
        progress: Progress | None = None,
        nested: Nested = False,
    ) -> IndexTable:
        """Open the index of one archive; build it if there is none, or if it is stale.

        Parameters
        ----------
        path : path-like
            The archive.
        ipath : path-like, optional
            The index file to use, or to create. By default the archive's path with ``.idx.npy`` in
            place of its last extension, or else a file in the user's cache directory.
        overwrite : bool
            Build the index even if there is a fresh one.
        strict : bool
            Whether damage in the archive is an error. Otherwise the members before it are kept, and
            the loss is logged.
        save : bool
            Whether an index that is built is saved, if `ipath` is not given.
        progress : callable, optional
            Called while a compressed archive is decompressed to build its index; see
            `imagearchive.storage.progress`.
        nested : bool, int, "auto", or "keep"
            Which archives inside the archive are opened; see `imagearchive.open`. They have an
            index file of their own, such as ``ARCHIVE.nested.idx.npy``.

        Raises
        ------
        ArchiveNotFoundError, UnsupportedArchiveError, CorruptArchiveError
            There is no archive at `path`, or it cannot be read.
        StaleIndexError
            `ipath` exists, but the archive has changed since it was built.
        CorruptIndexError
            `ipath` exists and is damaged.
        """
        archive = resolve_location(locate(path))
        nesting = Nesting.from_argument(nested)
        try:
            status = archive.status()
        except (FileNotFoundError, NotADirectoryError):
            local = archive.local_path
            advice = "is the path right?" if local is None else advise_on_path(local)
            raise ArchiveNotFoundError(f"{archive.path}: no such archive; {advice}") from None
        given = None if ipath is None else locate(ipath)
        if status.is_directory and find_container(archive).members_are_files:
            if given is not None:
                raise OptionError(
                    f"{given.path}: a plain directory has no index file, because it is listed each "
                    f"time it is opened"
                )
            if nesting is not None and not nesting.auto:
                raise OptionError(
                    f"{archive.path}: archives in a plain directory are not opened with it; pass "
                    f"their paths as a list or a pattern"
                )
            return cls._from_built(cls._build(archive, strict, progress))
        options = (overwrite, strict, save)

        inner = None if nesting is None else LookInside(nesting, archive)

        def scan(draft: file_format.IndexDraft | None) -> BuiltIndex:
            return cls._build(archive, strict, progress, inner, draft)

        if nesting is None:
            return cls._open(archive, given, options, None, scan)
        # Imported here, because few archives contain others.
        from imagearchive.index.inner_archives import begins_with_archive

        if given is not None and not overwrite:
            table = cls._open_given(archive, given, overwrite, strict, nesting)
            if table is not None:
                return table
        plain = (overwrite, strict, save and given is None)
        outer = cls._open(archive, None, plain, None, scan)
        if outer.meta and (not nesting.auto or begins_with_archive(outer)):
            scanner = None if inner is None else inner.scanner

            def build(draft: object) -> BuiltIndex:
                from imagearchive.index.nested import build_nested

                return build_nested(outer, nesting, strict, progress, scanner)

            return cls._open(archive, given, options, nesting, build)
        if given is None:
            return outer
        return cls._open(archive, given, options, nesting, lambda _: outer._to_built())

    @classmethod
    def _open(
        cls,
        archive: Location,
        given: Location | None,
        options: tuple[bool, bool, bool],
        nesting: Nesting | None,
        build: Callable[[file_format.IndexDraft | None], BuiltIndex],
    ) -> IndexTable:
        """Return the saved index if it is fresh, or build and save it."""
        overwrite, strict, save = options
        table: IndexTable | None
        if given is not None:
            table, writable = cls._open_given(archive, given, overwrite, strict, nesting), [given]
        else:
            table, writable = cls._find(archive, overwrite, strict, nesting)
        if table is not None:
            return table
        if given is None and not save:
            return cls._from_built(build(None))
        if not writable:
            return cls._save_built(archive, given, writable, build, None)
        with file_format.IndexDraft(writable[0]) as draft:
            return cls._save_built(archive, given, writable, build, draft)

    @classmethod
    def _save_built(
        cls,
        archive: Location,
        given: Location | None,
        writable: list[Location],
        build: Callable[[file_format.IndexDraft | None], BuiltIndex],
        draft: file_format.IndexDraft | None,
    ) -> IndexTable:
        """Build the index, and save it at the first location that can be written."""
        built = build(draft)
        if not built.unchanged:
            warnings.warn(
                f"{archive.path}: the archive changes while it is read, so its index is not saved",
                RuntimeWarning,
                stacklevel=4,
            )
            return cls._from_built(built)
        failures = []
        for location in writable:
            try:
                if given is None:
                    location.parent.make_directory()
                written = save_columns(
                    location, built.columns, built.extra, built.meta, built.file_signatures, draft
                )
            except OSError as error:
                if given is not None:
                    raise unwritable_index(given.path, error) from error
                if error.errno in OUT_OF_FILES:
                    raise
                failures.append(f"{location.path}: {error.strerror}")
            else:
                files, found = built.files, built.file_signatures
                # A large table should not be in memory together with its file.
                del built
                try:
                    return cls.load_written(location, files, found, written)
                except FileNotFoundError:
                    # Another process has removed the file.
                    return cls._from_built(build(None))
        warnings.warn(
            f"{archive.path}: the index cannot be saved "
            f"({'; '.join(failures) or 'no cache directory'}), so every process scans the archive "
            f"again; name another file with ipath",
            RuntimeWarning,
            stacklevel=4,
        )
        return cls._from_built(built)

    @classmethod
    def _open_given(
        cls,
        archive: Location,
        ipath: Location,
        overwrite: bool,
        strict: bool,
        nesting: Nesting | None,
    ) -> IndexTable | None:
        """Return the index that was asked for, or None if it is to be built."""
        if not ipath.exists():
            return None
        check_replaceable(ipath, [archive])
        try:
            table = cls.load(ipath.path, archive.path)
        except file_format.NotAnIndexError as error:
            if not overwrite:
                raise
            # It may be anything, so it is not overwritten.
            raise OptionError(f"{error}; refusing to overwrite it") from error
        except CorruptIndexError:
            if not overwrite:
                raise
            return None
        return None if overwrite else table._checked(strict, nesting)

    def _checked(self, strict: bool, nesting: Nesting | None) -> IndexTable:
        """Return the table if it is fresh and complete, else raise."""
        reason = self.staleness()
        if reason is None and not self._is_for(nesting):
            reason = "it was built with another value of nested"
        if reason is not None:
            raise StaleIndexError(f"{self.path}: {reason}", hints=[REBUILD])
        if strict and self.meta.get("damage"):
            raise CorruptArchiveError(
                f"{self.meta['damage']} (as found when {self.path} was built)",
                hints=[READ_PARTLY],
            )
        return self

    @classmethod
    def _find(
        cls, archive: Location, overwrite: bool, strict: bool, nesting: Nesting | None
    ) -> tuple[IndexTable | None, list[Location]]:
        """Return the saved index if it is fresh, or None and where to save a new one."""
        writable = []
        locations = index_locations(archive, nesting.variant if nesting else "")
        for location in locations:
            try:
                table = cls._load(location.path, archive.path, check=not overwrite)
                if not table.meta or table._belongs_to_another(archive):
                    # The index of the original ImageArchive may list only a part of the archive.
                    continue
                reason = "asked to" if overwrite else table.staleness()
                if reason is None and strict and table.meta.get("damage"):
                    reason = "it was built without strict"
                if reason is None and not table._is_for(nesting):
                    reason = "it was built with another value of nested"
                if reason is None:
                    remote = isinstance(location, PublishingLocation)
                    # Nothing is written beside an archive on a server unasked.
                    return table._with_current_identities(locations[0] if remote else location), []
                logger.info("%s: building the index again: %s", archive.path, reason)
            except file_format.NotAnIndexError:
                # It may be anything, so it is not overwritten.
                continue
            except (FileNotFoundError, NotADirectoryError):
                pass
            except (CorruptIndexError, OSError) as error:
                if isinstance(error, OSError) and error.errno in OUT_OF_FILES:
                    raise
                logger.info("%s: building the index again: %s", archive.path, error)
            if not isinstance(location, PublishingLocation):
                writable.append(location)
        return None, writable

    def _is_for(self, nesting: Nesting | None) -> bool:
        """Whether the index is what would be built for this value of ``nested``."""
        if nesting is not None and self.meta and "nested" not in self.meta:
            # A plain index is enough if there is nothing to open.
            from imagearchive.index.inner_archives import begins_with_archive

            return nesting.auto and not begins_with_archive(self)
        return "nested" not in self.meta or (nesting is not None and nesting.built(self.meta))

    def _belongs_to_another(self, archive: Location) -> bool:
        """Whether the index belongs to another existing file, such as data.tar beside data.npz."""
        recorded = [one["path"] for one in self.meta["archives"]]
        # The files of a directory of bins are below it.
        if any(path.split("/")[0] == archive.name for path in recorded):
            return False
        return any(archive.parent.join(path).exists() for path in recorded)

    def _with_current_identities(self, location: Location) -> IndexTable:
        """Save the identity of a touched or copied archive, so that it is compared only once."""
        archives = self.meta.get("archives", [])
        now = [self.file_signatures.get(file) for file in self.files]
        if all(seen is None or seen[1] == a["identity"] for seen, a in zip(now, archives)):
            return self
        self.meta["archives"] = [
            a if seen is None else {**a, "identity": seen[1]} for seen, a in zip(now, archives)
        ]
        try:
            location.parent.make_directory()
            return self.save(location)
        except OSError as error:
            logger.debug("%s: the archive's identity cannot be saved: %s", location.path, error)
            return self

    @classmethod
    def build(
        cls,
        path: str | os.PathLike[str] | Location,
        *,
        strict: bool = True,
        nested: Nested = False,
    ) -> IndexTable:
        """Scan an archive without saving its index."""
        nesting = Nesting.from_argument(nested)
        archive = resolve_location(locate(path))
        if nesting is None:
            return cls._from_built(cls._build(archive, strict, None))
        inner = LookInside(nesting, archive)
        table = cls._from_built(cls._build(archive, strict, None, inner))
        from imagearchive.index.inner_archives import begins_with_archive

        if nesting.auto and not begins_with_archive(table):
            return table
        from imagearchive.index.nested import build_nested

        return cls._from_built(build_nested(table, nesting, strict, None, inner.scanner))

    @classmethod
    def _build(
        cls,
        archive: Location,
        strict: bool,
        progress: Progress | None,
        look: Look | None = None,
        draft: file_format.IndexDraft | None = None,
    ) -> BuiltIndex:
        # Imported here, because an archive with an index needs it only if it contains others.
        from imagearchive.index.inner_archives import begins_with_archive

        built = build_columns(archive, strict=strict, progress=progress, look=look, draft=draft)
        # The files may be gone, or may have changed, since they were scanned.
        with contextlib.suppress(OSError, ImageArchiveError):
            built.meta["begins_with_archive"] = begins_with_archive(cls._from_built(built.head()))
        return built

    def _to_built(self) -> BuiltIndex:
        columns = {name: getattr(self, name) for name in COLUMNS}
        return BuiltIndex(
            columns,
            list(self.files),
            self.meta,
            dict(self.extra),
            dict(self.file_signatures),
            self.unchanged_during_scan,
        )

    @classmethod
    def _from_built(cls, built: BuiltIndex) -> IndexTable:
        columns = dict(built.columns)
        if isinstance(columns["entries"], PackedRows):
            columns["entries"] = columns["entries"].unpack()
        table = cls(**columns, files=built.files, meta=built.meta, extra=built.extra)
        table.file_signatures, table.unchanged_during_scan = built.file_signatures, built.unchanged
        return table
