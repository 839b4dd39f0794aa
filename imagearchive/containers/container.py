"""The interface of container formats, through which everything else uses them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from imagearchive.containers.rows import KIND_FILE, METHOD_STORED, RowBuffer
from imagearchive.errors import UnsupportedMemberError
from imagearchive.storage.checksums import Algorithm
from imagearchive.storage.slice import SliceStorage

if TYPE_CHECKING:
    from imagearchive.storage.location import Location, Status
    from imagearchive.storage.protocol import Storage

__all__ = ["Checkpoints", "Checksum", "Container", "Match", "Visit"]

#: Called while an archive is scanned: the rows so far, and the first and the last of the new ones.
Visit = Callable[[RowBuffer, int, int], None]


class Match(enum.IntEnum):
    """How certain it is that a file has a format."""

    NO = 0
    POSSIBLE = 1
    """It may be; a format that is certain takes precedence."""
    CERTAIN = 2


class Checksum(NamedTuple):
    """The checksum that a container stores for a member.

    Attributes
    ----------
    algorithm : str
        See `imagearchive.storage.checksums`.
    value : int
    compared : bool
        Whether reading the whole member compares the checksum already.
    """

    algorithm: Algorithm
    value: int
    compared: bool


class Checkpoints(Protocol):
    """Where the checkpoints of a compressed member are saved."""

    def load(self) -> memoryview | None:
        """Return the saved checkpoints, or None."""
        ...

    def save(self, checkpoints: bytes) -> None:
        """Save the checkpoints if possible."""
        ...


class Container:
    """A container format. Stateless; `imagearchive.containers.registry` has one instance of each.

    A format of a single file overrides `sniff` and `scan`; a format of several files overrides
    `sniff_location` and `scan_location`. Rows are described in `imagearchive.containers.rows`.

    Attributes
    ----------
    name : str
        Recorded in indexes; never changes.
    version : int
        Increased when the same archive gives other rows; indexes of another version are rebuilt.
    label : str
        The name of the format in messages.
    extensions : sequence of str
        Usual file name extensions, for messages only; the content decides.
    members_are_files : bool
        Each member is a file of its own below the location, found by its name.
    has_special_members : bool
        The format stores links or devices, which may be missing from the index table.
    scans_forward : bool
        Its headers are read from start to end, so it can be scanned while it is decompressed.
    checksum_algorithm : str or None
        The algorithm of the members' checksums; see `imagearchive.storage.checksums`.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    label: ClassVar[str]
    extensions: ClassVar[Sequence[str]] = ()
    members_are_files: ClassVar[bool] = False
    has_special_members: ClassVar[bool] = False
    scans_forward: ClassVar[bool] = False
    checksum_algorithm: ClassVar[Algorithm | None] = None

    def resolve(self, location: Location) -> Location | None:
        """Return the location to open instead of one that does not exist, or None.

        For formats whose archives have a name that is not the name of any file.
        """
        return None

    def sniff_location(self, location: Location, status: Status, head: bytes) -> bool:
        """Whether a location is an archive of this format that consists of several files.

        Parameters
        ----------
        location : Location
        status : Status
        head : bytes
            The first 512 bytes, fewer where the file is shorter; empty if it is not a file.
        """
        return False

    def sniff(self, head: bytes, storage: Storage) -> Match:
        """Return whether a file has this format.

        Parameters
        ----------
        head : bytes
            The first 512 bytes, fewer where the file is shorter.
        storage : Storage
            The whole file.
        """
        return Match.NO

    def sniff_member(self, head: bytes) -> bool:
        """Whether a member of another archive certainly has this format.

        It is asked for each member of an archive that is opened with ``nested``. Formats that do
        not override it are not found inside other archives.

        Parameters
        ----------
        head : bytes
            The first 512 bytes of the member, fewer where it is shorter.
        """
        return False

    def scan_location(
        self, location: Location, strict: bool = True
    ) -> tuple[RowBuffer, list[Location]]:
        """Read the rows of an archive, and list its files; ``rows.entries["shard"]`` counts them.

        Parameters
        ----------
        location : Location
        strict : bool
            Whether damage is an error. Otherwise the members before it are returned, and the loss
            is logged.

        Raises
        ------
        CorruptArchiveError
            The archive is damaged; with ``strict=False`` only if no part of it can be read.
        """
        # Page faults cost more than reads if headers are far apart, and never less.
        with closing(location.open("pread")) as storage:
            return self.scan(storage, strict), [location]

    def scan(self, storage: Storage, strict: bool = True) -> RowBuffer:
        """Read the rows of an archive of one file; arguments and errors as for `scan_location`."""
        raise NotImplementedError(f"{type(self).__name__} overrides neither scan nor scan_location")

    def scan_and_visit(self, storage: Storage, strict: bool, visit: Visit) -> RowBuffer:
        """Read the rows as `scan` does, and call a function with each range of new rows.

        A format that scans forward calls it before it reads anything behind the data of these
        rows, so that the function can read the data from the same storage.
        """
        rows = self.scan(storage, strict)
        visit(rows, 0, rows.rows)
        return rows

    def open_member(
        self, storage: Storage, row: Any, where: str, checkpoints: Checkpoints | None = None
    ) -> Storage:
        """Return the content of a member as a storage.

        Parameters
        ----------
        storage : Storage
            The file that contains it.
        row : record of ENTRY_DTYPE
            Its row in the index table.
        where : str
            The member's name in messages.
        checkpoints : Checkpoints, optional
            Where to save checkpoints, which make reads faster next time.

        Raises
        ------
        CorruptArchiveError
            The row contradicts the file.
        UnsupportedMemberError
            The member is encrypted, or compressed by an unsupported method.
        """
        if row["kind"] != KIND_FILE or row["method"] != METHOD_STORED:
            raise UnsupportedMemberError(
                f"{where}: the index says that it is of kind {row['kind']} and method "
                f"{row['method']}, which {self.label} does not have; delete the index"
            )
        return SliceStorage(storage, int(row["offset"]), int(row["size"]), where)

    def compressed_member(self, row: Any) -> tuple[str, int] | None:
        """Return how the bytes of a member are compressed.

        Returns
        -------
        (str, int) or None
            The name of a compression format of `imagearchive.storage.stream_format`, and the
            CRC-32 of the content. None if the member is stored as it is, or cannot be read.
        """
        return None

    def read_member(self, storage: Storage, row: Any, where: str) -> bytes | memoryview:
        """Return the whole content of a member; parameters and errors as for `open_member`."""
        member = self.open_member(storage, row, where)
        return member.read(0, member.size)

    def unreadable(self, entries: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.bool_]]:
        """Mark the rows of members that the table lists, but that cannot be read.

        Returns
        -------
        dict of str to ndarray of bool, shape (N,)
            By reason; see `imagearchive.containers.left_out`.
        """
        return {}

    def checksum(self, row: Any) -> Checksum | None:
        """Return the checksum that the container stores for a member, or None."""
        return None
