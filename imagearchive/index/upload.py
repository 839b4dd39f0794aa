"""Saves the index of an archive on a server beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagearchive.errors import OptionError
from imagearchive.index.index_locations import index_beside, unwritable_index
from imagearchive.index.nesting import Nested, Nesting
from imagearchive.index.table import IndexTable
from imagearchive.storage.location import Location, PublishingLocation, locate

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_uploads", "upload_index"]


def check_uploads(paths: Iterable[str]) -> None:
    """Refuse archives whose indexes cannot be saved beside them, before anything is read.

    Raises
    ------
    OptionError
        An archive is not on a server, or is on one to which files cannot be written.
    """
    for path in paths:
        archive = locate(path)
        if not isinstance(archive, PublishingLocation):
            raise _no_upload(archive)
        try:
            archive.check_writable()
        except OptionError as error:
            raise OptionError(
                f"{archive.path}: its index cannot be uploaded to an HTTP server; index a copy on "
                f"this machine, and put {index_beside(archive).name} on the server as you put the "
                f"archive there"
            ) from error


def _no_upload(archive: Location) -> OptionError:
    return OptionError(
        f"{archive.path}: an index is uploaded only for an archive at a URL; that of a file is "
        f"saved beside it already"
    )


def upload_index(table: IndexTable, nested: Nested) -> IndexTable:
    """Save the index of an archive on a server beside it, for everybody who reads the archive.

    Parameters
    ----------
    table : IndexTable
        The index of one archive.
    nested : bool, int, "auto", or "keep"
        As it was opened with.

    Returns
    -------
    IndexTable
        The table, mapped from a copy of what was uploaded.

    Raises
    ------
    OptionError
        The archive is not on a server, or nothing can be written there.
    """
    archive = locate(table.files[0])
    if len(table.files) != 1 or not isinstance(archive, PublishingLocation):
        raise _no_upload(archive)
    nesting = Nesting.from_argument(nested)
    variant = nesting.variant if nesting is not None and "nested" in table.meta else ""
    beside = index_beside(archive, variant)
    try:
        return table.save(beside)
    except OSError as error:
        raise unwritable_index(beside.path, error) from error
