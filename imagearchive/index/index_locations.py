"""Where an index file belongs: beside its archive, or in the user's cache directory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import platformdirs

from imagearchive.storage.location import Location, locate
from imagearchive.storage.patterns import INDEX_SUFFIX

__all__ = ["cache_location", "index_beside", "index_locations"]


def index_beside(archive: Location) -> Location:
    """Return the location of an index beside its archive: ``.idx.npy`` for the last extension."""
    return archive.parent.join(os.path.splitext(archive.name)[0] + INDEX_SUFFIX)


def cache_location(keys: Sequence[str], archive: Location) -> Location | None:
    """Return the location of an index that cannot be saved beside its archive.

    None if the user has no home directory, as in a container that runs under any user number.

    Parameters
    ----------
    keys : sequence of str
        What tells the archive from others of the same name.
    archive : Location
        Gives the file a name that a person recognizes.
    """
    digest = hashlib.blake2b(digest_size=16)
    for key in keys:
        digest.update(os.fsencode(key) + b"\0")
    try:
        folder = platformdirs.user_cache_dir("imagearchive", appauthor=False)
    except RuntimeError:
        return None
    stem = os.path.splitext(archive.name)[0][:80]
    return locate(os.path.join(folder, "index", f"{stem}-{digest.hexdigest()}{INDEX_SUFFIX}"))


def index_locations(archive: Location) -> list[Location]:
    """Return where the index of an archive may be, the best place first."""
    cached = cache_location([archive.path], archive)
    return [index_beside(archive)] if cached is None else [index_beside(archive), cached]
