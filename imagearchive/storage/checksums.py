"""Checksums that containers store, by name."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from imagearchive.errors import MissingDependencyError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Algorithm", "ChecksumFunction", "checksum_function"]

Algorithm = Literal["crc32", "crc32c"]

#: Takes bytes and the checksum of the bytes before them, and returns the checksum of both.
ChecksumFunction = Callable[["Buffer", int], int]


def checksum_function(algorithm: Algorithm) -> ChecksumFunction:
    """Return the function that computes a checksum incrementally, starting from 0.

    Raises
    ------
    MissingDependencyError
        The package that computes it is not installed.
    """
    if algorithm == "crc32":
        return zlib.crc32
    try:
        import crc32c
    except ImportError as error:
        raise MissingDependencyError(
            "verifying CRC-32C needs the package crc32c: pip install imagearchive[barecat]"
        ) from error
    return lambda data, before: int(crc32c.crc32c(data, before))
