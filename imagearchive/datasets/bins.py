"""`SplitDataLoader`: packets of bytes out of split bins, by index or bin after bin."""

from __future__ import annotations

import contextlib
import operator
import os
import random
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.archive.archive import Archive, check_same
from imagearchive.archive.file_pool import check_unchanged
from imagearchive.containers.bins import scan as split
from imagearchive.datasets.permutation import Permutation
from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    OptionError,
    OptionTypeError,
    SampleIndexError,
    UnsupportedArchiveError,
)
from imagearchive.storage.local import PreadStorage
from imagearchive.storage.protocol import Storage, StorageKind

__all__ = ["SplitDataLoader"]

# Open bins; each takes a file descriptor, of which a process may have 1,024 by default.
_MAX_OPEN: Final = 512
# Small packets are read together, in pieces that stay in the processor's cache.
_WINDOW: Final = 1 << 19
_LARGE: Final = 1 << 14


class SplitDataLoader:
    """The packets that `write_split_data` wrote, as a sequence of `bytes`.

    The files are those of the package `splitdataloader`. ``loader[i]`` is one positional read;
    `iterate_binwise` reads whole bins one after the other, which suits slow disks.

    Parameters
    ----------
    data_dir : path-like
        Directory of the bins.
    ipath : path-like, optional
        The index table to use, or to create; by default ``data_dir`` with ``.idx.npy``, beside it.
    cache_size : int
        How many packets to keep in memory, those used last.
    open_after_fork : bool
        Open nothing before `worker_open_archive` is called, or a packet is asked for.
    storage : {"auto", "mmap", "pread", "memory"}
        How packets are read; see `imagearchive.storage.local.open_storage`.
    strict : bool
        Whether damage is an error when the set is opened; otherwise the packets before the first
        damaged one are served, and the loss is logged.

    Raises
    ------
    ArchiveNotFoundError
        The directory does not exist or holds no ``index.dat``, as after an interrupted write.
    CorruptArchiveError
        A bin is missing or too short, or the lengths in bin and index differ.
    StaleIndexError
        The set was changed by someone since the loader was opened, or since it was pickled.

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
        if isinstance(cache_size, bool) or not isinstance(cache_size, int) or cache_size < 0:
            raise OptionError(f"cache_size={cache_size!r}: a number of packets, 0 for none")
        self.data_dir = os.fsdecode(data_dir)
        self.cache_size = cache_size
        # Absolute, so that it does not matter where the process stands when it opens them.
        self._folder = os.path.abspath(self.data_dir)
        self._options: dict[str, Any] = {
            "ipath": None if ipath is None else os.path.abspath(os.fsdecode(ipath)),
            "storage": storage,
            "strict": strict,
        }
        self._closed = False
        self._token: str | None = None
        self._reset()
        if not open_after_fork:
            self._open()

    def _reset(self) -> None:
        self._archive: Archive | None = None
        self._count = 0
        self._row: Any = None
        # The bound `read` of each bin's storage; empty where there are too many bins to keep open.
        self._readers: list[Any] = []
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, bytes] = OrderedDict()

    def _open(self) -> Archive:
        with self._lock:
            if self._closed:
                raise ClosedError(f"{self.data_dir}: the loader is closed; make another")
            if self._archive is None:
                archive = self._opened()
                self._row = archive.table.lookup.row
                files = len(archive.table.files)
                self._readers = [None] * files if files <= _MAX_OPEN else []
                self._count = len(archive)
                self._archive = archive
            return self._archive

    def _opened(self) -> Archive:
        if not os.path.exists(os.path.join(self._folder, split.INDEX_NAME)):
            raise ArchiveNotFoundError(
                f"{self.data_dir}: holds no {split.INDEX_NAME}; either it is no directory of split "
                f"bins, or writing it was interrupted"
            )
        archive = Archive(self._folder, max_open=_MAX_OPEN, **self._options)
        if archive.table.scanner != split.NAME:
            archive.close()
            # Says what is missing, if anything is.
            split.scan_path(self._folder)
            raise UnsupportedArchiveError(
                f"{self.data_dir}: an empty {split.INDEX_NAME} among other files is no set of bins"
            )
        if self._token is not None:
            check_same(archive, self._token)
        return archive

    # --- by index ---------------------------------------------------------------------------

    def __len__(self) -> int:
        if self._archive is None:
            self._open()
        return self._count

    def __getitem__(self, index: int) -> bytes:
        """Return a packet; negative indices count from the end.

        Raises
        ------
        SampleIndexError
            There is no such packet.
        """
        archive = self._archive
        if archive is None:
            archive = self._archive or self._open()
        if index.__class__ is not int or not 0 <= index < self._count:
            index = self._index(index)
        if self.cache_size:
            return self._cached(archive, index)
        return bytes(self._read(archive, index))

    def read(self, index: int) -> bytes | memoryview:
        """Return a packet as ``loader[index]`` does, but without a copy where bins are mapped.

        Returns
        -------
        bytes or memoryview
            A read-only view of the page cache with ``storage="mmap"``; it stays valid after
            `close`.
        """
        archive = self._archive or self._open()
        return self._read(archive, self._index(index))

    def _read(self, archive: Archive, index: int) -> bytes | memoryview:
        if not self._readers:
            return archive.read(index)
        shard, offset, size, *_ = self._row(index)
        data: bytes | memoryview = (self._readers[shard] or self._reader(archive, shard))(
            offset, size
        )
        return data

    def _reader(self, archive: Archive, shard: int) -> Any:
        read = self._readers[shard] = archive.storage(shard).read
        return read

    def _index(self, index: Any) -> int:
        try:
            position = operator.index(index)
        except TypeError:
            raise OptionTypeError(
                f"a packet has an integer index, not {type(index).__name__}"
            ) from None
        if not -self._count <= position < self._count:
            raise SampleIndexError(f"{self.data_dir}: packet {position} of {self._count}")
        return position % self._count

    def _cached(self, archive: Archive, index: int) -> bytes:
        with self._lock:
            data = self._cache.get(index)
            if data is not None:
                self._cache.move_to_end(index)
                return data
        data = bytes(archive.read(index))
        with self._lock:
            self._cache[index] = data
            while len(self._cache) > self.cache_size:
                self._cache.popitem(last=False)
        return data

    def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
        """Return several packets in the order asked for, read in the order of the bins."""
        archive = self._archive or self._open()
        wanted = [self._index(index) for index in indices]
        if self.cache_size:
            return [self._cached(archive, index) for index in wanted]
        return [bytes(data) for data in archive.read_many(wanted)]

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the packets by index, which is the order in which they were written."""
        for index in range(len(self)):
            yield self[index]

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
            Take the bins in random order, and the packets of each in random order; one bin is in
            memory at a time. Otherwise bins in ascending order, and packets as they lie in them.
        seed : int, optional
            Makes the order repeatable. It depends on nothing but `seed`, `epoch` and the data.
        epoch : int
            Gives every epoch an order of its own under one seed.
        worker, num_workers : int, optional
            Take only every `num_workers`-th bin, beginning with bin `worker`. The workers' parts
            are disjoint and together complete, whatever the seed. By default, inside a worker of
            `torch.utils.data.DataLoader`, that worker's part, otherwise everything; pass
            ``worker=0, num_workers=1`` for everything in any case.

        Raises
        ------
        OptionError
            `worker` is not in ``range(num_workers)``, or only one of them is given.

        Notes
        -----
        Workers get equal numbers of bins but for one, not of packets: as many bins as a multiple
        of the workers keeps them even.
        """
        worker, num_workers = _share(worker, num_workers)
        archive = self._archive or self._open()
        if seed is None:
            seed = random.getrandbits(63)
        return self._binwise(archive, shuffle, seed, epoch, worker, num_workers)

    def _binwise(
        self, archive: Archive, shuffle: bool, seed: int, epoch: int, worker: int, num_workers: int
    ) -> Iterator[bytes]:
        entries = archive.table.entries
        order = np.lexsort((entries["offset"], entries["shard"]))
        bins, starts = np.unique(entries["shard"][order], return_index=True)
        parts = np.split(order, starts[1:]) if len(bins) else []
        mine = list(range(worker, len(bins), num_workers))
        if shuffle:
            mine = [mine[i] for i in Permutation(len(mine), seed, epoch << 64)]
        for number in mine:
            rows = parts[number]
            starts = entries["offset"][rows].astype(np.int64)
            stops = starts + entries["size"][rows].astype(np.int64)
            with self._sequence(archive, int(bins[number])) as storage:
                packets = _sequential(storage, starts, stops)
                if shuffle:
                    # Which bin it is enters the key, so that no two share an order.
                    inner = Permutation(len(rows), seed, (epoch << 64) + number + 1)
                    packets = _shuffled(packets, inner)
                yield from packets

    @contextlib.contextmanager
    def _sequence(self, archive: Archive, shard: int) -> Iterator[Storage]:
        """Open a bin that is going to be read from front to end."""
        if self._options["storage"] == "memory":
            yield archive.storage(shard)
            return
        # Reads ahead on its own, and takes no address space.
        with PreadStorage(archive.table.files[shard]) as storage:
            check_unchanged(archive.table, storage)
            yield storage

    # --- life -------------------------------------------------------------------------------

    def worker_open_archive(self, worker_id: int = 0) -> None:
        """Open the set in this process; for ``worker_init_fn``, never required."""
        self._open()

    def close(self) -> None:
        """Close all files; a second call does nothing."""
        with self._lock:
            self._closed = True
            archive, self._archive = self._archive, None
            self._readers = []
            self._cache.clear()
        if archive is not None:
            archive.close()

    def __enter__(self) -> SplitDataLoader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("data_dir", "cache_size", "_folder", "_options", "_closed")
        archive = self._archive
        token = self._token if archive is None else archive.table.token()
        return {"_token": token, **{name: self.__dict__[name] for name in kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __repr__(self) -> str:
        return f"SplitDataLoader({self.data_dir!r})"


def _share(worker: int | None, num_workers: int | None) -> tuple[int, int]:
    """Return which part of how many to read."""
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


def _shuffled(packets: Iterator[bytes], order: Permutation) -> Iterator[bytes]:
    held = list(packets)
    return map(held.__getitem__, order.take(np.arange(len(held))).tolist())


def _sequential(
    storage: Storage, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> Iterator[bytes]:
    """Read packets in the order of their positions: small ones many at a time."""
    low = 0
    while low < len(starts):
        start = int(starts[low])
        if stops[low] - start >= _LARGE:
            yield bytes(storage.read(start, int(stops[low]) - start))
            low += 1
            continue
        high = low + max(1, int(np.searchsorted(stops[low:], start + _WINDOW, "right")))
        # Packets may overlap in what someone else wrote, so the last need not end last.
        data = bytes(storage.read(start, int(stops[low:high].max()) - start))
        for begin, end in zip(
            (starts[low:high] - start).tolist(), (stops[low:high] - start).tolist()
        ):
            yield data[begin:end]
        low = high
