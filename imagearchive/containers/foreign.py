"""Messages about files that are not archives."""

from __future__ import annotations

from typing import Final

from imagearchive.errors.hints import shell_command

__all__ = ["describe_foreign"]

_COMPRESSED: Final = (
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -d"),
    (b"\x1f\x9d", "compress", "gzip -d"),
)

_DOCUMENTS: Final = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
)
_UNPACK: Final = "unpack it, and pack its files with 'imagearchive pack'"
_OTHERS: Final = (
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "read it with h5py"),
    (b"PAR1", "a Parquet file", "read it with pyarrow"),
    (b"ARROW1\0\0", "an Arrow file", "read it with pyarrow"),
)
_IMAGES: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
)


def describe_foreign(path: str, head: bytes) -> str:
    """Return what a file that is not an archive seems to be, and what to do about it.

    Parameters
    ----------
    path : str
    head : bytes
        The first bytes of the file.
    """
    if not head:
        return "the file is empty; is it the right file, and complete?"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            "a Git LFS pointer, which stands for the file in a repository; fetch the file itself "
            "with 'git lfs pull'"
        )
    beginning = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:16].lower()
    for start, name in _DOCUMENTS:
        if beginning.startswith(start):
            return (
                f"{name}, probably what a server answered instead of the file; download it again "
                f"and check the address"
            )
    for magic, name, advice in _OTHERS:
        if head.startswith(magic):
            return f"{name}, which is not a supported archive; {advice}"
    for magic, name in _IMAGES:
        if head.startswith(magic):
            return f"a single image ({name}); open the directory or the archive that holds it"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a single image (WebP); open the directory or the archive that holds it"
    for magic, name, command in _COMPRESSED:
        if head.startswith(magic):
            return (
                f"compressed with {name}, so its members cannot be read at random; "
                f"decompress it first: {shell_command(command, path)}"
            )
    return ""
