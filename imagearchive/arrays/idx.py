"""Arrays in the IDX format, as MNIST and its relatives are distributed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.errors import DecodeError
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["IDX_TYPES", "parse_idx"]

#: The dtype for each type code, which is the third byte of a file.
IDX_TYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def parse_idx(data: Buffer) -> npt.NDArray[Any]:
    """Return the array in an IDX file, a copy in the byte order of this machine.

    A file is two zero bytes, a type code, the number of dimensions, the length of each as a
    big-endian uint32, and the elements in C order.

    Raises
    ------
    DecodeError
        It is not such a file, or not complete.
    """
    view = memoryview(data).cast("B")
    if len(view) < 4 or bytes(view[:2]) != b"\0\0" or view[2] not in IDX_TYPES:
        raise DecodeError("not an IDX file: it begins with other bytes")
    start = 4 + 4 * view[3]
    if len(view) < start:
        raise DecodeError(f"the header of the IDX file ends after {pluralize(len(view), 'byte')}")
    shape = tuple(np.frombuffer(view, ">u4", view[3], 4).tolist())
    dtype = np.dtype(IDX_TYPES[view[2]])
    if view[3] > 8 or math.prod(shape) * dtype.itemsize != len(view) - start:
        raise DecodeError(
            f"the IDX file has {len(view) - start} bytes for an array of shape {shape} and type "
            f"{dtype.name}; it is damaged"
        )
    elements = np.frombuffer(view[start:], dtype).astype(dtype.newbyteorder("="))
    try:
        return elements.reshape(shape)
    except ValueError as error:
        # Of arrays without elements, NumPy refuses some shapes.
        raise DecodeError(f"NumPy cannot make an array of shape {shape}: {error}") from error
