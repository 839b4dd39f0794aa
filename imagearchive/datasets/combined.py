"""`CombinedLazyDataset`: several datasets, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.dataset_base import Dataset, resolve_index, resolve_indices
from imagearchive.datasets.npz.columns import PLURALS
from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.arguments import check_sequence, shorten
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.patterns import expand_paths

__all__ = ["CombinedLazyDataset", "DatasetGroup"]


class DatasetGroup(Dataset):
    """What datasets that consist of others share. A subclass defines `__len__` and `locate`."""

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(check_sequence("datasets", datasets, "a sequence of datasets"))
        if not self.datasets:
            raise OptionError("datasets must contain at least one dataset, got none")
        for number, part in enumerate(self.datasets):
            indexed = hasattr(part, "__len__") and hasattr(part, "__getitem__")
            if not indexed or isinstance(part, (str, bytes, bytearray, memoryview)):
                raise OptionTypeError(
                    f"datasets must be datasets with len() and [i], but item {number} is "
                    f"{shorten(part)}"
                )

    def locate(self, index: Any) -> tuple[int, int]:
        """Return the number of the dataset that a sample is from, and its index there."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        """Return a sample; negative indices count from the end.

        Raises
        ------
        SampleIndexError
            There is no such sample.
        """
        part, inner = self.locate(index)
        return self.datasets[part][inner]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples in the order asked for; each dataset is asked once."""
        requests: dict[int, list[tuple[int, int]]] = {}
        for place, index in enumerate(indices):
            part, inner = self.locate(index)
            requests.setdefault(part, []).append((place, inner))
        samples: list[Any] = [None] * len(indices)
        for part, request in requests.items():
            dataset = self.datasets[part]
            inner_indices = [inner for _, inner in request]
            found = (
                dataset.__getitems__(inner_indices)
                if callable(getattr(dataset, "__getitems__", None))
                else [dataset[inner] for inner in inner_indices]
            )
            for (place, _), sample in zip(request, found):
                samples[place] = sample
        return samples

    @property
    def requests_ahead(self) -> int:
        """How many samples are best requested ahead; 0 for local files."""
        return max((getattr(part, "requests_ahead", 0) for part in self.datasets), default=0)

    def prefetch(self, indices: Sequence[int]) -> None:
        """Request samples from servers that are needed soon, from each dataset that can do it."""
        requests: dict[int, list[int]] = {}
        for index in indices:
            part, inner = self.locate(index)
            requests.setdefault(part, []).append(inner)
        for part, inner_indices in requests.items():
            method = getattr(self.datasets[part], "prefetch", None)
            if callable(method):
                method(inner_indices)

    def worker_open_archive(self, worker_id: int | None = None) -> None:
        """Call the method of this name of every dataset that has one."""
        for part in self.datasets:
            opener = getattr(part, "worker_open_archive", None)
            if callable(opener):
                opener(worker_id)

    def check_unchanged(self) -> None:
        """Call the method of this name of every dataset that has one."""
        for part in self.datasets:
            check = getattr(part, "check_unchanged", None)
            if callable(check):
                check()

    def close(self) -> None:
        """Close every dataset that can be closed."""
        super().close()
        for part in self.datasets:
            closer = getattr(part, "close", None)
            if callable(closer):
                closer()


class CombinedLazyDataset(DatasetGroup):
    """Several datasets as one: all samples of the first, then those of the second, and so on.

    Parameters
    ----------
    datasets : iterable of datasets, or path-like
        Anything with ``len`` and ``[i]``: `LazyNPZDataset`, other combined datasets, datasets of
        torch. They are opened, and their length is taken, at the first use. A path or a pattern,
        alone or among datasets, stands for a `LazyNPZDataset` of each file that it names.

    Attributes
    ----------
    datasets : list

    Raises
    ------
    OptionError, OptionTypeError
        `datasets` is empty, or holds something else.

    Notes
    -----
    As safe for threads, processes and pickling as the datasets are. `get_batch` and `keys` need
    datasets that have `get_batch`, or whose samples are dictionaries.

    Examples
    --------
    >>> combined = CombinedLazyDataset([train, val])  # doctest: +SKIP
    >>> combined[len(train)]  # the first sample of val  # doctest: +SKIP
    """

    def __init__(self, datasets: Iterable[Any] | str | os.PathLike[str]) -> None:
        if isinstance(datasets, (str, os.PathLike)):
            datasets = [datasets]
        parts = check_sequence("datasets", datasets, "a path or a sequence of datasets")
        super().__init__([dataset for part in parts for dataset in _open_paths(part)])
        self._ends: npt.NDArray[np.intp] | None = None

    def _bounds(self) -> npt.NDArray[np.intp]:
        ends = self._ends
        if ends is None:
            ends = np.cumsum([len(part) for part in self.datasets], dtype=np.intp)
            self._ends = ends
        return ends

    def __len__(self) -> int:
        return int(self._bounds()[-1])

    def locate(self, index: Any) -> tuple[int, int]:
        """Return the number of the dataset that contains a sample, and the sample's index in it."""
        ends = self._bounds()
        position = resolve_index(index, int(ends[-1]), pluralize(len(ends), "dataset"))
        part = int(np.searchsorted(ends, position, "right"))
        return part, position - (int(ends[part - 1]) if part else 0)

    def __iter__(self) -> Iterator[Any]:
        for part in self.datasets:
            for index in range(len(part)):
                yield part[index]

    def concatenated_datasets(self) -> list[Any]:
        """Return the datasets in their order; `DataLoader` reads from them directly."""
        return self.datasets

    def get_batch(self, indices: Iterable[int]) -> dict[str, npt.NDArray[Any]]:
        """Return several rows of every column, in the order asked for.

        Parameters
        ----------
        indices : iterable of int
            Sample numbers, negative ones counting from the end.

        Returns
        -------
        dict of str to ndarray
            As `LazyNPZDataset.get_batch` returns. If the rows of a column have the same shape in
            all datasets that are read, it is an array of that shape and their common dtype;
            otherwise it is an array of objects of shape ``(n,)``.

        Raises
        ------
        SampleIndexError
            One of the samples does not exist.
        OptionError
            The datasets that are read have different columns.
        """
        ends = self._bounds()
        rows = resolve_indices(indices, int(ends[-1]), pluralize(len(ends), "dataset"))
        parts = np.searchsorted(ends, rows, "right")
        starts = np.concatenate([[0], ends[:-1]]).astype(np.intp)
        asked = np.unique(parts).tolist() or [0]
        places = [np.flatnonzero(parts == part) for part in asked]
        batches = [
            _batch(self.datasets[part], rows[place] - starts[part])
            for part, place in zip(asked, places)
        ]
        names = list(batches[0])
        for part, batch in zip(asked, batches):
            if set(batch) != set(names):
                raise OptionError(
                    f"datasets {asked[0]} and {part} have different columns, {names} and "
                    f"{list(batch)}; choose common ones with keys="
                )
        return {
            name: _merged([batch[name] for batch in batches], places, len(rows)) for name in names
        }

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the columns that all datasets with columns have, in the order of the first."""
        columns = [tuple(part.keys) for part in self.datasets if hasattr(part, "keys")]
        if not columns:
            return ()
        return tuple(name for name in columns[0] if all(name in names for names in columns))

    def __repr__(self) -> str:
        return f"CombinedLazyDataset([{', '.join(map(shorten, self.datasets))}])"


def _open_paths(part: Any) -> list[Any]:
    """Return the datasets that a path or a pattern stands for; anything else stands for itself."""
    if not isinstance(part, (str, os.PathLike)):
        return [part]
    # Here, since other datasets do without it.
    from imagearchive.datasets.npz.dataset import LazyNPZDataset

    return [LazyNPZDataset(path) for path in expand_paths(part)]


def _batch(part: Any, rows: npt.NDArray[np.intp]) -> dict[str, npt.NDArray[Any]]:
    """Return rows of one dataset by column, from its samples if it has no `get_batch`."""
    if callable(getattr(part, "get_batch", None)):
        batch: dict[str, npt.NDArray[Any]] = part.get_batch(rows)
        return batch
    samples = [part[int(row)] for row in rows]
    if not all(isinstance(sample, dict) for sample in samples):
        raise OptionTypeError(
            f"{type(part).__name__} has no get_batch(), and its samples are not dictionaries"
        )
    names = list(samples[0]) if samples else []
    return {PLURALS.get(name, name): _stacked([s[name] for s in samples]) for name in names}


def _stacked(values: list[Any]) -> npt.NDArray[Any]:
    arrays = [
        np.asarray(v) if isinstance(v, (np.ndarray, np.generic, int, float)) else None
        for v in values
    ]
    kinds = {None if array is None else (array.shape, array.dtype) for array in arrays}
    if len(kinds) == 1 and None not in kinds:
        return np.stack(arrays)  # type: ignore[arg-type]
    return np.fromiter(values, object, len(values))


def _merged(
    parts: list[npt.NDArray[Any]], places: list[npt.NDArray[np.intp]], count: int
) -> npt.NDArray[Any]:
    """Put the rows of several datasets into one array."""
    if len(parts) == 1:
        # Its rows are already in the order asked for.
        return parts[0]
    merged: npt.NDArray[Any]
    if len({part.shape[1:] for part in parts}) == 1:
        try:
            dtype = np.result_type(*parts)
        except TypeError:
            dtype = np.dtype(object)
        merged = np.empty((count, *parts[0].shape[1:]), dtype)
        for part, place in zip(parts, places):
            merged[place] = part
        return merged
    merged = np.empty(count, object)
    for part, place in zip(parts, places):
        merged[place] = np.fromiter(part, object, len(part))
    return merged
