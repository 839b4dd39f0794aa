"""What the datasets have in common: indices, iteration, closing and pickling."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from imagearchive.errors import ClosedError, OptionTypeError, SampleIndexError
from imagearchive.storage.closing import Closable
from imagearchive.storage.fork_lock import ForkSafeLock

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Dataset", "LazyDataset", "OptionsDataset", "resolve_index"]

# A frozen dataclass.
Options = TypeVar("Options", bound="DataclassInstance")
Source = TypeVar("Source", bound=Closable)


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
        raise SampleIndexError(f"{where}: no {noun} {position}; there are {length} {noun}s")
    return position + length if position < 0 else position


class Dataset(Closable):
    """A sequence of samples: base of all datasets, as PyTorch's map-style datasets.

    A subclass defines `__len__`, `__getitem__` and `worker_open_archive`.
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


class OptionsDataset(Dataset, Generic[Options]):
    """A dataset that is pickled as its options and opened anew where it is unpickled.

    A subclass turns its arguments into `options` and calls `_start`. Classes derived from that
    may take other arguments: the attributes that they set are pickled too.
    """

    #: Attributes that users may set later. Each overrides the option of that name in a pickle.
    _settable: ClassVar[tuple[str, ...]] = ()

    def _start(
        self, options: Options, *, overwrite_index: bool = False, fingerprint: str | None = None
    ) -> None:
        """Set up the dataset; `fingerprint` is that of the archive when it was pickled."""
        self._options = options
        self._pickled_fingerprint = fingerprint
        self._set_up(options, overwrite_index)
        # Whatever is set from here on belongs to a derived class or to the user.
        self._own_attributes = frozenset({*self.__dict__, "_own_attributes", "_closed"})

    def _set_up(self, options: Options, overwrite_index: bool) -> None:
        """Set all attributes; open the files too, unless they are opened at first use."""
        raise NotImplementedError

    def _fingerprint(self) -> str | None:
        """Return what differs when the archive does; None where it is not known."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        settable = {name: getattr(self, name) for name in self._settable}
        options = dataclasses.replace(self._options, **settable)
        own = self._own_attributes
        later = {name: value for name, value in self.__dict__.items() if name not in own}
        return _reopen, (type(self), options, self._fingerprint()), later or None


class LazyDataset(OptionsDataset[Options], Generic[Options, Source]):
    """A dataset whose archive is opened at first use, once, in each process that uses it."""

    def _set_up(self, options: Options, overwrite_index: bool) -> None:
        self._overwrite_index = overwrite_index
        self._source: Source | None = None
        self._lock = ForkSafeLock()

    def _open(self) -> Source:
        """Return the open archive; open it unless another thread has done so."""
        source = self._source
        if source is not None:
            return source
        with self._lock:
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

    def close(self) -> None:
        """Close the files; samples returned before stay valid. A second call does nothing."""
        with self._lock:
            super().close()
            source, self._source = self._source, None
        if source is not None:
            source.close()


def _reopen(kind: type[OptionsDataset[Any]], options: Any, fingerprint: str | None) -> Any:
    # Not by the constructor, whose arguments a derived class may have changed.
    dataset = kind.__new__(kind)
    dataset._start(options, fingerprint=fingerprint)
    return dataset
