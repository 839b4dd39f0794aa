"""Write the members of an archive as files, and never outside the directory that was named."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from imagearchive.archive.checked_read import pieces, unchecked
from imagearchive.archive.name_tree import decode, encode
from imagearchive.archive.small_files import spill
from imagearchive.archive.threads import Chunks, in_threads
from imagearchive.containers import registry as containers
from imagearchive.containers.rows import KIND_FILE, KIND_HARDLINK, KIND_OTHER, KIND_SYMLINK
from imagearchive.errors import OptionError, TargetExistsError, UnsafePathError
from imagearchive.errors.hints import Hint
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.index.names import normalise
from imagearchive.storage.closing import Closable
from imagearchive.storage.local import MemoryStorage
from imagearchive.storage.lru import LRUCache

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["Existing", "Extracted", "Refused", "extract", "matching", "refused_members", "select"]

Existing = Literal["error", "skip", "replace"]

# The longest name of a file on the file systems in use.
NAME_MAX: Final = 255
# Members that a thread takes at a time: enough to stay in one directory, few enough to share.
CHUNK: Final = 64
# Larger members are written by themselves, so that an interrupt does not wait for many of them.
LARGE: Final = 1 << 20
# Directories that each thread keeps open.
OPEN_DIRECTORIES: Final = 32

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(NamedTuple):
    """A member that is not written, and why."""

    name: str
    reason: str


class Extracted(NamedTuple):
    """What `extract` did."""

    files: int
    bytes: int
    skipped: int
    """Files that were there already, with ``existing="skip"``."""
    refused: list[Refused]


def extract(
    archive: Archive,
    target: str | os.PathLike[str],
    members: Iterable[int] | None = None,
    *,
    existing: Existing = "error",
    skip_unsafe: bool = False,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Extracted:
    """Extract an archive into a directory.

    What could reach outside is refused as the ``data`` filter of PEP 706 does: names with ``..``,
    devices, and links that lead to nothing in the archive; of absolute names the leading slash is
    dropped. A link to a member is written as a file with the content of that member. No symbolic
    link inside the target is ever followed, not even one that is put there meanwhile.

    Each file appears under its name when it is whole: in a directory that exists one by one, in a
    new one when that gets its name at the end. Until then it is called ``TARGET.….part``; only a
    process that is killed leaves it so, otherwise what is in it is kept. A file keeps its
    modification time (where one is recorded and not 0) and, within the umask, its permissions
    without set-user-id, set-group-id, sticky, and write permission for others. Owners are not
    restored.

    Parameters
    ----------
    archive : Archive
    target : path-like
        A directory; made if it is missing.
    members : iterable of int, optional
        Positions; see `select`. All by default, with the empty directories.
    existing : {"error", "skip", "replace"}
        What happens where a file of that name is there.
    skip_unsafe : bool
        Extract the rest, and return what was refused, instead of writing nothing and raising.
    threads : int, optional
        Up to four by default, as many as there are processors.
    progress : callable, optional
        Called with the number of files done since the last call, from any of the threads.

    Returns
    -------
    Extracted

    Raises
    ------
    UnsafePathError
        A member is refused, before anything is written; or a symbolic link stands in the way.
    TargetExistsError
        A file exists, and `existing` is ``"error"``.
    CorruptArchiveError, UnsupportedMemberError
        A member cannot be read, or differs from the checksum that a ZIP or NPZ has of it.
    OSError
        The target cannot be written. Files extracted before stay.
    """
    if existing not in get_args(Existing):
        raise OptionError(f"existing={existing!r}: choose one of {', '.join(get_args(Existing))}")
    refused = _unsafe_names(archive, members)
    if members is None:
        refused = [*refused_members(archive), *refused]
    if refused and not skip_unsafe:
        raise UnsafePathError(
            _describe(refused), hints=[Hint("skip_unsafe=True", "to extract the others")]
        )
    barred = {item.name for item in refused}
    path = os.fspath(target)
    if not path:
        raise OptionError("the target is an empty string; name the directory to extract into")
    # A new directory gets its name at the end, and its files need no temporary names.
    fresh = not os.path.lexists(path)
    place = f"{path.rstrip('/')}.{secrets.token_hex(6)}.part" if fresh else path
    root = -1
    whole = False
    try:
        root = _opened(place, path)
        run = _Run(archive, root, path, existing, barred, fresh, progress)
        positions = np.arange(len(archive)) if members is None else np.array([*members], np.int64)
        run.all(positions, threads)
        if members is None:
            with _Directories(root, path) as folders:
                for name in archive.table.directories:
                    if not _unsafe(encode(name)):
                        folders.open(encode(name))
        whole = True
    finally:
        if root >= 0:
            os.close(root)
        if fresh:
            _settle(place, path, whole)
    return Extracted(run.files, run.bytes, run.skipped, refused)


def _opened(place: str, path: str) -> int:
    """Open the directory to write to, and make it if it is missing; errors speak of `path`."""
    try:
        os.makedirs(place, exist_ok=True)
        return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.filename == place:
            error.filename = path
        raise


def _settle(place: str, path: str, whole: bool) -> None:
    """Give a new directory its name; after a failure only if there is a file in it."""
    if whole or any(files for _, _, files in os.walk(place)):
        os.rename(place, path)
    else:
        shutil.rmtree(place, ignore_errors=True)


def select(archive: Archive, patterns: Iterable[str]) -> list[int]:
    """Find the members that names, directories and glob patterns stand for, in archive order.

    Raises
    ------
    MemberNotFoundError
        One of them stands for nothing; the message names the closest match.
    """
    found: set[int] = set()
    table = archive.table
    for pattern in patterns:
        places = matching(archive, pattern)
        if not places and archive.isdir(pattern):
            folder = normalise(encode(pattern))
            low, high = table.lookup.bounds(folder + b"/" if folder else b"")
            places = table.name_order[low:high].tolist()
        elif not places:
            # Says what the closest name is.
            archive.position(pattern)
        found.update(places)
    return sorted(found)


def matching(archive: Archive, pattern: str) -> list[int]:
    """Find the file of a name, or the files that match it as a glob pattern.

    A name that exists is no pattern, whatever it looks like; that of a directory stands for no
    file.
    """
    position = archive.table.find(pattern)
    if position < 0 and archive.isfile(pattern):
        position = archive.position(pattern)
    if position >= 0:
        return [position]
    if archive.isdir(pattern):
        return []
    names = archive.iglob(pattern, recursive=True)
    return [archive.position(name) for name in names if archive.isfile(name)]


def refused_members(archive: Archive) -> list[Refused]:
    """List the links and devices of an archive that are no files in it.

    The index leaves them out; this scans the headers again.
    """
    if archive.table.scanner not in ("tar", "zip"):
        return []
    refused = []
    for file in archive.table.files:
        with os_errors_for(file):
            rows = containers.scan(file, strict=False).rows
        kinds = rows.entries["kind"][: rows.rows]
        special = np.isin(kinds, (KIND_OTHER, KIND_HARDLINK, KIND_SYMLINK))
        for row in np.flatnonzero(special).tolist():
            name = decode(normalise(rows.name(row)))
            if kinds[row] == KIND_OTHER:
                refused.append(Refused(name, "a device or FIFO"))
            elif archive.table.find(name) < 0:
                link = decode(rows.link(row))
                refused.append(
                    Refused(name, f"a link to {link!r}, which is no file in the archive")
                )
    return refused


def _describe(refused: list[Refused]) -> str:
    shown = "; ".join(f"{item.name[:200]!r}: {item.reason}" for item in refused[:5])
    more = f"; and {len(refused) - 5} more" if len(refused) > 5 else ""
    return f"{len(refused)} members cannot be extracted ({shown}{more}); nothing was written"


# ---------------------------------------------------------------- names


def _unsafe(name: bytes) -> str:
    """Say why a name cannot be written below a directory; empty where it can."""
    if not name or name.endswith(b"/"):
        return "no name of a file"
    if b"\0" in name:
        return "a NUL byte in the name"
    if name.startswith(b"/"):
        return "an absolute path"
    parts = name.split(b"/")
    if b".." in parts:
        return "a path out of the target directory"
    if b"" in parts or b"." in parts:
        return "no plain path"
    if len(name) > NAME_MAX and max(map(len, parts)) > NAME_MAX:
        return f"a name of more than {NAME_MAX} bytes"
    return ""


def _unsafe_names(archive: Archive, members: Iterable[int] | None) -> list[Refused]:
    positions = range(len(archive)) if members is None else members
    refused = []
    for position in positions:
        name = archive.table.name_bytes(position)
        reason = _unsafe(name)
        if reason:
            refused.append(Refused(decode(name), reason))
    return refused


def _permissions(modes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return the permissions that the ``data`` filter leaves; 0o644 where none are recorded."""
    kept = modes & 0o755 | 0o600
    kept = np.where(kept & 0o100, kept, kept & ~np.uint32(0o111))
    return np.where(modes & 0o777, kept, 0o644).astype(np.uint32)


def _mapped(archive: Archive) -> memoryview | None:
    """Return the bytes of an archive that is one file in memory or mapped."""
    if len(archive.table.files) != 1 or archive.table.scanner not in ("tar", "zip"):
        return None
    storage = archive.storage()
    return storage.read(0, storage.size) if isinstance(storage, MemoryStorage) else None


# ---------------------------------------------------------------- writing


class _Directories(Closable):
    """Directories below the target, each opened step by step without following a link."""

    def __init__(self, root: int, shown: str) -> None:
        self._root = root
        self._shown = shown
        self._open = LRUCache[bytes, int](OPEN_DIRECTORIES, os.close)

    def open(self, name: bytes) -> int:
        """Open a directory, making what is missing; the descriptor stays ours."""
        if not name:
            return self._root
        fd = self._open.get(name)
        if fd is not None:
            return fd
        parent, _, base = name.rpartition(b"/")
        above = self._open.get(parent)
        if above is not None or not parent:
            fd = self._step(self._root if above is None else above, base, name)
        else:
            fd = self._descend(name.split(b"/"))
        return self._open.setdefault(name, fd)

    def _descend(self, parts: list[bytes]) -> int:
        current = self._root
        for depth, part in enumerate(parts):
            try:
                below = self._step(current, part, b"/".join(parts[: depth + 1]))
            finally:
                if current != self._root:
                    os.close(current)
            current = below
        return current

    def _step(self, above: int, part: bytes, name: bytes) -> int:
        try:
            with contextlib.suppress(FileNotFoundError):
                return os.open(part, _DIRECTORY, dir_fd=above)
            # Another thread may be faster, or somebody put something else there.
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o777, dir_fd=above)
            return os.open(part, _DIRECTORY, dir_fd=above)
        except OSError as error:
            # Relative to a descriptor, the name alone does not tell which directory it is.
            error.filename = os.path.join(self._shown, decode(name))
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
                raise UnsafePathError(
                    f"{error.filename}: a link or a file stands where a directory is needed, and "
                    f"links are not followed; move it away"
                ) from error
            raise

    def close(self) -> None:
        """Close all directories but the root."""
        super().close()
        self._open.clear()


class _Run:
    """One extraction, shared by its threads."""

    def __init__(
        self,
        archive: Archive,
        root: int,
        shown: str,
        existing: Existing,
        barred: set[str],
        fresh: bool,
        progress: Callable[[int], object] | None,
    ) -> None:
        self._archive = archive
        self._root = root
        self._shown = shown
        self._existing = existing
        self._barred = barred
        self._fresh = fresh
        self._progress = progress
        # Several archives read as one may share names, of which the last counts.
        self._several = len(archive.table.files) > 1
        # Members that are refused are picked out one by one.
        self._source = None if barred else _mapped(archive)
        self._lock = threading.Lock()
        self.files = 0
        self.bytes = 0
        self.skipped = 0

    def all(self, positions: npt.NDArray[np.int64], threads: int | None) -> None:
        """Write all members at these positions."""
        in_threads(partial(self._work, positions), len(positions), CHUNK, threads)

    def _work(self, positions: npt.NDArray[np.int64], chunks: Chunks) -> None:
        files = total = skipped = 0
        part = f".{secrets.token_hex(6)}.part".encode()
        try:
            with _Directories(self._root, self._shown) as folders:
                for places in chunks:
                    done, size = self._chunk(
                        folders, part, chunks, positions[places.start : places.stop]
                    )
                    files += done
                    total += size
                    skipped += len(places) - done
                    if self._progress is not None:
                        self._progress(len(places))
        finally:
            with self._lock:
                self.files += files
                self.bytes += total
                self.skipped += skipped

    def _chunk(
        self, folders: _Directories, part: bytes, chunks: Chunks, positions: npt.NDArray[np.int64]
    ) -> tuple[int, int]:
        """Write some members; return how many and their size."""
        table = self._archive.table
        rows = table.entries[positions]
        names = [table.name_bytes(position) for position in positions.tolist()]
        offsets, sizes = rows["offset"].astype(np.uint64), rows["size"].astype(np.uint64)
        modes, mtimes = _permissions(rows["mode"]), rows["mtime"].astype(np.int64)
        simple = (rows["kind"] == KIND_FILE) & (rows["method"] == 0) & (sizes <= LARGE)
        if self._source is None:
            simple[:] = False
        easy = simple.tolist()
        if self._source is not None and table.scanner == "zip":
            for row in np.flatnonzero(simple).tolist():
                if unchecked(self._archive, int(positions[row])):
                    data = self._source[offsets[row] : offsets[row] + sizes[row]]
                    # What is damaged is left to the way that says so.
                    easy[row] = zlib.crc32(data) == rows["crc"][row]
        done = total = start = 0
        while start < len(names):
            chunks.check()
            folder, _, base = names[start].rpartition(b"/")
            if easy[start]:
                # As many as lie in the same directory go without the interpreter in between.
                bases = [base]
                end = start + 1
                while end < len(names) and easy[end]:
                    other, _, base = names[end].rpartition(b"/")
                    if other != folder:
                        break
                    bases.append(base)
                    end += 1
                count = spill(
                    folders.open(folder),
                    b"" if self._fresh else part,
                    tuple(bases),
                    self._source or b"",
                    offsets[start:end],
                    sizes[start:end],
                    modes[start:end],
                    mtimes[start:end],
                    self._existing == "replace",
                )
                done += count
                total += int(sizes[start : start + count].sum())
                start += count
                if start == end:
                    continue
            # Whatever is special about it, or in its way, shows here.
            size = int(sizes[start])
            if self._member(
                folders,
                part,
                chunks,
                int(positions[start]),
                int(mtimes[start]),
                int(modes[start]),
            ):
                done += 1
                total += size
            start += 1
        return done, total

    def _member(
        self,
        folders: _Directories,
        part: bytes,
        chunks: Chunks,
        position: int,
        mtime: int,
        mode: int,
    ) -> bool:
        table = self._archive.table
        name = table.name_bytes(position)
        if self._barred and decode(name) in self._barred:
            return False
        if self._several and table.lookup.find(name) != position:
            return False
        folder, _, base = name.rpartition(b"/")
        directory = folders.open(folder)
        if self._existing != "replace" and _is_there(base, directory):
            if self._existing == "skip":
                return False
            raise TargetExistsError(
                f"{self._show(name)} exists",
                hints=[
                    Hint("existing='replace'", "to replace it"),
                    Hint("existing='skip'", "to keep it"),
                ],
            )
        try:
            fd = os.open(part, _CREATE, mode, dir_fd=directory)
            try:
                for data in pieces(self._archive, position):
                    chunks.check()
                    _write_all(fd, data)
                if mtime:
                    os.utime(fd, ns=(mtime, mtime))
            finally:
                os.close(fd)
            os.rename(part, base, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException as error:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=directory)
            if isinstance(error, OSError) and error.errno and error.filename in (None, part):
                error.filename, error.filename2 = self._show(name), None
            raise
        return True

    def _show(self, name: bytes) -> str:
        return os.path.join(self._shown, decode(name))


def _is_there(name: bytes, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write_all(fd: int, data: bytes | memoryview) -> None:
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])
