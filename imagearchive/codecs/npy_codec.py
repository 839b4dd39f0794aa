"""``.npy`` arrays, without `pickle` unless it is allowed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from imagearchive.arrays.idx import parse_idx
from imagearchive.arrays.npy import NpyHeader, parse_header
from imagearchive.arrays.objects.array import ObjectArray
from imagearchive.codecs.codec import Codec, DecodeOptions, unsafe_pickle
from imagearchive.errors import DecodeError, LimitError, UnsafePickleError
from imagearchive.errors.hints import Hint
from imagearchive.storage.limits import Limits
from imagearchive.storage.local import MemoryStorage

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["IdxCodec", "NpyCodec", "decode_npy", "encode_npy"]


class NpyCodec(Codec):
    """Arrays. Those of plain Python objects are decoded without `pickle`."""

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> npt.NDArray[Any]:
        """Return the array: writable, with memory of its own."""
        return decode_npy(data, options.limits, options.allow_pickle)

    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Write what `numpy.asarray` makes of the value."""
        return encode_npy(value, allow_pickle)


class IdxCodec(Codec):
    """Arrays in the IDX format of MNIST, which are not written."""

    can_encode = False

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> npt.NDArray[Any]:
        """Return the array, writable and in the byte order of this machine."""
        return parse_idx(data)

    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Never called, since `can_encode` is false."""
        raise NotImplementedError


def decode_npy(data: Buffer, limits: Limits, allow_pickle: bool) -> npt.NDArray[Any]:
    """Decode a whole ``.npy``."""
    header = parse_header(data, where="npy array")
    if header.has_objects:
        return _decode_objects(data, header, allow_pickle)
    order: Literal["C", "F"] = "F" if header.fortran_order else "C"
    if not header.nbytes:
        return _empty(header, limits)
    flat = np.frombuffer(memoryview(data), header.dtype, header.count, header.data_offset)
    # A copy: the caller may write to it, and it does not keep a mapped archive open.
    return np.array(flat.reshape(header.shape, order=order))


def _decode_objects(data: Buffer, header: NpyHeader, allow_pickle: bool) -> npt.NDArray[Any]:
    if allow_pickle:
        array: npt.NDArray[Any] = np.load(io.BytesIO(bytes(data)), allow_pickle=True)
        return array
    if header.dtype != object:
        raise unsafe_pickle("an array of records with Python objects")
    storage = MemoryStorage(data, "npy array")
    try:
        return ObjectArray(storage, header.data_offset, header.shape, "its objects").whole()
    except UnsafePickleError as error:
        refused = unsafe_pickle("such an array")
        raise UnsafePickleError(
            f"{error.message}; {refused.message}", hints=refused.hints
        ) from error


def _empty(header: NpyHeader, limits: Limits) -> npt.NDArray[Any]:
    # NumPy allocates memory even for elements of zero bytes, and the header may claim any number.
    if header.count > limits.allowed(0):
        raise LimitError(f"too many elements of zero bytes: shape {header.shape}")
    try:
        # Not np.zeros, which makes <U1 of <U0.
        return np.ndarray(header.shape, header.dtype)
    except ValueError as error:
        raise DecodeError(f"NumPy cannot make an array of shape {header.shape}: {error}") from error


def encode_npy(value: Any, allow_pickle: bool) -> bytes:
    """Encode what `numpy.asarray` makes of a value as a whole ``.npy``."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DecodeError(f"NumPy cannot make an array of it: {error}") from error
    if array.dtype.hasobject and not allow_pickle:
        raise UnsafePickleError(
            "an array of Python objects can only be written as a pickle, which readers refuse by "
            "default; store numbers or fixed-width strings",
            hints=[Hint("allow_pickle=True", "to write it all the same")],
        )
    target = io.BytesIO()
    np.save(target, array, allow_pickle=allow_pickle)
    return target.getvalue()
