"""The archive that a command reads."""

from __future__ import annotations

import argparse

from imagearchive.archive.archive import Archive, open_archive
from imagearchive.errors.os_errors import os_errors_for

__all__ = ["open_archive_argument"]


def open_archive_argument(arguments: argparse.Namespace) -> Archive:
    """Open the archive that a command reads."""
    with os_errors_for(arguments.archive):
        return open_archive(arguments.archive, ipath=arguments.ipath, strict=not arguments.partial)
