"""`SplitDataLoader`: the packets of split bins, by index or bin after bin."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.archive.archive import Archive, check_fingerprint
from imagearchive.archive.file_pool import check_indexed
from imagearchive.containers.bins import BinsContainer
from imagearchive.containers.bins import scan as split
from imagearchive.datasets.cache import SampleCache
from imagearchive.datasets.dataset_base import (
    IndexArguments,
    LazyDataset,
    resolve_index,
    warn_if_empty,
)
from imagearchive.datasets.permutation import Permutation, permute_ranges
from imagearchive.errors import (
    ArchiveNotFoundError,
    OptionError,
    UnsupportedArchiveError,
)
from imagearchive.storage.location import locate
from imagearchive.storage.mapping import copy_bytes
from imagearchive.storage.patterns import expand_path
from imagearchive.storage.protocol import Storage, StorageKind

__all__ = ["SplitDataLoader"]

# Open bins; each takes a file descriptor, of which a process may have 1,024 by default.
_MAX_OPEN: Final = 512
# Packets smaller than _LARGE are read together, in pieces that fit the processor's cache.
_WINDOW: Final = 1 << 19
_LARGE: Final = 1 << 14
# Packets whose positions are held as Python numbers at a time.
_ROWS: Final = 1 << 13


@dataclass(frozen=True)
class SplitDataLoaderOptions:
    """What a `SplitDataLoader` is made of; the constructor documents each field.

    `folder` is `data_dir` as an absolute path, so that it still holds after a change of directory.
    """

    data_dir: str
    folder: str
    ipath: str | None
    cache_size: int
    storage: StorageKind
    strict: bool


class SplitDataLoader(LazyDataset[SplitDataLoaderOptions, Archive]):
    """The packets that `write_split_data` wrote, as a sequence of `bytes`.

    The files are those of the package `splitdataloader`. ``loader[i]`` is one positional read;
    `iterate_binwise` reads whole bins one after the other, which suits slow disks.

    Parameters
    ----------
    data_dir : path-like
        Directory of the bins.
    ipath : path-like, optional
        The index file to use, or to create; by default ``data_dir`` with ``.idx.npy`` appended.
    cache_size : int
        How many packets to keep in memory, those used most recently.
    open_after_fork : bool
        Open the files in `worker_open_archive`, or at the first read.
    storage : {"auto", "mmap", "pread", "memory"}
        How packets are read; see `imagearchive.storage.local.open_storage`.
    strict : bool
        Raise an error if the set is damaged. Otherwise serve the packets before the first damaged
        one and log the loss.

    Raises
    ------
    ArchiveNotFoundError
        The directory does not exist or holds no ``index.dat``, as after an interrupted write.
    CorruptArchiveError
        A bin is missing or too short, or the lengths in bin and index differ.
    StaleIndexError
        The set has changed since the loader was opened or pickled.

    Notes
    -----
    Safe for threads, under every start method of `multiprocessing`, and picklable: a pickle holds
    the path and the options. Works as a map-style dataset in `torch.utils.data.DataLoader`.

    Examples
    --------
    >>> loader = SplitDataLoader("training_data")  # doctest: +SKIP
    >>> len(loader), loader[-1]  # doctest: +SKIP
    (10, b'9')
    """

    data_dir: str
    cache_size: int
    _cache: SampleCache
    _length: int

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        ipath: str | os.PathLike[str] | None = None,
        *,
        cache_size: int = 0,
        open_after_fork: bool = False,
        storage: StorageKind = "auto",
        strict: bool = True,
    ) -> None:
        shown = expand_path(
            "data_dir",
            data_dir,
            "open one set at a time, and combine them with CombinedLazyDataset",
        )
        self._start(
            SplitDataLoaderOptions(
                data_dir=shown,
                folder=locate(shown).path,
                ipath=None if ipath is None else locate(ipath).path,
                cache_size=cache_size,
                storage=storage,
                strict=strict,
            )
        )
        if not open_after_fork:
            self._open()

    def _set_up(self, options: SplitDataLoaderOptions, index: IndexArguments) -> None:
        super()._set_up(options, index)
        self.data_dir = options.data_dir
        self._cache = SampleCache(options.cache_size)
        self.cache_size = self._cache.size
        self._length = 0

    def _name(self) -> str:
        return self.data_dir

    def _open_source(self) -> Archive:
        options = self._options
        if not locate(options.folder).join(split.INDEX_NAME).exists():
            raise ArchiveNotFoundError(
                f"{self.data_dir}: no {split.INDEX_NAME} in it; either it is not a directory of "
                f"split bins, or writing it was interrupted"
            )
        archive = Archive(
            options.folder,
            options.ipath,
            storage=options.storage,
            strict=options.strict,
            max_open=_MAX_OPEN,
        )
        if archive.table.container(0).name != BinsContainer.name:
            archive.close()
            # Raises an error that says what is missing, if anything is.
            split.scan_location(locate(options.folder))
            raise UnsupportedArchiveError(
                f"{self.data_dir}: not a set of bins: {split.INDEX_NAME} is empty and there are "
                f"other files"
            )
        if self._pickled_fingerprint is not None:
            check_fingerprint(archive, self._pickled_fingerprint)
        self._length = len(archive)
        if self._pickled_fingerprint is None:
            warn_if_empty(self.data_dir, self._length)
        return archive

    def _fingerprint(self) -> str | None:
        archive = self._source
        return self._pickled_fingerprint if archive is None else archive.table.fingerprint()

    # --- by index ---------------------------------------------------------------------------

    def __len__(self) -> int:
        if self._source is None:
            self._open()
        return self._length

    def __getitem__(self, index: int) -> bytes:
        """Return a packet; negative indices count from the end.

        Raises
        ------
        SampleIndexError
            There is no such packet.
        """
        source = self._source
        if source is None:
            source = self._open()
        # Calling `_packet` for each packet would take 0.3 us.
        if index.__class__ is not int or not 0 <= index < self._length:
            index = self._packet(index)
        if self.cache_size:
            packet: bytes = self._cache.get(index, self._load)
            return packet
        return copy_bytes(source.read(index), source)

    def read(self, index: int) -> bytes | memoryview:
        """Return a packet as ``loader[index]`` does, but without a copy if its bin is mapped.

        Returns
        -------
        bytes or memoryview
            A read-only view of the page cache with ``storage="mmap"``; it stays valid after
            `close`.
        """
        return self._open().read(self._packet(index))

    def _packet(self, index: Any) -> int:
        return resolve_index(index, len(self), self.data_dir, noun="packet")

    def _load(self, index: int) -> bytes:
        source = self._open()
        return copy_bytes(source.read(index), source)

    def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
        """Return several packets in the order asked for; they are read in the order of the bins."""
        archive = self._open()
        numbers = [self._packet(index) for index in indices]
        if self.cache_size:
            return [self._cache.get(number, self._load) for number in numbers]
        return [bytes(data) for data in archive.read_many(numbers)]

    # --- by bin -----------------------------------------------------------------------------

    def iterate_binwise(
        self,
        shuffle: bool = False,
        seed: int | None = None,
        *,
        epoch: int = 0,
        worker: int | None = None,
        num_workers: int | None = None,
    ) -> Iterator[bytes]:
        """Iterate over all packets, reading each bin once from front to end.

        Parameters
        ----------
        shuffle : bool
            Take the bins in random order, and the packets of each bin in random order; one bin is
            in memory at a time. Otherwise take bins in ascending order, and packets as stored.
        seed : int, optional
            Makes the order repeatable. It depends only on `seed`, `epoch` and the data.
        epoch : int
            Gives each epoch its own order under one seed.
        worker, num_workers : int, optional
            Take only every `num_workers`-th bin, starting with bin `worker`. The workers' parts
            are disjoint and together complete, whatever the seed. By default, a worker process of
            `torch.utils.data.DataLoader` takes its own part, and any other process takes
            everything; pass ``worker=0, num_workers=1`` to always take everything.

        Raises
        ------
        OptionError
            `worker` is not in ``range(num_workers)``, or only one of them is given.

        Notes
        -----
        The workers' numbers of bins differ by at most one; their numbers of packets may differ
        more. A number of bins that is a multiple of the number of workers keeps the parts even.
        """
        worker, num_workers = _share(worker, num_workers)
        archive = self._open()
        if seed is None:
            seed = random.getrandbits(63)
        return self._binwise(archive, shuffle, seed, epoch, worker, num_workers)

    def _binwise(
        self, archive: Archive, shuffle: bool, seed: int, epoch: int, worker: int, num_workers: int
    ) -> Iterator[bytes]:
        entries = archive.table.entries
        order = np.lexsort((entries["offset"], entries["shard"]))
        shards, firsts = np.unique(entries["shard"][order], return_index=True)
        bounds = np.append(firsts, len(order))
        starts = entries["offset"][order].astype(np.int64)
        stops = starts + entries["size"][order].astype(np.int64)
        mine = list(range(worker, len(shards), num_workers))
        orders: Iterable[npt.NDArray[np.int64] | None] = itertools.repeat(None)
        if shuffle:
            mine = [mine[i] for i in Permutation(len(mine), seed, epoch << 64)]
            # The key contains the number of the bin, so that no two bins share an order.
            epochs = [(epoch << 64) + number + 1 for number in mine]
            orders = permute_ranges(np.diff(bounds)[mine].tolist(), seed, epochs)
        limits = np.stack((shards, bounds[:-1], bounds[1:]), axis=1)[mine]
        for (shard, low, high), inner in zip(limits.tolist(), orders):
            with self._sequence(archive, shard) as storage:
                batches = _sequential(storage, starts, stops, low, high)
                if inner is None:
                    for batch in batches:
                        yield from batch
                    continue
                held = [packet for batch in batches for packet in batch]
            yield from map(held.__getitem__, inner.tolist())

    def _sequence(self, archive: Archive, shard: int) -> contextlib.AbstractContextManager[Storage]:
        """Open a bin to read it from front to end."""
        if self._options.storage == "memory":
            return contextlib.nullcontext(archive.storage(shard))
        # The kernel reads ahead for sequential `pread`, and no address space is needed.
        storage = locate(archive.table.files[shard]).open("pread")
        try:
            check_indexed(archive.table, storage)
        except BaseException:
            storage.close()
            raise
        return contextlib.closing(storage)

    # --- life -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all files; a second call does nothing."""
        super().close()
        self._cache.clear()

    def __repr__(self) -> str:
        return f"SplitDataLoader({self.data_dir!r})"


def _share(worker: int | None, num_workers: int | None) -> tuple[int, int]:
    """Return the part to read and the number of parts."""
    if worker is None and num_workers is None:
        torch_data = sys.modules.get("torch.utils.data")
        info = torch_data.get_worker_info() if torch_data is not None else None
        return (0, 1) if info is None else (int(info.id), int(info.num_workers))
    if worker is None or num_workers is None or not 0 <= worker < num_workers:
        raise OptionError(
            f"worker={worker}, num_workers={num_workers}: give both, with worker from 0 to "
            f"num_workers - 1"
        )
    return worker, num_workers


def _sequential(
    storage: Storage,
    starts: npt.NDArray[np.int64],
    stops: npt.NDArray[np.int64],
    first: int,
    last: int,
) -> Iterator[Iterable[bytes]]:
    """Read the packets of some rows in the order of their offsets, small ones many at a time."""
    while first < last:
        # Most bins are small, and lists are faster than arrays for a few numbers.
        rows = slice(first, min(first + _ROWS, last))
        begins, ends = starts[rows].tolist(), stops[rows].tolist()
        low = 0
        while low < len(begins):
            start, stop = begins[low], ends[low]
            high = low + 1
            if stop - start < _LARGE:
                high = max(high, bisect.bisect_right(ends, start + _WINDOW, high))
            if high == low + 1:
                yield (bytes(storage.read(start, stop - start)),)
            else:
                # Packets may overlap in a set from another program: the last need not end last.
                chosen = ends[low:high]
                data = bytes(storage.read(start, max(chosen) - start))
                yield (
                    data[begin - start : end - start]
                    for begin, end in zip(begins[low:high], chosen)
                )
            low = high
        first += _ROWS
