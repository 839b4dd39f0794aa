"""From the bytes of a member to the value of a field."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.codecs.codec import DecodeOptions
from imagearchive.codecs.codec_registry import CODECS, decode_member, extension_of
from imagearchive.codecs.npy_codec import decode_npy
from imagearchive.codecs.npz_arrays import NpzArrays
from imagearchive.codecs.value_codecs import JsonCodec, TextCodec
from imagearchive.errors import DecodeError, MemberNotFoundError
from imagearchive.errors.arguments import shorten
from imagearchive.images.decode import decode_image
from imagearchive.images.masks import decode_mask
from imagearchive.transforms.compound_fields import Npz
from imagearchive.transforms.fields import (
    Array,
    Boxes,
    Bytes,
    Field,
    Image,
    Json,
    Keypoints,
    Label,
    Mask,
    Text,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.images.render import Decoder

__all__ = ["decode_field", "decode_npz", "split_classes"]

_OPTIONS: Final = DecodeOptions()
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")

#: Returns width and height of the image that boxes or points are in.
SizeOf = Callable[[], tuple[int, int]]


def decode_field(
    field: Field, name: str, data: Buffer, size_of: SizeOf, decoder: Decoder | None = None
) -> Any:
    """Return the value of a field that is not an `Npz`.

    Parameters
    ----------
    field : Field
    name : str
        Of the member; its extension says how it is decoded.
    data : bytes-like
    size_of : callable
        Called for boxes and points that are relative to the size of their image.
    decoder : Decoder, optional
        For images and masks.

    Raises
    ------
    DecodeError, LimitError, UnsupportedMemberError
        The bytes are damaged, or are not of this kind.
    """
    if type(field) is Image and field.decoder is None:
        return decode_image(data, decoder)
    name, data = _decompress(name, data)
    if field.decoder is not None:
        return convert(field, field.decoder(data), size_of)
    if isinstance(field, Bytes):
        return bytes(data)
    if isinstance(field, Text):
        return TextCodec().decode(data, _OPTIONS, len(memoryview(data)))
    if isinstance(field, Json):
        return JsonCodec().decode(data, _OPTIONS, len(memoryview(data)))
    if isinstance(field, Mask) and extension_of(name) not in ("npy", "json", "txt"):
        return decode_mask(data, decoder)
    if isinstance(field, (Boxes, Keypoints, Label, Mask, Array)):
        return convert(field, _numbers(extension_of(name), data), size_of)
    return decode_member(name, data, _OPTIONS, {})


def decode_npz(field: Npz, data: Buffer, size_of: SizeOf) -> dict[str, Any]:
    """Return the arrays of an `Npz`, each converted to its kind.

    Raises
    ------
    DecodeError
        The bytes are not an NPZ, or it lacks one of ``field.kinds``.
    """
    arrays: Mapping[str, Any] = NpzArrays(data) if field.decoder is None else field.decoder(data)
    if field.kinds is None:
        return {str(name): arrays[name] for name in arrays}
    values = {}
    for name, kind in field.kinds.items():
        try:
            array = arrays[name]
        except MemberNotFoundError as error:
            raise DecodeError(str(error.message)) from error
        values[name] = convert(kind, array, size_of)
    return values


def _decompress(name: str, data: Buffer) -> tuple[str, Buffer]:
    """Undo the compressions that the extensions of a name say."""
    stored = memoryview(data).nbytes
    extension = extension_of(name)
    while extension in CODECS and CODECS[extension].stackable:
        data = CODECS[extension].decode(data, _OPTIONS, stored)
        name = name[: -len(extension) - 1]
        extension = extension_of(name)
    return name, data


def _numbers(extension: str, data: Buffer) -> Any:
    """Return the numbers in a file as an array, or as what JSON makes of them."""
    if extension == "npy":
        return decode_npy(data, _OPTIONS.limits, allow_pickle=False)
    if extension == "json":
        return JsonCodec().decode(data, _OPTIONS, memoryview(data).nbytes)
    text = TextCodec().decode(data, _OPTIONS, memoryview(data).nbytes)
    rows = [line.replace(",", " ").split() for line in text.split("\n")]
    return [row for row in rows if row]


def convert(field: Field, value: Any, size_of: SizeOf) -> Any:
    """Return a decoded value as its kind promises it."""
    if isinstance(field, Mask):
        return _as_mask(value)
    if isinstance(field, Boxes):
        return _as_boxes(field, value, size_of)
    if isinstance(field, Keypoints):
        return _as_keypoints(field, value, size_of)
    if isinstance(field, Label):
        return _as_label(value)
    if isinstance(field, Array) and not isinstance(value, np.ndarray):
        return _as_array(value)
    return value


def _as_array(value: Any) -> npt.NDArray[Any]:
    """Return the numbers in a text file or a JSON document as an array."""
    try:
        array = np.asarray(value)
        if array.dtype.kind == "U":
            whole = all(map(_is_integer, array.ravel().tolist()))
            array = array.astype(np.int64 if whole else np.float64)
    except (ValueError, OverflowError) as error:
        raise DecodeError(f"an array must be rows of equally many numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise DecodeError(f"an array must be numbers, or lists of them, got {shorten(value)}")
    return array


def _as_mask(value: Any) -> npt.NDArray[Any]:
    array = np.asarray(value)
    if array.ndim not in (2, 3) or array.dtype.kind not in "bui":
        raise DecodeError(
            f"a mask must hold integers of shape (H, W) or (N, H, W), got {array.dtype} of shape "
            f"{array.shape}"
        )
    return array


def _as_floats(value: Any, what: str) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise DecodeError(f"{what} must be rows of equally many numbers: {error}") from error
    if not np.isfinite(array).all():
        raise DecodeError(f"{what} must be finite numbers")
    return array


def _as_boxes(field: Boxes, value: Any, size_of: SizeOf) -> npt.NDArray[np.float64]:
    """Return boxes as corners in pixels, with their classes in a fifth column if they have any."""
    array = _as_floats(value, "boxes")
    if not array.size:
        array = np.zeros((0, array.shape[1] if array.ndim == 2 and array.shape[1] else 4))
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[1] not in (4, 5):
        raise DecodeError(f"boxes must have 4 numbers each, or a class and 4, got {array.shape}")
    classes, four = array[:, :-4], array[:, -4:]
    corners = four.copy()
    if field.format != "xyxy":
        if field.format == "cxcywh":
            corners[:, :2] -= four[:, 2:] / 2
        corners[:, 2:] = corners[:, :2] + four[:, 2:]
    if field.relative and len(corners):
        width, height = size_of()
        corners *= (width, height, width, height)
    return np.concatenate([corners, classes], axis=1)


def split_classes(
    boxes: npt.NDArray[np.float64], wants_classes: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64] | None]:
    """Return boxes of shape (n, 4), and their classes; None if neither file nor field has them.

    Raises
    ------
    DecodeError
        The file has classes that no field takes, lacks those that one does, or they are not
        integers.
    """
    corners = boxes[:, :4].astype(np.float32)
    if boxes.shape[1] == 4:
        if wants_classes and len(boxes):
            raise DecodeError("boxes have 4 numbers each, so there is no class for labels=")
        return corners, np.zeros(0, np.int64) if wants_classes else None
    if not wants_classes:
        raise DecodeError(
            "boxes have five numbers each; pass labels='NAME' to Boxes to make the first a field "
            "of its own, the classes"
        )
    classes = boxes[:, 4].astype(np.int64)
    if (classes != boxes[:, 4]).any():
        raise DecodeError("the classes of boxes, their first numbers, must be integers")
    return corners, classes


def _as_keypoints(field: Keypoints, value: Any, size_of: SizeOf) -> npt.NDArray[np.float32]:
    array = _as_floats(value, "keypoints")
    widths = (2, 3) if field.visibility is None else (3,) if field.visibility else (2,)
    if not array.size:
        array = np.zeros((0, widths[0]))
    if array.ndim not in (2, 3) or array.shape[-1] not in widths:
        raise DecodeError(
            f"keypoints must have {' or '.join(map(str, widths))} numbers each, got shape "
            f"{array.shape}"
        )
    if field.relative and array.size:
        array = array.copy()
        array[..., :2] *= size_of()
    return array.astype(np.float32)


def _as_label(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(row, list) for row in value):
        # The rows of a text file.
        flat = [item for row in value for item in row]
        if len(flat) == 1:
            value = int(flat[0]) if _is_integer(flat[0]) else flat[0]
        else:
            value = flat
    if type(value) is int:
        return value
    array = _as_floats(value, "a label")
    if isinstance(value, np.ndarray):
        return value if value.ndim else value.item()
    if not array.size:
        raise DecodeError("a label must have at least one number")
    return array if array.ndim else float(array)


def _is_integer(text: Any) -> bool:
    return isinstance(text, int) or (isinstance(text, str) and bool(_INTEGER.fullmatch(text)))
