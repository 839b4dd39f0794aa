"""Write the members of an archive as files, and never outside the directory that was named."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from imagearchive.archive.archive import check_archive
from imagearchive.archive.destination import Destination, Existing
from imagearchive.archive.extraction import Extraction
from imagearchive.archive.name_tree import decode, encode
from imagearchive.archive.safe_directories import SafeDirectories
from imagearchive.containers.left_out import (
    CONTINUATION,
    DANGLING_LINK,
    LINK_LIMIT,
    LOOPING_LINK,
    NO_NAME,
    OUTSIDE_LINK,
    SPECIAL,
    LeftOutMember,
    describe_reason,
)
from imagearchive.errors import UnsafePathError
from imagearchive.errors.arguments import check_choice, check_integer, check_sequence
from imagearchive.errors.hints import Hint
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.errors.plurals import pluralize
from imagearchive.index.names import normalize
from imagearchive.index.resolve import resolve
from imagearchive.storage.changes import changes_first
from imagearchive.storage.limits import Limits, check_limits
from imagearchive.storage.location import local_path, locate
from imagearchive.storage.temporary import remove_stale_directories, resumable_directory

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["Existing", "Extracted", "Refused", "extract", "matching", "refused_members", "select"]

logger = logging.getLogger(__name__)

# The longest name of a file on the file systems in use.
NAME_MAX: Final = 255
# Deepest nesting of directories. A short archive could otherwise ask for any number of them.
MAX_DEPTH: Final = 256

# Why a member is neither a file nor a directory.
_NO_FILES: Final = frozenset(
    (SPECIAL, CONTINUATION, DANGLING_LINK, OUTSIDE_LINK, LOOPING_LINK, LINK_LIMIT, NO_NAME)
)


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
    resumed: int = 0
    """Files that an interrupted extraction had written before."""


def extract(
    archive: Archive,
    target: str | os.PathLike[str],
    members: Iterable[int] | None = None,
    *,
    existing: Existing = "error",
    skip_unsafe: bool = False,
    limits: Limits | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Extracted:
    """Extract an archive into a directory.

    Members that could reach outside are refused, as the ``data`` filter of PEP 706 does: names with
    ``..``, devices, and links to nothing in the archive. So are names in more than 256 nested
    directories. The leading slash of absolute names is dropped. No symbolic link inside the target
    is ever followed, not even one that appears meanwhile.

    A link to a member, hard or symbolic, becomes a hard link to the file of that member. Where the
    file system has no hard links, it becomes a copy.

    A new directory is called ``TARGET.….part`` until it is complete. If the extraction is
    interrupted, killed, or fails, the files stay there, and extracting the same members into the
    same target again continues: files whose size and modification time are right are kept. In an
    existing directory, each file appears under its name only when it is whole.

    A file keeps its modification time (where one is recorded and not 0) and, within the umask, its
    permissions without set-user-id, set-group-id, sticky, and write permission for others. Owners
    are not restored.

    Parameters
    ----------
    archive : Archive
    target : path-like
        A directory; made if it is missing.
    members : iterable of int, optional
        Positions; see `select`. By default all, and the empty directories.
    existing : {"error", "skip", "replace"}
        What happens where a file of that name is there.
    skip_unsafe : bool
        Extract the others and return the refused ones, instead of raising before anything is
        written.
    limits : Limits, optional
        The members may take ``max_ratio`` times what the archive holds of them, in any case 64 MiB.
        It counts where members overlap, and where links are written as copies.
    threads : int, optional
        By default one per processor, at most four.
    progress : callable, optional
        Called with the number of files done since the last call, from any of the threads.

    Returns
    -------
    Extracted

    Raises
    ------
    UnsafePathError
        A member is refused, before anything is written; or a symbolic link is in the way.
    TargetExistsError
        A file exists, and `existing` is ``"error"``; or another process is extracting the same
        members into the same new directory.
    CorruptArchiveError, UnsupportedMemberError
        A member cannot be read, or differs from the checksum that a ZIP or NPZ has of it.
    LimitError
        The members take more than `limits` allow.
    OSError
        The target cannot be written.

    Warns
    -----
    If the extraction stops early, the log says how many files are there and how to continue.
    """
    check_archive(archive)
    check_choice("existing", existing, get_args(Existing))
    positions = np.arange(len(archive)) if members is None else _positions(archive, members)
    limits = check_limits(limits)
    refused = _unsafe_names(map(archive.table.name_bytes, positions.tolist()))
    directories: list[bytes] = []
    if members is None:
        directories = [encode(name) for name in archive.table.directories]
        refused = [
            *refused_members(archive),
            *refused,
            *_unsafe_names(directories, MAX_DEPTH),
        ]
    if refused and not skip_unsafe:
        raise UnsafePathError(
            _describe(refused), hints=[Hint("skip_unsafe=True", "to extract the others")]
        )
    barred = {item.name for item in refused}
    directories = [name for name in directories if not _unsafe(name, MAX_DEPTH)]
    path = local_path("target", target)
    with contextlib.ExitStack() as stack:
        # Only a new directory has a temporary name, so its files need none.
        is_new = not os.path.lexists(path)
        place, resumed = path, False
        if is_new:
            place, resumed = stack.enter_context(
                resumable_directory(path, _fingerprint(archive, positions))
            )
        else:
            os.makedirs(path, exist_ok=True)
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        run = Extraction(archive, Destination(path, fd, is_new, existing), barred, limits, progress)
        try:
            run.run(positions, threads, resumed=resumed)
            with SafeDirectories(fd, path) as folders:
                for name in directories:
                    folders.open(name)
        except BaseException:
            _warn_of_stop(path, place, run, len(positions), resumed)
            raise
    remove_stale_directories(path)
    return Extracted(run.files, run.bytes, run.skipped, refused, run.resumed)


def _positions(archive: Archive, members: Iterable[int]) -> npt.NDArray[np.int64]:
    """Return the positions that an argument lists, each once."""
    listed = check_sequence("members", members, "a sequence of positions, as select() returns")
    numbers = (check_integer("members", number) for number in listed)
    count = len(archive)
    return np.array([*dict.fromkeys(n + count if n < 0 else n for n in numbers)], np.int64)


def _fingerprint(archive: Archive, positions: npt.NDArray[np.int64]) -> str:
    """Return 16 digits that identify what is extracted."""
    table = archive.table
    digest = hashlib.blake2b(table.fingerprint().encode(), digest_size=8)
    digest.update(json.dumps(table.meta.get("archives", []), sort_keys=True).encode())
    digest.update(positions.tobytes())
    return digest.hexdigest()


def _warn_of_stop(path: str, place: str, run: Extraction, total: int, resumed: bool) -> None:
    """Say what an extraction has done that ends early."""
    done = run.files + run.resumed
    if not done and not resumed:
        return
    at_least = "at least " if resumed and not run.counted else ""
    if place == path:
        how = "to continue, extract again and skip existing files"
    else:
        how = f"they are in {place}; to continue, extract again; to give up, delete that directory"
    logger.warning(
        "%s: stopped after %s%d of %s; %s", path, at_least, done, pluralize(total, "file"), how
    )


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
            folder = normalize(encode(pattern))
            low, high = table.lookup.bounds(folder + b"/" if folder else b"")
            places = table.name_order[low:high].tolist()
        elif not places:
            # Says what the closest name is.
            archive.position(pattern)
        found.update(places)
    return sorted(found)


def matching(archive: Archive, pattern: str) -> list[int]:
    """Find the file of a name, or the files that match it as a glob pattern.

    A name that exists is not a pattern, whatever it looks like. That of a directory matches no
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
    """List the links, devices, and other members that are not files or directories in an archive.

    An index lists the first hundred members that it leaves out. Where there are more, this scans
    the headers again.
    """
    left_out = archive.left_out
    if not left_out.counts.keys() & _NO_FILES:
        return []
    members = left_out.members
    if len(members) < len(left_out):
        members = [
            one for shard in range(len(archive.table.files)) for one in _scan(archive, shard)
        ]
    return [
        Refused(member.name, describe_reason(member.reason))
        for member in members
        if member.reason in _NO_FILES
    ]


def _scan(archive: Archive, shard: int) -> list[LeftOutMember]:
    """Scan one file of an archive again for all members that it leaves out."""
    file, container = archive.table.files[shard], archive.table.container(shard)
    if not container.has_special_members:
        return []
    with os_errors_for(file), changes_first(archive):
        if container.members_are_files:
            rows, _ = container.scan_location(locate(file), strict=False)
        else:
            # The open file, whose name another one may have taken.
            rows = container.scan(archive.storage(shard), strict=False)
    rows.left_out.max_listed = sys.maxsize
    return resolve(rows).left_out.members


def _describe(refused: list[Refused]) -> str:
    shown = "; ".join(f"{item.name[:200]!r}: {item.reason}" for item in refused[:5])
    more = f"; and {len(refused) - 5} more" if len(refused) > 5 else ""
    members = "member" if len(refused) == 1 else "members"
    return f"{len(refused)} {members} cannot be extracted ({shown}{more}); nothing was written"


# ---------------------------------------------------------------- names


def _unsafe(name: bytes, most: int = MAX_DEPTH + 1) -> str:
    """Say why a name of at most `most` parts cannot be written; empty where it can."""
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
    if len(parts) > most:
        return f"more than {MAX_DEPTH} nested directories"
    return ""


def _unsafe_names(names: Iterable[bytes], most: int = MAX_DEPTH + 1) -> list[Refused]:
    reasons = ((name, _unsafe(name, most)) for name in names)
    return [Refused(decode(name), reason) for name, reason in reasons if reason]
