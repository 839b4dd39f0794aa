"""`LazyNPZDataset`: rows of an NPZ as samples, read one by one where they lie in the file."""

from __future__ import annotations

import logging
import operator
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from imagearchive.arrays import ragged
from imagearchive.datasets.cache import SampleCache
from imagearchive.datasets.npz.collate import register
from imagearchive.datasets.npz.columns import ArrayColumn, Column, open_column
from imagearchive.datasets.npz.file import NpzFile
from imagearchive.errors import (
    ClosedError,
    MemberNotFoundError,
    OptionError,
    OptionTypeError,
    SampleIndexError,
    UnsupportedArchiveError,
    UnsupportedMemberError,
)

if TYPE_CHECKING:
    from types import TracebackType

    from imagearchive.storage.protocol import StorageKind

__all__ = ["PLURALS", "LazyNPZDataset", "row_numbers", "sample_name"]

logger = logging.getLogger(__name__)

#: What a value is called in a sample, where that differs from the name of its array.
SINGULARS: Final = {"images": "image", "image_paths": "image_path"}
PLURALS: Final = {sample: array for array, sample in SINGULARS.items()}

Kind = Literal["detector", "landmarker", "teacher"]


class LazyNPZDataset:
    """The rows of an NPZ as samples: dictionaries with one value of each column.

    Opening costs the same for every size of file; a sample is read when it is asked for, from
    files written by `numpy.savez`, by `numpy.savez_compressed`, with arrays of objects, and by
    `NpzWriter`. No pickle is ever executed.

    The columns are the arrays that share their first dimension with ``images``, or, where there
    is no array of that name, with most others. In a sample, ``images`` is called ``image`` and
    ``image_paths`` is called ``image_path``; other columns keep their name.

    Parameters
    ----------
    npz_path : path-like
        An NPZ, or a single ``.npy``, which makes one column called by the name of the file.
    cache_size : int
        How many samples to keep, those used last. What comes out of the cache is a copy.
    keys : sequence of str, optional
        Which columns to take, by the name of their array or by that in a sample.
    prefix : str
        Take only arrays whose name begins so, and drop that from their names: ``"train_"`` for a
        file with ``train_images``, ``train_labels``, ``test_images`` and so on.
    copy : bool
        Whether rows are copies: writable, and in the byte order of the machine. Otherwise they
        are read-only, and views of the mapped file where possible. Rows of object arrays are
        new objects in any case.
    transform : callable, optional
        From a sample to what ``dataset[i]`` returns. It is applied after the cache.
    open_after_fork : bool
        Open the file in `worker_open_archive`, or at first use.
    storage : {"auto", "mmap", "pread", "memory"}
        How bytes are read; see `imagearchive.storage.local.open_storage`.
    ipath : path-like, optional
        The index file; ``NPZ_PATH`` with ``.idx.npy`` for its extension by default.
    verify : bool
        Whether an array is checked against its CRC-32 before its first row is read, which reads
        all of it. Without it, damage inside the pixels of a stored array goes unnoticed, as in
        any mapped file; deflated arrays are checked when their checkpoints are built.
    overwrite_index : bool
        Build the index even where a fresh one is there.

    Attributes
    ----------
    keys : tuple of str
        Names of the columns, as in the file less the prefix, in the order of the file.
    arrays : mapping of str to ndarray
        Every array of the file by its full name, read whole when it is asked for: class names,
        means and what else is no column.
    kind : str or None
        ``"detector"``: images with lists of boxes; ``"teacher"``: images with one box each;
        ``"landmarker"``: images with keypoints; None for anything else.

    Raises
    ------
    ArchiveNotFoundError, CorruptArchiveError, UnsupportedArchiveError
        There is no such file, or it is damaged, or holds no arrays with rows.
    UnsafePickleError
        On access to an array of objects that are not plain data. Nothing of it is executed.

    Notes
    -----
    Values of a column whose rows differ in length (object arrays and ragged columns) are lists
    and arrays that torch's default collate puts into a list instead of stacking them. ``image``
    is stacked where the images of a batch have one shape.

    Works unchanged under fork, spawn and forkserver, and in threads: reads are positional. A
    pickle holds the path and the options.

    Examples
    --------
    >>> dataset = LazyNPZDataset("train_detector.npz")  # doctest: +SKIP
    >>> dataset[0].keys()  # doctest: +SKIP
    dict_keys(['image', 'bboxes', 'image_path'])
    """

    def __init__(
        self,
        npz_path: str | os.PathLike[str],
        cache_size: int = 0,
        *,
        keys: Sequence[str] | None = None,
        prefix: str = "",
        copy: bool = True,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        open_after_fork: bool = False,
        storage: StorageKind = "auto",
        ipath: str | os.PathLike[str] | None = None,
        verify: bool = False,
        overwrite_index: bool = False,
    ) -> None:
        if isinstance(keys, str):
            raise OptionTypeError(f"keys={keys!r}: a sequence of names is wanted, not one name")
        self._options: dict[str, Any] = {
            "npz_path": os.fspath(npz_path),
            "cache_size": cache_size,
            "keys": None if keys is None else list(keys),
            "prefix": prefix,
            "copy": copy,
            "transform": transform,
            "open_after_fork": open_after_fork,
            "storage": storage,
            "ipath": ipath,
            "verify": verify,
        }
        self.npz_path = os.fspath(npz_path)
        self.cache_size = cache_size
        self.transform = transform
        self._cache = SampleCache(cache_size)
        self._overwrite_index = overwrite_index
        self._closed = False
        self._lock = (os.getpid(), threading.Lock())
        self._file: NpzFile | None = None
        self._columns: dict[str, Column] = {}
        # Name in a sample and how a row is read, for each column.
        self._rows: list[tuple[str, Column]] = []
        self._length = 0
        if not open_after_fork:
            self._open()

    # --- opening ----------------------------------------------------------------------------

    def _open(self) -> NpzFile:
        if self._file is not None:
            return self._file
        pid, lock = self._lock
        if pid != os.getpid():
            # Another thread of the parent may have held it at the fork.
            lock = threading.Lock()
            self._lock = (os.getpid(), lock)
        with lock:
            return self._opened() if self._file is None else self._file

    def _opened(self) -> NpzFile:
        if self._closed:
            raise ClosedError(f"{self.npz_path}: the dataset is closed; make another")
        file = NpzFile(
            self.npz_path,
            self._options["ipath"],
            storage=self._options["storage"],
            verify=self._options["verify"],
            overwrite_index=self._overwrite_index,
        )
        columns = self._selected(file)
        register()
        self._length = next(iter(columns.values())).length
        self._rows = [(sample_name(name), column) for name, column in columns.items()]
        self._columns = columns
        # Last, since other threads look at it.
        self._file = file
        return file

    def _selected(self, file: NpzFile) -> dict[str, Column]:
        prefix, copy = self._options["prefix"], self._options["copy"]
        names = [name for name in file if name.startswith(prefix)]
        layout = {name[len(prefix) :]: column for name, column in ragged.columns(names).items()}
        wanted = self._wanted(layout)
        columns: dict[str, Column] = {}
        refused: dict[str, UnsupportedMemberError] = {}
        for name in layout if wanted is None else wanted:
            try:
                column = open_column(layout[name], file.member, copy, name == "images")
            except UnsupportedMemberError as error:
                if wanted is not None:
                    raise
                refused[name] = error
                continue
            if column is not None:
                columns[name] = column
            elif wanted is not None:
                raise OptionError(
                    f"{self.npz_path}: {prefix + name!r} in keys= is a single value without rows; "
                    f"it is in dataset.arrays"
                )
        if wanted is None:
            columns = _sharing_rows(columns)
        lengths = {name: column.length for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise OptionError(
                f"{self.npz_path}: keys= names arrays of different lengths: {lengths}"
            )
        if not columns:
            reason = f"; {next(iter(refused.values()))}" if refused else ""
            raise UnsupportedArchiveError(
                f"{self.npz_path}: no arrays with rows among {', '.join(file)[:500] or 'none'}"
                + (f" whose name begins with {prefix!r}" if prefix else "")
                + reason
            )
        for name, reason_of in refused.items():
            logger.warning("%s: column %r is left out: %s", self.npz_path, name, reason_of)
        return columns

    def _wanted(self, layout: Mapping[str, ragged.Column]) -> list[str] | None:
        keys = self._options["keys"]
        if keys is None:
            return None
        wanted = []
        for key in keys:
            name = key if key in layout else PLURALS.get(key, key)
            if name not in layout:
                raise MemberNotFoundError(
                    f"{self.npz_path}: no column {key!r}; there are {', '.join(layout)[:500]}"
                )
            wanted.append(name)
        return wanted

    def worker_open_archive(self, worker_id: int | None = None) -> None:
        """Open the file in this process, if it is not open; for ``worker_init_fn``.

        Parameters
        ----------
        worker_id : int, optional
            Number of the worker. Nothing depends on it.
        """
        self._open()

    def prepare(self) -> LazyNPZDataset:
        """Do now what the first reads would do: build checkpoints, locate objects, verify.

        Worth calling before worker processes start, which otherwise each do it on their own. The
        result is kept in the index file.

        Returns
        -------
        LazyNPZDataset
            Itself.
        """
        self._open()
        for column in self._columns.values():
            column.prepare()
        return self

    # --- samples ----------------------------------------------------------------------------

    def __len__(self) -> int:
        if self._file is None:
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
        dict of str to object, or what `transform` makes of it
            Rows of arrays are arrays, of one-dimensional arrays scalars, of string arrays str.

        Raises
        ------
        SampleIndexError
            There is no such sample.
        """
        if self._file is None:
            self._open()
        if index.__class__ is not int or not 0 <= index < self._length:
            index = self._index(index)
        sample = self._cache.get(index, self._load) if self.cache_size else self._load(index)
        return sample if self.transform is None else self.transform(sample)

    def _load(self, index: int) -> dict[str, Any]:
        return {name: column.row(index) for name, column in self._rows}

    def _index(self, index: Any) -> int:
        try:
            position = operator.index(index)
        except TypeError:
            raise OptionTypeError(
                f"a sample has an integer index, not {type(index).__name__}; several at once are "
                f"what get_batch() is for"
            ) from None
        if not -self._length <= position < self._length:
            raise SampleIndexError(f"{self.npz_path}: sample {position} of {self._length}")
        return position % self._length

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples, read in the order of the file."""
        self._open()
        wanted = [self._index(index) for index in indices]
        samples: list[Any] = [None] * len(wanted)
        for place in sorted(range(len(wanted)), key=wanted.__getitem__):
            samples[place] = self[wanted[place]]
        return samples

    def __iter__(self) -> Iterator[Any]:
        for index in range(len(self)):
            yield self[index]

    def get_batch(self, indices: Iterable[int]) -> dict[str, npt.NDArray[Any]]:
        """Return several rows of every column, in the order asked for.

        Parameters
        ----------
        indices : iterable of int
            A list, range or array of sample numbers, negative ones counting from the end.

        Returns
        -------
        dict of str to ndarray
            By the names in the file, less the prefix. An array of shape ``(n, *row)`` for each
            column, in the byte order of the machine; for columns whose rows differ an array of
            objects of shape ``(n,)``. `transform` is not applied, and the cache is not used.

        Raises
        ------
        SampleIndexError
            One of them is no sample.
        """
        self._open()
        rows = row_numbers(indices, self._length, self.npz_path)
        return {name: column.batch(rows) for name, column in self._columns.items()}

    # --- what it is -------------------------------------------------------------------------

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the columns, as in the file less the prefix."""
        self._open()
        return tuple(self._columns)

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
            return "teacher" if _single_boxes(columns["bboxes"]) else "detector"
        return "landmarker" if "keypoints" in columns else None

    # --- life -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file. Rows returned before stay valid; a second call does nothing."""
        self._closed = True
        file, self._file = self._file, None
        self._columns, self._rows = {}, []
        self._cache.clear()
        if file is not None:
            file.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __enter__(self) -> LazyNPZDataset:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), self._options)

    def __repr__(self) -> str:
        if self._closed:
            return f"{type(self).__name__}({self.npz_path!r}, closed)"
        if self._file is None:
            return f"{type(self).__name__}({self.npz_path!r}, not open yet)"
        return (
            f"{type(self).__name__}({self.npz_path!r}, {self._length} samples of "
            f"{', '.join(name for name, _ in self._rows)})"
        )


def _reopen(kind: type[LazyNPZDataset], options: dict[str, Any]) -> LazyNPZDataset:
    return kind(**options)


def sample_name(name: str) -> str:
    """Return what a column is called in a sample."""
    return SINGULARS.get(name, name)


def row_numbers(indices: Iterable[int], length: int, where: str) -> npt.NDArray[np.intp]:
    """Return indices as row numbers from 0; raises `SampleIndexError` and `OptionTypeError`."""
    if not isinstance(indices, Iterable):
        raise OptionTypeError(
            f"a batch is asked for by a list of integers, not by {type(indices).__name__}"
        )
    rows = np.asarray(indices if isinstance(indices, (np.ndarray, range)) else list(indices))
    if not rows.size:
        return np.zeros(0, np.intp)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise OptionTypeError(
            f"a batch is asked for by a list of integers, not by {rows.dtype} of shape {rows.shape}"
        )
    low, high = int(rows.min()), int(rows.max())
    if low < -length or high >= length:
        raise SampleIndexError(f"{where}: sample {high if high >= length else low} of {length}")
    rows = rows.astype(np.intp, copy=False)
    return np.where(rows < 0, rows + length, rows) if low < 0 else rows


def _sharing_rows(columns: dict[str, Column]) -> dict[str, Column]:
    """Those that share their first dimension with ``images``, or else with most others."""
    if not columns:
        return {}
    if "images" in columns:
        length = columns["images"].length
    else:
        counts = Counter(column.length for column in columns.values())
        length = max(counts, key=lambda length: (counts[length], length))
    return {name: column for name, column in columns.items() if column.length == length}


def _single_boxes(column: Column) -> bool:
    """Whether a row is one box, not a list of them; empty rows do not tell."""
    if isinstance(column, ArrayColumn):
        return len(column.header.shape) == 2
    for index in range(min(column.length, 100)):
        row = column.row(index)
        if isinstance(row, (list, tuple, np.ndarray)) and len(row):
            return np.ndim(row[0]) == 0
    return False
