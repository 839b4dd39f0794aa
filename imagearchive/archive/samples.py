"""Samples of several members each, as WebDataset writes them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from imagearchive.archive.name_tree import decode, encode, name_text
from imagearchive.errors import (
    MemberNotFoundError,
    OptionTypeError,
    SampleIndexError,
    UnsupportedMemberError,
)
from imagearchive.errors.plurals import pluralize
from imagearchive.index.name_order import is_first_of_name, sort_names
from imagearchive.index.names import take_parts
from imagearchive.index.sample_keys import (
    belong_to_samples,
    have_extension,
    key_ends,
)

if TYPE_CHECKING:
    from imagearchive.index.table import IndexTable

__all__ = ["Samples"]


class _Source(Protocol):
    paths: Sequence[str]
    table: IndexTable

    def read(self, key: int, /) -> bytes | memoryview: ...


# How many keys `repr` shows.
SHOWN: Final = 3


class Samples(Sequence[Any]):
    """Samples of several files each, as `imagearchive.archive.archive.Archive.samples` groups them.

    Parameters
    ----------
    archive : Archive
        Where the members are.
    extensions : sequence of str
        One for each value of a sample; see `Archive.samples`.

    Attributes
    ----------
    extensions : tuple of str
        As passed.
    positions : ndarray of int64, shape (N,)
        The member that represents each sample: the one with the first extension, or the first of
        its files if no extensions are given.

    Notes
    -----
    As safe for threads and processes as the archive.
    """

    def __init__(self, archive: _Source, extensions: Sequence[str] = ()) -> None:
        self._archive = archive
        self.extensions = tuple(map(name_text, extensions))
        self._choices = [
            [choice.lstrip(".").lower() for choice in text.split(";")] for text in self.extensions
        ]
        table = archive.table
        # The position at which each archive begins: samples of the same name in several archives
        # are different samples. An archive in several files, such as Barecat, counts as one.
        self._starts = np.zeros(1, np.int64)
        if len(archive.paths) > 1:
            changes = np.flatnonzero(np.diff(table.files_of_members())) + 1
            self._starts = np.concatenate([self._starts, changes])
        self._key_ends = key_ends(table.names, table.name_offsets)
        self._belongs = belong_to_samples(table.names, table.name_offsets, self._key_ends)
        self.positions: npt.NDArray[np.int64] = (
            self._with_extension(self._choices[0]) if extensions else self._first_files()
        )

    def _with_extension(self, choices: Iterable[str]) -> npt.NDArray[np.int64]:
        table = self._archive.table
        wanted = [encode(choice) for choice in choices]
        mask = have_extension(table.names, table.name_offsets, self._key_ends, wanted)
        return np.flatnonzero(mask & self._belongs)

    def _first_files(self) -> npt.NDArray[np.int64]:
        table = self._archive.table
        # No sample has an empty key, so that of other files is not one of theirs.
        ends = np.where(self._belongs, self._key_ends, np.uint64(0))
        begins = table.name_offsets[:-1]
        keys, offsets = take_parts(table.names, begins, begins + ends)
        starts = self._starts.tolist()
        first = np.zeros(len(table), np.bool_)
        for low, high in zip(starts, [*starts[1:], len(table)]):
            part = offsets[low : high + 1]
            first[low:high] = is_first_of_name(keys, part, sort_names(keys, part))
        return np.flatnonzero(first & self._belongs)

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        shown = [repr(self.key(index)) for index in range(min(len(self), SHOWN))]
        if len(self) > SHOWN:
            shown.append("...")
        extensions = "".join(f", {';'.join(choices)!r}" for choices in self._choices)
        return f"Samples([{', '.join(shown)}], {pluralize(len(self), 'sample')}{extensions})"

    def key(self, index: int) -> str:
        """Return the name of a sample: the name of its files up to the first dot."""
        return decode(self._key(int(self.positions[index])))

    def _key(self, position: int) -> bytes:
        return self._archive.table.name_bytes(position)[: int(self._key_ends[position])]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        try:
            number = operator.index(index)
        except TypeError:
            raise OptionTypeError(
                f"an index must be an integer, not {type(index).__name__}"
            ) from None
        if not -len(self) <= number < len(self):
            raise SampleIndexError(f"sample {number} of {len(self)}")
        read = self._archive.read
        key, members = self.members(number)
        if self._choices:
            return tuple(read(position) for _, position in members)
        return {"__key__": key, **{name: read(position) for name, position in members}}

    @property
    def archive(self) -> Any:
        """The archive that the samples are in."""
        return self._archive

    def members(self, index: int) -> tuple[str, list[tuple[str, int]]]:
        """Return the key of a sample, and the extension and the position of each member.

        Raises
        ------
        MemberNotFoundError
            The sample has no member of an extension.
        UnsupportedMemberError
            Extensions differ in case only.
        """
        position = int(self.positions[index])
        if self._choices:
            found = [position, *(self.find(position, choices) for choices in self._choices[1:])]
            return self.key(index), list(zip(self.extensions, found))
        key = self._key(position)
        files: dict[str, int] = {}
        for extension, other in self._files(key, position):
            name = decode(extension.lower())
            if name in files:
                raise self._same_extension(key, name)
            files[name] = other
        return decode(key), list(files.items())

    def _same_extension(self, key: bytes, name: str) -> UnsupportedMemberError:
        return UnsupportedMemberError(
            f"sample {decode(key)!r} has several files with the extension {name!r}, which "
            f"differ in case only; read them by name"
        )

    def _files(self, key: bytes, position: int) -> Iterator[tuple[bytes, int]]:
        """Yield extension and position of every file of a sample."""
        table = self._archive.table
        start, end = self._around(position)
        low, high = table.lookup.bounds(key + b".")
        found = table.name_order[low:high]
        for other in found[(found >= start) & (found < end)].tolist():
            if self._key_ends[other] == len(key) and self._belongs[other]:
                yield table.name_bytes(other)[len(key) + 1 :], other

    def _around(self, position: int) -> tuple[int, int]:
        """Return the range of positions of the archive that a position is in."""
        number = int(np.searchsorted(self._starts, position, "right"))
        following = self._starts[number : number + 1].tolist()
        return int(self._starts[number - 1]), following[0] if following else len(self._key_ends)

    def find(self, position: int, choices: Iterable[str]) -> int:
        """Return the position of the file of a sample that has one of the extensions.

        Parameters
        ----------
        position : int
            Any file of the sample.
        choices : iterable of str
            Extensions in lower case, without the leading dot.

        Raises
        ------
        MemberNotFoundError
            The sample has no such file.
        """
        key = self._key(position)
        wanted = [encode(choice) for choice in choices]
        start, end = self._around(position)
        for extension in wanted:
            other = self._archive.table.lookup.find(key + b"." + extension, end)
            if other >= start:
                return int(other)
        for extension, other in self._files(key, position):
            if extension.lower() in wanted:
                return other
        raise MemberNotFoundError(
            f"sample {decode(key)!r} has no file with the extension "
            f"{' or '.join(decode(extension) for extension in wanted)!r}"
        )
