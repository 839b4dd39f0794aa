"""What an archive holds that cannot be read as a file of it, and why."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.storage.lru import LRUCache

__all__ = [
    "CONTINUATION",
    "DAMAGED",
    "DANGLING_LINK",
    "ENCRYPTED",
    "LINK_LIMIT",
    "LOOPING_LINK",
    "MAX_LISTED",
    "NO_NAME",
    "OUTSIDE_LINK",
    "OWN_FILE",
    "REPLACED",
    "SPECIAL",
    "UNREADABLE_DIRECTORY",
    "UNSUPPORTED",
    "LeftOut",
    "LeftOutMember",
    "describe_reason",
    "log_left_out",
]

logger = logging.getLogger(__name__)

REPLACED: Final = "replaced"
SPECIAL: Final = "special"
CONTINUATION: Final = "continuation"
DANGLING_LINK: Final = "dangling_link"
OUTSIDE_LINK: Final = "outside_link"
LOOPING_LINK: Final = "looping_link"
LINK_LIMIT: Final = "link_limit"
NO_NAME: Final = "no_name"
DAMAGED: Final = "damaged"
ENCRYPTED: Final = "encrypted"
UNSUPPORTED: Final = "unsupported"
UNREADABLE_DIRECTORY: Final = "unreadable_directory"
OWN_FILE: Final = "own_file"

# One member, and several of them.
_DESCRIPTIONS: Final = {
    REPLACED: ("replaced by a later member of the same name",) * 2,
    SPECIAL: ("a device, FIFO, or other special file", "devices, FIFOs, or other special files"),
    CONTINUATION: (
        "the rest of a file that begins in another volume",
        "the rest of files that begin in another volume",
    ),
    DANGLING_LINK: ("a link to nothing in the archive", "links to nothing in the archive"),
    OUTSIDE_LINK: ("a link out of the archive", "links out of the archive"),
    LOOPING_LINK: ("a link that loops", "links that loop"),
    LINK_LIMIT: (
        "a link to a directory that would multiply the files of the archive",
        "links to directories that would multiply the files of the archive",
    ),
    NO_NAME: ("a file without a name, such as '/'", "files without a name, such as '/'"),
    DAMAGED: ("damaged",) * 2,
    ENCRYPTED: ("encrypted",) * 2,
    UNSUPPORTED: ("stored in a way that is not supported",) * 2,
    UNREADABLE_DIRECTORY: (
        "a directory that cannot be listed",
        "directories that cannot be listed",
    ),
    OWN_FILE: (
        "an index file or unfinished file of imagearchive",
        "index files or unfinished files of imagearchive",
    ),
}

#: How many members are listed by name.
MAX_LISTED: Final = 100
_MAX_NAME: Final = 1000

# The archives whose left-out members were logged.
_logged = LRUCache[str, bool](1024)


def describe_reason(reason: str, count: int = 1) -> str:
    """Return a reason in words, for one member or several."""
    one, several = _DESCRIPTIONS.get(reason, (reason, reason))
    return one if count == 1 else several


class LeftOutMember(NamedTuple):
    """A member that cannot be read.

    Attributes
    ----------
    name : str
        Its name in the archive, cut after 1,000 characters.
    reason : str
        A key of `LeftOut.counts`.
    file : int
        The number of the file of the archive that it is in; ``archive.table.files`` lists them.
    """

    name: str
    reason: str
    file: int = 0


class LeftOut:
    """What cannot be read as a file of an archive: how many members by reason, and the first names.

    ``len()`` is the number of all of them.

    Attributes
    ----------
    counts : dict of str to int
        How many there are for each reason:

        ``replaced``
            A later member has the same name.
        ``special``
            A device, a FIFO, or a socket.
        ``continuation``
            The rest of a file that begins in another volume of a TAR.
        ``dangling_link``, ``outside_link``, ``looping_link``
            A link to nothing, out of the archive, or to a directory that contains the link.
        ``link_limit``
            A link to a directory that would multiply the files of the archive.
        ``no_name``
            A file whose name is that of the root, such as ``/`` or ``a/..``.
        ``damaged``
            Its headers contradict each other, or lead outside the file.
        ``encrypted``, ``unsupported``
            It is in the table, but reading it raises `UnsupportedMemberError`.
        ``unreadable_directory``
            A directory that cannot be listed, with ``strict=False``.
        ``own_file``
            An index file beside its archive, or an unfinished file of this library.
    members : list of LeftOutMember
        The first hundred of them.
    max_listed : int
        How many are listed.
    """

    def __init__(
        self,
        counts: Mapping[str, int] | None = None,
        members: list[LeftOutMember] | None = None,
    ) -> None:
        self.counts: dict[str, int] = dict(counts or {})
        self.members: list[LeftOutMember] = list(members or [])
        self.max_listed = MAX_LISTED

    def add(self, name: bytes, reason: str, file: int = 0) -> None:
        """Add one member."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if len(self.members) < self.max_listed:
            text = name[: 4 * _MAX_NAME].decode("utf-8", "surrogateescape")[:_MAX_NAME]
            self.members.append(LeftOutMember(text, reason, file))

    def add_rows(
        self,
        names: npt.NDArray[np.uint8],
        offsets: npt.NDArray[np.uint64],
        mask: npt.NDArray[np.bool_],
        reason: str,
        files: npt.NDArray[Any],
    ) -> None:
        """Add the rows of a mask, shape (N,); row ``i`` is ``names[offsets[i]:offsets[i + 1]]``."""
        rows = np.flatnonzero(mask)
        listed = rows[: self.max_listed - len(self.members)].tolist()
        for row in listed:
            name = names[int(offsets[row]) : int(offsets[row + 1])].tobytes()
            self.add(name, reason, int(files[row]))
        self.add_count(reason, len(rows) - len(listed))

    def add_count(self, reason: str, count: int) -> None:
        """Add members without listing their names."""
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + count

    def extend(self, other: LeftOut, first_file: int, prefix: str = "") -> None:
        """Add what another archive leaves out, whose files begin at `first_file`.

        `prefix` is put before the names.
        """
        for reason, count in other.counts.items():
            self.add_count(reason, count)
        room = self.max_listed - len(self.members)
        self.members += [
            one._replace(name=(prefix + one.name)[:_MAX_NAME], file=one.file + first_file)
            for one in other.members[:room]
        ]

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __repr__(self) -> str:
        return f"LeftOut({self.counts})"

    def describe(self) -> str:
        """Return the counts and a few names in words: ``encrypted (2); such as 'a', 'b'``."""
        reasons = ", ".join(
            f"{describe_reason(reason, count)} ({count:,})" for reason, count in self.counts.items()
        )
        names = ", ".join(repr(one.name[:200]) for one in self.members[:3])
        return f"{reasons}; such as {names}" if names else reasons

    def to_metadata(self) -> dict[str, Any]:
        """Return what an index stores."""
        return {"counts": self.counts, "members": [list(one) for one in self.members]}

    @classmethod
    def from_metadata(cls, stored: object) -> LeftOut:
        """Return what an index stored.

        Raises
        ------
        ValueError
            The metadata are malformed.
        """
        if stored is None:
            return cls()
        known = stored if isinstance(stored, dict) else {}
        counts, members = known.get("counts"), known.get("members")
        if not (
            isinstance(counts, dict)
            and all(type(count) is int and 0 < count < 1 << 63 for count in counts.values())
            and len(counts) <= MAX_LISTED
            and isinstance(members, list)
            and len(members) <= MAX_LISTED
            and all(
                isinstance(one, list)
                and len(one) == 3
                and isinstance(one[0], str)
                and isinstance(one[1], str)
                and one[1] in counts
                and len(one[0]) <= _MAX_NAME
                and type(one[2]) is int
                and one[2] >= 0
                for one in members
            )
        ):
            raise ValueError("the counts and names of what is left out are malformed")
        return cls(counts, [LeftOutMember(*one) for one in members])


def log_left_out(paths: Sequence[str], left_out: LeftOut, damage: str | None) -> None:
    """Log what is left out, once per process for each archive and each state of it."""
    if not left_out or _logged.get(key := f"{paths[0]}\0{paths[-1]}\0{left_out.counts}"):
        return
    _logged.setdefault(key, True)
    level = logging.INFO if left_out.counts.keys() <= {OWN_FILE} else logging.WARNING
    logger.log(
        level,
        "%s: %s %s left out or cannot be read: %s; `imagearchive info` lists them%s",
        paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1:,} more",
        f"{len(left_out):,}",
        "member is" if len(left_out) == 1 else "members are",
        left_out.describe(),
        f". {damage}" if damage and DAMAGED in left_out.counts else "",
    )
