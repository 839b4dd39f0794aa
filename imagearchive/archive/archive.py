"""Open an archive: `Archive` and `open_archive`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from imagearchive.archive.entries import DirEntry, MemberInfo
from imagearchive.archive.member_reader import MemberReader
from imagearchive.archive.samples import Samples
from imagearchive.containers.left_out import LeftOut, LeftOutMember, log_left_out
from imagearchive.errors import (
    MemberNotFoundError,
    OptionTypeError,
    StaleIndexError,
)
from imagearchive.errors.arguments import check_choice, check_flag, check_integer, shorten
from imagearchive.errors.plurals import pluralize
from imagearchive.index.concatenate import open_concatenated
from imagearchive.index.nesting import Nested
from imagearchive.storage.answers import remember_answers
from imagearchive.storage.checksums import Verify, check_verify
from imagearchive.storage.closing import Closable
from imagearchive.storage.local import unknown_kind
from imagearchive.storage.location import locate
from imagearchive.storage.mapping import copy_bytes
from imagearchive.storage.path_options import add_options
from imagearchive.storage.patterns import ArchivePath, absolute_paths, as_text, expand_paths
from imagearchive.storage.protocol import StorageKind

__all__ = [
    "Archive",
    "ArchivePath",
    "DirEntry",
    "LeftOut",
    "LeftOutMember",
    "MemberInfo",
    "open_archive",
]


def open_archive(path: ArchivePath, **options: Any) -> Archive:
    """Open any archive: TAR, ZIP, NPZ, Barecat, split bins, a directory, or several of them.

    Parameters
    ----------
    path : path-like or sequence of path-like
        An archive, a list of archives, or a brace pattern such as ``train-{0000..0146}.tar``.
    **options
        As for `Archive`.

    Returns
    -------
    Archive
    """
    return Archive(path, **options)


@dataclasses.dataclass(frozen=True)
class ArchiveOptions:
    """How an archive was opened: what its pickle carries beside the path.

    The attributes are arguments of `Archive`; paths are absolute.
    """

    ipath: str | None
    storage: StorageKind
    strict: bool
    max_open: int
    verify: Verify
    decompress_to: str | None
    nested: Nested


class Archive(MemberReader, Closable, Mapping[str, bytes]):
    """One archive, or several read as one: a mapping of name to bytes.

    Positions number the members in archive order; names are paths with ``/``. Iteration yields
    files only, as `files` does.

    Parameters
    ----------
    path : path-like or sequence of path-like
        See `open_archive`.
    ipath : path-like, optional
        The index file to use, or to create; see `imagearchive.index.table.IndexTable.open`.
        Of several archives, it is one index for all, and nothing is saved beside them.
    storage : {"auto", "mmap", "pread", "memory"}
        How bytes are read; see `imagearchive.storage.local.open_storage`.
    overwrite_index : bool
        Build the index even if there is a fresh one.
    strict : bool
        Whether damage in the archive is an error. Otherwise the members before it can be read.
    max_open : int
        How many archive files stay open at once.
    verify : {"first", "always", "never"} or bool
        When a member that is read as a whole is compared with the checksum that a ZIP or Barecat
        has of it: at its first read in this process, at every read (True), or never (False).
        Compressed members are always compared. Parts of a member, as a file from `open` reads
        them, cannot be.
    decompress_to : path-like, optional
        A directory for decompressed copies. An archive that is compressed as a whole, such as
        ``train.tar.xz``, is decompressed there once, and the copy is read. It is found again by the
        name, size, time, and ends of the archive. Of several processes, one makes it. Delete it
        yourself when it is no longer needed.
    nested : bool, int, "auto", or "keep"
        Which members that are archives themselves are opened in place: ``n01440764.tar`` becomes
        the directory ``n01440764``. True opens all, up to eight levels deep, and a number opens as
        many levels. With ``"keep"``, and where another member has the name without the extensions,
        the directory keeps them. ``"auto"`` opens those of each level whose members are all
        archives. The content tells what is an archive: a TAR or ZIP, so also an NPZ, stored,
        deflated, or compressed as a ``.tar.gz`` is.
    storage_options : dict, optional
        How to reach URLs, as obstore takes it: ``endpoint``, ``region``, credentials,
        ``skip_signature``, ``client_options``, ``retry_config``. By default credentials come from
        the environment, and from where the cloud offers them. Credentials are never shown, and
        only the processes of this program can read them in a pickle.
    filesystem : object, optional
        A file system of fsspec, which then reads the URLs, of any scheme.
    cache_dir : path-like, optional
        A folder on this machine for blocks of what is read from URLs, so that they are requested
        once. Programs and processes may share it; it can be deleted at any time.
    cache_bytes : int or str, optional
        How large the cache may become, such as ``"200GB"``; 10 GiB by default, at least 1 MiB.
        What was not used for longest makes room.
    save_index : {"auto", "remote"}
        Where an index that is built is saved: on this machine, or, with "remote", beside the
        archive on a server as well, for everybody who reads it.

    Attributes
    ----------
    path : path-like or sequence of path-like
        As given.
    paths : sequence of str
        The archives, absolute.
    opened_paths : sequence of str
        What is read in place of each: the archive itself, or its copy in `decompress_to`.
    table : IndexTable
        The table of the members.
    left_out : LeftOut
        What the archive holds that is not a member or cannot be read: how many by reason, and the
        first names. It is logged when a process opens the archive for the first time.

    Raises
    ------
    ArchiveNotFoundError, UnsupportedArchiveError, CorruptArchiveError, StaleIndexError

    Notes
    -----
    Safe for threads, and after fork: reads are positional. A pickle holds the path and the
    options and opens the archive again.
    """

    def __init__(
        self,
        path: ArchivePath,
        ipath: str | os.PathLike[str] | None = None,
        *,
        storage: StorageKind = "auto",
        overwrite_index: bool = False,
        strict: bool = True,
        max_open: int = 128,
        verify: Verify | bool = "first",
        decompress_to: str | os.PathLike[str] | None = None,
        nested: Nested = False,
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | str | None = None,
        save_index: Literal["auto", "remote"] = "auto",
    ) -> None:
        check_integer("max_open", max_open, 1)
        check_choice("save_index", save_index, ("auto", "remote"))
        strict = check_flag("strict", strict)
        overwrite_index = check_flag("overwrite_index", overwrite_index)
        if storage not in ("auto", "mmap", "pread", "memory"):
            raise unknown_kind(storage)
        access = (storage_options, filesystem, cache_dir, cache_bytes)
        given = add_options(as_text(path), *access)
        ipath = add_options(ipath, *access)
        self._options = ArchiveOptions(
            ipath=None if ipath is None else locate(ipath, "ipath").path,
            storage=storage,
            strict=strict,
            max_open=max_open,
            verify=check_verify(verify),
            decompress_to=None if decompress_to is None else locate(decompress_to).path,
            nested=nested,
        )
        with remember_answers():
            # Absolute, so that reads do not depend on the current directory.
            self.paths = self.opened_paths = expand_paths(given)
            if decompress_to is not None:
                self.opened_paths = [_decompressed(path, decompress_to) for path in self.paths]
            table = open_concatenated(
                self.opened_paths,
                ipath,
                overwrite=overwrite_index,
                strict=strict,
                nested=nested,
                upload=save_index == "remote",
            )
        super().__init__(given, table, storage, max_open, self._options.verify)
        self.left_out = self.table.left_out
        log_left_out(self.paths, self.left_out, table.meta.get("damage"))
        if storage == "memory":
            self._pool.open_all()

    @property
    def ipath(self) -> str | None:
        """The argument, absolute: the index file that was given."""
        return self._options.ipath

    @property
    def nested(self) -> Nested:
        """The argument: which archives inside the archive are opened."""
        return self._options.nested

    # --- mapping ----------------------------------------------------------------------------

    def __getitem__(self, name: str) -> bytes:
        if not isinstance(name, str):
            raise MemberNotFoundError(f"{name!r} is not a name; read() also takes positions")
        data = self.read(self.position(name))
        return data if data.__class__ is bytes else copy_bytes(data, self)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the bytes of a member, given by name, or `default` if there is none."""
        position = self._tree.find(name) if isinstance(name, str) else -1
        return default if position < 0 else copy_bytes(self.read(position), self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._tree.find(name) >= 0

    def __iter__(self) -> Iterator[str]:
        return self.files()

    def __len__(self) -> int:
        return self._lookup.count

    # --- samples of several files -----------------------------------------------------------

    def samples(self, *extensions: str) -> Samples:
        """Group members into samples by their name up to the first dot of its last component.

        Parameters
        ----------
        *extensions : str
            One for each value of a sample, without the leading dot; ``;`` separates alternatives:
            ``samples("jpg;png", "cls")``. Without extensions, a sample is a dict of extension, in
            lower case, to bytes, with its name under ``"__key__"``.

        Returns
        -------
        Samples
            A sequence of tuples of bytes-like values, in archive order of their first files.

        Notes
        -----
        The rules are those of WebDataset: files without an extension, hidden files, and all below
        a top-level directory such as ``__meta__`` do not belong to samples.
        """
        return Samples(self, extensions)

    # --- closing and pickling ---------------------------------------------------------------

    def close(self) -> None:
        """Close all files. Views returned before stay valid; a second call does nothing."""
        super().close()
        self._pool.close()
        self.table.save_extra()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (
            type(self),
            absolute_paths(self.path),
            self._options,
            self.table.fingerprint(),
        )

    # Mapping compares by content, which would read both archives.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        path = self.path
        state = ", closed" if self._closed else ""
        return f"Archive({path!r}, {pluralize(len(self), 'member')}{state})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: facts, directories, and thumbnails of some images."""
        # Imported here: only notebooks call it.
        from imagearchive.archive.notebook import summarize_archive
        from imagearchive.images.notebook import summary_html

        return summary_html(self, lambda: summarize_archive(self))


def _reopen(
    kind: type[Archive], path: ArchivePath, options: ArchiveOptions, fingerprint: str
) -> Archive:
    archive = kind(path, **dataclasses.asdict(options))
    check_fingerprint(archive, fingerprint)
    return archive


def check_archive(archive: Any) -> None:
    """Raise OptionTypeError if `archive` is not an open archive, such as a path."""
    if not isinstance(archive, Archive):
        raise OptionTypeError(
            f"archive must be an open Archive, got {shorten(archive)}; pass imagearchive.open(path)"
        )


def check_fingerprint(archive: Archive, fingerprint: str) -> None:
    """Raise StaleIndexError if an archive that was opened again is not the one that was pickled."""
    if archive.table.fingerprint() != fingerprint:
        raise StaleIndexError(
            f"{archive.path}: the archive changed since it was pickled, so positions and labels "
            f"would differ in this process; open it again in all processes"
        )


def _decompressed(path: str, directory: str | os.PathLike[str]) -> str:
    """Return the path of what is read in place of an archive with ``decompress_to=``."""
    # Imported here, because few archives are decompressed.
    from imagearchive.containers.decompressed_copy import decompressed_copy

    location = locate(path)
    return decompressed_copy(location, directory).path if location.exists() else path
