"""The exceptions of `barecat.exceptions`."""

from __future__ import annotations

from imagearchive.errors import (
    CorruptArchiveError,
    ImageArchiveError,
    MemberNotFoundError,
    OptionError,
    TargetExistsError,
)

__all__ = [
    "BarecatError",
    "BarecatIntegrityError",
    "DirectoryNotEmptyBarecatError",
    "FileExistsBarecatError",
    "FileNotFoundBarecatError",
    "FileTooLargeBarecatError",
    "IsADirectoryBarecatError",
    "NotADirectoryBarecatError",
    "NotEnoughSpaceBarecatError",
    "NotOfferedError",
]

BarecatError = ImageArchiveError
BarecatIntegrityError = CorruptArchiveError
FileExistsBarecatError = TargetExistsError
FileNotFoundBarecatError = MemberNotFoundError


class NotOfferedError(OptionError, PermissionError):
    """The call writes, or is not offered; the message names what to use instead.

    It is also a `PermissionError`, which the original raises if an archive is read-only.
    """


class DirectoryNotEmptyBarecatError(ImageArchiveError):
    """Never raised: only removing a directory does so in the original."""


class FileTooLargeBarecatError(ImageArchiveError, ValueError):
    """Never raised: only writing does so in the original."""


class IsADirectoryBarecatError(ImageArchiveError):
    """Never raised: only removing a file does so in the original."""


class NotADirectoryBarecatError(ImageArchiveError):
    """Never raised: only writing does so in the original."""


class NotEnoughSpaceBarecatError(ImageArchiveError):
    """Never raised: only writing does so in the original."""
