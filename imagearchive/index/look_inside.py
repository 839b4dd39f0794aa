"""Looks for archives inside a compressed archive while its own index is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imagearchive.containers.container import Container, Visit
    from imagearchive.index.inner_scan import InnerScanner
    from imagearchive.index.nesting import Nesting
    from imagearchive.storage.location import Location
    from imagearchive.storage.protocol import Storage

__all__ = ["LookInside"]


class LookInside:
    """Looks at the members of an archive while it is decompressed, if it is compressed.

    Attributes
    ----------
    scanner : InnerScanner or None
        What was seen.
    """

    def __init__(self, nesting: Nesting, archive: Location) -> None:
        self.scanner: InnerScanner | None = None
        self._nesting = nesting
        self._archive = archive

    def __call__(self, container: Container, storage: Storage) -> Visit | None:
        """Return what visits the members; see `imagearchive.containers.compressed_scan.Look`."""
        # Imported here, because few archives contain others.
        from imagearchive.index.inner_scan import InnerScanner

        archive = self._archive
        self.scanner = InnerScanner(self._nesting, archive.path, archive.status().size)
        return self.scanner.look(container, storage)
