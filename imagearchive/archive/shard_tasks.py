"""Writes the shards of a set, each by a task of its own, and leaves alone those that are there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.archive.writers import is_zip, open_writer
from imagearchive.containers.zip.writer import stored_mtime
from imagearchive.errors import ImageArchiveError, TargetExistsError
from imagearchive.index.index_locations import index_beside
from imagearchive.index.table import IndexTable
from imagearchive.index.upload import upload_index
from imagearchive.storage.executors import AnyExecutor, run_all
from imagearchive.storage.location import PublishingLocation, locate

__all__ = ["PackedShard", "holds_members", "pack_shards", "write_once"]

_SECOND: Final = 1_000_000_000


class PackedShard(NamedTuple):
    """A shard to pack: absolute paths, and the names of its files with NULs between."""

    path: str
    folder: bytes
    names: bytes
    mtime: int | None
    overwrite: bool
    save_index: bool
    sync: bool


def pack_shards(
    shards: Iterable[PackedShard],
    executor: AnyExecutor,
    progress: Callable[[int], object] | None,
) -> int:
    """Pack shards on an executor; return how many there were.

    Raises
    ------
    IncompleteError
        Some of the shards failed; the others are there.
    """
    done = run_all(
        _pack_shard,
        shards,
        executor,
        name=_path_of,
        what="shards",
        # A shard holds the names of all its files.
        in_flight=256,
        progress=progress,
    )
    return len(done)


def _path_of(shard: PackedShard) -> str:
    return shard.path


def _pack_shard(shard: PackedShard) -> int:
    names = shard.names.split(b"\0") if shard.names else []
    paths = [os.path.join(shard.folder, name) for name in names]

    def is_written() -> bool:
        try:
            found = [os.stat(path) for path in paths]
        except OSError:
            # Writing says what is wrong with which file.
            return False
        times = [one.st_mtime_ns for one in found]
        whole = [time // 1_000_000_000 if shard.mtime is None else shard.mtime for time in times]
        return holds_members(
            shard.path,
            names,
            [one.st_size for one in found],
            [*map(stored_mtime, whole)] if is_zip(shard.path) else whole,
            max(times, default=0),
            save_index=shard.save_index,
        )

    def write(overwrite: bool) -> None:
        with open_writer(
            shard.path,
            overwrite=overwrite,
            mtime=shard.mtime,
            index=shard.save_index,
            sync=shard.sync,
        ) as writer:
            for path, name in zip(paths, names):
                writer.add_file(path, name, keep_mtime=shard.mtime is None)

    write_once(write, is_written, shard.overwrite)
    return len(names)


def write_once(
    write: Callable[[bool], object], is_written: Callable[[], bool], overwrite: bool
) -> None:
    """Write a file, unless it is there as it would be written.

    An executor may run the task twice, even at the same time, and an earlier call may have written
    the file. Neither is an error, and neither writes it again.

    Parameters
    ----------
    write : callable
        Is called with whether to replace what is there.
    is_written : callable
        Whether the file is there as it would be written.
    overwrite : bool
        Whether any other file of that name is replaced.

    Raises
    ------
    TargetExistsError
        There is another file, and `overwrite` is false.
    """
    if is_written():
        return
    try:
        write(overwrite)
    except TargetExistsError:
        if not is_written():
            raise


def holds_members(
    path: str,
    names: list[bytes],
    sizes: list[int] | npt.NDArray[np.integer],
    times: list[int] | npt.NDArray[np.integer] | None,
    newest: int,
    *,
    save_index: bool,
) -> bool:
    """Whether an archive holds exactly these members, and was written after they were changed.

    Parameters
    ----------
    path : str
        The archive, which need not exist.
    names : list of bytes
    sizes, times : sequence of int
        Of the members, in bytes and in seconds since 1970. Without times, those are not compared.
    newest : int
        When their sources were changed last, in nanoseconds since 1970.
    save_index : bool
        Save the index of the archive if it has none.
    """
    with contextlib.suppress(ImageArchiveError, OSError):
        location = locate(path)
        remote = isinstance(location, PublishingLocation)
        if not location.exists():
            return False
        written = location.status().mtime_ns
        # Servers tell whole seconds.
        if (written + _SECOND if remote else written) < newest:
            return False
        table = IndexTable.open(path, save=save_index)
        if save_index and remote and not index_beside(location).exists():
            table = upload_index(table, False)
        entries = table.entries
        return (
            len(table) == len(names)
            and np.array_equal(entries["size"], np.array(sizes, entries["size"].dtype))
            and (
                times is None
                or np.array_equal(entries["mtime"] // 1_000_000_000, np.array(times, np.int64))
            )
            and all(table.name_bytes(row) == name for row, name in enumerate(names))
        )
    return False
