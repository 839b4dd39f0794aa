"""What a container format offers: the one interface between a format and everything above it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from imagearchive.containers.rows import KIND_FILE, METHOD_STORED, RowBuffer
from imagearchive.errors import UnsupportedMemberError
from imagearchive.storage.checksums import Algorithm
from imagearchive.storage.slice import SliceStorage

if TYPE_CHECKING:
    from imagearchive.storage.location import Location, Status
    from imagearchive.storage.protocol import Storage

__all__ = ["Checkpoints", "Checksum", "Container", "Match"]


class Match(enum.IntEnum):
    """How surely a file is of a format."""

    NO = 0
    POSSIBLE = 1
    """It may be; another format that is certain goes first."""
    CERTAIN = 2


class Checksum(NamedTuple):
    """What a container says about the content of a member.

    Attributes
    ----------
    algorithm : str
        See `imagearchive.storage.checksums`.
    value : int
    compared : bool
        Whether reading the whole member compares it already.
    """

    algorithm: Algorithm
    value: int
    compared: bool


class Checkpoints(Protocol):
    """Where the checkpoints of a compressed member are kept between openings."""

    def load(self) -> memoryview | None:
        """Return those that are there, or None."""
        ...

    def save(self, checkpoints: bytes) -> None:
        """Keep them, as far as that is possible."""
        ...


class Container:
    """A container format. Stateless; one instance is in `imagearchive.containers.registry`.

    A format of one file overrides `sniff` and `scan`, one of several files `sniff_location` and
    `scan_location`. Rows are described in `imagearchive.containers.rows`.

    Attributes
    ----------
    name : str
        Recorded in indexes; never changes.
    version : int
        Goes up when the same archive gives other rows; indexes of another version are rebuilt.
    label : str
        What messages call the format.
    extensions : sequence of str
        Usual file name extensions, for messages only: content decides.
    members_are_files : bool
        Each member is a file of its own below the location, found by its name.
    has_special_members : bool
        The format stores links or devices, which may be missing from the index table.
    checksum_algorithm : str or None
        Of the checksums of members, as `imagearchive.storage.checksums` calls it.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    label: ClassVar[str]
    extensions: ClassVar[Sequence[str]] = ()
    members_are_files: ClassVar[bool] = False
    has_special_members: ClassVar[bool] = False
    checksum_algorithm: ClassVar[Algorithm | None] = None

    def resolve(self, location: Location) -> Location | None:
        """Return what to open for a location at which there is nothing, or None.

        For formats whose archives go by a name that none of their files has.
        """
        return None

    def sniff_location(self, location: Location, status: Status) -> bool:
        """Whether a location is an archive of this format, made of several files."""
        return False

    def sniff(self, head: bytes, storage: Storage) -> Match:
        """Say whether a file is of this format.

        Parameters
        ----------
        head : bytes
            The first 512 bytes, fewer where the file is shorter.
        storage : Storage
            All of it.
        """
        return Match.NO

    def scan_location(
        self, location: Location, strict: bool = True
    ) -> tuple[RowBuffer, list[Location]]:
        """Read the rows of an archive, and list its files; ``rows.entries["shard"]`` counts them.

        Parameters
        ----------
        location : Location
        strict : bool
            Whether damage is an error. Otherwise the members before it are returned, and the
            loss is logged.

        Raises
        ------
        CorruptArchiveError
            The archive is damaged; with ``strict=False`` only if not even a part can be read.
        """
        # Page faults cost more than reads where headers are far apart, and no less elsewhere.
        with closing(location.open("pread")) as storage:
            return self.scan(storage, strict), [location]

    def scan(self, storage: Storage, strict: bool = True) -> RowBuffer:
        """Read the rows of an archive that is one file; arguments and errors as `scan_location`."""
        raise NotImplementedError(f"{type(self).__name__} overrides neither scan nor scan_location")

    def open_member(
        self, storage: Storage, row: Any, where: str, checkpoints: Checkpoints | None = None
    ) -> Storage:
        """Return a member as a storage of its own.

        Parameters
        ----------
        storage : Storage
            The file that holds it.
        row : record of ENTRY_DTYPE
            Its row in the index table.
        where : str
            What to call it in messages.
        checkpoints : Checkpoints, optional
            Where to keep what makes the next opening faster.

        Raises
        ------
        CorruptArchiveError
            The row contradicts the file.
        UnsupportedMemberError
            The member is encrypted, or stored in a way that is not read.
        """
        if row["kind"] != KIND_FILE or row["method"] != METHOD_STORED:
            raise UnsupportedMemberError(
                f"{where}: the index says that it is of kind {row['kind']} and method "
                f"{row['method']}, which {self.label} does not have; delete the index"
            )
        return SliceStorage(storage, int(row["offset"]), int(row["size"]), where)

    def read_member(self, storage: Storage, row: Any, where: str) -> bytes | memoryview:
        """Return the whole content of a member; parameters and errors as `open_member`."""
        member = self.open_member(storage, row, where)
        return member.read(0, member.size)

    def checksum(self, row: Any) -> Checksum | None:
        """Return what the container says about the content of a member, or None if nothing."""
        return None
