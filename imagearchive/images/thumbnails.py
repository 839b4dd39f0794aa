"""Small pictures of encoded images, decoded at a fraction of their size where that is possible."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.errors import DecodeError
from imagearchive.images.decode import (
    decode_image,
    image_orientation,
    local_decoder,
    oriented,
)
from imagearchive.images.geometry import Geometry, OutputFormat
from imagearchive.images.pillow import ImageOptions, decode_with_pillow, save_image
from imagearchive.images.render import Decoder, native_info
from imagearchive.storage.limits import pixel_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

__all__ = ["encode_thumbnail", "shrink", "thumbnail"]

_UINT8: Final = OutputFormat()
# At least what the resampling still reduces by: the fastest decoding there is.
_GAP: Final = 1.0
# How a JPEG begins, the one format without transparency that is worth a test.
_JPEG: Final = b"\xff\xd8\xff"


def thumbnail(
    encoded: Buffer,
    side: int,
    decoder: Decoder | None = None,
    exif_transpose: bool = True,
    background: Sequence[int] | None = None,
) -> npt.NDArray[np.uint8]:
    """Decode an image so that it fits into a square; smaller images keep their size.

    Parameters
    ----------
    encoded : buffer
        The bytes of an image file.
    side : int
        Side of the square in pixels.
    decoder : Decoder, optional
        By default, the library keeps one for each thread.
    exif_transpose : bool
        Rotate the image by its EXIF orientation.
    background : sequence of 3 ints, optional
        Color (0 to 255) behind transparent pixels. Without it, alpha is dropped.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    DecodeError, LimitError
        As `decode_image`.
    """
    decoder = decoder or local_decoder()
    info = native_info(encoded)
    if background is not None and bytes(memoryview(encoded)[:3]) != _JPEG:
        options = ImageOptions(exif_transpose=exif_transpose, background=background)
        array = decode_with_pillow(encoded, options, pixel_limits(decoder.max_pixels))
    elif info is not None:
        width, height, _, _ = info
        geometry = _fitting(width, height, side)
        geometry.min_reduction = _GAP
        out = np.empty((geometry.height, geometry.width, 3), np.uint8)
        with contextlib.suppress(DecodeError):
            decoder.render(encoded, geometry, _UINT8, out)
            return oriented(out, image_orientation(encoded)) if exif_transpose else out
        array = decode_image(encoded, decoder, exif_transpose)
    else:
        array = decode_image(encoded, decoder, exif_transpose)
    return shrink(array, side, decoder)


def shrink(
    pixels: npt.NDArray[np.uint8], side: int, decoder: Decoder | None = None
) -> npt.NDArray[np.uint8]:
    """Shrink an image of shape (H, W, 3) so that it fits into a square, as `thumbnail` does."""
    geometry = _fitting(pixels.shape[1], pixels.shape[0], side)
    out = np.empty((geometry.height, geometry.width, 3), np.uint8)
    (decoder or local_decoder()).render_array(pixels, geometry, _UINT8, out)
    return out


def _fitting(width: int, height: int, side: int) -> Geometry:
    geometry = Geometry(width, height)
    longer = max(width, height)
    if longer > side:
        new_width, new_height = (max(1, round(x * side / longer)) for x in (width, height))
        geometry.resize(new_width, new_height)
    return geometry


def encode_thumbnail(pixels: npt.NDArray[Any], quality: int = 80) -> bytes:
    """Encode a thumbnail as a JPEG.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (H, W, 3)
    quality : int
    """
    return save_image("jpg", pixels, quality=quality)
