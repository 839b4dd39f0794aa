"""Split bins, the format of splitdataloader: scanning and writing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagearchive.containers.bins import scan
from imagearchive.containers.container import Container
from imagearchive.containers.rows import RowBuffer

if TYPE_CHECKING:
    from imagearchive.storage.location import Location, Status

__all__ = ["BinsContainer"]


class BinsContainer(Container):
    """A directory of split bins; see `imagearchive.containers.bins.scan`."""

    name = "bins"
    version = 1
    label = "split bins"

    def sniff_location(self, location: Location, status: Status) -> bool:
        """Recognize a directory with ``index.dat`` and bins."""
        return status.is_directory and scan.sniff(location)

    def scan_location(
        self, location: Location, strict: bool = True
    ) -> tuple[RowBuffer, list[Location]]:
        """Read ``index.dat``, and compare it with the length of every packet."""
        return scan.scan_location(location, strict)
