"""`LazyNPZDataset`: the rows of an NPZ as samples, read one by one in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from imagearchive.archive.member_reader import count_ahead
from imagearchive.datasets.cache import SampleCache
from imagearchive.datasets.dataset_base import (
    IndexArguments,
    LazyDataset,
    SaveIndex,
    resolve_index,
    resolve_indices,
    warn_if_empty,
)
from imagearchive.datasets.npz.collate import register
from imagearchive.datasets.npz.column_choice import choose_columns
from imagearchive.datasets.npz.columns import ArrayColumn, Column, sample_name
from imagearchive.datasets.npz.file import NpzFile
from imagearchive.errors.arguments import check_callable, check_flag, check_path, check_sequence
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.answers import remember_answers
from imagearchive.storage.changes import changes_first
from imagearchive.storage.checksums import Verify, check_verify
from imagearchive.storage.location import locate
from imagearchive.storage.mapping import damaged_mappings
from imagearchive.storage.path_options import add_options
from imagearchive.storage.patterns import expand_path

if TYPE_CHECKING:
    from imagearchive.index.nesting import Nested
    from imagearchive.storage.protocol import StorageKind

__all__ = ["LazyNPZDataset"]

Kind = Literal["detector", "landmarker", "teacher"]


@dataclass(frozen=True)
class LazyNPZOptions:
    """What a `LazyNPZDataset` is made of; its constructor documents each field."""

    npz_path: str
    cache_size: int
    keys: tuple[str, ...] | None
    prefix: str
    suffix: str
    copy: bool
    transform: Callable[[dict[str, Any]], Any] | None
    open_after_fork: bool
    storage: StorageKind
    ipath: str | None
    verify: bool
    decompress_to: str | None
    nested: Nested


class LazyNPZDataset(LazyDataset[LazyNPZOptions, NpzFile]):
    """The rows of an NPZ as samples: dictionaries with one value of each column.

    The time to open a file does not depend on its size; a sample is read when it is asked for.
    Files may come from `numpy.savez`, `numpy.savez_compressed` or `NpzWriter`, and may contain
    arrays of objects. No pickle is ever executed.

    The columns are the arrays that share their first dimension with ``images``, or, if there is no
    array of that name, with most others. In a sample, ``images`` is called ``image`` and
    ``image_paths`` is called ``image_path``; other columns keep their name.

    Parameters
    ----------
    npz_path : path-like
        An NPZ, or a single ``.npy``, which is one column with the name of the file. A pattern must
        match one file; `CombinedLazyDataset` and `DataLoader` take those of several.
    cache_size : int
        How many samples to keep, those used most recently. The dataset returns copies of them.
    keys : sequence of str, optional
        Which columns to take, by the name of the array or by the name in a sample.
    prefix : str
        Take only arrays whose name begins with it, and remove it from their names: ``"train_"``
        for a file with ``train_images``, ``train_labels``, ``test_images`` and so on.
    suffix : str
        Take only arrays whose name ends with it, and remove it: ``"_train"`` for ``x_train`` and
        ``y_train``.
    copy : bool
        Whether rows are copies: writable, and in the byte order of the machine. Otherwise they
        are read-only, and views of the mapped file if possible. Rows of object arrays are always
        new objects.
    transform : callable, optional
        Called with a sample; returns what ``dataset[i]`` returns. It is applied after the cache.
    open_after_fork : bool
        Open the file in `worker_open_archive`, or at the first use.
    storage : {"auto", "mmap", "pread", "memory"}
        How bytes are read; see `imagearchive.storage.local.open_storage`.
    ipath : path-like, optional
        The index file. By default ``NPZ_PATH`` with its extension replaced by ``.idx.npy``.
    verify : {"never", "first"} or bool
        With "first" or True, compare an array with its CRC-32 before the first row is read, which
        reads all of it. A row has no checksum of its own, so "always" means the same. Otherwise
        damage inside the pixels of a stored array goes unnoticed, as in any mapped file;
        deflated arrays are checked when their checkpoints are built.
    overwrite_index : bool
        Build the index even if there is a fresh one.
    save_index : {"auto", "remote"}
        With "remote", save the index beside an archive on a server as well; see
        `imagearchive.Archive`.
    decompress_to : path-like, optional
        A directory in which a file that is compressed as a whole, such as ``x.npy.gz``, is
        decompressed once; see `imagearchive.Archive`.
    nested : bool, int, "auto", or "keep"
        Which archives inside it are opened; see `imagearchive.open`. An array ``x`` of a member
        ``a.npz`` is the column ``a/x``. By default, all of them if it has no other members.
    storage_options, filesystem, cache_dir, cache_bytes : optional
        How to reach URLs, and where to cache what was read; see `imagearchive.Archive`.

    Attributes
    ----------
    keys : tuple of str
        Names of the columns, as in the file without prefix and suffix, in the order of the file.
    arrays : mapping of str to ndarray
        Every array of the file by its full name, read whole when it is asked for. It includes
        arrays that are not columns, such as class names and means.
    kind : str or None
        ``"detector"``: images with lists of boxes; ``"teacher"``: images with one box each;
        ``"landmarker"``: images with keypoints; None for anything else.

    Raises
    ------
    ArchiveNotFoundError, CorruptArchiveError, UnsupportedArchiveError
        There is no such file, or it is damaged, or it contains no arrays with rows.
    UnsafePickleError
        On access to an array of objects that are not plain data. Nothing is executed.

    Notes
    -----
    The values of a column whose rows differ in length (object arrays and ragged columns) are lists
    and arrays that torch's default collate puts into a list instead of stacking them. ``image``
    is stacked if the images of a batch have one shape.

    Works unchanged under fork, spawn and forkserver, and in threads: reads are positional. A
    pickle holds the path and the options.

    Examples
    --------
    >>> dataset = LazyNPZDataset("train_detector.npz")  # doctest: +SKIP
    >>> dataset[0].keys()  # doctest: +SKIP
    dict_keys(['image', 'bboxes', 'image_path'])
    """

    npz_path: str
    cache_size: int
    transform: Callable[[dict[str, Any]], Any] | None
    _cache: SampleCache
    _length: int
    _columns: dict[str, Column]
    # The names of the values in a sample, each with the function that reads one. Made at the first
    # read.
    _readers: dict[str, Callable[[int], Any]]

    _settable: ClassVar[tuple[str, ...]] = ("transform",)

    def __init__(
        self,
        npz_path: str | os.PathLike[str],
        cache_size: int = 0,
        *,
        keys: Sequence[str] | None = None,
        prefix: str = "",
        suffix: str = "",
        copy: bool = True,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        open_after_fork: bool = False,
        storage: StorageKind = "auto",
        ipath: str | os.PathLike[str] | None = None,
        verify: Verify | bool = "never",
        overwrite_index: bool = False,
        save_index: SaveIndex = "auto",
        decompress_to: str | os.PathLike[str] | None = None,
        nested: Nested = "auto",
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | str | None = None,
    ) -> None:
        access = (storage_options, filesystem, cache_dir, cache_bytes)
        options = LazyNPZOptions(
            npz_path=expand_path(
                "npz_path",
                add_options(check_path("npz_path", npz_path), *access),
                "CombinedLazyDataset and DataLoader read several files",
            ),
            cache_size=cache_size,
            keys=None if keys is None else check_sequence("keys", keys, "a sequence of names"),
            prefix=prefix,
            suffix=suffix,
            copy=check_flag("copy", copy),
            transform=None if transform is None else check_callable("transform", transform),
            open_after_fork=check_flag("open_after_fork", open_after_fork),
            storage=storage,
            ipath=None if ipath is None else add_options(check_path("ipath", ipath), *access),
            verify=check_verify(verify) != "never",
            decompress_to=None if decompress_to is None else locate(decompress_to).path,
            nested=nested,
        )
        self._start(options, index=IndexArguments(overwrite_index, save_index))

    # --- opening ----------------------------------------------------------------------------

    def _set_up(self, options: LazyNPZOptions, index: IndexArguments) -> None:
        super()._set_up(options, index)
        self.npz_path = options.npz_path
        self.transform = options.transform
        self._cache = SampleCache(options.cache_size)
        self.cache_size = self._cache.size
        self._columns = {}
        self._readers = {}
        self._length = 0
        if not options.open_after_fork:
            self._open()

    def _name(self) -> str:
        return self.npz_path

    @remember_answers()
    def _open_source(self) -> NpzFile:
        options = self._options
        file = NpzFile(
            options.npz_path,
            options.ipath,
            storage=options.storage,
            verify=options.verify,
            **self._index_arguments._asdict(),
            decompress_to=options.decompress_to,
            nested=options.nested,
        )
        try:
            if self._pickled_fingerprint is not None:
                file.check_fingerprint(self._pickled_fingerprint)
            columns = choose_columns(
                file, options.keys, options.prefix, options.suffix, options.copy
            )
        except BaseException:
            file.close()
            raise
        register()
        self._length = next(iter(columns.values())).length
        if self._pickled_fingerprint is None:
            warn_if_empty(self.npz_path, self._length)
        self._columns = columns
        return file

    def _fingerprint(self) -> str | None:
        file = self._source
        return self._pickled_fingerprint if file is None else file.fingerprint()

    def prepare(self) -> LazyNPZDataset:
        """Do now what the first reads would do: build checkpoints, locate objects, verify.

        Call it before worker processes start, each of which would otherwise do it on its own. The
        result is kept in the index file.

        Returns
        -------
        LazyNPZDataset
            The dataset itself.
        """
        with changes_first(self._open()):
            for column in self._columns.values():
                column.reader()
        return self

    # --- samples ----------------------------------------------------------------------------

    def __len__(self) -> int:
        if self._source is None:
            self._open()
        return self._length

    def __getitem__(self, index: int) -> Any:
        """Return a sample.

        Parameters
        ----------
        index : int
            Negative ones count from the end.

        Returns
        -------
        dict of str to object, or the result of `transform`
            A row of an array is an array, of a one-dimensional array a scalar, of an array of
            strings a str.

        Raises
        ------
        SampleIndexError
            There is no such sample.
        """
        if self._source is None:
            self._open()
        if index.__class__ is not int or not 0 <= index < self._length:
            index = self._index(index)
        try:
            sample = self._cache.get(index, self._load) if self.cache_size else self._load(index)
        except Exception:
            self.check_unchanged()
            raise
        return sample if self.transform is None else self.transform(sample)

    def _load(self, index: int) -> dict[str, Any]:
        readers = self._readers or self._open_readers()
        sample = {name: read(index) for name, read in readers.items()}
        # `changes_first` would double the time of a sample.
        if damaged_mappings():
            self.check_unchanged()
        return sample

    def _open_readers(self) -> dict[str, Callable[[int], Any]]:
        self._open()
        readers = {sample_name(name): column.reader() for name, column in self._columns.items()}
        self._readers = readers
        return readers

    def _index(self, index: Any) -> int:
        hint = "for several samples use get_batch()"
        return resolve_index(index, len(self), self.npz_path, hint=hint)

    @property
    def requests_ahead(self) -> int:
        """How many samples are best requested ahead; 0 for local files."""
        file = self._open()
        if not file.is_remote:
            return 0
        columns = self._columns.values()
        sizes = [one.header.row_size for one in columns if isinstance(one, ArrayColumn)]
        return count_ahead(sum(sizes), 1)

    def prefetch(self, indices: Sequence[int]) -> None:
        """Request samples from a server that are needed soon.

        The first call finds out where the rows of ragged arrays and arrays of objects are; all
        others return at once. Compressed arrays are not requested ahead. Does nothing for local
        files.
        """
        if self._open().is_remote:
            rows = np.array([self._index(index) for index in indices], np.intp)
            for column in self._columns.values():
                column.prefetch(rows)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples in the order asked for; they are read in the order of the file."""
        rows = [self._index(index) for index in indices]
        self.prefetch(rows)
        samples: list[Any] = [None] * len(rows)
        for place in sorted(range(len(rows)), key=rows.__getitem__):
            samples[place] = self[rows[place]]
        return samples

    def get_batch(self, indices: Iterable[int]) -> dict[str, npt.NDArray[Any]]:
        """Return several rows of every column, in the order asked for.

        Parameters
        ----------
        indices : iterable of int
            A list, range or array of sample numbers, negative ones counting from the end.

        Returns
        -------
        dict of str to ndarray
            By the names in the file, without the prefix. An array of shape ``(n, *row)`` for each
            column, in the byte order of the machine; for columns whose rows differ in length an
            array of objects of shape ``(n,)``. Elements of an array of objects that were saved as
            one object are one object, as in NumPy. `transform` is not applied, and the cache is not
            used.

        Raises
        ------
        SampleIndexError
            One of the samples does not exist.
        """
        rows = resolve_indices(indices, len(self), self.npz_path)
        with changes_first(self):
            return {name: column.batch(rows) for name, column in self._columns.items()}

    # --- description ------------------------------------------------------------------------

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the columns, as in the file without the prefix."""
        self._open()
        return tuple(self._columns)

    def ragged_fields(self) -> frozenset[str]:
        """Return the entries of a sample that are arrays of different lengths, or any objects."""
        self._open()
        columns = self._columns.items()
        return frozenset(
            sample_name(name) for name, column in columns if not isinstance(column, ArrayColumn)
        )

    @property
    def requested_keys(self) -> tuple[str, ...] | None:
        """The names that were given as ``keys=``; None if the columns were chosen by length."""
        keys = self._options.keys
        return None if keys is None else tuple(keys)

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """Every array of the file by its full name, read whole when it is asked for."""
        return self._open()

    @property
    def kind(self) -> Kind | None:
        """What the data are: ``"detector"``, ``"landmarker"``, ``"teacher"`` or None."""
        self._open()
        columns = self._columns
        if "images" not in columns:
            return None
        if "bboxes" in columns:
            return "teacher" if _is_one_box_per_row(columns["bboxes"]) else "detector"
        return "landmarker" if "keypoints" in columns else None

    # --- life -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file. Rows returned before stay valid; a second call does nothing."""
        super().close()
        self._columns, self._readers = {}, {}
        self._cache.clear()

    def __repr__(self) -> str:
        if self._closed:
            state = "closed"
        elif self._source is None:
            state = "not open yet"
        else:
            names = ", ".join(sample_name(name) for name in self._columns)
            state = f"{pluralize(self._length, 'sample')} of {names}"
        return f"{type(self).__name__}({self.npz_path!r}, {state})"


def _is_one_box_per_row(column: Column) -> bool:
    """Whether a row is one box rather than a list of boxes; empty rows do not tell."""
    if isinstance(column, ArrayColumn):
        return len(column.header.shape) == 2
    read = column.reader()
    for index in range(min(column.length, 100)):
        row = read(index)
        if isinstance(row, (list, tuple, np.ndarray)) and len(row):
            return np.ndim(row[0]) == 0
    return False
