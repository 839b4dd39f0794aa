"""The table of a ZIP archive as the standard library sees it: an oracle for the tests.

Slow, and never used at run time.
"""

from __future__ import annotations

import calendar
import io
import stat
import struct
import zipfile
from typing import Any

from imagearchive.containers.rows import (
    KIND_DIRECTORY,
    KIND_ENCRYPTED,
    KIND_FILE,
    KIND_OTHER,
    KIND_SYMLINK,
)

__all__ = ["rows"]


def rows(data: bytes) -> list[dict[str, Any]]:
    """Return one dict a member: the fields of a row, its name and its link, as bytes."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [_row(archive, data, number, info) for number, info in enumerate(archive.infolist())]


def _row(archive: zipfile.ZipFile, data: bytes, number: int, info: zipfile.ZipInfo) -> Any:
    mode = info.external_attr >> 16
    kind = KIND_FILE
    link = b""
    if info.orig_filename.endswith("/"):
        kind = KIND_DIRECTORY
    elif info.flag_bits & 1:
        kind = KIND_ENCRYPTED
    elif stat.S_ISLNK(mode):
        kind = KIND_SYMLINK
        link = archive.read(info)
    elif not info.file_size and stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        kind = KIND_OTHER
    name_size, extra_size = struct.unpack_from("<HH", data, info.header_offset + 26)
    _, month, day, *_ = info.date_time
    seconds = calendar.timegm((*info.date_time, 0, 0, 0)) if month and day else 0
    return {
        "index": number,
        "offset": info.header_offset + 30 + name_size + extra_size,
        "size": info.file_size,
        "stored_size": info.compress_size,
        "header_offset": info.header_offset,
        "mtime": seconds * 1_000_000_000,
        "crc": info.CRC,
        "shard": 0,
        "mode": mode & 0o7777,
        "method": info.compress_type,
        "kind": kind,
        "name": info.orig_filename.encode(),
        "link": link,
    }
