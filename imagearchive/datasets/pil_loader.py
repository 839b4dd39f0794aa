"""`pil_loader`: images decoded with Pillow."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Final

from imagearchive.errors import LimitError
from imagearchive.errors.hints import Hint
from imagearchive.images.pillow import decode_pillow
from imagearchive.images.render import MAX_PIXELS
from imagearchive.storage.limits import Limits

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["pil_loader"]

# The same limit as that of the native decoder.
PIXELS: Final = Limits(max_pixels=MAX_PIXELS)


def pil_loader(file: BinaryIO) -> Image.Image:
    """Decode an image file with Pillow.

    Parameters
    ----------
    file : binary file object
        A JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, JPEG 2000 or AVIF. Pass another loader for Pillow's
        other formats, such as `PIL.Image.open`, which may start programs to decode them.

    Returns
    -------
    PIL.Image.Image
        Loaded, in mode RGB, with the same pixels as from `DecodedView` and `DataLoader`.

    Raises
    ------
    DecodeError
        It is not an image of these formats, or it is truncated or damaged.
    LimitError
        It has more than 178,956,970 pixels, as a malicious file may.
    """
    try:
        return decode_pillow(file.read(), limits=PIXELS)
    except LimitError as error:
        # The limit is not an argument of a dataset.
        hints = [Hint("another loader", "that decodes such images, if you trust the archive")]
        raise LimitError(error.message, hints=hints if error.hints else ()) from error
