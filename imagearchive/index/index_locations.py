"""Where an index file is saved: beside its archive, or in the user's cache directory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import platformdirs

from imagearchive.errors import ImageArchiveError, OptionError
from imagearchive.storage.location import Location, locate
from imagearchive.storage.patterns import INDEX_SUFFIX

__all__ = [
    "cache_directory",
    "cache_location",
    "check_replaceable",
    "index_beside",
    "index_locations",
    "unwritable_index",
]


def index_beside(archive: Location, variant: str = "") -> Location:
    """Return the index file beside an archive: ``.idx.npy`` in place of the last extension.

    `variant` is put before that; see `imagearchive.index.nesting.Nesting`.
    """
    return archive.parent.join(os.path.splitext(archive.name)[0] + variant + INDEX_SUFFIX)


def cache_directory() -> Location | None:
    """Return the directory for indexes that cannot be saved beside their archives.

    None if the user has no home directory, as in a container that runs under an arbitrary user ID.
    """
    try:
        folder = platformdirs.user_cache_dir("imagearchive", appauthor=False)
    except RuntimeError:
        return None
    return locate(os.path.join(folder, "index"))


def cache_location(keys: Sequence[str], archive: Location) -> Location | None:
    """Return the location of an index that cannot be saved beside its archive.

    None if there is no cache directory.

    Parameters
    ----------
    keys : sequence of str
        What distinguishes the archive from others of the same name.
    archive : Location
        Its name begins the file name, so that people recognize it.
    """
    digest = hashlib.blake2b(digest_size=16)
    for key in keys:
        digest.update(os.fsencode(key) + b"\0")
    folder = cache_directory()
    stem = os.path.splitext(archive.name)[0][:80]
    return folder and folder.join(f"{stem}-{digest.hexdigest()}{INDEX_SUFFIX}")


def index_locations(archive: Location, variant: str = "") -> list[Location]:
    """Return where the index of an archive may be, the best first; `variant` as above."""
    beside = index_beside(archive, variant)
    cached = cache_location([archive.path, variant] if variant else [archive.path], archive)
    if cached is None:
        return [beside]
    # An index on this machine needs no request.
    return [beside, cached] if archive.local_path is not None else [cached, beside]


def check_replaceable(ipath: Location, archives: Sequence[Location]) -> None:
    """Raise OptionError if an index file is a directory, or one of the archives themselves."""
    if ipath.status().is_directory or any(map(ipath.is_same, archives)):
        raise OptionError(
            f"{ipath.path}: cannot be the index, because it is the archive or a directory; "
            f"name another file"
        )


def unwritable_index(path: str, error: OSError) -> OptionError:
    """Return the error for an index that cannot be written where the caller wants it."""
    # The message of a server names the file already.
    if isinstance(error, ImageArchiveError):
        return OptionError(f"cannot write the index: {error.message}", hints=error.hints)
    return OptionError(f"{path}: cannot write the index: {error.strerror}")
