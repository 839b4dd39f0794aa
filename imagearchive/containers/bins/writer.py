"""`write_split_data`: packets of bytes into a directory of bins with an index."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from imagearchive.containers.bins.scan import (
    INDEX_NAME,
    PREFIX_BYTES,
    TRIPLET,
    bin_name,
    is_bin_name,
)
from imagearchive.errors import (
    CorruptArchiveError,
    LimitError,
    OptionError,
    OptionTypeError,
    TargetExistsError,
)
from imagearchive.errors.arguments import check_flag, check_integer, shorten
from imagearchive.errors.hints import Hint
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.atomic import write_all
from imagearchive.storage.disk_sync import sync_files
from imagearchive.storage.location import local_path
from imagearchive.storage.staged_files import StagedFiles

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["write_split_data"]

logger = logging.getLogger(__name__)

_U32_MAX: Final = 0xFFFFFFFF
_TRIPLET: Final = struct.Struct("<III")
_LENGTH: Final = struct.Struct("<I")
_STAGING_PREFIX: Final = ".writing-"
# Left for the data source and whatever else the program opens while the bins are open.
_SPARE_DESCRIPTORS: Final = 64
_INDEX_BUFFER: Final = 1 << 20


def write_split_data(
    target_dir: str | os.PathLike[str],
    data_source: Iterable[Buffer],
    splits: int = 128,
    shuffle: bool = False,
    start_clean: bool = False,
    seed: int | None = None,
    *,
    append: bool = False,
) -> None:
    """Write packets of bytes to a directory of bins, in turn, and an index over all of them.

    The files are those of the package `splitdataloader`, which reads them, and whose files
    `SplitDataLoader` reads. Memory does not depend on the number or size of the packets.

    Parameters
    ----------
    target_dir : path-like
        Directory of the set; made where it does not exist. One process may write it at a time.
        A reader that opens a set while it is appended to sees it as it was. A reader that opened
        it before may go on with the bins that it has open, and gets a `StaleIndexError` at the
        next one.
    data_source : iterable of bytes-like
        The packets. Index ``i`` of the set is the ``i``-th of them, whatever the other options are.
    splits : int
        How many bins they are dealt to. Every bin is kept open as far as the limit of open files
        allows; more bins than that work, with one more system call or two for each packet.
    shuffle : bool
        Deal in a random order of the bins instead of ascending. The packets keep their indices.
    start_clean : bool
        Replace the set that is in the directory. It stays until the new one is whole; other files
        in the directory are left alone.
    seed : int, optional
        Makes `shuffle` repeatable.
    append : bool
        Add to the set that is in the directory, or start one. The index grows at once at the end:
        until then, and if writing fails, readers see the set as it was.

    Raises
    ------
    TargetExistsError
        The directory holds a set, or the remains of one, and neither `start_clean` nor `append`
        is given.
    OptionError
        An option has an invalid value.
    OptionTypeError
        A packet is not bytes-like, or the source cannot be iterated over; nothing is written.
    LimitError
        A packet would start beyond 4 GiB of its bin, or is longer than that, which the format
        cannot express. None of it is written; the packets before it are a valid set.
    CorruptArchiveError
        With `append`: the index of the set is damaged.

    Notes
    -----
    ``index.dat`` appears last, by renaming, after everything is on disk, so that an interrupted
    write never looks whole. If the data source raises, the disk is full or the program is
    interrupted, the directory is left as it was before, and does not exist if it did not; an
    interrupt that comes when everything is on disk already waits for the last renaming. Only a
    killed process leaves traces, none of them a set: `start_clean` removes them, and `append` cuts
    off what it finds behind the indexed packets of the bins that it writes to.

    Examples
    --------
    >>> write_split_data("training_data", (b"%d" % i for i in range(10)), splits=4)
    """
    folder = local_path("target_dir", target_dir)
    if isinstance(data_source, bytes | bytearray | memoryview | str):
        raise OptionTypeError(
            f"data_source must be an iterable of packets, got {type(data_source).__name__}; for "
            f"one packet, pass a list of it"
        )
    splits = check_integer("splits", splits, 1, _U32_MAX)
    shuffle = check_flag("shuffle", shuffle)
    start_clean, append = check_flag("start_clean", start_clean), check_flag("append", append)
    if start_clean and append:
        raise OptionError("start_clean=True removes what append=True would add to; choose one")
    try:
        packets = iter(data_source)
    except TypeError as error:
        raise OptionTypeError(
            f"data_source must be an iterable of packets, got {shorten(data_source)}"
        ) from error
    made = _make(folder)
    try:
        _write(
            folder, packets, splits, random.Random(seed) if shuffle else None, start_clean, append
        )
    except BaseException:
        for path in made:
            # Not empty where what was written is a set all the same.
            with contextlib.suppress(OSError):
                os.rmdir(path)
        raise


def _make(folder: str) -> list[str]:
    """Make a directory and those above it; return those that were not there, innermost first."""
    missing = []
    path = os.path.abspath(folder)
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    return missing


def _write(
    folder: str,
    packets: Iterator[Buffer],
    splits: int,
    rng: random.Random | None,
    start_clean: bool,
    append: bool,
) -> None:
    remains = _bins(folder)
    whole = os.path.exists(os.path.join(folder, INDEX_NAME))
    if (whole or remains) and not (start_clean or append):
        what = "already holds a set" if whole else "holds bins of an interrupted write"
        hints = [Hint("start_clean=True", "to replace it")]
        if whole:
            hints.append(Hint("append=True", "to add to it"))
        raise TargetExistsError(f"{folder}: {what}", hints=hints)
    if append and remains and not whole:
        raise TargetExistsError(
            f"{folder}: holds bins but no {INDEX_NAME} to append to",
            hints=[Hint("start_clean=True", "to replace them")],
        )
    order: Sequence[int] = range(splits)
    if rng is not None:
        order = list(order)
        rng.shuffle(order)
    with _Set(folder, extend=append and whole) as target:
        refused = target.add_all(packets, order)
        target.publish()
    if refused is not None:
        raise refused


def _bins(folder: str) -> list[str]:
    """Names of all files of the directory that are bins."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if is_bin_name(entry.name)]


def _as_bytes(packet: object, number: int) -> memoryview:
    try:
        view = memoryview(packet)  # type: ignore[arg-type]
    except TypeError:
        hint = "; encode it first" if isinstance(packet, str) else ""
        raise OptionTypeError(
            f"packet {number} is {type(packet).__name__}, not bytes-like{hint}; nothing was written"
        ) from None
    if "O" in view.format:
        raise OptionTypeError(
            f"packet {number} holds references to Python objects, not bytes; nothing was written"
        )
    if view.format == "B" and view.ndim == 1 and view.c_contiguous:
        return view
    return memoryview(view.tobytes())


class _Set:
    """Files that become a set when `publish` is called, and vanish if it is not."""

    def __init__(self, folder: str, extend: bool) -> None:
        self.existing = 0
        self._folder = folder
        self._extend = extend
        self._staged = StagedFiles(folder, _STAGING_PREFIX)
        self._index_path = self._staged.path(INDEX_NAME)
        try:
            ends: dict[int, int] = {}
            if extend:
                ends = self._take_over()
            self._index: BinaryIO = open(  # noqa: SIM115 - closed by publish or __exit__
                self._index_path, "ab", buffering=_INDEX_BUFFER
            )
            self._bins = _Bins(folder, None if extend else self._staged, ends)
        except BaseException:
            self._staged.close()
            raise

    def _take_over(self) -> dict[int, int]:
        """Copy the index of the existing set; return where the packets of each bin end."""
        source = os.path.join(self._folder, INDEX_NAME)
        shutil.copyfile(source, self._index_path)
        size = os.path.getsize(self._index_path)
        if size % TRIPLET.itemsize:
            raise CorruptArchiveError(
                f"{source}: the index is damaged, so nothing can be appended: its size of {size} "
                f"bytes is not a multiple of {TRIPLET.itemsize}"
            )
        self.existing = size // TRIPLET.itemsize
        ends: dict[int, int] = {}
        # In pieces: an index may be larger than memory.
        with open(self._index_path, "rb") as file:
            while len(part := np.fromfile(file, TRIPLET, 1 << 18)):
                numbers, rows = np.unique(part["bin"], return_inverse=True)
                reach = np.zeros(len(numbers), np.int64)
                stops = part["position"].astype(np.int64) + PREFIX_BYTES + part["length"]
                np.maximum.at(reach, rows, stops)
                for number, end in zip(numbers.tolist(), reach.tolist()):
                    ends[number] = max(end, ends.get(number, 0))
        return ends

    def add_all(self, packets: Iterator[Buffer], order: Sequence[int]) -> LimitError | None:
        """Write packets to the bins in turn; return the error of one that cannot be written."""
        for number, packet in enumerate(packets):
            data = _as_bytes(packet, number)
            # An appended packet goes where the next one would have gone.
            where = order[(self.existing + number) % len(order)]
            refused = self._add(where, data, number)
            if refused is not None:
                return refused
        return None

    def _add(self, where: int, data: memoryview, number: int) -> LimitError | None:
        """Write one packet; return the error if its place cannot be expressed."""
        position = self._bins.end(where)
        if position > _U32_MAX or len(data) > _U32_MAX:
            return LimitError(
                f"{self._folder}: packet {number} of {pluralize(len(data), 'byte')} would start at "
                f"{position} of {bin_name(where)}; the format ends at {_U32_MAX}. The "
                f"{pluralize(number, 'packet before it is', 'packets before it are')} a valid set; "
                "write the rest with more splits, or to another directory"
            )
        self._bins.write(where, data)
        try:
            self._index.write(_TRIPLET.pack(where, position, len(data)))
        except OSError as error:
            raise _named(error, os.path.join(self._folder, INDEX_NAME)) from None
        return None

    def publish(self) -> None:
        """Put everything on disk, then under its name, the index last."""
        self._bins.close_files()
        with os_errors_for(os.path.join(self._folder, INDEX_NAME)):
            self._index.close()
        if self._extend:
            sync_files(self._bins.paths())
            self._staged.publish([INDEX_NAME])
            return
        names = [*map(bin_name, self._bins.numbers()), INDEX_NAME]
        self._staged.publish(names, set(_bins(self._folder)).difference(names))

    def __enter__(self) -> _Set:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._index.close()
        # Once the index has moved, the new set is valid, whatever happened after that.
        self._bins.close(undo=os.path.exists(self._index_path))
        self._staged.close()


class _Bins:
    """Bins open for appending, as many at a time as the limit of open files allows."""

    def __init__(self, folder: str, staged: StagedFiles | None, ends: dict[int, int]) -> None:
        self._folder = folder
        self._staged = staged
        self._ends = ends
        self._open: dict[int, int] = {}
        self._most = _descriptors_left()
        # What the bins were before, to undo an append.
        self._before: dict[int, int | None] = {}

    def path(self, number: int) -> str:
        """Return where a bin is while it is written."""
        name = bin_name(number)
        return self._staged.path(name) if self._staged else os.path.join(self._folder, name)

    def paths(self) -> Iterator[str]:
        """Return where the bins are that were written to."""
        return map(self.path, self._before)

    def end(self, number: int) -> int:
        """Return the position at which the next packet of a bin starts."""
        return self._ends.get(number, 0)

    def numbers(self) -> Iterator[int]:
        """Return the bins that were written to."""
        return iter(self._before)

    def write(self, number: int, data: memoryview) -> None:
        """Append one packet to a bin."""
        fd = self._open.get(number)
        keep = fd is not None
        if fd is None:
            # Which bins stay open does not change: in turn, the one that was used last is the
            # one that is needed last.
            fd = self._opened(number)
            keep = len(self._open) < self._most
            if keep:
                self._open[number] = fd
        size = PREFIX_BYTES + len(data)
        try:
            prefix = _LENGTH.pack(len(data))
            done = os.writev(fd, [prefix, data])
            if done < size:
                write_all(fd, memoryview(prefix)[done:])
                write_all(fd, data[max(0, done - PREFIX_BYTES) :])
        except OSError as error:
            raise _named(error, os.path.join(self._folder, bin_name(number))) from None
        finally:
            if not keep:
                os.close(fd)
        self._ends[number] = self.end(number) + size

    def _opened(self, number: int) -> int:
        path = self.path(number)
        if number not in self._before:
            self._prepare(number, path)
        try:
            return self._append_to(path)
        except OSError as error:
            if error.errno != errno.EMFILE or not self._open:
                raise
        # The program opened files of its own meanwhile.
        self._most = max(1, len(self._open) // 2)
        while len(self._open) > self._most:
            os.close(self._open.popitem()[1])
        return self._append_to(path)

    @staticmethod
    def _append_to(path: str) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def _prepare(self, number: int, path: str) -> None:
        """Cut off what an interrupted append left, and remember how to undo this one."""
        if self._staged:
            self._before[number] = None
            return
        indexed = self.end(number)
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            size = 0
            self._before[number] = None
        else:
            self._before[number] = indexed
        if size < indexed:
            del self._before[number]
            raise CorruptArchiveError(
                f"{path}: {pluralize(size, 'byte')}, but packets up to {indexed} are in the index; "
                "it cannot be appended to"
            )
        if size > indexed:
            lost = pluralize(size - indexed, "byte")
            logger.warning("%s: cutting off %s that no index knows", path, lost)
            os.truncate(path, indexed)

    def close_files(self) -> None:
        """Close the bins that are open."""
        while self._open:
            os.close(self._open.popitem()[1])

    def close(self, undo: bool) -> None:
        """Close every bin; with `undo`, make an existing set what it was."""
        self.close_files()
        if not undo or self._staged:
            return
        for number, size in self._before.items():
            path = self.path(number)
            with contextlib.suppress(FileNotFoundError):
                if size is None:
                    os.unlink(path)
                else:
                    os.truncate(path, size)


def _descriptors_left() -> int:
    """How many files may be opened, leaving some for others."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        limit = 1 << 20
    try:
        taken = len(os.listdir("/dev/fd"))
    except OSError:  # not even one is left; the first file that is opened says so
        taken = limit
    return max(1, limit - taken - _SPARE_DESCRIPTORS)


def _named(error: OSError, path: str) -> OSError:
    """Return an error that says which file it is about; calls by descriptor do not."""
    return error if error.filename else type(error)(error.errno, error.strerror, path)
