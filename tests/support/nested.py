"""Members of nested archives, and how each kind of archive is packed."""

import bz2
import gzip
import lzma
import random
import zipfile

import zstandard

import imagearchive
from support.archives import tar_bytes, zip_bytes

SMALL = {f"{i}.jpg": random.Random(i).randbytes(700 + i) for i in range(5)}
# More than one checkpoint, and more than what is decompressed at once.
LARGE = {f"d/{i:02}.jpg": random.Random(i).randbytes(120_000 + i) for i in range(10)}


def large_members(seed):
    """Return members that take two megabytes and cannot be compressed."""
    chosen = random.Random(seed)
    return {f"d/{i:02}.jpg": chosen.randbytes(chosen.randint(1, 200_000)) for i in range(20)}


def deflated(members):
    return zip_bytes(members, zipfile.ZIP_DEFLATED)


PACK = {
    ".tar": tar_bytes,
    ".zip": zip_bytes,
    "-deflated.zip": deflated,
    ".tar.gz": lambda members: gzip.compress(tar_bytes(members), 1),
    ".tgz": lambda members: gzip.compress(tar_bytes(members), 1),
    ".tar.bz2": lambda members: bz2.compress(tar_bytes(members)),
    ".tar.xz": lambda members: lzma.compress(tar_bytes(members), preset=0),
    ".tar.zst": lambda members: zstandard.compress(tar_bytes(members)),
    ".zip.gz": lambda members: gzip.compress(zip_bytes(members), 1),
}


def below(directory, members):
    return {f"{directory}/{name}": data for name, data in members.items()}


def write(path, data):
    path.write_bytes(data)
    return path


def stem(suffix):
    return "-deflated" if suffix == "-deflated.zip" else ""


def names_of(path, nested):
    with imagearchive.open(path, nested=nested) as archive:
        return list(archive)


def deep(levels, kind=tar_bytes):
    data = b"core"
    for _ in range(levels):
        data = kind({"x.bin" if data == b"core" else "x.tar": data})
    return data


def put_members(archive, names, queue):
    """Put the content of members into a queue, in a process of its own."""
    queue.put([archive[name] for name in names])
