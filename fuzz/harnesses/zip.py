"""ZIP archives, against `zipfile`."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Hashable, Iterable
from random import Random

from fuzz.harness import Harness, check
from fuzz.harnesses.members import read_members, sometimes
from fuzz.mutation import INTERESTING, mutate
from imagearchive.containers.rows import KIND_FILE, METHOD_DEFLATED, METHOD_STORED, RowBuffer
from imagearchive.containers.zip.zip_container import ZipContainer
from imagearchive.errors import CorruptArchiveError, ImageArchiveError
from imagearchive.storage.local import MemoryStorage

# Offset and width of the fields of each record, by its signature.
FIELDS = {
    b"PK\3\4": ((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\1\2": (
        (4, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (34, 2),
        (38, 4), (42, 4),
    ),
    b"PK\5\6": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    b"PK\6\6": ((4, 8), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)),
    b"PK\6\7": ((4, 4), (8, 8), (16, 4)),
}  # fmt: skip


def small_zips() -> Iterable[bytes]:
    """Return archives of every kind that the scanner distinguishes."""
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            # A `ZipInfo` has a fixed date; a name alone would get the current time.
            archive.writestr(zipfile.ZipInfo("a.txt"), b"alpha", method)
            archive.writestr(zipfile.ZipInfo("d/b.bin"), bytes(range(256)) * 4, method)
            directory = zipfile.ZipInfo("d/")
            directory.external_attr = 0o40775 << 16 | 0x10
            archive.writestr(directory, b"")
            archive.writestr(zipfile.ZipInfo("größe.txt"), b"unicode", method)
            link = zipfile.ZipInfo("link")
            link.external_attr = 0o120777 << 16
            link.create_system = 3
            archive.writestr(link, b"d/b.bin")
            archive.comment = b"comment"
        yield buffer.getvalue()
        yield b"prefix" * 9 + buffer.getvalue()
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w") as archive,
        archive.open("big", "w", force_zip64=True) as file,
    ):
        file.write(b"zip64")
    yield buffer.getvalue()
    # Written to a pipe: data descriptors.
    stream = _Unseekable()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("streamed"), b"data " * 50, zipfile.ZIP_DEFLATED)
    yield stream.getvalue()
    yield _with_zip64_end(buffer.getvalue())


class _Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *arguments: int) -> int:
        raise io.UnsupportedOperation

    def tell(self) -> int:
        raise io.UnsupportedOperation


def _with_zip64_end(data: bytes) -> bytes:
    at = data.rindex(b"PK\5\6")
    _, _, _, count, size, offset, _ = struct.unpack("<HHHHIIH", data[at + 4 : at + 22])
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at, 1)
    full = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:at] + end + locator + full


def change_zip(rng: Random, data: bytes, other: bytes, tokens: tuple[bytes, ...] = ()) -> bytes:
    """Change fields of records, whole records, or bytes; mostly keep the directory findable."""
    changed = bytearray(data)
    kind = rng.random()
    if kind < 0.45:
        for _ in range(rng.choice((1, 1, 2, 3))):
            _change_field(rng, changed)
        return bytes(changed)
    if kind < 0.6:
        _change_records(rng, changed)
    else:
        changed = bytearray(mutate(rng, data, other, tokens))
    if rng.random() < 0.7:
        _correct_end(changed)
    return bytes(changed)


class Zip(Harness):
    """Scans, resolves links, and reads all members."""

    name = "zip"
    smoke_runs = 60_000
    tokens = (*FIELDS, b"\1\0\x10\0", b"\x75\x70", b"../", b"/", b"\0", b"\\")

    def seeds(self) -> Iterable[bytes]:
        """Return archives of every kind that the scanner distinguishes."""
        return small_zips()

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change fields of records, whole records, or bytes."""
        return change_zip(rng, data, other, self.tokens)

    def run(self, data: bytes) -> Hashable:
        """Scan, and read all members; what is read must be what `zipfile` reads."""
        storage = MemoryStorage(data, "x.zip")
        container = ZipContainer()
        container.sniff(data[:512], storage)
        try:
            rows = container.scan(storage)
        except CorruptArchiveError:
            # The part before the damage, which a user may ask for.
            read_members(container, storage, container.scan(storage, strict=False))
            raise
        outcome = read_members(container, storage, rows)
        if sometimes(data, 4):
            _compare(data, storage, rows)
        return outcome


def _compare(data: bytes, storage: MemoryStorage, rows: RowBuffer) -> None:
    """Compare the content of members that both read; `zipfile` refuses more archives than we do."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception:
        return
    members = archive.infolist()
    offsets = rows.entries["header_offset"][: rows.rows].tolist()
    if [info.header_offset for info in members] != offsets:
        # There are two directories, and both are possible; `zipfile` prefers another one, even
        # where the last is part of the comment of the first.
        return
    container = ZipContainer()
    for row, info in zip(rows.entries[: rows.rows], members):
        if row["kind"] != KIND_FILE or info.file_size > 1 << 20:
            continue
        try:
            ours = bytes(container.read_member(storage, row, "member"))
        except ImageArchiveError:
            continue
        if row["method"] == METHOD_STORED and zlib.crc32(ours) != row["crc"]:
            continue
        check(row["method"] in (METHOD_STORED, METHOD_DEFLATED), f"unknown method read: {row}")
        try:
            theirs = archive.read(info)
        except Exception:
            continue
        check(ours == theirs, f"zipfile reads other bytes: {info}")


def _records(data: bytes) -> list[int]:
    found = []
    at = data.find(b"PK")
    while at >= 0 and len(found) < 100:
        if bytes(data[at : at + 4]) in FIELDS:
            found.append(at)
        at = data.find(b"PK", at + 2)
    return found


def _change_field(rng: Random, data: bytearray) -> None:
    found = _records(data)
    if not found:
        return
    at = rng.choice(found)
    offset, width = rng.choice(FIELDS[bytes(data[at : at + 4])])
    old = int.from_bytes(data[at + offset : at + offset + width], "little")
    new = rng.choice(
        (
            rng.choice(INTERESTING),
            old + rng.choice((-1, 1, 4, 12, 16)),
            len(data),
            rng.choice(found),
        )
    )
    data[at + offset : at + offset + width] = (new % (1 << 8 * width)).to_bytes(width, "little")


def _change_records(rng: Random, data: bytearray) -> None:
    bounds = [*_records(data), len(data)]
    if len(bounds) < 2:
        return
    number = rng.randrange(len(bounds) - 1)
    record = bytes(data[bounds[number] : bounds[number + 1]])
    kind = rng.randrange(3)
    if kind == 0:
        del data[bounds[number] : bounds[number + 1]]
    else:
        at = bounds[number] if kind == 1 else rng.choice(bounds)
        data[at:at] = record * rng.choice((1, 1, 2, 30))


def _correct_end(data: bytearray) -> None:
    """Let the end record describe the directory before it."""
    end = data.rfind(b"PK\5\6")
    first = data.find(b"PK\1\2")
    if 0 <= first < end and end + 22 <= len(data):
        count = data.count(b"PK\1\2", first, end) & 0xFFFF
        size, offset = (end - first) & 0xFFFFFFFF, first & 0xFFFFFFFF
        data[end + 8 : end + 20] = struct.pack("<HHII", count, count, size, offset)
