"""What one encoded image tells about itself."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagearchive.errors import ImageArchiveError
from imagearchive.images.decode import decode_image, image_orientation, local_decoder
from imagearchive.images.pillow import image_header

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Measured", "channel_moments", "difference_hash", "digest_of", "measure"]

_SQUARES: Final = np.arange(256, dtype=np.int64) ** 2
_HASH_WIDTH: Final = 9
_HASH_HEIGHT: Final = 8


class Measured(NamedTuple):
    """What one image tells about itself.

    Attributes
    ----------
    digest : bytes
        16 bytes that files of the same content share.
    problem : str
        What is wrong with it; empty if nothing is.
    decoded : bool
        Whether it was decoded, at least in part. Otherwise the values below are not known.
    format, mode : str
        As Pillow calls them.
    width, height : int
        In pixels, before any EXIF orientation.
    orientation : int
        By EXIF, 1 to 8.
    mean, mean_square : tuple of 3 floats
        Of the red, green, and blue of its pixels, from 0 to 1.
    hash : int or None
        See `difference_hash`.
    """

    digest: bytes
    problem: str = ""
    decoded: bool = False
    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    orientation: int = 1
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mean_square: tuple[float, float, float] = (0.0, 0.0, 0.0)
    hash: int | None = None


def digest_of(encoded: Buffer) -> bytes:
    """Return 16 bytes that files of the same content share."""
    return hashlib.blake2b(encoded, digest_size=16).digest()


def measure(encoded: Buffer) -> Measured:
    """Decode an image and measure it; a broken image is a result, too.

    The pixels are those of `decode_image`: 8-bit RGB, without the EXIF orientation.
    """
    digest = digest_of(encoded)
    decoder = local_decoder()
    damaged = decoder.damaged_images
    try:
        header = image_header(encoded)
        pixels = decode_image(encoded, decoder)
        orientation = image_orientation(encoded, decoder)
    except ImageArchiveError as error:
        return Measured(digest, error.message)
    except MemoryError:
        return Measured(digest, "not enough memory to decode it")
    problem = "" if decoder.damaged_images == damaged else (decoder.damage or "damaged")
    mean, mean_square = channel_moments(pixels)
    return Measured(
        digest,
        problem,
        True,
        header.format,
        header.mode,
        header.width,
        header.height,
        orientation,
        mean,
        mean_square,
        difference_hash(pixels),
    )


Triple = tuple[float, float, float]


def channel_moments(pixels: npt.NDArray[np.uint8]) -> tuple[Triple, Triple]:
    """Return the mean of each channel and of its squares, of values from 0 to 1.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (H, W, 3)
    """
    counts = np.array(Image.fromarray(pixels).histogram(), np.int64).reshape(3, 256)
    count = pixels.shape[0] * pixels.shape[1]
    means = (counts @ np.arange(256)) / (255.0 * count)
    squares = (counts @ _SQUARES) / (255.0**2 * count)
    return tuple(means.tolist()), tuple(squares.tolist())


def difference_hash(pixels: npt.NDArray[Any]) -> int | None:
    """Return 64 bits that images that look alike share, but for a few.

    Each bit says whether a pixel of the image, shrunk to 9 x 8 and in gray, is darker than the one
    to its right (N. Krawetz, "Kind of like that", 2013). Copies in another size or format differ
    in few bits.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (H, W, 3)

    Returns
    -------
    int or None
        None for an image that is smaller than that, or so uniform that the bits mean nothing.
    """
    height, width = pixels.shape[:2]
    if width < _HASH_WIDTH or height < _HASH_HEIGHT:
        return None
    gray = Image.fromarray(pixels).convert("L")
    small = np.asarray(gray.resize((_HASH_WIDTH, _HASH_HEIGHT), Image.Resampling.LANCZOS), np.int16)
    bits = small[:, 1:] > small[:, :-1]
    # Where most steps are as small as rounding, their signs are chance.
    if np.count_nonzero(np.abs(np.diff(small, axis=1)) > 2) < bits.size // 4:
        return None
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
