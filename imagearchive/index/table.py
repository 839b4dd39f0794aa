"""The index table: the members of an archive as NumPy columns, built once and mapped ever after."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import platformdirs

from imagearchive.containers import registry as containers
from imagearchive.containers.rows import ENTRY_DTYPE
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    CorruptIndexError,
    OptionError,
    StaleIndexError,
)
from imagearchive.index import file_format as index_file
from imagearchive.index.class_directories import class_directories
from imagearchive.index.freshness import (
    READ_PARTLY,
    REBUILD,
    Signature,
    difference,
    fingerprints,
    signatures,
)
from imagearchive.index.lookup import Lookup
from imagearchive.index.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["IndexTable", "cache_path", "default_path"]

logger = logging.getLogger(__name__)

# Then nothing is wrong with the index; the process has too many files open.
OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE)

COLUMNS: Final[dict[str, np.dtype[Any]]] = {
    "entries": ENTRY_DTYPE,
    "label_values": np.dtype("<f8"),
    "label_offsets": np.dtype("<u8"),
    "names": np.dtype("u1"),
    "name_offsets": np.dtype("<u8"),
    "name_order": np.dtype("<u8"),
}


@dataclass(eq=False)
class IndexTable:
    """The members of an archive, one row each.

    Every array is read-only and, where the table comes from a file, mapped: opening costs the
    same for a thousand members and for a hundred million, and processes share its pages.
    Immutable, so any number of threads may use one. A pickle would carry the arrays; the classes
    that hold a table pickle the path instead.

    Attributes
    ----------
    entries : ndarray of ENTRY_DTYPE, shape (N,)
        Position, offset, size and more of each member, in archive order.
    label_values : ndarray of float64
        The labels of all members one after the other.
    label_offsets : ndarray of uint64, shape (N + 1,)
        Member ``i`` has the labels ``label_values[label_offsets[i]:label_offsets[i + 1]]``. As
        scanned, that is the number of its top-level directory among those sorted by name, and
        nothing for a member outside of any directory.
    names : ndarray of uint8
        The names as UTF-8, one after the other; bytes that are no UTF-8 stay as they are.
    name_offsets : ndarray of uint64, shape (N + 1,)
        Member ``i`` is called ``names[name_offsets[i]:name_offsets[i + 1]]``.
    name_order : ndarray of uint64, shape (N,)
        The permutation that sorts the names bytewise.
    files : list of str
        The files that hold the bytes; ``entries["shard"]`` counts in it.
    meta : dict
        What the metadata section says; see `docs/development/index-format.md`.
    extra : mapping of str to ndarray
        Further named sections, such as the checkpoints inside compressed members.
    path : str or None
        Where the index is saved; None where it lives in memory only.
    """

    entries: npt.NDArray[Any]
    label_values: npt.NDArray[np.float64]
    label_offsets: npt.NDArray[np.uint64]
    names: npt.NDArray[np.uint8]
    name_offsets: npt.NDArray[np.uint64]
    name_order: npt.NDArray[np.uint64]
    files: list[str]
    meta: dict[str, Any]
    extra: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    path: str | None = None

    def __post_init__(self) -> None:
        # What the files were when the table was found to fit them, by path.
        self.verified: dict[str, Signature] = {}
        # Whether the archive stayed the same while it was scanned.
        self.settled = True
        self.lookup = Lookup(self.entries, self.names, self.name_offsets, self.name_order)
        if len(self.label_offsets) != len(self.entries) + 1:
            raise CorruptIndexError(
                f"{self.path}: {len(self.label_offsets)} label offsets for {len(self.entries)} "
                f"members; delete the index and open the archive again"
            )

    # --- access -----------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.lookup.count

    def name(self, position: int) -> str:
        """Return the name of a member; bytes that are no UTF-8 appear as surrogates."""
        return self.lookup.name(position).decode("utf-8", "surrogateescape")

    def name_bytes(self, position: int) -> bytes:
        """Return the name of a member as stored."""
        return self.lookup.name(position)

    def find(self, name: str) -> int:
        """Return the position of the member of exactly that name, or -1; O(log N)."""
        return self.lookup.find(name.encode("utf-8", "surrogateescape"))

    def labels(self, position: int) -> npt.NDArray[np.float64]:
        """Return the labels of a member, a read-only view."""
        low, high = self.label_offsets[position], self.label_offsets[position + 1]
        if not low <= high <= len(self.label_values):
            raise CorruptIndexError(f"{self.path}: labels of row {position} lie outside: delete it")
        return self.label_values[int(low) : int(high)]

    def token(self) -> str:
        """Return a digest of up to 256 rows and names, the same for the same members."""
        digest = hashlib.blake2b(str(len(self)).encode(), digest_size=16)
        for position in np.unique(np.linspace(0, max(len(self) - 1, 0), 256).astype(np.int64)):
            if len(self):
                row = self.lookup.row(int(position))
                digest.update(f"{row[1:]} {self.name_bytes(int(position))!r}".encode())
        return digest.hexdigest()

    @property
    def directories(self) -> list[str]:
        """Directories that the archive names and that hold no file."""
        return list(self.meta.get("directories", []))

    @property
    def scanner(self) -> str:
        """The name of the container format."""
        return str(self.meta.get("scanner", ""))

    # --- opening ----------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        ipath: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        strict: bool = True,
    ) -> IndexTable:
        """Open the index of one archive, and build it where there is none or a stale one.

        Parameters
        ----------
        path : path-like
            The archive.
        ipath : path-like, optional
            The index file to trust, or to create. By default the archive's path with
            ``.idx.npy`` for its last extension, then the user's cache directory.
        overwrite : bool
            Build the index even where a fresh one is there.
        strict : bool
            Whether damage in the archive is an error. Otherwise the members before it are served,
            and the loss is logged.

        Raises
        ------
        ArchiveNotFoundError, UnsupportedArchiveError, CorruptArchiveError
            There is no archive at `path`, or none that can be read.
        StaleIndexError
            `ipath` exists and belongs to another state of the archive.
        CorruptIndexError
            `ipath` exists and is damaged.
        """
        apath = os.path.abspath(containers.located(os.fsdecode(path)))
        try:
            os.stat(apath)
        except (FileNotFoundError, NotADirectoryError):
            hint = "is the path right?"
            if "*" in apath or "?" in apath:
                hint = "of several, give a list or a brace pattern such as x-{0000..0146}.tar"
            raise ArchiveNotFoundError(f"{apath}: no such archive; {hint}") from None
        is_plain = containers.is_plain_directory(apath)
        if ipath is not None:
            if is_plain:
                raise OptionError(
                    f"ipath={os.fspath(ipath)!r}: a plain directory is listed each time it is "
                    f"opened, so it has no index file"
                )
            place = os.path.abspath(os.fsdecode(ipath))
            return cls._open_given(apath, place, overwrite, strict)
        if is_plain:
            return cls.build(apath, strict=strict)
        table, places = cls._survey(apath, overwrite, strict)
        if table is not None:
            return table
        table = cls.build(apath, strict=strict)
        if not table.settled:
            _warn_unsettled(apath)
            return table
        failures = []
        for place in places:
            try:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                return table.saved(place)
            except OSError as error:
                if error.errno in OUT_OF_FILES:
                    raise
                failures.append(f"{place}: {error.strerror}")
        warnings.warn(
            f"{apath}: the index cannot be saved ({'; '.join(failures) or 'no cache directory'}), "
            f"so every process scans the archive anew; name another place with ipath",
            RuntimeWarning,
            stacklevel=2,
        )
        return table

    @classmethod
    def _open_given(cls, apath: str, ipath: str, overwrite: bool, strict: bool) -> IndexTable:
        if os.path.exists(ipath):
            if os.path.isdir(ipath) or os.path.samefile(apath, ipath):
                raise OptionError(
                    f"{ipath}: cannot be the index, as it is the archive or a directory; "
                    f"name another file"
                )
            try:
                table = cls.load(ipath, apath)
            except index_file.NotAnIndexError as error:
                if not overwrite:
                    raise
                # Whatever it is, it was not written to be overwritten.
                raise OptionError(f"{error}; refusing to overwrite it") from error
            except CorruptIndexError:
                if not overwrite:
                    raise
            else:
                if not overwrite:
                    return table._trusted(apath, strict)
                del table
        table = cls.build(apath, strict=strict)
        if not table.settled:
            _warn_unsettled(apath)
            return table
        try:
            return table.saved(ipath)
        except OSError as error:
            raise OptionError(f"{ipath}: cannot write the index: {error.strerror}") from error

    def _trusted(self, apath: str, strict: bool) -> IndexTable:
        """Return the table where it fits the archive, else raise."""
        reason = self.staleness(apath)
        if reason is not None:
            raise StaleIndexError(f"{self.path}: {reason}", hints=[REBUILD])
        if strict and self.meta.get("damage"):
            raise CorruptArchiveError(
                f"{self.meta['damage']} (as found when {self.path} was built)",
                hints=[READ_PARTLY],
            )
        return self

    @classmethod
    def _survey(
        cls, apath: str, overwrite: bool, strict: bool
    ) -> tuple[IndexTable | None, list[str]]:
        """Return the saved index where it is fresh, else None and the places to save another."""
        free = []
        for place in _places(apath):
            try:
                table = cls.load(place, apath)
                if not table.meta or table._of_another(apath):
                    # The index of the original ImageArchive may hold a part of the archive only.
                    continue
                reason = "asked to" if overwrite else table._unusable(apath, strict)
                if reason is None:
                    return table._renewed(place), []
                logger.info("%s: building the index again: %s", apath, reason)
            except index_file.NotAnIndexError:
                # Whatever it is, it was not written to be overwritten.
                continue
            except (FileNotFoundError, NotADirectoryError):
                pass
            except (CorruptIndexError, OSError) as error:
                if isinstance(error, OSError) and error.errno in OUT_OF_FILES:
                    raise
                logger.info("%s: building the index again: %s", apath, error)
            free.append(place)
        return None, free

    def _of_another(self, apath: str) -> bool:
        """Whether the index belongs to another file that is there, data.tar beside data.npz."""
        recorded = [archive["path"] for archive in self.meta["archives"]]
        own = os.path.basename(apath.rstrip("/"))
        # Of a directory of bins the files lie below it.
        if any(path.split("/")[0] == own for path in recorded):
            return False
        folder = os.path.dirname(apath)
        return any(os.path.exists(os.path.join(folder, path)) for path in recorded)

    def _unusable(self, apath: str, strict: bool) -> str | None:
        """Say why an index that was found is of no use; None where it is."""
        reason = self.staleness(apath)
        if reason is None and strict and self.meta.get("damage"):
            return "it was built without strict"
        return reason

    def _renewed(self, place: str) -> IndexTable:
        """Record the time of a touched or copied archive, so that it is compared only once."""
        archives = self.meta.get("archives", [])
        now = [self.verified.get(file) for file in self.files]
        if all(seen is None or seen[1] == a["mtime_ns"] for seen, a in zip(now, archives)):
            return self
        self.meta["archives"] = [
            a if seen is None else {**a, "mtime_ns": seen[1]} for seen, a in zip(now, archives)
        ]
        try:
            return self.saved(place)
        except OSError as error:
            logger.debug("%s: the time of the archive cannot be recorded: %s", place, error)
            return self

    @classmethod
    def load(cls, ipath: str, apath: str | os.PathLike[str] | None = None) -> IndexTable:
        """Map an index file without asking whether the archive still is the same.

        Besides our own files, this reads the index of the original ImageArchive: one numeric 2-D
        array of index, offset, size and labels. Such a file has no names, so its members are
        called by their number.

        Parameters
        ----------
        ipath : str
            The index file.
        apath : path-like, optional
            The archive. By default the files that the index names, beside it.
        """
        sections, meta = index_file.load(ipath)
        if not meta:
            return _original(ipath, sections["entries"], apath)
        missing = [name for name in COLUMNS if name not in sections]
        if missing:
            raise CorruptIndexError(f"{ipath}: sections {missing} are missing; delete it")
        columns = {name: sections.pop(name) for name in COLUMNS}
        for name, dtype in COLUMNS.items():
            if columns[name].dtype != dtype or columns[name].ndim != 1:
                raise CorruptIndexError(
                    f"{ipath}: section {name!r} is {columns[name].dtype} of "
                    f"{columns[name].ndim} dimensions; delete it"
                )
        if apath is None:
            base = os.path.dirname(os.path.abspath(ipath))
        else:
            base = os.path.dirname(os.path.abspath(os.fspath(apath)))
        archives, directories = meta.get("archives"), meta.get("directories", [])
        if not (
            isinstance(archives, list)
            and all(isinstance(a, dict) and isinstance(a.get("path"), str) for a in archives)
            and isinstance(directories, list)
            and all(isinstance(name, str) for name in directories)
        ):
            raise CorruptIndexError(f"{ipath}: the metadata names no archive; delete it")
        files = [os.path.join(base, archive["path"]) for archive in archives]
        if apath is not None and len(files) == 1:
            # A renamed archive keeps its index.
            files = [os.fspath(apath)]
        return cls(**columns, files=files, meta=meta, extra=sections, path=ipath)

    @classmethod
    def build(cls, path: str | os.PathLike[str], *, strict: bool = True) -> IndexTable:
        """Scan an archive; nothing is saved."""
        apath = os.fspath(path)
        for _ in range(2):
            before = signatures([apath])
            scanned = containers.scan(apath, strict=strict)
            resolved = resolve(scanned.rows)
            prints = fingerprints(scanned.files, resolved.entries, scanned.ends)
            settled = signatures([apath]) == before
            if settled:
                break
        base = os.path.dirname(os.path.abspath(apath))
        meta: dict[str, Any] = {
            "scanner": scanned.scanner,
            "scanner_version": scanned.version,
            "archives": [
                {"path": os.path.relpath(os.path.abspath(file), base), **one}
                for file, one in zip(scanned.files, prints)
            ],
            "directories": [
                name.decode("utf-8", "surrogateescape") for name in resolved.directories
            ],
        }
        if scanned.damage:
            meta["damage"] = scanned.damage
        lookup = Lookup(
            resolved.entries, resolved.names, resolved.name_offsets, resolved.name_order
        )
        values, offsets = directory_labels(lookup, resolved.name_order)
        table = cls(
            entries=resolved.entries,
            label_values=values,
            label_offsets=offsets,
            names=resolved.names,
            name_offsets=resolved.name_offsets,
            name_order=resolved.name_order,
            files=scanned.files,
            meta=meta,
        )
        table.settled = settled
        table.verified = {
            file: (one["size"], one["mtime_ns"])
            for file, one in zip(scanned.files, prints)
            if "size" in one
        }
        return table

    # --- saving -----------------------------------------------------------------------------

    def saved(self, path: str) -> IndexTable:
        """Save the table and return the mapped one; raises OSError where it cannot be written."""
        sections = {name: getattr(self, name) for name in COLUMNS}
        sections.update(sorted(self.extra.items()))
        meta = {key: value for key, value in self.meta.items() if key != "sections"}
        index_file.save(path, sections, meta)
        table = IndexTable.load(path, self.files[0] if self.files else None)
        table.files, table.verified = self.files, self.verified
        return table

    def add_extra(self, sections: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep further named sections in the index file, as far as it can be written.

        They are there for this table in any case; a failure to save is logged.
        """
        self.extra = {**self.extra, **sections}
        if self.path is None:
            return
        try:
            self.saved(self.path)
        except OSError as error:
            logger.warning("%s: further sections cannot be saved: %s", self.path, error.strerror)

    # --- checking ---------------------------------------------------------------------------

    def staleness(self, apath: str | os.PathLike[str]) -> str | None:
        """Say in what the archive differs from what was indexed; None where in nothing.

        Sizes are compared first; where a modification time differs, so are the headers of up to
        4,096 members. A copied or touched archive so keeps its index.
        """
        if not self.meta:
            return None
        version = containers.scanner_version(self.scanner)
        if self.meta.get("scanner_version") != version:
            return f"it was built by another version of the {self.scanner} scanner"
        reason = difference(self.files, self.meta["archives"], self.entries)
        if reason is None:
            self.verified = {
                file: seen for file, seen in zip(self.files, signatures(self.files)) if seen
            }
        return reason

    def check(self) -> None:
        """Compare every section of the saved index with its checksum; reads the whole file.

        Raises
        ------
        CorruptIndexError
            A section differs.
        """
        if self.path is None:
            return
        sections, meta = index_file.load(self.path)
        for section in meta.get("sections", []):
            if index_file.checksum(sections[section["name"]]) != section["crc32"]:
                raise CorruptIndexError(
                    f"{self.path}: section {section['name']!r} is damaged; delete the index and "
                    f"open the archive again"
                )


def _warn_unsettled(apath: str) -> None:
    warnings.warn(
        f"{apath}: the archive changes while it is read, so its index is not saved",
        RuntimeWarning,
        stacklevel=3,
    )


def default_path(apath: str) -> str:
    """Return where an archive's index lies: its path, ``.idx.npy`` for the last extension."""
    stem = apath.rstrip("/")
    return os.path.splitext(stem)[0] + ".idx.npy"


def cache_path(keys: Sequence[str], apath: str) -> str | None:
    """Return where the index lies that cannot be saved beside its archive.

    None where the user has no home directory, as in a container that runs under any number.
    """
    digest = hashlib.blake2b(digest_size=16)
    for key in keys:
        digest.update(os.fsencode(key) + b"\0")
    name = os.path.basename(os.path.splitext(apath.rstrip("/"))[0])
    try:
        folder = platformdirs.user_cache_dir("imagearchive", appauthor=False)
    except RuntimeError:
        return None
    return os.path.join(folder, "index", f"{name[:80]}-{digest.hexdigest()}.idx.npy")


def _places(apath: str) -> Iterator[str]:
    """Yield where the index of an archive may lie, the best place first."""
    yield default_path(apath)
    cached = cache_path([apath], apath)
    if cached is not None:
        yield cached


def directory_labels(
    lookup: Lookup, order: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint64]]:
    """Label every member with the number of its top-level directory."""
    labels = class_directories(lookup, order, b"")[1].astype(np.float64)
    labelled = labels >= 0
    offsets = np.zeros(lookup.count + 1, np.uint64)
    np.cumsum(labelled, out=offsets[1:])
    return labels[labelled], offsets


def _original(
    ipath: str, rows: npt.NDArray[Any], apath: str | os.PathLike[str] | None
) -> IndexTable:
    """Read the 2-D numeric array of the original ImageArchive."""
    if rows.ndim != 2 or rows.shape[1] < 3 or rows.dtype.kind not in "iuf" or apath is None:
        raise index_file.NotAnIndexError(
            f"{ipath}: an array of {rows.dtype} {rows.shape} is not an index; delete it, or name "
            f"another file"
        )
    count = len(rows)
    entries = np.zeros(count, ENTRY_DTYPE)
    if count and (not np.isfinite(rows[:, 1:3]).all() or rows[:, 1:3].min() < 0):
        raise CorruptIndexError(f"{ipath}: offsets and sizes must be numbers from 0")
    entries["index"] = np.arange(count)
    entries["offset"] = entries["header"] = rows[:, 1]
    entries["size"] = entries["stored"] = rows[:, 2]
    width = max(8, len(str(count)))
    digits = np.char.zfill(np.arange(count).astype(f"S{width}"), width)
    labels = rows.shape[1] - 3
    return IndexTable(
        entries=entries,
        label_values=np.ascontiguousarray(rows[:, 3:], np.float64).reshape(-1),
        label_offsets=np.arange(count + 1, dtype=np.uint64) * np.uint64(labels),
        names=np.frombuffer(digits.tobytes(), np.uint8),
        name_offsets=np.arange(count + 1, dtype=np.uint64) * np.uint64(width),
        name_order=np.arange(count, dtype=np.uint64),
        files=[os.fspath(apath)],
        meta={},
        path=ipath,
    )
