"""The ZIP format, and so NPZ: what the registry and archives ask of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagearchive.containers.container import Checkpoints, Checksum, Container, Match, Visit
from imagearchive.containers.left_out import DAMAGED, ENCRYPTED, UNSUPPORTED
from imagearchive.containers.rows import (
    KIND_ENCRYPTED,
    KIND_FILE,
    METHOD_DEFLATED,
    METHOD_STORED,
    RowBuffer,
)
from imagearchive.containers.zip.markers import BEGINNINGS, CONTRADICTIONS, METHOD_OTHER_DISK
from imagearchive.errors import CorruptArchiveError, UnsupportedMemberError

if TYPE_CHECKING:
    from imagearchive.storage.protocol import Storage

__all__ = ["ZipContainer"]


class ZipContainer(Container):
    """ZIP archives with stored and deflated members; see `imagearchive.containers.zip.scan`."""

    name = "zip"
    version = 2
    label = "ZIP"
    extensions = (".zip", ".npz")
    has_special_members = True
    checksum_algorithm = "crc32"

    def sniff(self, head: bytes, storage: Storage) -> Match:
        """Recognize the first header, or behind a prefix the end record."""
        # A file that is certainly a TAR needs none of the modules for ZIPs.
        from imagearchive.containers.zip.scan import sniff

        return Match.CERTAIN if sniff(storage) else Match.NO

    def sniff_member(self, head: bytes) -> bool:
        """Recognize the first header, or the end record of an empty archive."""
        return head.startswith(BEGINNINGS)

    def scan(self, storage: Storage, strict: bool = True) -> RowBuffer:
        """Read the central directory and all local headers."""
        from imagearchive.containers.zip.scan import scan

        return scan(storage, strict)

    def scan_and_visit(self, storage: Storage, strict: bool, visit: Visit) -> RowBuffer:
        """Read all headers, and visit members as soon as it is known where their data begin."""
        from imagearchive.containers.zip.scan import scan

        return scan(storage, strict, visit)

    def open_member(
        self, storage: Storage, row: Any, where: str, checkpoints: Checkpoints | None = None
    ) -> Storage:
        """Return a member; a deflated one is inflated from the nearest checkpoint."""
        _check_readable(row, where)
        if row["method"] == METHOD_DEFLATED:
            from imagearchive.containers.zip.deflated_member import open_deflated

            return open_deflated(storage, row, where, checkpoints)
        return super().open_member(storage, row, where, checkpoints)

    def compressed_member(self, row: Any) -> tuple[str, int] | None:
        """Return the format and the CRC-32 of a deflated member."""
        if row["kind"] != KIND_FILE or row["method"] != METHOD_DEFLATED:
            return None
        from imagearchive.storage.deflate import DeflateFormat

        return DeflateFormat.name, int(row["crc"])

    def read_member(self, storage: Storage, row: Any, where: str) -> bytes | memoryview:
        """Return the whole content of a member; a deflated one is compared with its CRC-32."""
        if row["kind"] == KIND_FILE and row["method"] == METHOD_DEFLATED:
            from imagearchive.storage.deflate import inflate

            offset, stored_size = int(row["offset"]), int(row["stored_size"])
            return inflate(storage, offset, stored_size, int(row["size"]), int(row["crc"]), where)
        return super().read_member(storage, row, where)

    def unreadable(self, entries: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.bool_]]:
        """Mark members that are encrypted, damaged, or compressed by an unsupported method."""
        encrypted = entries["kind"] == KIND_ENCRYPTED
        methods = entries["method"]
        readable = (methods == METHOD_STORED) | (methods == METHOD_DEFLATED)
        contradicted = ~readable
        if contradicted.any():
            contradicted = np.isin(methods, list(CONTRADICTIONS))
        return {
            ENCRYPTED: encrypted,
            DAMAGED: contradicted & ~encrypted,
            UNSUPPORTED: ~(readable | contradicted | encrypted),
        }

    def checksum(self, row: Any) -> Checksum:
        """Return the CRC-32 of a member; inflating all of it compares it."""
        return Checksum("crc32", int(row["crc"]), compared=row["method"] == METHOD_DEFLATED)


def _check_readable(row: Any, where: str) -> None:
    if row["kind"] == KIND_ENCRYPTED:
        raise UnsupportedMemberError(
            f"{where}: encrypted; decrypt the archive (with unzip or 7z) and pack it again"
        )
    if row["method"] == METHOD_OTHER_DISK:
        raise UnsupportedMemberError(
            f"{where}: is on another part of a split archive; join the parts first: zip -s 0"
        )
    if row["method"] in CONTRADICTIONS:
        raise CorruptArchiveError(
            f"{where}: {CONTRADICTIONS[int(row['method'])]}; fetch the archive again, or "
            f"leave this member out"
        )
    if row["method"] not in (METHOD_STORED, METHOD_DEFLATED):
        raise UnsupportedMemberError(
            f"{where}: compressed by method {row['method']}; only stored and deflated members "
            f"can be read: unpack the archive and pack it again"
        )
