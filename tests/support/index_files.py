"""Index files: what they hold, and whether they were built again."""

import io
import tarfile

import numpy as np

from imagearchive.index.index_locations import index_beside
from imagearchive.storage.location import locate

MEMBERS = {f"{name}/{i}.txt": b"%d" % i * (i + 1) for name in ("b", "a", "a-b") for i in range(5)}


def default_path(path):
    return index_beside(locate(path)).path


def contents(table):
    return {table.name(i): bytes(read(table, i)) for i in range(len(table))}


def read(table, position):
    entry = table.entries[position]
    with open(table.files[entry["shard"]], "rb") as file:
        file.seek(int(entry["offset"]))
        return file.read(int(entry["size"]))


def mark(table):
    """Mark an index file; it keeps the mark until it is built again."""
    table.add_extra({"mark": np.ones(1, np.uint8)})
    return table


def is_marked(table):
    return "mark" in table.extra


def append(tar):
    with tarfile.open(tar, "a") as archive:
        info = tarfile.TarInfo("c/new.txt")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"new"))
