"""Converts an archive into several, each by a task of its own."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.archive.member_copy import FileKind, write_members
from imagearchive.archive.shard_tasks import holds_members, write_once
from imagearchive.errors import OptionError
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.executors import AnyExecutor, CallingThread, run_all
from imagearchive.storage.location import locate

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["convert_shards"]


class _Shard(NamedTuple):
    """A shard to write: the pickled archive, the path, and the positions of the members."""

    archive: bytes
    path: str
    kind: FileKind
    positions: npt.NDArray[np.int64]
    overwrite: bool
    save_index: bool
    sync: bool


def convert_shards(
    archive: Archive,
    paths: Iterable[str],
    kind: FileKind,
    positions: list[int],
    shards: int,
    executor: AnyExecutor | None,
    progress: Callable[[int], object] | None,
    *,
    overwrite: bool,
    index: bool,
    sync: bool,
) -> int:
    """Write the members at these positions as several archives; return how many there were.

    Raises
    ------
    OptionError
        There are fewer samples than shards.
    IncompleteError
        Some of the shards failed; the others are there.
    """
    parts = _split_samples(archive, positions, shards)
    pickled = pickle.dumps(archive)
    done = run_all(
        _convert_shard,
        (
            _Shard(pickled, path, kind, part, overwrite, index, sync)
            for path, part in zip(paths, parts)
        ),
        CallingThread() if executor is None else executor,
        name=_path_of,
        what="shards",
        in_flight=256,
        progress=progress,
    )
    return sum(done)


def _path_of(shard: _Shard) -> str:
    return shard.path


def _split_samples(
    archive: Archive, positions: list[int], shards: int
) -> list[npt.NDArray[np.int64]]:
    """Divide positions, such that each part has the same number of samples, give or take one."""

    def key(position: int) -> tuple[bytes, bytes]:
        folder, _, base = archive.table.name_bytes(position).rpartition(b"/")
        return folder, base.partition(b".")[0]

    sizes = [sum(1 for _ in group) for _, group in groupby(positions, key=key)]
    if len(sizes) < shards:
        raise OptionError(
            f"there are only {pluralize(len(sizes), 'sample')} for {pluralize(shards, 'shard')}"
        )
    ends = np.cumsum(sizes)
    cuts = [int(ends[number * len(sizes) // shards - 1]) for number in range(1, shards)]
    return np.split(np.array(positions, np.int64), cuts)


def _convert_shard(shard: _Shard) -> int:
    # Opened by each task, because an archive must be closed where it was opened.
    opened: Archive = pickle.loads(shard.archive)
    with opened as archive:
        table, positions = archive.table, shard.positions.tolist()

        def is_written() -> bool:
            entries = table.entries[shard.positions]
            return holds_members(
                shard.path,
                [table.name_bytes(position) for position in positions],
                entries["size"],
                # The others round times.
                entries["mtime"] // 1_000_000_000 if shard.kind == "tar" else None,
                max(locate(path).status().mtime_ns for path in archive.opened_paths),
                save_index=shard.save_index,
            )

        def write(overwrite: bool) -> None:
            write_members(
                archive,
                shard.path,
                shard.kind,
                positions,
                overwrite=overwrite,
                index=shard.save_index,
                sync=shard.sync,
                step=lambda count: None,
            )

        write_once(write, is_written, shard.overwrite)
    return len(positions)
