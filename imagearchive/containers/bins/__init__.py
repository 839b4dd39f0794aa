"""Split bins, the format of splitdataloader: scanning and writing."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

    def sniff_location(self, location: Location, status: Status, head: bytes) -> bool:
        """Recognize a directory with ``index.dat`` and bins."""
        if not status.is_directory:
            return False
        from imagearchive.containers.bins.scan import sniff

        return sniff(location)

    def scan_location(
        self, location: Location, strict: bool = True
    ) -> tuple[RowBuffer, list[Location]]:
        """Read ``index.dat``, and compare it with the length of every packet."""
        from imagearchive.containers.bins.scan import scan_location

        return scan_location(location, strict)
