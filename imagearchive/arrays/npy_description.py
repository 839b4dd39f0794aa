"""The literal in a ``.npy`` header, which describes the dtype, shape, and order of an array."""

from __future__ import annotations

import contextlib
import functools
import re
from reprlib import repr as _short
from typing import Any, Final

import numpy as np

from imagearchive.arrays.literals import parse_literal
from imagearchive.errors import CorruptArchiveError, OptionTypeError

__all__ = ["build_description", "parse_description"]

_MAX_DIMENSIONS: Final = 64

# What NumPy writes for arrays of 1 to 8 dimensions, which need not be parsed token by token.
_LENGTH = "(?:0|[1-9][0-9]{0,18})"
_USUAL_HEADER: Final = re.compile(
    r"\{'descr': (?P<descr>'[^'\\\n]{1,40}'|\[[^\n]{1,1000}\]), "
    r"'fortran_order': (?P<fortran_order>True|False), "
    rf"'shape': \((?P<shape>{_LENGTH},|{_LENGTH}(?:, {_LENGTH}){{1,7}})\), \}} *\n"
)
_LEAF: Final = re.compile(r"[<>=|]?[?A-Za-z][0-9A-Za-z_]*(?:\[[0-9A-Za-z/]*\])?")


def parse_description(
    raw: bytes | memoryview, encoding: str, where: str
) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Return the dtype and the shape that a header describes, and whether its order is Fortran's.

    Raises
    ------
    CorruptArchiveError
        It is not a description of an array.
    """
    try:
        text = str(raw, encoding)
        usual = _USUAL_HEADER.fullmatch(text)
        if usual is not None:
            # If anything is wrong with it, what follows says where.
            with contextlib.suppress(CorruptArchiveError):
                lengths = tuple(map(int, usual["shape"].rstrip(",").split(",")))
                return _parse_descr(usual["descr"]), lengths, usual["fortran_order"] == "True"
        value = parse_literal(text)
    except ValueError as error:
        raise CorruptArchiveError(f"{where}: unreadable .npy header: {error}") from error
    if not isinstance(value, dict) or set(value) != {"descr", "fortran_order", "shape"}:
        raise CorruptArchiveError(
            f"{where}: the .npy header is not a dict of descr, fortran_order and shape"
        )
    shape, fortran_order = value["shape"], value["fortran_order"]
    if (
        not isinstance(shape, tuple)
        or len(shape) > _MAX_DIMENSIONS
        or any(type(length) is not int for length in shape)
    ):
        raise CorruptArchiveError(f"{where}: the .npy header has an invalid shape: {_short(shape)}")
    if type(fortran_order) is not bool:
        raise CorruptArchiveError(f"{where}: the .npy header has an invalid fortran_order")
    return _dtype(value["descr"], where), shape, fortran_order


@functools.lru_cache(maxsize=64)
def _parse_descr(text: str) -> np.dtype[Any]:
    """Return the dtype of a ``descr`` literal; the same few occur in file after file."""
    return _dtype(parse_literal(text), "descr")


def _dtype(descr: Any, where: str) -> np.dtype[Any]:
    _check_descr(descr, where)
    try:
        # Annotated for strings and lists of fields only, but it accepts sub-arrays as well.
        dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(descr)
    except (TypeError, ValueError, KeyError, IndexError, MemoryError, OverflowError) as error:
        raise CorruptArchiveError(
            f"{where}: the .npy header has an invalid dtype: {_short(descr)}"
        ) from error
    return dtype


def _check_descr(descr: Any, where: str) -> None:
    """Accept only names of types, lists of fields and sub-arrays."""
    if isinstance(descr, str):
        # NumPy warns about the deprecated letter "a" for "S".
        valid = _LEAF.fullmatch(descr) is not None and descr.lstrip("<>=|")[:1] != "a"
    elif isinstance(descr, tuple):
        valid = len(descr) == 2 and _is_shape(descr[1])
        if valid:
            _check_descr(descr[0], where)
    elif isinstance(descr, list):
        valid = all(
            isinstance(field, tuple)
            and len(field) in {2, 3}
            and _is_name(field[0])
            and (len(field) == 2 or _is_shape(field[2]))
            for field in descr
        )
        if valid:
            for field in descr:
                _check_descr(field[1], where)
    else:
        valid = False
    if not valid:
        raise CorruptArchiveError(f"{where}: the .npy header has an invalid dtype: {_short(descr)}")


def _is_shape(value: Any) -> bool:
    lengths = value if isinstance(value, tuple) else (value,)
    return all(type(length) is int for length in lengths)


def _is_name(value: Any) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and all(isinstance(part, str) for part in value)
    return isinstance(value, str)


def build_description(dtype: np.dtype[Any], shape: tuple[int, ...], fortran_order: bool) -> str:
    """Return the literal that describes an array.

    Raises
    ------
    OptionTypeError
        The dtype contains objects, or overlapping fields.
    """
    if dtype.hasobject:
        raise OptionTypeError(
            f"{dtype}: arrays of objects can only be written as a pickle; convert the values "
            f"to numbers or strings"
        )
    try:
        descr = np.lib.format.dtype_to_descr(dtype)
    except ValueError as error:
        raise OptionTypeError(
            f"{dtype}: the .npy format cannot express this dtype: {error}"
        ) from error
    return f"{{'descr': {descr!r}, 'fortran_order': {fortran_order}, 'shape': {shape!r}, }}"
