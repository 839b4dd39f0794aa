"""The checksums that container formats store, and when they are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, get_args

from imagearchive.errors.arguments import check_choice
from imagearchive.storage.crc import PositionSet, crc32, crc32c

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "CHECKSUMS",
    "Algorithm",
    "ChecksumFunction",
    "Verify",
    "check_verify",
    "compared_members",
]

Algorithm = Literal["crc32", "crc32c"]

Verify = Literal["always", "first", "never"]
"""When a member that is read as a whole is compared with its checksum."""

#: Takes bytes and the checksum of the bytes before them, and returns the checksum of both.
ChecksumFunction = Callable[["Buffer", int], int]

CHECKSUMS: Final[dict[Algorithm, ChecksumFunction]] = {"crc32": crc32, "crc32c": crc32c}
"""The functions that compute the checksums, each starting from 0."""


def check_verify(value: Verify | bool) -> Verify:
    """Return the mode that an argument ``verify=`` asks for; True is always, False is never.

    Raises
    ------
    OptionError
    """
    if isinstance(value, bool):
        return "always" if value else "never"
    return check_choice("verify", value, get_args(Verify))


def compared_members(mode: Verify, count: int, has_checksums: bool) -> PositionSet:
    """Return the set of members that need no comparison at the next read, out of `count`."""
    if mode == "never" or not has_checksums:
        return PositionSet(0, full=True)
    # Nothing can be added to a set below 0, so every read is compared.
    return PositionSet(count if mode == "first" else 0)
