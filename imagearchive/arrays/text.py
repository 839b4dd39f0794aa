"""Text in arrays: fixed-width strings, whose characters are numbers."""

from __future__ import annotations

import sys
from typing import Any

import numpy.typing as npt

__all__ = ["text_item"]


def text_item(array: npt.NDArray[Any], index: int) -> str | bytes:
    """Return an element of a one-dimensional array of dtype ``U`` or ``S`` as `str` or `bytes`.

    Raises
    ------
    ValueError
        A character is outside Unicode. NumPy does not check it: it makes a string that is not
        valid, or raises SystemError.
    """
    try:
        text: str | bytes = array[index].item()
    except SystemError as error:
        raise ValueError("characters outside Unicode") from error
    if isinstance(text, str) and not text.isascii():
        characters = array[index : index + 1].view(f"{array.dtype.byteorder}u4")
        if characters.max() > sys.maxunicode:
            raise ValueError("characters outside Unicode")
    return text
