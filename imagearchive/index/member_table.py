"""The members of an archive as NumPy columns, and access to a row."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagearchive.containers.container import Container
from imagearchive.containers.left_out import LeftOut
from imagearchive.errors import CorruptIndexError
from imagearchive.errors.arguments import shorten
from imagearchive.errors.plurals import pluralize
from imagearchive.index.freshness import Signature, spread
from imagearchive.index.lookup import Lookup
from imagearchive.index.metadata import (
    CHECKPOINTS,
    container_of_file,
    containers_of,
    derived_files,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imagearchive.storage.protocol import FileStorage, ReadAheadStorage, Storage

__all__ = ["MemberTable"]


@dataclass(eq=False, repr=False)
class MemberTable:
    """The members of an archive, one row each, as columns.

    Every array is read-only. A table that was loaded from a file is mapped, so opening takes as
    long for a thousand members as for a hundred million, and processes share its pages. It is
    immutable, so any number of threads may use one. A pickle would contain the arrays; the
    classes that hold a table pickle the path instead.

    Attributes
    ----------
    entries : ndarray of ENTRY_DTYPE, shape (N,)
        Position, offset, size and more of each member, in archive order.
    label_values : ndarray of float64
        The labels of all members one after the other.
    label_offsets : ndarray of uint64, shape (N + 1,)
        Member ``i`` has the labels ``label_values[label_offsets[i]:label_offsets[i + 1]]``. After
        a scan, this is the number of its top-level directory, sorted by name; a member outside
        any directory has no label.
    names : ndarray of uint8
        The names in UTF-8, one after the other; bytes that are not UTF-8 are kept.
    name_offsets : ndarray of uint64, shape (N + 1,)
        Member ``i`` is named ``names[name_offsets[i]:name_offsets[i + 1]]``.
    name_order : ndarray of uint64, shape (N,)
        The permutation that sorts the names bytewise.
    files : sequence of str
        The files that hold the bytes. ``entries["shard"]`` is an index into it, or beyond its end
        the number of a view in `derived`.
    meta : dict
        The metadata section; see `docs/development/index-format.md`.
    extra : mapping of str to ndarray
        Further named sections, such as the checkpoints inside compressed members.
    path : str or None
        Where the index is saved; None if it is only in memory.
    storage : FileStorage or None
        The mapped index file that holds the arrays; None if they are in memory.
    """

    entries: npt.NDArray[Any]
    label_values: npt.NDArray[np.float64]
    label_offsets: npt.NDArray[np.uint64]
    names: npt.NDArray[np.uint8]
    name_offsets: npt.NDArray[np.uint64]
    name_order: npt.NDArray[np.uint64]
    files: Sequence[str]
    meta: dict[str, Any]
    extra: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    path: str | None = None
    storage: FileStorage | None = None

    def __post_init__(self) -> None:
        # The files as they were when the table was compared with them, by path.
        self.file_signatures: Mapping[str, Signature] = {}
        self.unchanged_during_scan = True
        #: By shard: the decompressed views of files, and what archives inside archives refer to.
        self.derived = derived_files(self.path, self.meta)
        #: Those of them that are compressed.
        self.compressed = {shard: one for shard, one in self.derived.items() if one.format}
        self._added = 0
        self._unsaved = False
        self.lookup = Lookup(
            self.entries,
            self.names,
            self.name_offsets,
            self.name_order,
            None if self.storage is None else self.storage.check_unchanged,
        )
        if len(self.label_offsets) != len(self.entries) + 1:
            raise CorruptIndexError(
                f"{self.path}: {pluralize(len(self.label_offsets), 'label offset')} for "
                f"{len(self.entries)} members; delete the index and open the archive again"
            )

    # --- access -----------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shorten(self.files)}, {pluralize(len(self), 'member')})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: facts, and how many members each directory has."""
        # Imported here: only notebooks call it.
        from imagearchive.images.notebook import summary_html
        from imagearchive.index.summary import summarize_table

        return summary_html(self, lambda: summarize_table(self))

    def __len__(self) -> int:
        return self.lookup.count

    def name(self, position: int) -> str:
        """Return the name of a member; bytes that are not UTF-8 appear as surrogates."""
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
            raise CorruptIndexError(
                f"{self.path}: the labels of row {position} are out of range; delete it"
            )
        return self.label_values[int(low) : int(high)]

    def fingerprint(self) -> str:
        """Return a digest of up to 256 rows and names, which is the same for the same members."""
        digest = hashlib.blake2b(str(len(self)).encode(), digest_size=16)
        for position in spread(len(self) - 1, 256).tolist() if len(self) else ():
            row = self.lookup.row(position)
            digest.update(f"{row[1:]} {self.name_bytes(position)!r}".encode())
        return digest.hexdigest()

    @property
    def shards(self) -> int:
        """The number of shards: the files, and the views of archives inside them."""
        return len(self.files) + sum(one.parent is not None for one in self.derived.values())

    def file_number(self, shard: int) -> int:
        """Return the number of the file that contains a shard.

        Raises
        ------
        CorruptIndexError
            There is no such shard.
        """
        number = shard
        while number >= len(self.files):
            derived = self.derived.get(number)
            if derived is None or derived.parent is None or derived.parent >= number:
                raise CorruptIndexError(
                    f"{self.path}: it names file {shard} of {self.shards}; delete the index"
                )
            number = derived.parent
        return number

    def files_of_members(self) -> npt.NDArray[Any]:
        """Return the number of the file that contains each member, shape (N,)."""
        shards: npt.NDArray[Any] = self.entries["shard"]
        if self.shards == len(self.files):
            return shards
        numbers = np.array([self.file_number(shard) for shard in range(self.shards)])
        return np.take(numbers, shards)

    def file_of(self, shard: int) -> str:
        """Return the file that contains a shard; raises `CorruptIndexError`."""
        return self.files[self.file_number(shard)]

    @property
    def directories(self) -> list[str]:
        """Directories that the archive names and that contain no files."""
        return list(self.meta.get("directories", []))

    @property
    def left_out(self) -> LeftOut:
        """The members that are not in the table or cannot be read, and why."""
        return LeftOut.from_metadata(self.meta.get("left_out"))

    @property
    def containers(self) -> list[Container]:
        """The formats of the files, each once, in the order of the files."""
        return containers_of(self.meta)

    def container(self, shard: int) -> Container:
        """Return the format of one of the files.

        Raises
        ------
        CorruptIndexError
            The index does not name its format, or the format is unknown.
        """
        return container_of_file(self.path, self.meta, shard)

    def open_derived(self, shard: int, file: FileStorage) -> ReadAheadStorage:
        """Return what the rows of a file refer to: its decompressed view if it is compressed.

        Parameters
        ----------
        shard : int
            The number of the file.
        file : FileStorage
            The open file, which is closed together with its view.
        """
        derived = self.derived.get(shard)
        return file if derived is None else derived.open(file, self._file_checkpoints())

    def open_member_view(self, shard: int, parent: Storage) -> ReadAheadStorage:
        """Return the decompressed view of an archive inside another one, which stays open.

        Parameters
        ----------
        shard : int
            The number of the view.
        parent : Storage
            What contains the archive: ``derived[shard].parent``.
        """
        derived = self.derived[shard]
        where = f"{self.file_of(shard)}/{derived.name}"
        return derived.open_member(parent, self._file_checkpoints(), where)

    def _file_checkpoints(self) -> memoryview:
        if CHECKPOINTS not in self.extra:
            raise CorruptIndexError(f"{self.path}: the checkpoints are missing; delete the index")
        return self.extra[CHECKPOINTS].data
