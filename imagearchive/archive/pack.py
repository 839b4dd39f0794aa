"""Pack a directory tree or a list of files into TAR or ZIP archives."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from imagearchive.archive.pack_ahead import Progress, add_all, add_one
from imagearchive.archive.packed_files import (
    SourceFile,
    check_outside,
    listed_file,
    name_path_in_errors,
    sample_key,
    shuffle_list,
    shuffle_tree,
    walk_tree,
)
from imagearchive.archive.shard_size import ShardMember, ShardSize
from imagearchive.archive.writers import IndexedTarWriter, PackWriter, is_zip, open_writer
from imagearchive.containers.archive_writer import StreamTarget
from imagearchive.containers.tar.writer import RECORD, BareTarWriter
from imagearchive.errors import OptionError
from imagearchive.errors.arguments import (
    check_flag,
    check_integer,
    check_path,
    check_sequence,
    check_size,
)
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.atomic import publish_together
from imagearchive.storage.location import local_path, locate
from imagearchive.storage.outputs import output_path
from imagearchive.storage.path_options import with_text_of

if TYPE_CHECKING:
    from imagearchive.storage.executors import AnyExecutor

__all__ = ["pack", "pack_to_stream", "shard_path"]

logger = logging.getLogger(__name__)

_EMPTY_LIST: Final = "the list of files is empty; pass the path of each file"


def pack(
    source: str | os.PathLike[str] | Iterable[str | bytes | os.PathLike[str]],
    target: str | os.PathLike[str],
    *,
    shards: int | None = None,
    shard_size: int | str | None = None,
    root: str | os.PathLike[str] = ".",
    shuffle: bool = False,
    seed: int = 0,
    mtime: int | None = 0,
    overwrite: bool = False,
    index: bool = True,
    sync: bool = True,
    executor: AnyExecutor | None = None,
    progress: Callable[[int], object] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> list[str]:
    """Pack files into one TAR or ZIP archive or several, with the index of each.

    The same files give the same bytes, on any machine: order, owner, permissions and (unless
    asked otherwise) times do not come from the file system. Symbolic links are packed as the
    files that they point to, so the archive is complete. Directories themselves are not stored.

    Parameters
    ----------
    source : path-like or iterable of path-like
        A directory, packed in bytewise order of the names; or files, packed in the given order.
    target : path-like
        The archive, ``train.tar``, or a URL. Shards are called ``train-000000.tar`` and so on. A
        name that ends in ``.zip`` makes a ZIP of members that are not compressed, whose names must
        be UTF-8 and whose times are from 1980 on, rounded down to two seconds; all other names make
        a TAR.
    shards : int, optional
        Number of archives; each gets the same number of samples, give or take one. Consecutive
        files with the same name up to the first dot are one sample.
    shard_size : int or str, optional
        Maximum size of an archive in bytes, or as ``"100MB"``, without the index. A larger sample
        gets an archive of its own.
    root : path-like
        Directory that listed files are relative to.
    shuffle : bool
        Pack the samples in random order. All files of a sample stay together, sorted by name.
    seed : int
        Seed of that order, which depends on nothing else but the names, so it is the same on every
        machine.
    mtime : int or None
        Modification time of all members, seconds since 1970; None keeps that of each file.
    overwrite : bool
        Replace archives of these names.
    index, sync : bool
        As in `TarWriter`.
    executor : int or concurrent.futures.Executor, optional
        Write several shards at a time: in a number of processes, or on an executor whose workers
        see source and target under the same paths, such as
        ``dask.distributed.Client(...).get_executor()``. It is not shut down. Each shard then
        appears when it is whole. One that is there already and holds the same files, none of them
        changed since, is kept, so the same call again writes only what is missing.
    progress : callable, optional
        Called with the number of files packed since the last call.
    storage_options, filesystem : optional
        How to reach a URL, as in `open`.

    Returns
    -------
    list of str
        The archives, in order. On this machine, and without `executor`, all of them appear when
        the last one is whole, or none. Shards at URLs are written as with an executor: one after
        the other, and only those that are missing.

    Raises
    ------
    ArchiveNotFoundError
        The directory does not exist.
    OptionError
        A target is inside the directory, or there are fewer samples than shards.
    TargetExistsError
        A target exists.
    UnsafePathError
        A listed file is outside `root`, or the name of a file cannot be that of a member.
    IncompleteError
        With `executor`, or at a URL, some of the shards failed; the others are there.
    UnsupportedMemberError
        There is a device, FIFO or socket, or a link that points to a directory above it.
    OSError
        A file cannot be read, or the target cannot be written.
    """
    path = output_path("target", target, storage_options, filesystem)
    remote = locate(path).local_path is None
    if shards is not None and shard_size is not None:
        raise OptionError("give shards or shard_size, not both")
    if shards is not None:
        shards = check_integer("shards", shards, 1)
    if shard_size is not None:
        # A smaller TAR does not exist.
        shard_size = check_size("shard_size", shard_size, RECORD)
    if mtime is not None:
        mtime = check_integer("mtime", mtime)
    shuffle = check_flag("shuffle", shuffle)
    seed = check_integer("seed", seed)
    with ExitStack() as held:
        files: Callable[[], Iterator[SourceFile]]
        if isinstance(source, str | bytes | os.PathLike):
            top = local_path("source", source)
            check_outside(top, "" if remote else path)
            files = _files_below(top, seed if shuffle else None, held)
        else:
            top = ""
            base = os.fsencode(local_path("root", root))
            files = _files_listed(source, base, seed if shuffle else None)
        files = _warning_if_empty(files, path, top)
        if shards is not None:
            cut = _by_count(files, shards)
        elif shard_size is not None:
            cut = _by_size(shard_size, top, is_zip(path), mtime)
        elif executor is not None:
            raise OptionError(
                "executor writes several shards at a time; say how many with shards or shard_size"
            )
        else:
            cut = None
        if cut is not None and (executor is not None or remote):
            # Imported here, because it needs NumPy, which a thread imports otherwise.
            from imagearchive.archive.shard_tasks import PackedShard, pack_shards
            from imagearchive.storage.executors import CallingThread

            folder = os.path.abspath(os.fsencode(top) if top else base)
            listed_shards = (
                PackedShard(
                    locate(shard_path(path, number)).path,
                    folder,
                    names,
                    mtime,
                    overwrite,
                    index,
                    sync,
                )
                for number, names in enumerate(_names_of_shards(files(), cut))
            )
            chosen = CallingThread() if executor is None else executor
            count = pack_shards(listed_shards, chosen, progress)
            _warn_of_others(path, count)
            return [shard_path(path, number) for number in range(count)]
        started: list[PackWriter] = []

        def start(name: str) -> PackWriter:
            writer = open_writer(name, overwrite=overwrite, mtime=mtime, index=index, sync=sync)
            held.callback(writer.abort)
            started.append(writer)
            return writer

        report = Progress(progress)
        keep = mtime is None
        if cut is None:
            writer = start(path)
            if isinstance(writer, IndexedTarWriter):
                add_all(writer, files(), top, keep, report, index)
            else:
                for item in files():
                    add_one(writer, item, top, keep)
                    report.step()
        else:
            for _, sample in groupby(files(), key=_sample_key):
                group = list(sample)
                if cut(group) or not started:
                    if started:
                        started[-1].complete()
                    start(shard_path(path, len(started)))
                for item in group:
                    add_one(started[-1], item, top, keep)
                    report.step()
            if not started:
                # Without files, there is one archive without members, as there is without shards.
                start(shard_path(path, 0))
        publish_together(started)
        for writer in started:
            writer.close()
        if cut is not None:
            _warn_of_others(path, len(started))
        report.end()
        return [writer.path for writer in started]


def pack_to_stream(
    source: str | list[bytes],
    file: BinaryIO,
    name: str,
    *,
    root: str,
    shuffle: bool,
    seed: int,
    mtime: int | None,
    progress: Callable[[int], object] | None,
) -> None:
    """Pack files into a TAR that goes to a pipe or another stream, such as standard output.

    If it fails, the archive lacks its end.

    Parameters
    ----------
    source, root, shuffle, seed, mtime, progress
        As in `pack`.
    file : binary file
        It must have a descriptor. It is not closed.
    name : str
        What errors call it.
    """
    order = seed if shuffle else None
    with ExitStack() as held:
        if isinstance(source, str):
            top = source
            files = _files_below(top, order, held)
        else:
            top = ""
            files = _files_listed(source, os.fsencode(root), order)
        files = _warning_if_empty(files, name, top)
        tar = BareTarWriter(name, mtime=mtime or 0, stream=StreamTarget(file))
        report = Progress(progress)
        with tar:
            add_all(tar, files(), top, mtime is None, report, index=False)
        report.end()


def _files_below(top: str, seed: int | None, held: ExitStack) -> Callable[[], Iterator[SourceFile]]:
    if seed is None:
        return partial(walk_tree, top, held)
    return shuffle_tree(top, seed, held)


def _files_listed(
    source: Iterable[str | bytes | os.PathLike[str]], root: bytes, seed: int | None
) -> Callable[[], Iterator[SourceFile]]:
    listed = check_sequence("source", source, "a directory or a sequence of files")
    paths = [os.fsencode(check_path("source", item)) for item in listed]
    items = [listed_file(item, root) for item in paths]
    return partial(iter, items if seed is None else shuffle_list(items, seed))


def _warning_if_empty(
    files: Callable[[], Iterator[SourceFile]], target: str, top: str
) -> Callable[[], Iterator[SourceFile]]:
    """Return `files`, which then logs a warning if there are none: a list may have gone wrong."""

    def checked() -> Iterator[SourceFile]:
        found = files()
        first = next(found, None)
        if first is not None:
            return chain([first], found)
        reason = f"{top} contains no files" if top else _EMPTY_LIST
        logger.warning("%s has no members, because %s", target, reason)
        return found

    return checked


def _warn_of_others(path: str, count: int) -> None:
    if locate(beyond := shard_path(path, count)).exists():
        logger.warning(
            "%s: left over from a larger set of shards; a pattern matches it, too",
            beyond,
        )


def _names_of_shards(files: Iterator[SourceFile], cut: _Cut) -> Iterator[bytes]:
    """Yield the names of the files of each shard, with NULs between; one shard if there are none.

    Names contain no NUL, and one string takes less memory than many.
    """
    names: list[bytes] = []
    first = True
    for _, sample in groupby(files, key=_sample_key):
        group = list(sample)
        if cut(group) and not first:
            yield b"\0".join(names)
            names = []
        first = False
        names += [item.name for item in group]
    yield b"\0".join(names)


def shard_path(path: str, number: int) -> str:
    """Return the name of one shard: ``train.tar`` and 3 give ``train-000003.tar``."""
    stem, extension = os.path.splitext(path)
    return with_text_of(path, f"{stem}-{number:06d}{extension}")


_Cut = Callable[[list[SourceFile]], bool]


def _sample_key(item: SourceFile) -> tuple[bytes, bytes]:
    return sample_key(item.name)


def _by_count(files: Callable[[], Iterator[SourceFile]], shards: int) -> _Cut:
    total = sum(1 for _ in groupby(files(), key=_sample_key))
    if total < shards:
        raise OptionError(
            f"there are only {pluralize(total, 'sample')} for {pluralize(shards, 'shard')}"
        )
    seen = 0

    def cut(_: list[SourceFile]) -> bool:
        nonlocal seen
        seen += 1
        # Where number * shards // total steps up, the next shard begins.
        return (seen - 1) * shards // total > (seen - 2) * shards // total

    return cut


def _by_size(limit: int, top: str, zipped: bool, mtime: int | None) -> _Cut:
    shard = ShardSize(limit, zipped)

    def members(group: list[SourceFile]) -> Iterator[ShardMember]:
        for item in group:
            with name_path_in_errors(top, item):
                status = os.stat(item.path, dir_fd=item.dir_fd)
            modified = status.st_mtime_ns // 1_000_000_000 if mtime is None else mtime
            yield ShardMember(item.name, status.st_size, modified)

    def cut(group: list[SourceFile]) -> bool:
        size = shard.sample_size(members(group))
        full = shard.exceeds(size)
        if full:
            shard.start()
        shard.add(size)
        return full

    return cut
