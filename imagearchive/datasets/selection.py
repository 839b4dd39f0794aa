"""Which members of an archive are samples, and their classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.archive.name_tree import decode, encode
from imagearchive.datasets.label_files import read_index_file
from imagearchive.errors import LabelError, MemberNotFoundError, OptionError
from imagearchive.errors.plurals import pluralize
from imagearchive.index.class_directories import class_directories
from imagearchive.index.name_order import is_first_of_name
from imagearchive.index.names import ends_with, normalize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.companion_files import CompanionFile
    from imagearchive.index.table import IndexTable

__all__ = ["IMAGE_EXTENSIONS", "Classes", "Selection", "find_classes"]

#: Extensions of images, where the image of a sample has to be told from its other members.
IMAGE_EXTENSIONS: Final = (
    "bmp", "gif", "jpeg", "jpg", "png", "ppm", "pgm", "pbm", "tif", "tiff", "webp",
)  # fmt: skip


class Classes(NamedTuple):
    """The class directories below a root directory."""

    names: list[str]
    numbers: npt.NDArray[np.int64]
    """For each selected member the number of its class, or -1."""


class Selection:
    """The samples of a dataset, in order: members of an archive, or directories of them.

    Parameters
    ----------
    archive : Archive
    root : str
        Directory that contains the samples.
    extensions, is_valid_file
        As in `ImageArchive`.
    index_file, label_file : CompanionFile or None
        `index_file` lists the samples. `label_file`, if it is in the archive, is
        not a sample.
    multi : bool
        Whether a sample is a directory of images, called its views.

    Attributes
    ----------
    prefix : bytes
        The common beginning of the names below `root`.
    positions : ndarray of int64 or None
        Positions in the index table of the samples, or of all their views; None for all members.
    numbers : ndarray of int64 or None
        The number of each sample in the index file; None without one.
    is_listed : bool
        Whether a file or an argument names the samples.
    """

    def __init__(
        self,
        archive: Archive,
        root: str,
        extensions: Sequence[str] | str | None,
        is_valid_file: Callable[[str], bool] | None,
        index_file: CompanionFile | None,
        label_file: CompanionFile | None,
        multi: bool,
    ) -> None:
        self._archive = archive
        self._root = root
        table = archive.table
        self.prefix = _root_prefix(archive, root)
        self.is_listed = index_file is not None
        self.positions: npt.NDArray[np.int64] | None = None
        self.numbers: npt.NDArray[np.int64] | None = None
        # The views of sample i are at positions[bounds[i]:bounds[i + 1]].
        self._bounds: npt.NDArray[np.int64] | None = None
        if index_file is not None:
            self._take_listed(index_file, extensions, is_valid_file, multi)
            return
        chosen = _select(table, self.prefix, extensions, is_valid_file)
        text = -1 if label_file is None else label_file.position_in(archive)
        if text >= 0:
            chosen = np.arange(len(table)) if chosen is None else chosen
            chosen = chosen[chosen != text]
        self.positions = chosen
        if chosen is not None and not len(chosen) and len(table):
            given = {"root": root, "extensions": extensions, "is_valid_file": is_valid_file}
            chosen_by = " and ".join(
                name if callable(value) else f"{name}={value!r}"
                for name, value in given.items()
                if value is not None and value != ""
            )
            raise OptionError(
                f"{archive.path}: {chosen_by or 'label_file='} leaves none of its "
                f"{pluralize(len(table), 'member')}; the first is {archive.name(0)!r}"
            )
        if multi:
            self._group()

    def _take_listed(
        self,
        index_file: CompanionFile,
        extensions: Sequence[str] | str | None,
        is_valid_file: Callable[[str], bool] | None,
        multi: bool,
    ) -> None:
        listed = list(read_index_file(self._archive, index_file))
        self.numbers = np.array([number for number, _, _ in listed], np.int64)
        if len(np.unique(self.numbers)) < len(listed):
            raise LabelError(f"{index_file}: two lines have the same image number")
        if not multi:
            positions = [self._member(path, where) for _, path, where in listed]
            self.positions = np.array(positions, np.int64)
            return
        table = self._archive.table
        chosen = _select(table, self.prefix, extensions, is_valid_file)
        valid = None if chosen is None else np.zeros(len(table), np.bool_)
        if valid is not None:
            valid[chosen] = True
        self._join([self._views(path, where, valid) for _, path, where in listed])

    def _member(self, path: str, where: str) -> int:
        try:
            return self._find(path)
        except LabelError as error:
            raise LabelError(f"{where}: {error}") from None

    def _find(self, path: str) -> int:
        """Return the position of the member at a path below the root."""
        archive = self._archive
        name = normalize(self.prefix + encode(path))
        position = archive.table.lookup.find(name)
        if position < 0:
            raise LabelError(f"no member {path!r} below root={self._root!r}")
        if len(archive.paths) > 1:
            earlier = archive.table.lookup.find(name, position)
            if earlier >= 0:
                raise _ambiguous(archive, earlier, position)
        return position

    def _views(
        self, path: str, where: str, valid: npt.NDArray[np.bool_] | None
    ) -> npt.NDArray[np.int64]:
        table = self._archive.table
        prefix = normalize(self.prefix + encode(path)) + b"/"
        low, high = table.lookup.bounds(prefix)
        places, directories = table.lookup.children(low, high, len(prefix))
        views = table.name_order[places[~directories].astype(np.int64)].astype(np.int64)
        if valid is not None:
            views = views[valid[views]]
        if not len(views):
            raise LabelError(f"{where}: no images in directory {path!r} below root={self._root!r}")
        return views

    def _group(self) -> None:
        """Make one sample of each directory of images, in the order of their names."""
        table = self._archive.table
        rank = np.empty(len(table), np.int64)
        rank[table.name_order] = np.arange(len(table))
        positions = self._all()
        views: dict[bytes, list[int]] = {}
        for position in positions[np.argsort(rank[positions])].tolist():
            views.setdefault(table.name_bytes(position).rpartition(b"/")[0], []).append(position)
        # In the order of names, the files of a directory may surround those of a subdirectory.
        self._join([np.array(views[directory], np.int64) for directory in sorted(views)])

    def _join(self, views: list[npt.NDArray[np.int64]]) -> None:
        self.positions = np.concatenate([np.zeros(0, np.int64), *views])
        self._bounds = np.cumsum([0, *(len(view) for view in views)])
        if len(self._archive.paths) > 1:
            self._check_views()

    def _check_views(self) -> None:
        """Raise if two views of a sample have one name, since they are of different objects."""
        table, positions = self._archive.table, self._all()
        first = is_first_of_name(table.names, table.name_offsets, table.name_order)
        repeated = positions[~first[positions]].tolist()
        if repeated:
            earlier = table.lookup.find(table.name_bytes(repeated[0]), repeated[0])
            raise _ambiguous(self._archive, earlier, repeated[0])

    def _all(self) -> npt.NDArray[np.int64]:
        return np.arange(len(self._archive)) if self.positions is None else self.positions

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Keep only some of the samples."""
        if self.numbers is not None:
            self.numbers = self.numbers[rows]
        bounds = self._bounds
        if bounds is None:
            self.positions = rows if self.positions is None else self.positions[rows]
            return
        positions = self._all()
        self._join([positions[bounds[row] : bounds[row + 1]] for row in rows])

    def take(self, positions: npt.NDArray[np.int64]) -> None:
        """Make the members at these positions the samples, in this order."""
        self.positions = positions
        self.is_listed = True

    def __len__(self) -> int:
        if self._bounds is not None:
            return len(self._bounds) - 1
        return len(self._archive) if self.positions is None else len(self.positions)

    def position(self, sample: int) -> int:
        """Return the position of a sample's member; for samples of one member."""
        return sample if self.positions is None else int(self.positions[sample])

    def view(self, sample: int) -> list[int]:
        """Return the positions of a sample's views."""
        if self._bounds is None:
            return [self.position(sample)]
        low, high = int(self._bounds[sample]), int(self._bounds[sample + 1])
        found: list[int] = self._all()[low:high].tolist()
        return found

    def directory(self, sample: int) -> str:
        """Return the directory that contains a sample's views."""
        return self._archive.name(self.view(sample)[0]).rpartition("/")[0]

    def first_positions(self) -> npt.NDArray[np.int64] | None:
        """Return the position of the first member of each sample; None for all members."""
        return self.positions if self._bounds is None else self._all()[self._bounds[:-1]]

    def resolver(self) -> Callable[[int | str], int]:
        """Return a function from the number or path of an image in a label file to its sample.

        It returns -1 for an image that another option excludes, and raises `LabelError` if there
        is no such image.
        """
        count = len(self)
        by_number: dict[int, int] | range = (
            range(count)
            if self.numbers is None
            else {number: sample for sample, number in enumerate(self.numbers.tolist())}
        )
        first = self.first_positions()
        by_position = (
            None
            if first is None
            else {position: sample for sample, position in enumerate(first.tolist())}
        )
        directories: dict[str, int] = {}
        if self._bounds is not None:
            directories = {self.directory(sample): sample for sample in range(count)}

        def resolve(key: int | str) -> int:
            if isinstance(key, int):
                if key not in by_number:
                    raise LabelError(
                        f"image {key}: not in the index file"
                        if self.numbers is not None
                        else f"image {key}: there are {pluralize(count, 'image')}, numbered from 0"
                    )
                return by_number[key]
            if self._bounds is not None:
                return directories.get(decode(normalize(self.prefix + encode(key))), -1)
            position = self._find(key)
            return position if by_position is None else by_position.get(position, -1)

        return resolve


def _ambiguous(archive: Archive, earlier: int, position: int) -> LabelError:
    """Return the error for a name of members in two archives, of which one has to be meant."""
    paths = [archive.info(one).archive for one in (earlier, position)]
    return LabelError(
        f"{archive.name(position)!r} is in {paths[0]} and in {paths[1]}, so it does not name one "
        f"image; open each archive as a dataset of its own and concatenate the datasets, or give "
        f"the numbers of the samples in the label file"
    )


def _root_prefix(archive: Archive, root: str) -> bytes:
    """Return the common beginning of the names below `root`.

    Raises
    ------
    MemberNotFoundError
        There are no members below it.
    """
    name = normalize(encode(root))
    if not name:
        return b""
    low, high = archive.table.lookup.bounds(name + b"/")
    if low == high:
        raise MemberNotFoundError(
            f"{archive.path}: root={root!r} is not a directory in the archive; "
            f"`imagearchive tree -d` lists those that are"
        )
    return name + b"/"


def _select(
    table: IndexTable,
    prefix: bytes,
    extensions: Sequence[str] | str | None,
    is_valid_file: Callable[[str], bool] | None,
) -> npt.NDArray[np.int64] | None:
    """Return the positions of the selected members, ascending; None for all members."""
    chosen: npt.NDArray[np.int64] | None = None
    if prefix:
        low, high = table.lookup.bounds(prefix)
        chosen = np.sort(table.name_order[low:high]).astype(np.int64)
    if extensions is not None:
        suffixes = [extensions] if isinstance(extensions, str) else list(extensions)
        # An empty string matches every file, as in str.endswith.
        wanted = [encode(s if s.startswith(".") or not s else "." + s) for s in suffixes]
        mask = ends_with(table.names, table.name_offsets, wanted)
        chosen = np.flatnonzero(mask) if chosen is None else chosen[mask[chosen]]
    if is_valid_file is not None:
        candidates = range(len(table)) if chosen is None else chosen.tolist()
        valid = [position for position in candidates if is_valid_file(table.name(position))]
        chosen = np.array(valid, np.int64)
    return chosen


def find_classes(table: IndexTable, prefix: bytes, chosen: npt.NDArray[np.int64] | None) -> Classes:
    """Number the directories below the root that contain a member, sorted by name.

    The numbers do not depend on which members are selected.
    """
    directories, numbers = class_directories(table.lookup, table.name_order, prefix)
    selected = numbers if chosen is None else numbers[chosen]
    return Classes([decode(name) for name in directories], selected)
