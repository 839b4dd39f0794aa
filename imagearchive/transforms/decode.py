"""Encoded images to arrays: JPEG natively, the rest through Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from imagearchive._pixels import HAVE_JPEG, Decoder, jpeg_info
from imagearchive.errors import DecodeError, LimitError
from imagearchive.transforms.transform import Array, local_decoder

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ImageInfo", "decode_image", "image_info"]

# What Pillow's readers raise on damaged files, by experience a little of everything.
PILLOW_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
EXIF_ORIENTATION = 0x0112


class ImageInfo(NamedTuple):
    """What the headers of an encoded image say.

    Attributes
    ----------
    width, height : int
        In pixels, as stored: EXIF orientation is not applied.
    channels : int
        1 for grey, 3 for colour, 4 for CMYK or alpha.
    is_jpeg : bool
        Whether it is a JPEG.
    orientation : int
        Of EXIF, 1 to 8.
    """

    width: int
    height: int
    channels: int
    is_jpeg: bool
    orientation: int


def image_info(encoded: Buffer) -> ImageInfo:
    """Read the headers of an encoded image; for a JPEG this takes about a microsecond.

    Raises
    ------
    DecodeError
        It is no image, or its headers are damaged.
    """
    found = jpeg_info(encoded)
    if found is not None:
        width, height, channels, orientation = found
        return ImageInfo(width, height, channels, True, orientation)
    with _opened(encoded) as image:
        try:
            orientation = int(image.getexif().get(EXIF_ORIENTATION, 1))
        except PILLOW_ERRORS:
            orientation = 1  # EXIF is a decoration; the image may still be whole
        channels = len(image.getbands())
        return ImageInfo(image.width, image.height, channels, False, orientation)


def decode_image(
    encoded: Buffer, decoder: Decoder | None = None, exif_transpose: bool = False
) -> Array:
    """Decode an image to RGB.

    Parameters
    ----------
    encoded : buffer
        The bytes of a JPEG, PNG, or whatever else Pillow reads.
    decoder : Decoder, optional
        For its buffers and its ``max_pixels``; by default one of the calling thread.
    exif_transpose : bool
        Turn the image as its EXIF orientation says.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        Grey is repeated, CMYK and palettes are converted, alpha is dropped, all as by Pillow's
        ``convert("RGB")``.

    Raises
    ------
    DecodeError
        The image is truncated or damaged.
    LimitError
        It has more pixels than ``decoder.max_pixels``.
    """
    decoder = decoder or local_decoder()
    found = jpeg_info(encoded)
    if found is None or not HAVE_JPEG:
        return _by_pillow(encoded, decoder, exif_transpose)
    array = decoder.decode(encoded)
    return oriented(array, found[3]) if exif_transpose else array


def oriented(array: Array, orientation: int) -> Array:
    """Turn an (H, W, C) array as EXIF orientation 1 to 8 says."""
    if orientation in (3, 4, 7):
        array = array[::-1]
    if orientation in (2, 3, 7):
        array = array[:, ::-1]
    if orientation in (5, 7):
        array = array.transpose(1, 0, 2)
    if orientation in (6, 8):
        array = np.rot90(array, -1 if orientation == 6 else 1)
    return np.ascontiguousarray(array)


def _opened(encoded: Buffer) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded))
    except Image.DecompressionBombError as error:
        raise LimitError(f"{error}; raise PIL.Image.MAX_IMAGE_PIXELS if it is trusted") from None
    except PILLOW_ERRORS as error:
        raise DecodeError(f"not an image that Pillow knows, or damaged: {error}") from error


def _by_pillow(encoded: Buffer, decoder: Decoder, exif_transpose: bool) -> Array:
    with _opened(encoded) as image:
        if image.width * image.height > decoder.max_pixels:
            raise LimitError(
                f"{image.width} x {image.height} pixels are more than max_pixels="
                f"{decoder.max_pixels}; pass a larger one if the image is trusted"
            )
        try:
            turned = ImageOps.exif_transpose(image) if exif_transpose else image
            return np.array((turned or image).convert("RGB"))
        except PILLOW_ERRORS as error:
            raise DecodeError(f"damaged or truncated {image.format}: {error}") from error
