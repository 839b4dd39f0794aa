"""Copies of compressed archives, decompressed once and found again."""

from __future__ import annotations

import functools
import hashlib
import os
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO, Final

from imagearchive.containers.derived import HEAD_BYTES, check_expansion, stream_format_of
from imagearchive.containers.single_file import NPY_MAGIC, SingleFileContainer
from imagearchive.errors import OptionError
from imagearchive.storage.compressed import STEP
from imagearchive.storage.location import Location, locate
from imagearchive.storage.make_once import make_once
from imagearchive.storage.progress import Progress, byte_progress
from imagearchive.storage.protocol import UNKNOWN_SIZE
from imagearchive.storage.stream_format import ForwardStorage, plain_name

if TYPE_CHECKING:
    from imagearchive.storage.protocol import FileStorage
    from imagearchive.storage.stream_format import StreamFormat

__all__ = ["decompressed_copy"]

# The first and the last bytes of a compressed file, which hold its checksums.
_ENDS: Final = 4096


def decompressed_copy(
    location: Location, directory: str | os.PathLike[str], *, arrays: bool = False
) -> Location:
    """Return the location of the decompressed copy of a file, which is made if there is none.

    Parameters
    ----------
    location : Location
        A file that may be compressed as a whole. Any other location is returned as it is.
    directory : path-like
        Where copies are kept; made if it does not exist. A copy is named after the file, and after
        a digest of its name, size, time, and first and last bytes. So it is found again, and a file
        that has changed gets another.
    arrays : bool
        Whether a ``.npy`` is decompressed too. Single arrays are not archives unless compressed.

    Notes
    -----
    A copy appears when it is whole and its checksums are right. Of several processes that need it,
    one makes it, and the others wait.

    Raises
    ------
    CorruptArchiveError
        The file is damaged.
    LimitError
        It decompresses to more than 1,000 times its size.
    OSError
        The copy cannot be written.
    """
    format = stream_format_of(location)
    if format is None:
        return location
    folder = locate(directory)
    if folder.local_path is None:
        raise OptionError(f"decompress_to must be a directory on this machine, got {directory!r}")
    with closing(location.open("pread")) as file:
        copy = folder.join(_copy_name(location, file))
        if not copy.exists():
            head = _head(file, format)
            if SingleFileContainer.accepts(head) and not (arrays and head.startswith(NPY_MAGIC)):
                return location
            folder.make_directory()
            with byte_progress(f"decompressing {location.name}") as progress:
                write = functools.partial(_decompress, file, format, progress)
                make_once(copy.path, write)
    return copy


def _copy_name(location: Location, file: FileStorage) -> str:
    digest = hashlib.blake2b(digest_size=8)
    digest.update(
        f"{location.name}\0{file.size}\0{file.identity}\0".encode(errors="surrogateescape")
    )
    ends = min(_ENDS, file.size)
    digest.update(file.read(0, ends))
    digest.update(file.read(file.size - ends, ends))
    stem, extension = os.path.splitext(plain_name(location.name))
    return f"{stem}-{digest.hexdigest()}{extension}"


def _head(file: FileStorage, format: StreamFormat) -> bytes:
    # A decoder may stop earlier, where one of the parts of the file ends.
    decoder = format.stream(file, 0, file.size, UNKNOWN_SIZE, file.path).start()
    return ForwardStorage(decoder, file.path).read(0, HEAD_BYTES)


def _decompress(
    file: FileStorage, format: StreamFormat, progress: Progress, target: BinaryIO
) -> None:
    decoder = format.stream(file, 0, file.size, UNKNOWN_SIZE, file.path).start()
    while data := decoder.next(STEP):
        check_expansion(file, decoder.position, format)
        target.write(data)
        progress(decoder.source, file.size)
    # What was overwritten meanwhile need not be damaged.
    file.check_unchanged()
