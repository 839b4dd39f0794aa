"""How a ZIP begins, and values of ``method`` for members that cannot be read."""

from __future__ import annotations

from typing import Final

__all__ = [
    "BEGINNINGS",
    "CONTRADICTIONS",
    "METHOD_CONTRADICTED",
    "METHOD_OTHER_DISK",
    "METHOD_OTHER_NAME",
]

#: How an archive without a prefix begins: with a member, or if it is empty, with its end record.
BEGINNINGS: Final = (b"PK\x03\x04", b"PK\x05\x06")

#: `method` of a member whose data are on another disk of a multi-disk archive: never readable.
METHOD_OTHER_DISK: Final = 0xFFFF

#: `method` of a member whose local header has another name than the central directory.
METHOD_OTHER_NAME: Final = 0xFFFE

#: `method` of a member whose local header has another method or size than the central directory.
METHOD_CONTRADICTED: Final = 0xFFFD

#: What is wrong with the members whose headers contradict each other, by `method`.
CONTRADICTIONS: Final = {
    METHOD_OTHER_NAME: "its local header has another name than the central directory",
    METHOD_CONTRADICTED: "its local header has another method or size than the central directory",
}
