"""Pack a directory tree or a list of files into TAR archives."""

from __future__ import annotations

import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from itertools import groupby, islice
from typing import TYPE_CHECKING, Final, NamedTuple

from imagearchive.archive.small_files import fill
from imagearchive.archive.writers import TarWriter
from imagearchive.containers.tar.ustar import BLOCK, header
from imagearchive.containers.tar.writer import RECORD
from imagearchive.errors import (
    ArchiveNotFoundError,
    OptionError,
    UnsafePathError,
    UnsupportedMemberError,
)
from imagearchive.errors.arguments import check_integer, check_path, check_sequence, check_size
from imagearchive.errors.hints import Hint
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.storage.atomic import publish_together
from imagearchive.storage.location import local_path, locate
from imagearchive.storage.task_threads import Task, TaskThreads

if TYPE_CHECKING:
    from imagearchive.storage.executors import AnyExecutor

__all__ = ["pack", "shard_path"]

logger = logging.getLogger(__name__)

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_REPORT_EVERY: Final = 256
# Threads that read ahead, the files that they take at a time, and into how much memory. Larger
# files are copied by the thread that writes.
READERS: Final = 2
BATCH: Final = 64
READ_AHEAD: Final = 1 << 20
LARGE: Final = 1 << 18


class _Source(NamedTuple):
    """A file to pack: its name in the archive, and where to open it."""

    name: bytes
    path: bytes
    dir_fd: int | None


def pack(
    source: str | os.PathLike[str] | Iterable[str | bytes | os.PathLike[str]],
    target: str | os.PathLike[str],
    *,
    shards: int | None = None,
    shard_size: int | str | None = None,
    root: str | os.PathLike[str] = ".",
    mtime: int | None = 0,
    overwrite: bool = False,
    index: bool = True,
    sync: bool = True,
    executor: AnyExecutor | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[str]:
    """Pack files into one TAR archive or several, with the index of each.

    The same files give the same bytes, on any machine: order, owner, permissions and (unless
    asked otherwise) times do not come from the file system. Symbolic links are packed as the
    files that they point to, so the archive is complete. Directories themselves are not stored.

    Parameters
    ----------
    source : path-like or iterable of path-like
        A directory, packed in bytewise order of the names; or files, packed in the given order.
    target : path-like
        The archive, ``train.tar``. Shards are called ``train-000000.tar`` and so on.
    shards : int, optional
        Number of archives; each gets the same number of samples, give or take one. Consecutive
        files with the same name up to the first dot are one sample.
    shard_size : int or str, optional
        Maximum size of an archive in bytes, or as ``"100MB"``, without the index. A larger sample
        gets an archive of its own.
    root : path-like
        Directory that listed files are relative to.
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

    Returns
    -------
    list of str
        The archives, in order. Without `executor`, all of them appear when the last one is whole,
        or none.

    Raises
    ------
    ArchiveNotFoundError
        The directory does not exist.
    OptionError
        A target is inside the directory, or there are fewer samples than shards.
    TargetExistsError
        A target exists.
    UnsafePathError
        A listed file is outside `root`.
    IncompleteError
        With `executor`, some of the shards failed; the others are there.
    UnsupportedMemberError
        There is a device, FIFO or socket, or a link that points to a directory above it.
    OSError
        A file cannot be read, or the target cannot be written.
    """
    path = local_path("target", target)
    if shards is not None and shard_size is not None:
        raise OptionError("give shards or shard_size, not both")
    if shards is not None:
        shards = check_integer("shards", shards, 1)
    if shard_size is not None:
        # A smaller archive does not exist.
        shard_size = check_size("shard_size", shard_size, RECORD)
    if mtime is not None:
        mtime = check_integer("mtime", mtime)
    with ExitStack() as held:
        files: Callable[[], Iterator[_Source]]
        if isinstance(source, str | bytes | os.PathLike):
            top = local_path("source", source)
            _check_outside(top, path)
            files = partial(_tree, top, held)
        else:
            top = ""
            base = os.fsencode(local_path("root", root))
            listed = check_sequence("source", source, "a directory or a sequence of files")
            paths = [os.fsencode(check_path("source", item)) for item in listed]
            files = partial(iter, [_source_of(item, base) for item in paths])
        if shards is not None:
            cut = _by_count(files, shards)
        elif shard_size is not None:
            cut = _by_size(shard_size, top)
        elif executor is not None:
            raise OptionError(
                "executor writes several shards at a time; say how many with shards or shard_size"
            )
        else:
            cut = None
        if cut is not None and executor is not None:
            # Imported here, because it needs NumPy, which a thread imports otherwise.
            from imagearchive.archive.shard_tasks import PackedShard, pack_shards

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
            count = pack_shards(listed_shards, executor, progress)
            _warn_of_others(path, count)
            return [shard_path(path, number) for number in range(count)]
        started: list[TarWriter] = []

        def start(name: str) -> TarWriter:
            tar = TarWriter(name, overwrite=overwrite, mtime=mtime or 0, index=index, sync=sync)
            held.callback(tar.abort)
            started.append(tar)
            return tar

        report = _Progress(progress)
        keep = mtime is None
        if cut is None:
            tar = start(path)
            _add_all(tar, files(), top, keep, report, index)
        else:
            for _, sample in groupby(files(), key=_sample_key):
                group = list(sample)
                if cut(group) or not started:
                    if started:
                        started[-1].complete()
                    start(shard_path(path, len(started)))
                for item in group:
                    _add(started[-1], item, top, keep)
                    report.step()
            if not started:
                # Without files, there is one archive without members, as there is without shards.
                start(shard_path(path, 0))
        publish_together(started)
        for tar in started:
            tar.close()
        if cut is not None:
            _warn_of_others(path, len(started))
        report.end()
        return [tar.path for tar in started]


def _warn_of_others(path: str, count: int) -> None:
    if os.path.lexists(beyond := shard_path(path, count)):
        logger.warning(
            "%s: left over from a larger set of shards; a pattern matches it, too",
            beyond,
        )


def _names_of_shards(files: Iterator[_Source], cut: _Cut) -> Iterator[bytes]:
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
    return f"{stem}-{number:06d}{extension}"


_Cut = Callable[[list[_Source]], bool]


class _Progress:
    """Calls back once in a while: one call per file would cost more than packing it."""

    def __init__(self, function: Callable[[int], object] | None) -> None:
        self._function = function
        self._count = 0

    def step(self, count: int = 1) -> None:
        self._count += count
        if self._count >= _REPORT_EVERY:
            self.end()

    def end(self) -> None:
        if self._function is not None and self._count:
            self._function(self._count)
        self._count = 0


# ---------------------------------------------------------------- many small files


class _Batch(NamedTuple):
    """Files of one directory, read ahead by a thread."""

    folder: int
    prefix: bytes
    names: tuple[bytes, ...]


_Members = list[tuple[bytearray, int, int] | int]
"""Finished members as (buffer, bytes used, number of members), or the number of a special file."""


def _add_all(
    tar: TarWriter, files: Iterator[_Source], top: str, keep: bool, report: _Progress, index: bool
) -> None:
    """Add files; threads read those of a directory ahead, in batches."""
    template = tar.template()
    ahead: deque[tuple[_Batch, Task[_Members]]] = deque()
    spare: list[bytearray] = []

    def take() -> None:
        batch, task = ahead[0]
        for piece in task.result():
            if isinstance(piece, int):
                name = batch.names[piece]
                _add(tar, _Source(batch.prefix + name, name, batch.folder), top, keep)
            else:
                buffer, used, count = piece
                tar.add_members(memoryview(buffer)[:used], count)
                spare.append(buffer)
        report.step(len(batch.names))
        ahead.popleft()
        os.close(batch.folder)

    with TaskThreads(READERS + 1) as pool:
        if index:
            # Needed at the end; loading NumPy takes as long as packing ten thousand files.
            pool.submit(import_module, "imagearchive.index.table")
        try:
            for item in _batches(files) if template else files:
                if isinstance(item, _Batch):
                    ahead.append((item, pool.submit(_read, item, template, keep, spare)))
                    if len(ahead) > 2 * READERS:
                        take()
                    continue
                while ahead:
                    take()
                _add(tar, item, top, keep)
                report.step()
            while ahead:
                take()
        finally:
            pool.close()
            for batch, _ in ahead:
                os.close(batch.folder)


def _batches(files: Iterator[_Source]) -> Iterator[_Batch | _Source]:
    for (dir_fd, prefix), group in groupby(files, key=_directory):
        if dir_fd is None:
            yield from group
            continue
        while chunk := tuple(item.path for item in islice(group, BATCH)):
            # Duplicated because the batch outlives the walk through the directory.
            yield _Batch(os.dup(dir_fd), prefix, chunk)


def _directory(item: _Source) -> tuple[int | None, bytes]:
    return item.dir_fd, item.name[: -len(item.path)]


def _read(batch: _Batch, template: bytes, keep: bool, spare: list[bytearray]) -> _Members:
    pieces: _Members = []
    start = 0
    while start < len(batch.names):
        try:
            # Memory that was used before causes no page faults.
            buffer = spare.pop()
        except IndexError:
            buffer = bytearray(READ_AHEAD)
        after, used, special = fill(
            batch.folder, batch.prefix, batch.names, start, template, keep, LARGE, buffer
        )
        pieces.append((buffer, used, after - start))
        start = after
        if special:
            pieces.append(start)
            start += 1
    return pieces


# ---------------------------------------------------------------- shards


def _sample_key(item: _Source) -> tuple[bytes, bytes]:
    folder, _, base = item.name.rpartition(b"/")
    return folder, base.partition(b".")[0]


def _by_count(files: Callable[[], Iterator[_Source]], shards: int) -> _Cut:
    total = sum(1 for _ in groupby(files(), key=_sample_key))
    if total < shards:
        raise OptionError(f"there are only {total} samples for {shards} shards")
    seen = 0

    def cut(_: list[_Source]) -> bool:
        nonlocal seen
        seen += 1
        # Where number * shards // total steps up, the next shard begins.
        return (seen - 1) * shards // total > (seen - 2) * shards // total

    return cut


def _by_size(limit: int, top: str) -> _Cut:
    used = 0

    def cut(group: list[_Source]) -> bool:
        nonlocal used
        size = 0
        for item in group:
            with _errors_name_path(top, item):
                data = os.stat(item.path, dir_fd=item.dir_fd).st_size
            size += len(header(item.name, data)) + data + -data % BLOCK
        whole = used + size + 2 * BLOCK
        full = used > 0 and whole + -whole % RECORD > limit
        used = size if full else used + size
        return full

    return cut


# ---------------------------------------------------------------- files


def _add(tar: TarWriter, item: _Source, top: str, keep: bool) -> None:
    with _errors_name_path(top, item):
        tar.add_file(item.path, item.name, dir_fd=item.dir_fd, keep_mtime=keep)


@contextmanager
def _errors_name_path(top: str, item: _Source) -> Iterator[None]:
    """Name a file by its whole path in errors, and say so if it is a dangling link."""
    try:
        yield
    except OSError as error:
        # Errors of writing name the archive.
        if error.filename in (item.path, os.fsdecode(item.path), os.fsdecode(item.name)):
            path = os.fsdecode(item.path if item.dir_fd is None else item.name)
            path = os.path.join(top, path)
            error.filename = path
            if isinstance(error, FileNotFoundError) and os.path.islink(path):
                error.strerror = (
                    f"a symbolic link to {os.readlink(path)!r}, which does not exist; remove it, "
                    f"or pack a list of files without it"
                )
        raise


def _source_of(path: bytes, root: bytes) -> _Source:
    name = os.path.relpath(os.path.abspath(os.path.join(root, path)), os.path.abspath(root))
    if name in (b".", b"..") or name.startswith(b"../"):
        raise UnsafePathError(
            f"{os.fsdecode(path)} is outside {os.fsdecode(root)}",
            hints=[Hint("root", "to name the directory that the paths are relative to")],
        )
    return _Source(name, os.path.join(root, path), None)


def _check_outside(directory: str, target: str) -> None:
    if not os.path.isdir(directory):
        what = "not a directory" if os.path.exists(directory) else "no such directory"
        raise ArchiveNotFoundError(f"{directory}: {what}; name the directory to pack")
    top = os.path.realpath(directory)
    folder = os.path.realpath(os.path.dirname(target) or ".")
    if os.path.commonpath([top, folder]) == top:
        raise OptionError(
            f"{target} is inside {directory}, the directory to pack; write it elsewhere"
        )


_Level = tuple[int, bytes, Iterator[tuple[bytes, bool]]]


def _tree(top: str, held: ExitStack) -> Iterator[_Source]:
    """All files below a directory, in bytewise order of their names.

    The descriptor of a file's directory stays open until the second next file is asked for, as
    grouping looks one file ahead; that of the last file is left to `held`.
    """
    # Open directories from the top to the current one: descriptor, name with slash, what is left.
    levels: list[_Level] = [(os.open(top, _OPEN_DIRECTORY), b"", iter(()))]
    latest = retired = -1
    try:
        levels[0] = (levels[0][0], b"", iter(_entries(levels[0][0], top, b"")))
        while levels:
            fd, prefix, entries = levels[-1]
            for name, is_directory in entries:
                if not is_directory:
                    latest = fd
                    yield _Source(prefix + name, name, fd)
                    if retired >= 0:
                        # In this order: an interrupt must not make it close twice.
                        done, retired = retired, -1
                        os.close(done)
                    continue
                # Sorting put the slash behind the name of a directory.
                with _errors_name_path(top, _Source(prefix + name[:-1], name[:-1], fd)):
                    below = os.open(name[:-1], _OPEN_DIRECTORY, dir_fd=fd)
                levels.append((below, prefix + name, iter(())))
                _check_loop(levels, top)
                levels[-1] = (below, prefix + name, iter(_entries(below, top, prefix + name)))
                break
            else:
                levels.pop()
                if fd == latest:
                    retired, latest = fd, -1
                else:
                    os.close(fd)
    finally:
        for fd, _, _ in levels:
            os.close(fd)
        if retired >= 0:
            held.callback(os.close, retired)


def _entries(fd: int, top: str, prefix: bytes) -> list[tuple[bytes, bool]]:
    """Names in a directory, those of directories with a slash, in order; True for directories."""
    found: list[tuple[bytes, bool]] = []
    with os_errors_for(os.path.join(top, os.fsdecode(prefix))), os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if entry.is_file(follow_symlinks=False):
                found.append((name, False))
            elif entry.is_dir(follow_symlinks=False):
                found.append((name + b"/", True))
            else:
                # A link, or something that add_file refuses.
                with _errors_name_path(top, _Source(prefix + name, name, fd)):
                    is_directory = stat.S_ISDIR(os.stat(name, dir_fd=fd).st_mode)
                found.append((name + b"/" if is_directory else name, is_directory))
    found.sort()
    return found


def _check_loop(levels: list[_Level], top: str) -> None:
    nodes = [os.fstat(fd) for fd, _, _ in levels]
    for node in nodes[:-1]:
        if os.path.samestat(node, nodes[-1]):
            raise UnsupportedMemberError(
                f"{os.path.join(top, os.fsdecode(levels[-1][1]))}: a link to a directory above it"
            )
