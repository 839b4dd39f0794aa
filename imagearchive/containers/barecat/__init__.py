"""Barecat archives: an SQLite index ``NAME`` and shards of bytes, ``NAME-shard-00000`` and on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from imagearchive.containers.container import Checksum, Container
from imagearchive.containers.rows import RowBuffer

if TYPE_CHECKING:
    from imagearchive.storage.location import Location, Status

__all__ = ["BarecatContainer"]

INDEX_SUFFIX: Final = "-sqlite-index"
SQLITE_MAGIC: Final = b"SQLite format 3\0"


class BarecatContainer(Container):
    """Barecat archives: an SQLite file with the table ``files``, and shards beside it.

    Both the name of the archive and that of its index file are recognized.
    """

    name = "barecat"
    version = 1
    label = "Barecat"
    extensions = (".barecat",)
    checksum_algorithm = "crc32c"

    def resolve(self, location: Location) -> Location | None:
        """Return the index file of an older archive, which has a suffix."""
        index = location.parent.join(location.name + INDEX_SUFFIX)
        return index if index.exists() else None

    def sniff_location(self, location: Location, status: Status, head: bytes) -> bool:
        """Recognize an SQLite file with the right table."""
        if not head.startswith(SQLITE_MAGIC):
            return False
        # SQLite is imported only for its files.
        from imagearchive.containers.barecat.scan import has_files_table

        return has_files_table(location)

    def scan_location(
        self, location: Location, strict: bool = True
    ) -> tuple[RowBuffer, list[Location]]:
        """Read the index; see `imagearchive.containers.barecat.scan`."""
        from imagearchive.containers.barecat.scan import scan

        location = self.resolve(location) or location if not location.exists() else location
        return scan(location, location.name.removesuffix(INDEX_SUFFIX), strict)

    def checksum(self, row: Any) -> Checksum | None:
        """Return the CRC-32C of a member; Barecat stores 0 where it computed none."""
        value = int(row["crc"])
        return Checksum("crc32c", value, compared=False) if value else None
