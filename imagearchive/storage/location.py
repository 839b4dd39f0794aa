"""Locations: the files and directories that paths and URLs name.

Everything above this package accesses files through a `Location`, so a new kind of location
(a bucket, a server) is one class here and a call of `register_scheme`, and nothing elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import stat
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from imagearchive.errors import UnsupportedArchiveError
from imagearchive.errors.arguments import check_path
from imagearchive.storage.local import open_storage
from imagearchive.storage.path_options import options_of
from imagearchive.storage.protocol import (
    FileStorage,
    QuickProtocol,
    StorageKind,
    file_identity,
)

__all__ = [
    "Entry",
    "KnownLocation",
    "LocalLocation",
    "Location",
    "PublishingLocation",
    "Status",
    "expand_home",
    "local_path",
    "locate",
    "register_scheme",
    "statuses",
    "unregister_scheme",
]

# Why a link may lead to nothing.
_BROKEN: Final = (errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG)

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Status(NamedTuple):
    """Information about a location that needs no opening.

    Attributes
    ----------
    size : int
        Length in bytes; 0 for a directory.
    identity : str
        Changes if the content may have changed. For a local file, its modification time.
    mtime_ns : int
        Modification time in nanoseconds since 1970, 0 if unknown.
    mode : int
        Type and permissions as in ``st_mode``.
    """

    size: int
    identity: str
    mtime_ns: int
    mode: int

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)


class Entry(NamedTuple):
    """One entry of a directory.

    Attributes
    ----------
    name : str
        Without the directory; bytes that are not UTF-8 appear as surrogates.
    status : Status or None
        A link has the status of its target. None if the link leads to nothing that can be
        reached, or if the entry has disappeared.
    is_link : bool
        Whether the entry is a symbolic link.
    """

    name: str
    status: Status | None
    is_link: bool


class Location(Protocol, metaclass=QuickProtocol):
    """A file or directory that may be local or elsewhere.

    Immutable, picklable, and safe to use from any thread or process.

    Attributes
    ----------
    path : str
        The absolute path or URL. `locate` turns it into an equal location. It is shown in
        messages, and is a key for caches.
    """

    path: str

    @property
    def name(self) -> str:
        """The last component of the path."""
        ...

    @property
    def parent(self) -> Location:
        """The directory that holds it."""
        ...

    @property
    def local_path(self) -> str | None:
        """The path for the operating system, or None if the location is not local."""
        ...

    def join(self, name: str) -> Location:
        """Return the location of a relative path below this directory."""
        ...

    def relative(self, other: str) -> str:
        """Return the path of another location relative to this directory, for `join`."""
        ...

    def is_same(self, other: Location) -> bool:
        """Whether another location is the same file, even under another path or link."""
        ...

    def make_directory(self) -> None:
        """Make the directory and its parents if they do not exist; raises OSError."""
        ...

    def remove(self) -> None:
        """Remove the file, if there is one; raises OSError."""
        ...

    def status(self) -> Status:
        """Return size, identity, and type.

        Raises
        ------
        FileNotFoundError, NotADirectoryError
            There is nothing at the location.
        OSError
            Its status cannot be read.
        """
        ...

    def exists(self) -> bool:
        """Whether there is anything at the location."""
        ...

    def open(self, kind: StorageKind = "auto") -> FileStorage:
        """Open the file for positional reads.

        Raises
        ------
        ArchiveNotFoundError
            There is no such file.
        UnsupportedArchiveError
            It is not a regular file.
        """
        ...

    def list(self) -> list[Entry]:
        """Return the entries of a directory, sorted by the bytes of their names.

        Raises
        ------
        OSError
            It is not a directory, or cannot be listed.
        """
        ...


@runtime_checkable
class KnownLocation(Location, Protocol):
    """A location whose file can often be opened without asking for its status again."""

    def open_known(self, size: int, identity: str) -> FileStorage:
        """Open the file, which has this size and identity; if it has not, this or a read fails."""
        ...


@runtime_checkable
class PublishingLocation(Location, Protocol):
    """A location on a server, of which whole files are read from a copy, and written at once."""

    def is_file(self) -> bool:
        """Whether there is a file, and not only a directory, by one request."""
        ...

    def check_writable(self) -> None:
        """Raise OptionError if no file can be written there, without asking the server."""
        ...

    def open_copy(self) -> FileStorage:
        """Open a copy of the file on this machine, which is as it is on the server now."""
        ...

    def publish(self, path: str) -> None:
        """Upload a local file; it appears when it is complete, and replaces what there was."""
        ...

    def with_copy(self, path: str) -> Location:
        """Return the location of a file that was just uploaded, which reads from the local one."""
        ...


class LocalLocation:
    """A path of the operating system.

    Parameters
    ----------
    path : path-like
        Made absolute, so that nothing depends on the current directory of the process.
    """

    __slots__ = ("path",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        text = os.fsdecode(path)
        # What `abspath` does, with fewer calls.
        absolute = text.startswith("/")
        self.path: str = os.path.normpath(text) if absolute else os.path.abspath(text)

    @property
    def name(self) -> str:
        """The last component of the path."""
        return os.path.basename(self.path)

    @property
    def parent(self) -> LocalLocation:
        """The directory that holds it."""
        return LocalLocation(os.path.dirname(self.path))

    @property
    def local_path(self) -> str:
        """The path itself."""
        return self.path

    def join(self, name: str) -> LocalLocation:
        """Return the location of a relative path below this directory."""
        return LocalLocation(os.path.join(self.path, name))

    def relative(self, other: str) -> str:
        """Return the path of another location relative to this directory."""
        return os.path.relpath(other, self.path)

    def is_same(self, other: Location) -> bool:
        """Whether another location is the same file; raises OSError if one does not exist."""
        return other.local_path is not None and os.path.samefile(self.path, other.local_path)

    def make_directory(self) -> None:
        """Make the directory and its parents if they do not exist; raises OSError."""
        os.makedirs(self.path, exist_ok=True)

    def remove(self) -> None:
        """Remove the file, if there is one; raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def status(self) -> Status:
        """Return size, identity, and type; raises OSError."""
        return _status(os.stat(self.path))

    def exists(self) -> bool:
        """Whether there is anything at the path."""
        return os.path.exists(self.path)

    def open(self, kind: StorageKind = "auto") -> FileStorage:
        """Open the file; see `imagearchive.storage.local.open_storage`."""
        return open_storage(self.path, kind)

    def list(self) -> list[Entry]:
        """Return the entries of the directory; raises OSError."""
        with os.scandir(self.path) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        return [Entry(entry.name, _status_of(entry), entry.is_symlink()) for entry in entries]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalLocation) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"LocalLocation({self.path!r})"


def _status(found: os.stat_result) -> Status:
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return Status(size, file_identity(found), found.st_mtime_ns, found.st_mode)


def _status_of(entry: os.DirEntry[str]) -> Status | None:
    try:
        return _status(entry.stat())
    except OSError as error:
        # A link that leads to nothing, or a file that was removed since the listing.
        if error.errno == errno.ENOENT or (entry.is_symlink() and error.errno in _BROKEN):
            return None
        raise


#: How many servers, or objects on a server, are asked at the same time.
MAX_REQUESTS: Final = 64

_schemes: dict[str, Callable[[str], Location]] = {}
# Imported at the first URL of such a scheme.
_REMOTE: Final = ("s3", "gs", "az", "http", "https")


def register_scheme(scheme: str, factory: Callable[[str], Location]) -> None:
    """Make `locate` call `factory` for URLs of a scheme.

    Processes that are started by ``spawn`` have to register it again.

    Parameters
    ----------
    scheme : str
        Without ``://``, in lower case.
    factory : callable
        Returns the `Location` of a URL.
    """
    _schemes[scheme] = factory


def unregister_scheme(scheme: str) -> None:
    """Undo `register_scheme`; does nothing if the scheme is not registered."""
    _schemes.pop(scheme, None)


def locate(path: str | bytes | os.PathLike[str] | Location, name: str = "path") -> Location:
    """Return the location that a path or URL names; a location is returned as it is.

    ``~`` and ``~user`` at the beginning stand for a home directory. A path that exists stands for
    itself, even if it begins like that or looks like a URL, unless its scheme is registered.
    Errors call the argument `name`.

    Raises
    ------
    OptionError
        The path is empty, too long, or contains a NUL character.
    OptionTypeError
        It is not a path, but for example the content of a file.
    UnsupportedArchiveError
        It is a URL of a scheme that is not registered.
    """
    if not isinstance(path, (str, bytes, os.PathLike)) and hasattr(path, "local_path"):
        return path
    text = check_path(name, path)
    match = _SCHEME.match(text)
    if match is None:
        return LocalLocation(expand_home(text))
    scheme = match[1].lower()
    factory = _schemes.get(scheme)
    if factory is not None:
        return factory(text)
    if scheme in _REMOTE or options_of(text).filesystem is not None:
        if os.path.lexists(text):
            return LocalLocation(text)
        module = importlib.import_module("imagearchive.storage.remote.location")
        located: Location = module.locate_url(text)
        return located
    if not os.path.lexists(text):
        if scheme == "file":
            raise UnsupportedArchiveError(
                f"{text}: file:// URLs cannot be read; pass the path alone, as in "
                f"{text[len('file://') :]!r}"
            )
        raise UnsupportedArchiveError(
            f"{text}: URLs that begin with {scheme}:// cannot be read; those that can begin with "
            f"{', '.join(f'{one}://' for one in _REMOTE)}; or pass filesystem=, a file system of "
            f"fsspec"
        )
    return LocalLocation(text)


def statuses(locations: Sequence[Location]) -> list[Status]:
    """Return the status of each location; those on servers are asked for at the same time.

    Raises
    ------
    OSError
        The first location that has no status that can be read.
    """
    if len(locations) < 2 or all(one.local_path is not None for one in locations):
        return [one.status() for one in locations]
    from imagearchive.storage.task_threads import TaskThreads

    with TaskThreads(min(MAX_REQUESTS, len(locations))) as threads:
        tasks = [threads.submit(one.status) for one in locations]
        return [task.result() for task in tasks]


def local_path(name: str, path: Any) -> str:
    """Return the path on this machine that an argument gives, with ``~`` expanded.

    Parameters
    ----------
    name : str
        Of the argument.
    path : object
        What the caller passed.

    Raises
    ------
    OptionError, OptionTypeError
        See `imagearchive.errors.arguments.check_path`.
    """
    return expand_home(check_path(name, path))


def expand_home(path: str | os.PathLike[str]) -> str:
    """Return a path with ``~`` or ``~user`` at its beginning replaced by the home directory.

    A path that exists as it is written stays as it is.
    """
    text = os.fspath(path)
    if not text.startswith("~") or os.path.lexists(text):
        return text
    return os.path.expanduser(text)
