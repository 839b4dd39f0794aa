"""Decodes masks: images whose pixels are integers, such as the class at each place."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from imagearchive.images.decode import local_decoder
from imagearchive.images.pillow import ImageOptions, decode_with_pillow
from imagearchive.images.render import Decoder, UnsupportedPngError
from imagearchive.storage.limits import pixel_limits

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["decode_mask"]

INDEX: ImageOptions = ImageOptions(mode="index")


def decode_mask(encoded: Buffer, decoder: Decoder | None = None) -> npt.NDArray[Any]:
    """Decode a mask to the integers that its file stores.

    Parameters
    ----------
    encoded : buffer
        A palette or grayscale image, such as a PNG.
    decoder : Decoder, optional
        Holds buffers and ``max_pixels``. By default, the library keeps one for each thread.

    Returns
    -------
    ndarray of uint8, uint16, or int32, shape (H, W)
        Of a palette image, the indices. Of a grayscale image of 1, 2, or 4 bits, values up to 1, 3,
        or 15, which Pillow would spread over 0 to 255. Black is 0, also in a TIFF that stores 0
        for white.

    Raises
    ------
    DecodeError
        The data is not an image, is damaged, or has several channels.
    LimitError
        The image has more pixels than ``decoder.max_pixels``.
    """
    decoder = decoder or local_decoder()
    with contextlib.suppress(UnsupportedPngError):
        return decoder.decode_indices(encoded)
    limits = pixel_limits(decoder.max_pixels)
    return decode_with_pillow(encoded, INDEX, limits)[:, :, 0]
