"""What the datasets have in common: indices, iteration, closing and pickling."""

from __future__ import annotations

import dataclasses
import logging
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from imagearchive.errors import ClosedError, OptionTypeError, SampleIndexError
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.changes import Changeable
from imagearchive.storage.closing import Closable
from imagearchive.storage.fork_lock import ForkSafeLock

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from PIL import Image as PillowImage

    from imagearchive.transforms.fields import Field

__all__ = [
    "Dataset",
    "IndexArguments",
    "LazyDataset",
    "OptionsDataset",
    "SaveIndex",
    "resolve_index",
    "resolve_indices",
    "warn_if_empty",
]

logger = logging.getLogger(__name__)

# A frozen dataclass.
Options = TypeVar("Options", bound="DataclassInstance")


class OpenSource(Changeable, Protocol):
    """What a dataset reads from."""

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        ...


Source = TypeVar("Source", bound=OpenSource)


def warn_if_empty(where: object, length: int) -> None:
    """Log that a dataset has no samples: its epochs would end without a word."""
    if not length:
        logger.warning(
            "%s: the dataset has no samples; is it the right archive, and complete?", where
        )


def resolve_index(
    index: Any, length: int, where: str, *, noun: str = "sample", hint: str = ""
) -> int:
    """Return an index as a number from 0 to ``length - 1``.

    Parameters
    ----------
    index : int-like
        Negative ones count from the end.
    length : int
        Number of samples.
    where : str
        Names the dataset in messages.
    noun : str
        What messages call a sample.
    hint : str
        What to do instead, for an index that is not an integer.

    Raises
    ------
    OptionTypeError
        The index is not an integer.
    SampleIndexError
        There is no such sample.
    """
    try:
        position = operator.index(index)
    except TypeError:
        advice = f"; {hint}" if hint else ""
        raise OptionTypeError(
            f"the index of a {noun} must be an integer, got {type(index).__name__}{advice}"
        ) from None
    if not -length <= position < length:
        verb = "is" if length == 1 else "are"
        raise SampleIndexError(
            f"{where}: no {noun} {position}; there {verb} {pluralize(length, noun)}"
        )
    return position + length if position < 0 else position


def resolve_indices(indices: Iterable[int], length: int, where: str) -> npt.NDArray[np.intp]:
    """Return several indices as numbers from 0 to ``length - 1``; parameters as `resolve_index`.

    Raises
    ------
    OptionTypeError
        They are not a flat list of integers.
    SampleIndexError
        One of the samples does not exist.
    """
    if not isinstance(indices, Iterable):
        raise OptionTypeError(
            f"the indices of a batch must be a list of integers, got {type(indices).__name__}"
        )
    rows = np.asarray(indices if isinstance(indices, (np.ndarray, range)) else list(indices))
    if not rows.size:
        return np.zeros(0, np.intp)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise OptionTypeError(
            f"the indices of a batch must be a list of integers, got {rows.dtype} of shape "
            f"{rows.shape}"
        )
    low, high = int(rows.min()), int(rows.max())
    for index in (low, high):
        resolve_index(index, length, where)
    rows = rows.astype(np.intp, copy=False)
    return np.where(rows < 0, rows + length, rows) if low < 0 else rows


class Dataset(Closable):
    """A sequence of samples: base of all datasets, as PyTorch's map-style datasets.

    A subclass defines `__len__`, `__getitem__`, `worker_open_archive` and `check_unchanged`.
    """

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples in the order asked for; PyTorch's loader calls it for a batch."""
        return [self[index] for index in indices]

    def __iter__(self) -> Iterator[Any]:
        for index in range(len(self)):
            yield self[index]

    def worker_open_archive(self, worker_id: int | None = None) -> None:
        """Open the files in this process; pass it to a loader as ``worker_init_fn``.

        It is never required: files are opened at the first read.

        Parameters
        ----------
        worker_id : int, optional
            Number of the worker, which loaders pass. It is not used.
        """
        raise NotImplementedError

    def check_unchanged(self) -> None:
        """Raise if one of the open files has changed since it was opened.

        Samples whose files were overwritten are not damaged samples: call it when one cannot be
        decoded, and after using views of a mapped file. See `Archive.check_unchanged`.

        Raises
        ------
        StaleIndexError
            A file has another size or modification time.
        OSError
            Bytes of a mapped file could not be read.
        """
        raise NotImplementedError

    def show(
        self,
        n: int = 32,
        classes: Sequence[str | int] | None = None,
        seed: int = 0,
        *,
        columns: int = 8,
        size: int = 128,
        transform: Callable[..., Any] | None = None,
        fields: Mapping[str, Field] | None = None,
    ) -> PillowImage.Image:
        """Draw some samples in rows, with their labels, masks, boxes, and keypoints.

        Parameters
        ----------
        n, classes, seed, columns, size, transform, fields
            As for `contact_sheet`.

        Returns
        -------
        PIL.Image.Image

        Raises
        ------
        OptionError
            There is no such class, or an argument is out of range.
        """
        # Imported here: a training run draws nothing.
        from imagearchive.datasets.sheets import draw_sheet

        return draw_sheet(self, columns, n, classes, seed, size, transform, fields)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: facts, classes, and thumbnails of some samples."""
        # Imported here: only notebooks call it.
        from imagearchive.datasets.notebook import summarize_dataset
        from imagearchive.images.notebook import summary_html

        return summary_html(self, lambda: summarize_dataset(self))


SaveIndex = Literal["auto", "remote"]


class IndexArguments(NamedTuple):
    """What becomes of the index when a dataset is opened first; see `imagearchive.Archive`."""

    overwrite_index: bool = False
    save_index: SaveIndex = "auto"


class OptionsDataset(Dataset, Generic[Options]):
    """A dataset that is pickled as its options and opened anew where it is unpickled.

    A subclass turns its arguments into `options` and calls `_start`. It declares its attributes
    with annotations in the class body. Users may derive classes with other arguments: attributes
    that the classes of this package do not declare are pickled too.
    """

    #: Attributes that users may set later. Each overrides the option of that name in a pickle.
    _settable: ClassVar[tuple[str, ...]] = ()

    _options: Options
    _pickled_fingerprint: str | None

    def _start(
        self,
        options: Options,
        *,
        index: IndexArguments | None = None,
        fingerprint: str | None = None,
    ) -> None:
        """Set up the dataset; `fingerprint` is that of the archive when it was pickled."""
        self._options = options
        self._pickled_fingerprint = fingerprint
        self._set_up(options, index or IndexArguments())

    def _set_up(self, options: Options, index: IndexArguments) -> None:
        """Set all attributes; open the files too, unless they are opened at first use."""
        raise NotImplementedError

    def _fingerprint(self) -> str | None:
        """Return what differs when the archive does; None if it is not known."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        settable = {name: getattr(self, name) for name in self._settable}
        options = dataclasses.replace(self._options, **settable)
        declared = _declared_attributes(type(self))
        # Only here, since attributes are slower to read once an object has made its __dict__.
        own = {name: value for name, value in self.__dict__.items() if name not in declared}
        return _reopen, (type(self), options, self._fingerprint()), own or None


class LazyDataset(OptionsDataset[Options], Generic[Options, Source]):
    """A dataset whose archive is opened at first use, once, in each process that uses it."""

    _index_arguments: IndexArguments
    _source: Source | None
    _lock: ForkSafeLock

    def _set_up(self, options: Options, index: IndexArguments) -> None:
        self._index_arguments = index
        self._source = None
        self._lock = ForkSafeLock()

    def _open(self) -> Source:
        """Return the open archive; open it unless another thread has done so."""
        source = self._source
        if source is not None:
            return source
        with self._lock.of_process():
            if self._source is None:
                if self._closed:
                    raise ClosedError(f"{self._name()}: the dataset is closed; create another")
                # Assigned last, since other threads test it without the lock.
                self._source = self._open_source()
            return self._source

    def _open_source(self) -> Source:
        """Open the archive, and set the attributes that depend on it."""
        raise NotImplementedError

    def _name(self) -> str:
        """Return the path by which messages call the dataset."""
        raise NotImplementedError

    def worker_open_archive(self, worker_id: int | None = None) -> None:
        """Open the files in this process, as at the first read; for ``worker_init_fn``."""
        self._open()

    def check_unchanged(self) -> None:
        """Raise if one of the open files has changed since it was opened; see `Dataset`."""
        source = self._source
        if source is not None:
            source.check_unchanged()

    def close(self) -> None:
        """Close the files; samples returned before stay valid. A second call does nothing."""
        with self._lock.of_process():
            super().close()
            source, self._source = self._source, None
        if source is not None:
            source.close()


def _declared_attributes(kind: type) -> set[str]:
    """Return the attributes that classes of this package declare."""
    package = __name__.partition(".")[0]
    ours = (base for base in kind.__mro__ if base.__module__.partition(".")[0] == package)
    return {name for base in ours for name in getattr(base, "__annotations__", ())}


def _reopen(kind: type[OptionsDataset[Any]], options: Any, fingerprint: str | None) -> Any:
    # Not by the constructor, whose arguments a derived class may have changed.
    dataset = kind.__new__(kind)
    dataset._start(options, fingerprint=fingerprint)
    return dataset
