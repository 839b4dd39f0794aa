"""What `tarfile` says about a TAR archive: the oracle of the scanner's tests, unused at run time.

It differs from a plain ``TarFile.getmembers()`` where `tarfile` differs from GNU tar, or where the
scanner promises more: archives behind the end of another one are found, GNU headers have no name
prefix, and times keep their nanoseconds.
"""

from __future__ import annotations

import io
import os
import tarfile
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from imagearchive.containers.rows import (
    KIND_CONTINUATION,
    KIND_DIRECTORY,
    KIND_FILE,
    KIND_HARDLINK,
    KIND_OTHER,
    KIND_SPARSE,
    KIND_SYMLINK,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from typing_extensions import Self

__all__ = ["TarRow", "tar_content", "tar_rows"]

BLOCK = 512
KINDS = {
    tarfile.LNKTYPE: KIND_HARDLINK,
    tarfile.SYMTYPE: KIND_SYMLINK,
    tarfile.DIRTYPE: KIND_DIRECTORY,
    tarfile.CHRTYPE: KIND_OTHER,
    tarfile.BLKTYPE: KIND_OTHER,
    tarfile.FIFOTYPE: KIND_OTHER,
    b"D": KIND_DIRECTORY,
    b"M": KIND_CONTINUATION,
    b"N": KIND_OTHER,
}


class TarRow(NamedTuple):
    """One member; the fields mean what those of ``ENTRY_DTYPE`` do.

    Names are without trailing slashes, which `tarfile` takes off some of them.
    """

    name: bytes
    link: bytes
    kind: int
    offset: int
    size: int
    header: int
    mtime: int
    mode: int


class _TarInfo(tarfile.TarInfo):
    """A header whose prefix counts only where POSIX put one."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        return super().frombuf(_without_gnu_prefix(buf, encoding, errors), encoding, errors)

    @classmethod
    def _frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str, **options: bool) -> Self:
        # What Python 3.14.10 calls instead.
        plain = _without_gnu_prefix(buf, encoding, errors)
        return super()._frombuf(plain, encoding, errors, **options)  # type: ignore[misc]


def _without_gnu_prefix(buf: bytes | bytearray, encoding: str, errors: str) -> bytes | bytearray:
    if len(buf) != BLOCK or buf[257:263] == b"ustar\0" or buf[156:157] == b"S":
        return buf
    whole = bytes(buf)
    # Check first: a damaged header must not become a good one.
    tarfile.TarInfo.frombuf(whole, encoding, errors)
    plain = whole[:345] + bytes(155) + whole[500:]
    total = 256 + sum(plain[:148]) + sum(plain[156:])
    return plain[:148] + b"%06o\0 " % total + plain[156:]


def _members(file: BinaryIO) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Every member of every archive in a file, up to the first error."""
    start, size = 0, file.seek(0, os.SEEK_END)
    while start < size:
        file.seek(start)
        count = 0
        try:
            archive = tarfile.TarFile(
                fileobj=file, tarinfo=_TarInfo, encoding="utf-8", errors="surrogateescape"
            )
            for member in archive:
                count += 1
                # The label of a volume is no member, and GNU tar extracts nothing for it.
                if member.type != b"V":
                    yield archive, member
        except (tarfile.TarError, ValueError, OverflowError, IndexError):
            return
        if not count and start:
            return
        start = archive.offset
        file.seek(start)
        block = file.read(BLOCK)
        if block.strip(b"\0"):
            return
        while block and not block.strip(b"\0"):
            start += len(block)
            block = file.read(BLOCK)


def tar_rows(archive: str | os.PathLike[str] | BinaryIO) -> list[TarRow]:
    """List the members that `tarfile` finds before the first damage.

    Parameters
    ----------
    archive : path-like or binary file
        An uncompressed TAR archive.
    """
    if isinstance(archive, io.IOBase):
        return [_row(member) for _, member in _members(archive)]
    with open(archive, "rb") as file:
        return [_row(member) for _, member in _members(file)]


def tar_content(path: str | os.PathLike[str]) -> list[bytes | None]:
    """The bytes of the same members as `tar_rows`; None where there are none."""
    contents: list[bytes | None] = []
    with open(path, "rb") as file:
        for archive, member in _members(file):
            has_data = KINDS.get(member.type, KIND_FILE) == KIND_FILE
            contents.append(tarfile.ExFileObject(archive, member).read() if has_data else None)
    return contents


def _row(member: tarfile.TarInfo) -> TarRow:
    kind = KINDS.get(member.type, KIND_SPARSE if member.sparse is not None else KIND_FILE)
    mtime = int(member.mtime) * 10**9
    if "mtime" in member.pax_headers:
        try:
            mtime = int(Decimal(member.pax_headers["mtime"]) * 10**9)
        except ArithmeticError:
            mtime = 0
    return TarRow(
        _raw(member.name).rstrip(b"/"),
        _raw(member.linkname) if kind in (KIND_HARDLINK, KIND_SYMLINK) else b"",
        kind,
        member.offset_data,
        member.size if kind in (KIND_FILE, KIND_SPARSE) else 0,
        member.offset,
        max(-(2**63), min(mtime, 2**63 - 1)),
        member.mode & 0o7777,
    )


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
