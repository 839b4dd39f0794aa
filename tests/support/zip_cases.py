"""ZIP archives made by hand, in which every field can be a lie, and their rows."""

import struct
import zlib

from imagearchive.containers.rows import (
    ENTRY_DTYPE,
)
from imagearchive.containers.zip import scan as scanner
from imagearchive.errors import CorruptArchiveError
from imagearchive.storage.deflate import inflate
from imagearchive.storage.local import MemoryStorage

FULL = 0xFFFFFFFF


class CopyStorage:
    """Storage without a descriptor whose reads are copies, as a remote one's are."""

    zero_copy = False

    def __init__(self, data, path="remote"):
        self.data, self.path, self.size = bytes(data), path, len(data)
        self.reads = 0

    def read(self, offset, size):
        assert 0 <= offset <= offset + size <= self.size
        self.reads += 1
        return bytearray(self.data[offset : offset + size])

    def readinto(self, offset, buffer):
        raise AssertionError

    def check_unchanged(self):
        pass

    def close(self):
        pass


def member(name=b"a", data=b"", method=0, flags=0, **other):
    return {"name": name, "data": data, "method": method, "flags": flags} | other


def build(*members, prefix=b"", comment=b"", shift=0, **end):
    """A ZIP archive in which every field can be made a lie."""
    out = bytearray(prefix)
    directory = b""
    for one in members:
        data = one["data"]
        if one["method"] == 8:
            packer = zlib.compressobj(6, zlib.DEFLATED, -15)
            payload = packer.compress(data) + packer.flush()
        else:
            payload = data
        payload = one.get("payload", payload)
        crc = one.get("crc", zlib.crc32(data))
        size, stored = one.get("size", len(data)), one.get("stored", len(payload))
        time, date = one.get("time", 0), one.get("date", 33)
        offset = one.get("offset", len(out) - shift)
        local_extra, extra = one.get("local_extra", b""), one.get("extra", b"")
        local_name = one.get("local_name", one["name"])
        sizes = one.get("local_sizes", (crc, stored, size))
        if one["flags"] & 8:
            sizes = (0, 0, 0)
        local_method = one.get("local_method", one["method"])
        out += struct.pack("<4s5H", b"PK\3\4", 20, one["flags"], local_method, time, date)
        out += struct.pack("<3L2H", *sizes, len(local_name), len(local_extra))
        out += local_name + local_extra + payload
        if one["flags"] & 8:
            out += struct.pack("<4s3L", b"PK\7\x08", crc, stored, size)
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 3 << 8 | 20, 20, one["flags"], one["method"], time, date,
            crc, stored, size, len(one["name"]), len(extra), 0, one.get("disk", 0), 0,
            one.get("attributes", 0), offset,
        ) + one["name"] + extra  # fmt: skip
    start = len(out)
    out += directory
    if "end64" in end:
        fields = {"entries": len(members), "size": len(directory), "offset": start - shift}
        fields |= end["end64"]
        at = len(out) - shift
        out += struct.pack(
            "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0,
            fields["entries"], fields["entries"], fields["size"], fields["offset"],
        )  # fmt: skip
        out += struct.pack("<4sLQL", b"PK\6\7", 0, fields.get("at", at), 1)
    entries = end.get("entries", len(members))
    out += struct.pack(
        "<4s4H2LH", b"PK\5\6", end.get("this_disk", 0), end.get("directory_disk", 0),
        end.get("here", entries), entries, end.get("size", len(directory)),
        end.get("offset", start - shift), end.get("comment_size", len(comment)),
    )  # fmt: skip
    return bytes(out) + comment


def scan(data, strict=True):
    return scanner.scan(MemoryStorage(data, "x.zip"), strict)


def as_dicts(rows):
    table = [
        {field: int(rows.entries[field][row]) for field in ENTRY_DTYPE.names}
        for row in range(rows.rows)
    ]
    for row, one in enumerate(table):
        one |= {"name": rows.name(row), "link": rows.link(row)}
    return table


def names(data, strict=True):
    rows = scan(data, strict)
    return [rows.name(row) for row in range(rows.rows)]


def content(data, entry):
    storage = MemoryStorage(data, "x.zip")
    offset, size, stored = (int(entry[key]) for key in ("offset", "size", "stored_size"))
    if entry["method"] == 8:
        return inflate(storage, offset, stored, size, int(entry["crc"]), "x.zip")
    found = bytes(storage.read(offset, stored))
    if zlib.crc32(found) != entry["crc"]:
        raise CorruptArchiveError("CRC")
    return found


def zip64(*values, disk=None):
    body = struct.pack(f"<{len(values)}Q", *values)
    body += b"" if disk is None else struct.pack("<L", disk)
    return struct.pack("<HH", 1, len(body)) + body


GOOD = member(b"good", b"good data", date=33)
