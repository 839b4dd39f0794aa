"""The archive that a command reads."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack

from imagearchive.archive.archive import Archive, open_archive
from imagearchive.cli.argument_types import access_options
from imagearchive.containers.derived import DECOMPRESS
from imagearchive.errors import UnsupportedArchiveError
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.storage.outputs import temporary_folder
from imagearchive.storage.temporary import LockedDirectory

__all__ = ["open_archive_argument", "open_archive_to_convert"]


def open_archive_argument(arguments: argparse.Namespace) -> Archive:
    """Open the archive that a command reads."""
    with os_errors_for(arguments.archive):
        return open_archive(
            arguments.archive,
            ipath=arguments.ipath,
            strict=not arguments.partial,
            nested=arguments.nested,
            decompress_to=arguments.decompress_to,
            **access_options(arguments),
        )


def open_archive_to_convert(arguments: argparse.Namespace, stack: ExitStack) -> Archive:
    """Open the archive that `convert` reads, until a stack is closed.

    One that cannot be read at random is decompressed where the target is written first, and removed
    at last.
    """
    try:
        return stack.enter_context(open_archive_argument(arguments))
    except UnsupportedArchiveError as error:
        if DECOMPRESS not in error.hints:
            raise
    folder = os.path.abspath(temporary_folder(arguments.target))
    temporary = stack.enter_context(LockedDirectory(folder, ".imagearchive-decompressed-"))
    arguments.decompress_to = temporary.path
    return stack.enter_context(open_archive_argument(arguments))
