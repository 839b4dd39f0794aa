"""The TAR format: what the registry and archives ask of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imagearchive.containers.container import Checkpoints, Container, Match, Visit
from imagearchive.containers.rows import KIND_SPARSE, RowBuffer
from imagearchive.containers.tar import scan
from imagearchive.containers.tar.sparse import SparseStorage

if TYPE_CHECKING:
    from imagearchive.storage.protocol import Storage

__all__ = ["TarContainer"]

BLOCK = 512
# Smaller archives are scanned in one thread.
PARALLEL_SIZE = 32 << 20


class TarContainer(Container):
    """TAR archives: v7, ustar, GNU and PAX; see `imagearchive.containers.tar.scan`."""

    name = "tar"
    version = 3
    label = "TAR"
    extensions = (".tar",)
    has_special_members = True
    scans_forward = True

    def sniff(self, head: bytes, storage: Storage) -> Match:
        """Recognize a header by its checksum; zeros alone may be an empty archive."""
        if scan.has_header(head):
            return Match.CERTAIN
        return Match.POSSIBLE if len(head) >= BLOCK and not any(head) else Match.NO

    def sniff_member(self, head: bytes) -> bool:
        """Recognize a header by its checksum."""
        return len(head) >= BLOCK and scan.has_header(head)

    def scan(self, storage: Storage, strict: bool = True) -> RowBuffer:
        """Read the headers of all members."""
        if storage.size < PARALLEL_SIZE:
            return scan.scan(storage, strict)
        # Imported here, because few archives are that large.
        from imagearchive.containers.tar.parallel_scan import scan_in_parallel

        return scan.scan(storage, strict, first=scan_in_parallel)

    def scan_and_visit(self, storage: Storage, strict: bool, visit: Visit) -> RowBuffer:
        """Read the headers of all members, and visit each before what follows it is read."""
        return scan.scan(storage, strict, visit)

    def open_member(
        self, storage: Storage, row: Any, where: str, checkpoints: Checkpoints | None = None
    ) -> Storage:
        """Return a member; of a sparse one, the holes read as zeros."""
        if row["kind"] == KIND_SPARSE:
            return SparseStorage(storage, int(row["header_offset"]), where)
        return super().open_member(storage, row, where, checkpoints)
