"""Headers of TAR members: POSIX ustar, with PAX records for what does not fit into it."""

from __future__ import annotations

from typing import Final

__all__ = ["BLOCK", "header"]

BLOCK: Final = 512
# The widest numbers that the octal fields hold; what is larger goes into a PAX record.
MAX_OCTAL: Final = 8**11 - 1

# Of a header: owner and group 0, and what follows the checksum of a regular file.
_OWNER: Final = b"0000000\0" * 2
_TAIL: Final = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2
_END: Final = bytes(12)
# The checksum counts its own field as eight blanks.
_CONSTANT_SUM: Final = sum(_OWNER) + sum(_TAIL) + 8 * ord(" ")


def header(name: bytes, size: int, mtime: int = 0, mode: int = 0o644) -> bytes:
    """Build the header of a regular file: one block, or three or more with a PAX record.

    POSIX ustar, with PAX records (POSIX.1-2001) for names that do not fit its 155 + 100 bytes or
    are not ASCII, for sizes from 8 GiB on, and for times before 1970.

    Parameters
    ----------
    name : bytes
        UTF-8; other bytes are kept and marked as such.
    size : int
        Bytes of the file.
    mtime : int
        Seconds since 1970.
    mode : int
        Permission bits.
    """
    records = b""
    prefix = b""
    if len(name) > 100 or not name.isascii():
        # For readers without PAX, the beginning of a name is better than none.
        prefix, short = _split(name) if name.isascii() else (b"", b"")
        if not short:
            if not _is_utf8(name):
                records += _record(b"hdrcharset", b"BINARY")
            records += _record(b"path", name)
            prefix, name = b"", name[:100]
        else:
            name = short
    if size > MAX_OCTAL:
        records += _record(b"size", b"%d" % size)
    if not 0 <= mtime <= MAX_OCTAL:
        records += _record(b"mtime", b"%d" % mtime)
        mtime = 0
    block = _block(name, min(size, MAX_OCTAL), mtime, mode, prefix)
    if not records:
        return block
    pad = bytes(-len(records) % BLOCK)
    return _block(b"././@PaxHeader", len(records), 0, 0o644, b"", b"x") + records + pad + block


def _block(
    name: bytes, size: int, mtime: int, mode: int, prefix: bytes, kind: bytes = b"0"
) -> bytes:
    numbers = b"%011o\0%011o\0" % (size, mtime)
    permissions = b"%07o\0" % (mode & 0o7777)
    checksum = _CONSTANT_SUM + sum(name) + sum(numbers) + sum(permissions) + sum(prefix)
    checksum += kind[0] - ord("0")
    return b"%b%b%b%b%06o\0 %b%b%b%b%b" % (
        name.ljust(100, b"\0"),
        permissions,
        _OWNER,
        numbers,
        checksum,
        kind,
        _TAIL[1:],
        prefix,
        bytes(155 - len(prefix)),
        _END,
    )


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Split a long name at a slash into prefix and rest, or return two empty parts."""
    if len(name) <= 256:
        slash = name.find(b"/", len(name) - 101)
        if 0 < slash <= 155 and slash < len(name) - 1:
            return name[:slash], name[slash + 1 :]
    return b"", b""


def _record(key: bytes, value: bytes) -> bytes:
    """Build a PAX record; its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
