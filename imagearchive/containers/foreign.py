"""Files that no container reads, and what to tell whoever opens one."""

from __future__ import annotations

from typing import Final

__all__ = ["describe_foreign"]

_COMPRESSED: Final = (
    (b"\x1f\x8b", "gzip", "gzip -dk"),
    (b"BZh", "bzip2", "bzip2 -dk"),
    (b"\xfd7zXZ\0", "xz", "xz -dk"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -d"),
    (b"\x1f\x9d", "compress", "gzip -d"),
)


def describe_foreign(path: str, head: bytes) -> str:
    """Return what a file that is no archive seems to be, and what to do about it.

    Parameters
    ----------
    path : str
    head : bytes
        The first bytes of the file.
    """
    if not head:
        return "the file is empty; is it the right one, and whole?"
    for magic, name, command in _COMPRESSED:
        if head.startswith(magic):
            return (
                f"compressed with {name}, so its members have no positions to read; "
                f"decompress it first: {command} {path}"
            )
    return ""
