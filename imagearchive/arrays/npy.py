"""Reads and writes the headers of ``.npy`` arrays.

A header is a Python literal inside the file. It is read with a length limit and parsed by
`imagearchive.arrays.literals`, so a header cannot run code, crash the parser by deep nesting, or
take much more time or memory than its own length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from imagearchive.arrays.npy_description import build_description, parse_description
from imagearchive.errors import (
    CorruptArchiveError,
    LimitError,
    OptionError,
    UnsupportedMemberError,
)
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "ALIGNMENT",
    "MAX_EMPTY_ELEMENTS",
    "MAX_HEADER",
    "MAX_HEADERS",
    "HeaderBudget",
    "NpyHeader",
    "build_header",
    "iter_bytes",
    "parse_header",
    "write_array",
    "write_header",
]

MAGIC: Final = b"\x93NUMPY"

#: Data written by this module begins at a multiple of this many bytes in the file: one cache line,
#: which is enough for every dtype and vector instruction.
ALIGNMENT: Final = 64

#: Longest header that is read, in bytes. NumPy stops at 10,000 characters, because its parser
#: becomes slow and may crash on hostile text, and tells users to allow pickles instead; but the
#: header of a table with 500 named columns is longer. The parser makes longer headers safe. 128 KiB
#: is enough for 5,000 columns.
MAX_HEADER: Final = 1 << 17

#: Most bytes of headers that one archive may describe beyond the bytes that it stores for them.
#: Headers deflate well: 200 of them, each as long as possible, fit in 100 kB.
MAX_HEADERS: Final = 1 << 20

#: Most elements of no bytes (``<U0``) in one array. No file bounds their number, but NumPy gives
#: each of them memory when the array is copied.
MAX_EMPTY_ELEMENTS: Final = 1 << 20

_MAX_BYTES: Final = 2**63 - 1
# How much is written at a time, which is still in the cache of a processor when the system copies
# it.
_WRITE_BYTES: Final = 1 << 19
# Enough for nearly every header, so that one read suffices.
_FIRST_READ: Final = 256


class _Source(Protocol):
    """The part of a storage that `parse_header` needs."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> bytes | memoryview: ...


@dataclass(frozen=True)
class NpyHeader:
    """The contents of a ``.npy`` header.

    Attributes
    ----------
    dtype : numpy.dtype
        Type of an element, including its byte order.
    shape : tuple of int
        Empty for a 0-d array.
    fortran_order : bool
        Whether the first index varies fastest in the data.
    data_offset : int
        Number of bytes from the start of the ``.npy`` to its data.
    version : tuple of int
        Version of the header format: (1, 0), (2, 0) or (3, 0).
    itemsize : int
        Size of an element in bytes. An object array stores a pickle of any length instead.
    row_size : int
        Size of ``array[i]`` in bytes, or of the whole array if it is 0-d.
    count : int
        Number of elements.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    data_offset: int
    version: tuple[int, int]
    itemsize: int
    row_size: int
    count: int

    @property
    def has_objects(self) -> bool:
        """Whether the data is a pickle instead of elements of a fixed size."""
        return self.dtype.hasobject

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes; meaningless if `has_objects`."""
        return self.itemsize * self.count


def parse_header(
    source: Buffer | _Source,
    offset: int = 0,
    member_size: int | None = None,
    *,
    where: str,
    max_header: int = MAX_HEADER,
) -> NpyHeader:
    """Read and check the header of a ``.npy``.

    Parameters
    ----------
    source : bytes-like or Storage
        The bytes or file that contains the array.
    offset : int
        Start of the ``.npy`` in `source`.
    member_size : int, optional
        Length of the ``.npy`` in bytes; by default it extends to the end of `source`. The data that
        the header describes must fit in it. Bytes after the data are allowed, as by `numpy.load`.
    where : str
        Name of the array in messages: file and member.
    max_header : int
        Longest header in bytes that is read.

    Returns
    -------
    NpyHeader

    Raises
    ------
    CorruptArchiveError
        The bytes are not a ``.npy`` header, or the header describes more data than there is.
    UnsupportedMemberError
        The header has a version, length or dtype that is not supported.
    LimitError
        The header describes more than `MAX_EMPTY_ELEMENTS` elements of zero bytes.

    Notes
    -----
    Threads and processes can call it at once if they can share `source`.
    """
    read, available = _reader(source)
    size = available - offset if member_size is None else member_size
    if offset < 0 or size < 0 or offset + size > available:
        raise CorruptArchiveError(
            f"{where}: a range of {pluralize(size, 'byte')} at offset {offset} is not within the "
            f"file of {pluralize(available, 'byte')}; it is truncated, or its index belongs to "
            "another file"
        )
    head = read(offset, min(size, _FIRST_READ))
    start, length, version = _measure(head, size, where, offset, max_header)
    text = head[start : start + length]
    if len(text) < length:
        text = read(offset + start, length)
    encoding = "utf-8" if version == (3, 0) else "latin-1"
    dtype, shape, fortran_order = parse_description(text, encoding, f"{where} at offset {offset}")
    data_offset = start + length
    count = math.prod(shape)
    _check_extent(dtype, shape, size - data_offset, f"{where} at offset {offset}")
    return NpyHeader(
        dtype=dtype,
        shape=shape,
        fortran_order=fortran_order,
        data_offset=data_offset,
        version=version,
        itemsize=dtype.itemsize,
        row_size=dtype.itemsize * math.prod(shape[1:]),
        count=count,
    )


def build_header(
    dtype: npt.DTypeLike,
    shape: tuple[int, ...],
    fortran_order: bool = False,
    align: int = ALIGNMENT,
    at: int = 0,
    size: int | None = None,
) -> bytes:
    """Make a ``.npy`` header whose data begins at an aligned position in the file.

    Parameters
    ----------
    dtype : dtype-like
        Type of an element, without objects.
    shape : tuple of int
        Shape of the array.
    fortran_order : bool
        Whether the first index varies fastest in the data.
    align : int
        The data begins at a multiple of this many bytes in the file.
    at : int
        Position of the header in the file.
    size : int, optional
        Length of the header in bytes, instead of `align`. Use it for a header that is overwritten
        when the shape is known.

    Returns
    -------
    bytes
        Magic, version, length, literal, and spaces up to the aligned position. `numpy.load` can
        read it.

    Raises
    ------
    OptionTypeError
        The dtype contains objects, or overlapping fields, which the format cannot express.
    OptionError
        `align`, `at` or `shape` is negative, or the header is longer than `size`.
    """
    if align < 1 or at < 0 or any(length < 0 for length in shape):
        raise OptionError(
            f"align must be at least 1, and at and shape at least 0; got align={align}, at={at}, "
            f"shape={shape}"
        )
    literal = build_description(
        np.dtype(dtype), tuple(int(length) for length in shape), fortran_order
    )
    try:
        text = literal.encode("latin-1")
        widths = {1: 2, 2: 4}
    except UnicodeEncodeError:
        text = literal.encode("utf-8")
        widths = {3: 4}
    for version, width in widths.items():
        prefix = len(MAGIC) + 2 + width
        needed = prefix + len(text) + 1
        total = needed + -(at + needed) % align if size is None else size
        if total < needed:
            raise OptionError(
                f"size={size} is too small: the header of {dtype} {shape} needs "
                f"{pluralize(needed, 'byte')}"
            )
        length = total - prefix
        if length < 1 << 8 * width:
            start = MAGIC + bytes([version, 0]) + length.to_bytes(width, "little")
            return start + text + b" " * (total - needed) + b"\n"
    raise OptionError(f"{dtype}: the header of {len(text)} bytes is longer than the format allows")


class HeaderBudget:
    """Limits how many bytes of headers a compressed archive makes its readers parse.

    Threads may share it; the limit is then not exact.
    """

    def __init__(self) -> None:
        self._excess = 0

    def parse(self, member: _Source, stored_size: int, where: str) -> NpyHeader:
        """Parse the header of a member that takes `stored_size` bytes in the archive.

        Raises
        ------
        LimitError
            The headers of the archive have `MAX_HEADERS` bytes more than it stores for them.
        CorruptArchiveError, UnsupportedMemberError
            As `parse_header`.
        """
        if self._excess > MAX_HEADERS:
            raise LimitError(
                f"{where}: the .npy headers of this archive exceed the bytes that it stores for "
                f"them by more than {MAX_HEADERS}; save it without compression if you trust it"
            )
        length = min(member.size, MAX_HEADER)
        try:
            header = parse_header(member, where=where)
            length = header.data_offset
        finally:
            # Short headers of small arrays deflate to a little less, at any number of them.
            if length > _FIRST_READ:
                self._excess += max(0, length - stored_size)
        return header


class _Target(Protocol):
    def write(self, data: Any, /) -> Any: ...

    def tell(self) -> int: ...


def write_array(file: _Target, array: npt.NDArray[Any], align: int = ALIGNMENT) -> int:
    """Write an array as ``.npy`` at the current position of a binary file, its data aligned.

    Parameters
    ----------
    file : binary file
        The header begins at ``file.tell()``; several arrays may be written in sequence.
    array : ndarray
        Any dtype without objects. An array that is contiguous in neither order is copied in
        chunks of about 1 MiB.
    align : int
        The data begins at a multiple of this many bytes in the file.

    Returns
    -------
    int
        Number of bytes written.

    Raises
    ------
    OptionTypeError
        The array contains objects.
    """
    size = write_header(file, array, align)
    for chunk in iter_bytes(array, file.tell()):
        file.write(chunk)
    return size + array.nbytes


def write_header(file: _Target, array: npt.NDArray[Any], align: int = ALIGNMENT) -> int:
    """Write only the header of an array; arguments, errors, and result as for `write_array`."""
    header = build_header(array.dtype, array.shape, _is_fortran(array), align, file.tell())
    file.write(header)
    return len(header)


def iter_bytes(array: npt.NDArray[Any], position: int = 0) -> Iterator[memoryview]:
    """Return the bytes of an array as `write_array` writes them, in chunks of 512 KiB or less.

    A large array is never passed to the system as a whole. It would take memory for all of it in
    the largest units, and where a virtual machine has given those back, getting them again takes
    ten times as long as copying the bytes.

    Parameters
    ----------
    array : ndarray
    position : int
        Where in the file the bytes begin. Chunks then end at multiples of their size.
    """
    if not array.nbytes:
        return
    for part in _contiguous_chunks(array.T if _is_fortran(array) else array):
        data = part.reshape(-1).view(np.uint8).data
        start = 0
        while start < len(data):
            end = start + _WRITE_BYTES - (position + start) % _WRITE_BYTES
            yield data[start:end]
            start = end
        position += len(data)


def _is_fortran(array: npt.NDArray[Any]) -> bool:
    return bool(array.flags.f_contiguous and not array.flags.c_contiguous)


def _contiguous_chunks(array: npt.NDArray[Any]) -> Iterable[npt.NDArray[Any]]:
    """Return C-contiguous arrays that make up `array` when they are concatenated."""
    if array.flags.c_contiguous:
        return [array]
    if not array.ndim or array.nbytes <= 1 << 20:
        return [np.ascontiguousarray(array)]
    rows = max(1, (1 << 20) * len(array) // array.nbytes)
    return (np.ascontiguousarray(array[i : i + rows]) for i in range(0, len(array), rows))


def _reader(source: Any) -> tuple[Any, int]:
    if isinstance(getattr(source, "size", None), int) and hasattr(source, "read"):
        return source.read, source.size
    view = memoryview(source).cast("B")
    return lambda offset, size: view[offset : offset + size], len(view)


def _measure(
    head: bytes | memoryview, size: int, where: str, offset: int, max_header: int
) -> tuple[int, int, tuple[int, int]]:
    """Return the start and length of the literal, and the version."""
    if bytes(head[:6]) != MAGIC or len(head) < 10:
        raise CorruptArchiveError(
            f"{where}: not a .npy array at offset {offset}: it begins with {bytes(head[:6])!r}"
        )
    version = (head[6], head[7])
    if version not in {(1, 0), (2, 0), (3, 0)}:
        raise UnsupportedMemberError(
            f"{where}: the .npy header at offset {offset} has version {version[0]}.{version[1]}, "
            f"but only 1.0, 2.0 and 3.0 are supported; the file is damaged or has a newer format"
        )
    start = 10 if version == (1, 0) else 12
    length = int.from_bytes(head[8:start], "little")
    if start + length > size or len(head) < start:
        raise CorruptArchiveError(
            f"{where}: the .npy header at offset {offset} claims {pluralize(length, 'byte')}, but "
            f"the array has only {size}; the file is truncated or damaged"
        )
    if length > max_header:
        raise UnsupportedMemberError(
            f"{where}: the .npy header at offset {offset} has {pluralize(length, 'byte')}, but at "
            f"most {max_header} are read; the file is damaged, or its dtype has too many fields"
        )
    return start, length, version


def _check_extent(dtype: np.dtype[Any], shape: tuple[int, ...], payload: int, where: str) -> None:
    # NumPy, too, refuses a shape if the product of its non-zero lengths overflows.
    if any(length < 0 for length in shape) or (
        math.prod(length for length in shape if length) * max(dtype.itemsize, 1) > _MAX_BYTES
    ):
        raise CorruptArchiveError(f"{where}: the .npy header has an invalid shape: {shape}")
    count = math.prod(shape)
    if not dtype.itemsize and count > MAX_EMPTY_ELEMENTS:
        raise LimitError(
            f"{where}: the .npy header describes too many elements of zero bytes: {count}, but at "
            f"most {MAX_EMPTY_ELEMENTS} are read"
        )
    # In a pickle, each element takes at least one byte.
    needed = count if dtype.hasobject else count * dtype.itemsize
    if needed > payload:
        raise CorruptArchiveError(
            f"{where}: an array of {dtype} {shape} needs {pluralize(needed, 'byte')}, but only "
            f"{payload} follow its header; the file is truncated or damaged"
        )
