"""Images to arrays and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from imagearchive.codecs.codec import Codec, DecodeOptions
from imagearchive.images.pillow import decode_with_pillow, encode_image

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ImageCodec"]


class ImageCodec(Codec):
    """Images, by Pillow. The extension decides only which format is written."""

    def __init__(self, extension: str) -> None:
        self._extension = extension

    def decode(self, data: Buffer, options: DecodeOptions, stored_size: int) -> npt.NDArray[Any]:
        """Return an array of shape (H, W, C)."""
        return decode_with_pillow(data, options.image, options.limits)

    def encode(self, value: Any, allow_pickle: bool) -> bytes:
        """Write an array of shape (H, W) or (H, W, C)."""
        return encode_image(self._extension, value)
