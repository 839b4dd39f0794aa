"""The globals that a pickled array may use: plain Python types, NumPy arrays, scalars and dtypes.

Each handler takes the arguments that a pickle passes to one allowed global, checks all of them, and
makes the value itself. No handler calls anything that a pickle chose.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.arrays.npy import MAX_EMPTY_ELEMENTS
from imagearchive.arrays.text import text_item
from imagearchive.errors.plurals import pluralize

__all__ = [
    "DTYPE",
    "FROMBUFFER",
    "GLOBALS",
    "NDARRAY",
    "RECONSTRUCT",
    "array_from_state",
    "dtype_from_state",
]

_CODE: Final = re.compile(r"[|<>=]?([biufcSUVOMm?])([0-9]{0,9})\Z")
_UNITS: Final = frozenset(["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"])
_ALIGNED_STRUCT: Final = 0x80
_LATIN: Final = ("latin1", "latin-1")


def array_from_state(
    version: object, shape: object, dtype: object, fortran: object, data: object
) -> npt.NDArray[Any]:
    """Make a new, aligned, writable array from an ``ndarray.__setstate__`` state.

    Raises
    ------
    ValueError
        The parts do not match.
    """
    if version != 1:
        raise ValueError(f"array state of version {version!r:.40}")
    dimensions = _check_shape(shape)
    if not isinstance(dtype, np.dtype):
        raise TypeError("an array without a dtype")
    order: Any = "F" if fortran else "C"
    if dtype.hasobject:
        if dtype != np.dtype(object) or type(data) is not list:
            raise ValueError(f"an array of dtype {dtype} holds objects in fields")
        if len(data) != math.prod(dimensions):
            raise ValueError(f"{pluralize(len(data), 'object')} for an array of shape {dimensions}")
        return np.fromiter(data, object, len(data)).reshape(dimensions).copy(order)
    if type(data) is str:
        data = data.encode("latin1")
    array = _array_from_bytes(data, dtype, dimensions, order)
    if not dtype.isnative and dtype.names is None:
        # NumPy, too, converts arrays from this state to the byte order of the machine.
        native = dtype.newbyteorder("=")
        if not array.nbytes:
            return _array_from_bytes(b"", native, dimensions, order)
        return array.astype(native)
    return array


def frombuffer(
    data: object, dtype: object, shape: object, order: object, axes: object = None
) -> npt.NDArray[Any]:
    """Make a new array from a protocol 5 pickle, as NumPy's function of that name does."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise TypeError("a buffer without a dtype of plain items")
    dimensions = _check_shape(shape)
    if order not in ("C", "F", "K", "A"):
        raise ValueError("an array in an unknown order")
    array = _array_from_bytes(data, dtype, dimensions, "F" if order == "F" else "C")
    return array if axes is None else array.transpose(_check_shape(axes))


def scalar(dtype: object, data: object) -> Any:
    """Make a NumPy scalar."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise TypeError("a scalar without a plain dtype")
    if type(data) is str:
        data = data.encode("latin1")
    array = _array_from_bytes(data, dtype, (), "C")
    if dtype.kind == "U":
        text_item(array.reshape(1), 0)
    return array[()]


def dtype_from_state(
    code: str,
    version: object,
    endian: object,
    subdtype: object,
    names: object,
    fields: object,
    itemsize: object,
    alignment: object,
    flags: object,
    metadata: object = None,
) -> np.dtype[Any]:
    """Make a dtype from its code and a ``dtype.__setstate__`` state. User metadata is dropped."""
    match = _CODE.match(code)
    if match is None:
        raise ValueError(f"dtype code {code!r:.40}")
    if version not in (3, 4) or endian not in ("<", ">", "|", "="):
        raise ValueError(f"dtype state of version {version!r:.40} and order {endian!r:.40}")
    if type(itemsize) is not int or type(flags) is not int:
        raise TypeError("dtype state without sizes")
    kind, digits = match.groups()
    prefix = "" if endian == "|" else str(endian)
    result: np.dtype[Any]
    if subdtype is not None:
        if type(subdtype) is not tuple or len(subdtype) != 2:
            raise ValueError("dtype of an array without base and shape")
        base, shape = subdtype
        if not isinstance(base, np.dtype):
            raise TypeError("dtype of an array without base")
        result = np.dtype((base, _check_shape(shape)))
    elif names is not None:
        result = _structured_dtype(names, fields, itemsize, bool(flags & _ALIGNED_STRUCT))
    elif kind in "Mm":
        result = np.dtype(f"{prefix}{kind}8{_datetime_unit(metadata)}")
    else:
        result = np.dtype(f"{prefix}{kind}{digits}")
    if itemsize not in (-1, result.itemsize):
        raise ValueError(f"dtype {code!r} of {pluralize(itemsize, 'byte')}")
    return result


def _structured_dtype(names: object, fields: object, itemsize: int, align: bool) -> np.dtype[Any]:
    if type(names) is not tuple or type(fields) is not dict:
        raise TypeError("structured dtype without fields")
    formats, offsets, titles = [], [], []
    for name in names:
        field = fields.get(name)
        if type(field) is not tuple or not 2 <= len(field) <= 3:
            raise ValueError(f"structured dtype without the field {name!r:.40}")
        if not isinstance(field[0], np.dtype) or type(field[1]) is not int or field[1] < 0:
            raise TypeError(f"structured dtype with a bad field {name!r:.40}")
        formats.append(field[0])
        offsets.append(field[1])
        titles.append(field[2] if len(field) == 3 else None)
    spec: dict[str, Any] = {
        "names": list(names),
        "formats": formats,
        "offsets": offsets,
        "itemsize": itemsize,
    }
    if any(title is not None for title in titles):
        spec["titles"] = titles
    make: Any = np.dtype  # its stub lacks titles and itemsize
    result: np.dtype[Any] = make(spec, align=align)
    return result


def _datetime_unit(metadata: object) -> str:
    unit = metadata[1] if type(metadata) is tuple and len(metadata) == 2 else None
    if type(unit) is not tuple or len(unit) != 4 or type(unit[1]) is not int:
        raise ValueError("date dtype without a unit")
    name = unit[0].decode("ascii", "replace") if type(unit[0]) is bytes else unit[0]
    if name == "generic":
        return ""
    if name not in _UNITS or not 0 < unit[1] < 2**31:
        raise ValueError(f"date dtype with the unit {name!r:.40}")
    return f"[{unit[1]}{name}]"


def _check_shape(shape: object) -> tuple[int, ...]:
    if type(shape) is not tuple or len(shape) > 64:
        raise TypeError("an array without a shape")
    for length in shape:
        if type(length) is not int or not 0 <= length < 2**63:
            raise ValueError(f"an array of shape {shape!r:.80}")
    return shape


def _array_from_bytes(
    data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any
) -> npt.NDArray[Any]:
    if type(data) not in (bytes, bytearray, memoryview):
        raise TypeError(f"array data of type {type(data).__name__}")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{pluralize(len(data), 'byte')} for an array of shape {shape} and dtype {dtype}"
        )
    if not len(data):
        if not dtype.itemsize and math.prod(shape) > MAX_EMPTY_ELEMENTS:
            raise ValueError(f"an array of shape {shape} whose elements have no bytes")
        # np.empty would give strings of length 0 a longer dtype.
        return np.ndarray(shape, dtype, order=order)
    # A view, which may be unaligned and read-only, and then the only copy.
    return np.ndarray(shape, dtype, data, order=order).copy("K")


def _encode(text: object, encoding: object) -> bytes:
    if type(text) is not str or encoding not in _LATIN:
        raise ValueError("text with an encoding other than Latin-1")
    return text.encode("latin1")


def _set(items: object = ()) -> set[Any]:
    return set(_set_items(items))


def _frozenset(items: object = ()) -> frozenset[Any]:
    return frozenset(_set_items(items))


def _set_items(items: object) -> list[Any]:
    if type(items) is not list:
        raise TypeError("a set whose items are not a list")
    return items


def _bytearray(data: object = b"", encoding: object = None) -> bytearray:
    if type(data) is str:
        data = _encode(data, encoding)
    if type(data) is not bytes:
        raise TypeError("a bytearray that is not made from bytes")
    return bytearray(data)


def _bytes() -> bytes:
    return b""


def _complex(real: object, imaginary: object) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise TypeError("a complex number that is not made from floats")
    return complex(real, imaginary)


def _ordered_dict() -> OrderedDict[Any, Any]:
    return OrderedDict()


NDARRAY: Final = "ndarray"
DTYPE: Final = "dtype"
RECONSTRUCT: Final = "reconstruct"
FROMBUFFER: Final = frombuffer

#: The only globals that a stream may use, with their handlers.
GLOBALS: Final[dict[tuple[str, str], str | Callable[..., Any]]] = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): DTYPE,
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy.core.multiarray", "scalar"): scalar,
    ("numpy._core.multiarray", "scalar"): scalar,
    ("numpy.core.numeric", "_frombuffer"): frombuffer,
    ("numpy._core.numeric", "_frombuffer"): frombuffer,
    ("_codecs", "encode"): _encode,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("builtins", "frozenset"): _frozenset,
    ("__builtin__", "frozenset"): _frozenset,
    ("builtins", "bytearray"): _bytearray,
    ("__builtin__", "bytearray"): _bytearray,
    ("builtins", "bytes"): _bytes,
    ("__builtin__", "bytes"): _bytes,
    ("builtins", "complex"): _complex,
    ("__builtin__", "complex"): _complex,
    ("collections", "OrderedDict"): _ordered_dict,
}
