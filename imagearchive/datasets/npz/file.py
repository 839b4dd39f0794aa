"""`NpzFile`: the arrays of an NPZ, or a lone ``.npy``, by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, Literal

import numpy.typing as npt

from imagearchive.archive.archive import Archive, check_fingerprint
from imagearchive.arrays import npy
from imagearchive.containers.decompressed_copy import decompressed_copy
from imagearchive.datasets.npz.array_source import NPY_SUFFIX, ArraySource, NpzArray
from imagearchive.datasets.npz.columns import open_whole
from imagearchive.errors import MemberNotFoundError, UnsupportedArchiveError
from imagearchive.errors.plurals import pluralize
from imagearchive.index.nesting import Nested
from imagearchive.storage.changes import changes_first
from imagearchive.storage.closing import Closable
from imagearchive.storage.location import locate
from imagearchive.storage.protocol import Storage, StorageKind
from imagearchive.storage.stream_format import plain_name

__all__ = ["NpzFile"]

# How much of a list of names goes into a message.
_SHOWN = 500


class NpzFile(Closable, Mapping[str, npt.NDArray[Any]]):
    """The arrays of an NPZ by name, each read whole when it is asked for.

    Parameters
    ----------
    path : path-like
        An NPZ, any other archive with ``.npy`` members, or a single ``.npy``, whose array is
        called by the name of the file.
    ipath, overwrite_index, save_index : optional
        As for `Archive`.
    storage : {"auto", "mmap", "pread", "memory"}
    decompress_to : path-like, optional
        Where a file that is compressed as a whole is decompressed; see `Archive`.
    nested : bool, int, "auto", or "keep"
        Which archives inside it are opened; see `Archive`.
    verify : bool
        Whether members are compared with their checksums at first use.

    Raises
    ------
    ArchiveNotFoundError, UnsupportedArchiveError, CorruptArchiveError
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        ipath: str | os.PathLike[str] | None = None,
        *,
        storage: StorageKind = "auto",
        verify: bool = False,
        overwrite_index: bool = False,
        save_index: Literal["auto", "remote"] = "auto",
        decompress_to: str | os.PathLike[str] | None = None,
        nested: Nested = "auto",
    ) -> None:
        self.path = os.fspath(path)
        self._verify = verify
        self._archive: Archive | None = None
        self._budget = npy.HeaderBudget()
        self._sources: dict[str, ArraySource] = {}
        # Positions of the arrays in the archive.
        self._positions: dict[str, int] = {}
        location = locate(self.path)
        if location.local_path is None:
            # Imported here, because most files are on this machine.
            from imagearchive.index.open_indexes import ask_ahead

            ask_ahead([location], head=True)
        opened, name = self.path, os.path.basename(self.path)
        if decompress_to is not None:
            opened, name = _decompressed(self.path, decompress_to)
        self._lone = _open_lone(opened, storage)
        if self._lone is not None:
            name = name.removesuffix(NPY_SUFFIX)
            self._positions[name] = 0
            self._sources[name] = ArraySource(self._lone, self._lone.path, self._lone)
            return
        self._archive = Archive(
            opened,
            ipath,
            storage=storage,
            overwrite_index=overwrite_index,
            nested=nested,
            save_index=save_index,
        )
        for position, name in enumerate(self._archive.files()):
            if name.endswith(NPY_SUFFIX):
                self._positions[name.removesuffix(NPY_SUFFIX)] = position

    def source(self, name: str) -> ArraySource:
        """Return the bytes of an array.

        Raises
        ------
        MemberNotFoundError
            There is no array of that name.
        """
        source = self._sources.get(name)
        if source is None:
            if self._archive is None or name not in self._positions:
                raise MemberNotFoundError(f"{self.path}: no array {name!r}; it has {self._names()}")
            source = NpzArray(self._archive, self._positions[name], self._verify, self._budget)
            self._sources[name] = source
        return source

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """Read a whole array, as `numpy.load` would; arrays of objects without `pickle`."""
        with changes_first(self):
            return open_whole(self.source(name))

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def describe(self) -> str:
        """Say what the file is, where it holds no arrays."""
        if self._archive is None or len(self._archive) == 0:
            return "no arrays with rows: the archive is empty"
        label = self._archive.table.containers[0].label
        return (
            f"no arrays with rows: this is an archive ({label}) of "
            f"{pluralize(len(self._archive), 'member')}, none of which is a .npy array, and not an "
            "NPZ; open images with ImageArchive, other members with imagearchive.open"
        )

    def fingerprint(self) -> str | None:
        """Return what differs when the archive does; None for a lone ``.npy``."""
        return None if self._archive is None else self._archive.table.fingerprint()

    def check_fingerprint(self, expected: str) -> None:
        """Raise `StaleIndexError` if the archive is not the one of this fingerprint."""
        if self._archive is not None:
            check_fingerprint(self._archive, expected)

    @property
    def is_remote(self) -> bool:
        """Whether the arrays are read from a server."""
        paths = [self.path] if self._archive is None else self._archive.opened_paths
        return locate(paths[0]).local_path is None

    def check_unchanged(self) -> None:
        """Raise if the file has changed since it was opened; see `Archive.check_unchanged`."""
        for part in (self._archive, self._lone):
            if part is not None:
                part.check_unchanged()

    def close(self) -> None:
        """Close the file; arrays and views returned before stay valid."""
        super().close()
        for part in (self._archive, self._lone):
            if part is not None:
                part.close()

    def __repr__(self) -> str:
        return f"NpzFile({self.path!r}: {self._names()})"

    def _names(self) -> str:
        return ", ".join(self._positions)[:_SHOWN]


def _decompressed(path: str, directory: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the path of the decompressed copy of a file, and the name without compression."""
    location = locate(path)
    if not location.exists():
        return path, location.name
    copy = decompressed_copy(location, directory, arrays=True)
    return copy.path, location.name if copy is location else plain_name(location.name)


def _open_lone(path: str, storage: StorageKind) -> Storage | None:
    """Open a file that is a lone ``.npy``; None for anything else."""
    location = locate(path)
    if location.exists() and location.status().is_directory:
        raise UnsupportedArchiveError(
            f"{path}: a directory; give the path of one NPZ, and join several with "
            f"CombinedLazyDataset"
        )
    with closing(location.open("pread")) as probe:
        if bytes(probe.read(0, min(6, probe.size))) != npy.MAGIC:
            return None
    return location.open(storage)
