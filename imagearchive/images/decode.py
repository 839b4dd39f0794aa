"""Encoded images to arrays: JPEG and PNG natively, the rest through Pillow.

Of a damaged image, Pillow decodes what it can, without a word. The native decoders refuse it, and
the functions of this module then ask Pillow, so that both ways give the same pixels.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagearchive.errors import DecodeError
from imagearchive.images.pillow import ImageOptions, decode_with_pillow
from imagearchive.images.pillow import image_orientation as orientation_by_pillow
from imagearchive.images.pillow import image_size as size_by_pillow
from imagearchive.images.render import (
    HAVE_JPEG,
    Decoder,
    UnsupportedJpegError,
    UnsupportedPngError,
    jpeg_info,
    native_info,
)
from imagearchive.storage.limits import pixel_limits

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "decode_image",
    "decode_refused",
    "find_damage",
    "image_orientation",
    "image_size",
    "local_decoder",
]

Array = npt.NDArray[Any]
_local = threading.local()
logger = logging.getLogger(__name__)


def local_decoder() -> Decoder:
    """Return the decoder of the calling thread, for calls that do not pass one."""
    decoder = getattr(_local, "decoder", None)
    if decoder is None:
        decoder = _local.decoder = Decoder()
    return decoder


def decode_image(
    encoded: Buffer, decoder: Decoder | None = None, exif_transpose: bool = False
) -> Array:
    """Decode an image to RGB.

    Parameters
    ----------
    encoded : buffer
        The bytes of a JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, JPEG 2000 or AVIF file.
    decoder : Decoder, optional
        Holds buffers and ``max_pixels``. By default, the library keeps one for each thread.
    exif_transpose : bool
        Rotate the image by its EXIF orientation.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        Other color spaces are converted and alpha is dropped, as by Pillow's ``convert("RGB")``.
        16-bit grayscale is reduced to its high byte. Of a damaged JPEG, the same as from Pillow,
        usually with the damaged part in gray or in stripes; `decoder.damaged_images` counts these.

    Raises
    ------
    DecodeError
        The data is not an image of these formats, or it is truncated, or so damaged that Pillow
        refuses it.
    LimitError
        The image has more pixels than ``decoder.max_pixels``.
    """
    decoder = decoder or local_decoder()
    if HAVE_JPEG and not exif_transpose:
        # One call, since for small images Python takes as long as a tenth of decoding.
        try:
            return decoder.decode(encoded)
        except DecodeError as error:
            if not _is_jpeg(encoded):
                return _by_pillow(encoded, decoder, False)
            return decode_refused(encoded, decoder, error)
    try:
        found = jpeg_info(encoded)
    except DecodeError as error:
        return decode_refused(encoded, decoder, error)
    if found is None:
        return _decode_other(encoded, decoder, exif_transpose)
    if HAVE_JPEG:
        try:
            array = decoder.decode(encoded)
        except DecodeError as error:
            array = decode_refused(encoded, decoder, error)
    else:
        _report_slow_build()
        array = _by_pillow(encoded, decoder, False)
    # The orientation is read the same way without libjpeg-turbo, so all builds agree.
    return oriented(array, found[3]) if exif_transpose else array


def _is_jpeg(encoded: Buffer) -> bool:
    try:
        return jpeg_info(encoded) is not None
    except DecodeError:
        return True


def decode_refused(encoded: Buffer, decoder: Decoder, error: DecodeError) -> Array:
    """Decode an image that the native decoder refused, if Pillow does not refuse it.

    The EXIF orientation is ignored.

    Raises
    ------
    DecodeError
        Pillow refuses the image, too. Of a JPEG, this is the error of the native decoder.
    """
    if isinstance(error, UnsupportedPngError):
        return _by_pillow(encoded, decoder, False)
    try:
        array = _by_pillow(encoded, decoder, False)
    except DecodeError:
        raise error from None
    if not isinstance(error, UnsupportedJpegError):
        decoder.damaged_images += 1
        decoder.damage = str(error)
    return array


def _decode_other(encoded: Buffer, decoder: Decoder, exif_transpose: bool) -> Array:
    """Decode an image that is not a JPEG."""
    info = native_info(encoded)
    if info is not None and (info[3] == 1 or not exif_transpose):
        with contextlib.suppress(UnsupportedPngError):
            return decoder.decode(encoded)
    return _by_pillow(encoded, decoder, exif_transpose)


def image_size(encoded: Buffer) -> tuple[int, int]:
    """Return width and height of an image from its header, before any EXIF orientation.

    Raises
    ------
    DecodeError
        The format is unknown, or the header is damaged.
    """
    found = jpeg_info(encoded) or native_info(encoded)
    return size_by_pillow(encoded) if found is None else (found[0], found[1])


def image_orientation(encoded: Buffer, decoder: Decoder | None = None) -> int:
    """Return the EXIF orientation, 1 to 8, that `decode_image` undoes if it is asked to.

    Raises
    ------
    DecodeError, LimitError
        As from `decode_image`, except for a JPEG and a PNG without metadata.
    """
    try:
        found = jpeg_info(encoded) or native_info(encoded)
    except DecodeError:
        return 1
    if found is not None and found[3]:
        return found[3]
    limits = pixel_limits((decoder or local_decoder()).max_pixels)
    return orientation_by_pillow(encoded, limits)


def find_damage(encoded: Buffer) -> str | None:
    """Return what is damaged in a JPEG, also where Pillow decodes it. None for other formats."""
    try:
        if HAVE_JPEG and jpeg_info(encoded) is not None:
            local_decoder().decode(encoded)
    except UnsupportedJpegError:
        return None
    except DecodeError as error:
        return str(error)
    return None


def oriented(array: Array, orientation: int) -> Array:
    """Rotate and mirror an (H, W, C) array by its EXIF orientation, 1 to 8."""
    if orientation in (3, 4, 7):
        array = array[::-1]
    if orientation in (2, 3, 7):
        array = array[:, ::-1]
    if orientation in (5, 7):
        array = array.transpose(1, 0, 2)
    if orientation in (6, 8):
        array = np.rot90(array, -1 if orientation == 6 else 1)
    return np.ascontiguousarray(array)


@cache
def _report_slow_build() -> None:
    """Log, once a process, that this build has no native decoder for JPEGs."""
    logger.warning(
        "this build of imagearchive has no libjpeg-turbo, so Pillow decodes each JPEG whole, which "
        "is slower; install a wheel, or install the headers of libjpeg-turbo (libjpeg62-turbo-dev "
        "on Debian, libjpeg-turbo8-dev on Ubuntu, jpeg-turbo in Homebrew) and build again"
    )


def _by_pillow(encoded: Buffer, decoder: Decoder, exif_transpose: bool) -> Array:
    options = ImageOptions(exif_transpose=exif_transpose)
    return decode_with_pillow(encoded, options, pixel_limits(decoder.max_pixels))
