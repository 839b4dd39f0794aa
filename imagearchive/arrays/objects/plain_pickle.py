"""Loads whole pickles of plain values and arrays, without `pickle`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from imagearchive.arrays.objects.unpickler import PlainUnpickler
from imagearchive.errors import UnsafePickleError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["load_plain_pickle"]

_BINARY: int = 0x80


def load_plain_pickle(data: Buffer, where: str) -> Any:
    """Return the value in a pickle of protocol 2 to 5; nothing in it is executed.

    Text of Python 2 becomes `str` if it is ASCII, otherwise `bytes`.

    Raises
    ------
    UnsafePickleError
        It contains something besides plain values, NumPy arrays, scalars, and dtypes, or is of an
        older protocol.
    DecodeError
        It is damaged.
    LimitError
        It is nested more than 256 levels deep, or repeats its values too often.
    """
    view = memoryview(data).cast("B")
    if not len(view) or view[0] != _BINARY:
        raise UnsafePickleError(f"{where}: not a pickle of protocol 2 to 5")
    none32, none64 = np.zeros(0, np.uint32), np.zeros(0, np.uint64)
    unpickler = PlainUnpickler(
        lambda offset, size: view[offset : offset + size], where, none32, none32, none64, none64
    )
    return unpickler.whole(len(view))
