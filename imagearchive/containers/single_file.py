"""A single array in a compressed file, such as ``x.npy.gz``, as an archive of one member."""

from __future__ import annotations

from typing import Final

from imagearchive.arrays.idx import IDX_TYPES
from imagearchive.containers.container import Container

__all__ = ["NPY_MAGIC", "SingleFileContainer"]

NPY_MAGIC: Final = b"\x93NUMPY"


class SingleFileContainer(Container):
    """A file that is not an archive, found only inside a compressed file."""

    name = "file"
    version = 1
    label = "single file"

    @staticmethod
    def accepts(head: bytes) -> bool:
        """Whether a file that begins with `head` is a ``.npy`` or IDX array."""
        return head.startswith(NPY_MAGIC) or (
            len(head) >= 8 and head[:2] == b"\0\0" and head[2] in IDX_TYPES and 0 < head[3] < 9
        )
