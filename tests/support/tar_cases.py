"""TAR archives of every format, made by hand, by `tarfile` and by GNU tar."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from hypothesis import strategies as st

BLOCK = 512
END = bytes(2 * BLOCK)
USTAR_MAGIC = b"ustar\x0000"
GNU_MAGIC = b"ustar  \0"
V7_MAGIC = bytes(8)
SPARSE_VERSIONS = ("0.0", "0.1", "1.0")
GNU_FORMATS = ("v7", "oldgnu", "gnu", "ustar", "posix")


def pad(data: bytes) -> bytes:
    """Fill up with zeros to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def octal(number: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, number)


def base_256(number: int, width: int) -> bytes:
    if number < 0:
        return b"\xff" + (number + 256 ** (width - 1)).to_bytes(width - 1, "big")
    return b"\x80" + number.to_bytes(width - 1, "big")


def header(
    name: bytes,
    size: int | bytes = 0,
    flag: bytes = b"0",
    *,
    link: bytes = b"",
    mode: int | bytes = 0o644,
    mtime: int | bytes = 1_600_000_000,
    magic: bytes = USTAR_MAGIC,
    prefix: bytes = b"",
    signed: bool = False,
) -> bytes:
    """One header block; numbers given as bytes are written as they are."""
    block = bytearray(BLOCK)
    block[0 : len(name)] = name
    block[100:108] = mode if isinstance(mode, bytes) else octal(mode, 8)
    block[108:116] = block[116:124] = octal(0, 8)
    block[124:136] = size if isinstance(size, bytes) else octal(size, 12)
    block[136:148] = mtime if isinstance(mtime, bytes) else octal(mtime, 12)
    block[156:157] = flag
    block[157 : 157 + len(link)] = link
    block[257:265] = magic
    block[345 : 345 + len(prefix)] = prefix
    if len(block) != BLOCK:
        raise ValueError("a field is too long")
    return seal(block, signed=signed)


def seal(block: bytes | bytearray, *, signed: bool = False) -> bytes:
    """Write the checksum of a header."""
    block = bytearray(block)
    block[148:156] = b" " * 8
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def member(name: bytes, data: bytes = b"", flag: bytes = b"0", **fields: object) -> bytes:
    """A header with its data."""
    return header(name, len(data), flag, **fields) + pad(data)  # type: ignore[arg-type]


def record(keyword: bytes, value: bytes) -> bytes:
    """One PAX record."""
    length = rest = len(keyword) + len(value) + 3
    while length != rest + len(b"%d" % length):
        length = rest + len(b"%d" % length)
    return b"%d %s=%s\n" % (length, keyword, value)


def pax(records: Iterable[tuple[bytes, bytes]], flag: bytes = b"x") -> bytes:
    """A PAX header with its records."""
    return member(b"PaxHeaders/0", b"".join(record(*pair) for pair in records), flag)


def long_name(name: bytes, flag: bytes = b"L") -> bytes:
    """GNU's header for a long name (``L``) or link target (``K``)."""
    return member(b"././@LongLink", name + b"\0", flag, magic=GNU_MAGIC)


def old_sparse(
    name: bytes, parts: Sequence[tuple[int, int]], real_size: int, data: bytes, per_block: int = 21
) -> bytes:
    """An old GNU sparse member with as many blocks of map as it takes."""

    def fields(some: Sequence[tuple[int, int]]) -> bytes:
        return b"".join(octal(offset, 12) + octal(size, 12) for offset, size in some)

    block = bytearray(header(name, len(data), b"S", magic=GNU_MAGIC))
    first, rest = parts[:4], parts[4:]
    block[386 : 386 + 24 * len(first)] = fields(first)
    block[482] = bool(rest)
    block[483:495] = octal(real_size, 12)
    blocks = [seal(block)]
    while rest:
        some, rest = rest[:per_block], rest[per_block:]
        extension = bytearray(BLOCK)
        extension[0 : 24 * len(some)] = fields(some)
        extension[504] = bool(rest)
        blocks.append(bytes(extension))
    return b"".join(blocks) + pad(data)


def pax_sparse(
    name: bytes,
    parts: Sequence[tuple[int, int]],
    real_size: int,
    data: bytes,
    version: str,
    extra: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A sparse member as PAX stores it, in version 0.0, 0.1 or 1.0."""
    size, stored = b"%d" % real_size, data
    if version == "0.0":
        records = [(b"GNU.sparse.size", size), (b"GNU.sparse.numblocks", b"%d" % len(parts))]
        for offset, length in parts:
            records.append((b"GNU.sparse.offset", b"%d" % offset))
            records.append((b"GNU.sparse.numbytes", b"%d" % length))
        return pax([*records, *extra]) + member(name, stored)
    if version == "0.1":
        numbers = b",".join(b"%d,%d" % part for part in parts)
        records = [(b"GNU.sparse.name", name), (b"GNU.sparse.size", size)]
        records += [(b"GNU.sparse.map", numbers)]
    else:
        lines = [b"%d\n" % len(parts), *(b"%d\n%d\n" % part for part in parts)]
        stored = pad(b"".join(lines)) + data
        records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
        records += [(b"GNU.sparse.name", name), (b"GNU.sparse.realsize", size)]
    return pax([*records, *extra]) + member(b"GNUSparseFile.0/stand-in", stored)


def expanded(parts: Sequence[tuple[int, int]], real_size: int, data: bytes) -> bytes:
    """What a sparse member is once extracted."""
    out, at = bytearray(real_size), 0
    for offset, length in parts:
        out[offset : offset + length] = data[at : at + length]
        at += length
    return bytes(out)


# --- by tarfile -------------------------------------------------------------------------------


def tarfile_archive(
    members: Iterable[tuple[tarfile.TarInfo, bytes]],
    tar_format: int,
    pax_headers: dict[str, str] | None = None,
) -> bytes:
    """What `tarfile` writes for these members."""
    buffer = io.BytesIO()
    with tarfile.TarFile(
        fileobj=buffer,
        mode="w",
        format=tar_format,
        encoding="utf-8",
        errors="surrogateescape",
        pax_headers=pax_headers,
    ) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
        end = archive.offset
    # Without the zeros that fill up a tape's record.
    return buffer.getvalue()[: end + len(END)]


def tarinfo(
    name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: object
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


_characters = st.one_of(
    st.sampled_from("abc/._-0"),
    st.characters(min_codepoint=0x20, max_codepoint=0x2FFF, exclude_categories=["Cs"]),
    # Bytes that are no UTF-8.
    st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF),
)


def _names(tar_format: int) -> st.SearchStrategy[str]:
    long = st.integers(90, 300).map(lambda size: ("dir/" * 99)[: size - 1] + "x")
    if tar_format == tarfile.USTAR_FORMAT:
        long = st.integers(20, 50).map(lambda size: "d" * (2 * size) + "/" + "x" * size)
        short = st.text(_characters, min_size=1, max_size=20)
    else:
        short = st.text(_characters, min_size=1, max_size=60)
    return st.one_of(short, long)


_kinds = st.sampled_from(
    [tarfile.REGTYPE] * 6
    + [tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE]
    + [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"]
)


class Archive(bytes):
    """Bytes that print as what they hold."""

    members: list[tuple[str, bytes, int]]

    def __repr__(self) -> str:
        return f"Archive({self.members})"


@st.composite
def archives(draw: st.DrawFn) -> Archive:
    """One archive in one of the formats that `tarfile` writes; names come back now and then."""
    tar_format = draw(
        st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    )
    pool = draw(st.lists(_names(tar_format), min_size=1, max_size=4))
    times = st.integers(0, 2**33 - 1)
    if tar_format == tarfile.GNU_FORMAT:
        times = st.integers(-(2**40), 2**40)
    elif tar_format == tarfile.PAX_FORMAT:
        times = st.one_of(times, st.integers(-(2**40), 2**43).map(lambda ms: ms / 1024))
    members = []
    for _ in range(draw(st.integers(0, 6))):
        kind, name = draw(_kinds), draw(st.sampled_from(pool))
        ustar = tar_format == tarfile.USTAR_FORMAT
        if kind == tarfile.AREGTYPE and (not ustar or name.endswith("/")):
            # Where the name in the header, cut or not, ends in a slash, it means a directory.
            kind = tarfile.REGTYPE
        has_data = kind in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, b"Z")
        data = draw(st.binary(max_size=1200)) if has_data else b""
        info = tarinfo(name, len(data), kind)
        info.mtime = draw(times)
        info.mode = draw(st.integers(0, 0o7777))
        if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            info.linkname = draw(st.sampled_from(pool))
            if ustar:
                # It has no field for longer ones.
                info.linkname = info.linkname[:25]
        members.append((info, data))
    pax_headers = None
    # A global header alone is an error to tarfile.
    if members and tar_format == tarfile.PAX_FORMAT and draw(st.booleans()):
        pax_headers = {"comment": "made by a test"}
    archive = Archive(tarfile_archive(members, tar_format, pax_headers))
    archive.members = [(info.name, info.type, info.size) for info, _ in members]
    return archive


# --- by GNU tar -------------------------------------------------------------------------------


def have_gnu_tar() -> bool:
    """Whether ``tar`` is GNU's."""
    try:
        version = subprocess.run(["tar", "--version"], capture_output=True, check=False).stdout
    except OSError:
        return False
    return b"GNU tar" in version


def make_tree(folder: Path, long_names: bool = True) -> None:
    """Files, directories, links and a file with holes."""
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "a.txt").write_bytes(b"alpha")
    (folder / "deep" / "b.bin").write_bytes(bytes(range(256)) * 9)
    (folder / "deep" / "er" / "none").write_bytes(b"")
    (folder / "größe.txt").write_bytes(b"unicode name")
    os.symlink("../a.txt", folder / "deep" / "to-a")
    os.link(folder / "a.txt", folder / "twin.txt")
    os.mkfifo(folder / "pipe")
    if long_names:
        (folder / ("n" * 150)).write_bytes(b"long name")
        os.symlink("t" * 200, folder / "long-target")
    with open(folder / "holes", "wb") as file:
        for number in range(30):
            file.seek(number * 200_000)
            file.write(b"part %d" % number * 500)
        file.truncate(7_000_000)
    with open(folder / "only-hole", "wb") as file:
        file.truncate(300_000)


def gnu_tar(archive: Path, folder: Path, *options: str) -> None:
    """Pack everything in a folder."""
    command = ["tar", "-C", str(folder), "-cf", str(archive), *options, *sorted(os.listdir(folder))]
    subprocess.run(command, check=True, capture_output=True)
