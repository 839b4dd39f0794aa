"""Archives and their companions as files in memory."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

from support.memory_location import FILES, OPENED, SCHEME


def put(**files: bytes) -> None:
    """Make these the only files; a name's last ``_`` is the dot before its extension."""
    FILES.clear()
    OPENED.clear()
    for name, data in files.items():
        stem, _, extension = name.rpartition("_")
        FILES[f"{stem}.{extension}"] = data


def url(name: str) -> str:
    """Return the path of a file in memory."""
    return f"{SCHEME}://{name}"


def scratch_folder() -> str:
    """Return a new folder in memory if there is such a place, deleted when the process ends."""
    memory = "/dev/shm"
    folder = tempfile.mkdtemp(prefix="fuzz-", dir=memory if os.path.isdir(memory) else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
