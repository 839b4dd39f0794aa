"""A deflated member of a ZIP whose checkpoints are saved in the index."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from imagearchive.errors import CorruptIndexError
from imagearchive.storage.deflate import DeflatedStorage

if TYPE_CHECKING:
    from collections.abc import Callable

    from imagearchive.containers.container import Checkpoints
    from imagearchive.storage.protocol import Storage

__all__ = ["open_deflated"]

logger = logging.getLogger(__name__)


class _SavingDeflated(DeflatedStorage):
    """A deflated member whose checkpoints are saved once they are built."""

    save: Callable[[bytes], None]

    def build_checkpoints(self, progress: Callable[[int, int], object] | None = None) -> bytes:
        """Build them, as the base class, and save them."""
        checkpoints = super().build_checkpoints(progress)
        self.save(checkpoints)
        return checkpoints


def open_deflated(
    storage: Storage, row: Any, where: str, checkpoints: Checkpoints | None
) -> DeflatedStorage:
    """Return a deflated member, which keeps its checkpoints in `checkpoints`."""
    arguments = (
        storage,
        int(row["offset"]),
        int(row["stored_size"]),
        int(row["size"]),
        int(row["crc"]),
        where,
    )
    if checkpoints is None:
        return DeflatedStorage(*arguments)
    try:
        member = _SavingDeflated(*arguments, checkpoints.load())
    except CorruptIndexError as error:
        logger.warning("%s; they are built again", error)
        member = _SavingDeflated(*arguments)
    member.save = checkpoints.save
    return member
