"""Encoded images to arrays and back, through Pillow and nothing else.

The answer depends on the bytes and the options alone, never on which optional packages are there.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from imagearchive.errors import DecodeError, ImageArchiveError, LimitError, OptionError
from imagearchive.errors.hints import Hint
from imagearchive.storage.limits import Limits

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "FORMATS",
    "ImageMode",
    "ImageOptions",
    "check_image",
    "decode_image",
    "decode_pillow",
    "encode_image",
]

ImageMode = Literal["RGB", "L", "RGBA", "unchanged"]

#: Extension -> Pillow's name of the format that is written.
FORMATS: Final = {
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "bmp": "BMP",
    "webp": "WEBP",
    "tif": "TIFF",
    "tiff": "TIFF",
    "ppm": "PPM",
}
# Those that a program never has to be started for, as Ghostscript for EPS.
_READ: Final = (*dict.fromkeys(FORMATS.values()), "JPEG2000", "AVIF")

# What Pillow's plugins let through for damaged files, depending on format and version. Warnings
# are among them where the program turns warnings into errors.
_PILLOW_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class ImageOptions:
    """How an encoded image becomes an array.

    Attributes
    ----------
    mode : {"RGB", "L", "RGBA", "unchanged"}
        ``RGB`` (3 channels), ``L`` (1), ``RGBA`` (4) are uint8. ``unchanged`` keeps what the file
        has: uint16 for 16-bit grey, float32 for floating-point TIFF, palette images as colours.
    exif_transpose : bool
        Turn the image as its EXIF orientation says. Off by default, as boxes and labels refer to
        the pixels as they are stored.
    background : sequence of 3 ints, optional
        Colour (0 to 255) on which transparent pixels are composited. Without it, alpha is dropped
        and the colours stay as they are stored.
    """

    mode: ImageMode = "RGB"
    exif_transpose: bool = False
    background: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(ImageMode):
            raise OptionError(f"mode={self.mode!r}: choose one of {', '.join(get_args(ImageMode))}")
        background = self.background
        if background is not None and (
            len(background) != 3 or not all(0 <= int(value) <= 255 for value in background)
        ):
            raise OptionError(f"background={background!r}: give three numbers from 0 to 255")


def decode_image(
    data: Buffer, options: ImageOptions | None = None, limits: Limits | None = None
) -> npt.NDArray[Any]:
    """Decode an image, whatever of the known formats its content is.

    The first frame of an animation and the first page of a TIFF are taken. 16-bit grey is reduced
    to its high byte, as Pillow does with 16-bit colour; CMYK and YCCK become RGB without colour
    profiles.

    Returns
    -------
    ndarray, shape (H, W, C)
        uint8 unless ``mode="unchanged"``; writable, and the caller's own.

    Raises
    ------
    DecodeError
        No known format, damaged, truncated, or without a meaning in 8 bits.
    LimitError
        The image has more than ``limits.max_pixels``, or more than Pillow's own limit where a
        format checks that.
    """
    image = decode_pillow(data, options, limits)
    with _ours("the image"):
        array = np.array(image)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    return array[:, :, None] if array.ndim == 2 else array


def decode_pillow(
    data: Buffer, options: ImageOptions | None = None, limits: Limits | None = None
) -> Image.Image:
    """Decode an image to Pillow's kind of it; otherwise as `decode_image`."""
    options = options or ImageOptions()
    image = _open(data, limits or Limits())
    with _ours(f"the {image.format} image"):
        image.load()
        if options.exif_transpose:
            image = ImageOps.exif_transpose(image)
        return _in_mode(image, options)


def check_image(data: Buffer, limits: Limits | None = None) -> tuple[int, int]:
    """Decode an image and return its (width, height); raises as `decode_image` does."""
    image = _open(data, limits or Limits())
    with _ours(f"the {image.format} image"):
        image.load()
    return image.size


@contextlib.contextmanager
def _ours(what: str) -> Iterator[None]:
    """Raise errors of this library for those of Pillow."""
    try:
        yield
    except ImageArchiveError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Checked by the plugins of GIF, TIFF and WebP, whatever `max_pixels` allows.
        raise LimitError(
            f"{what}: {error} If the archive can be trusted, raise PIL.Image.MAX_IMAGE_PIXELS "
            f"(now {Image.MAX_IMAGE_PIXELS})"
        ) from error
    except _PILLOW_ERRORS as error:
        raise DecodeError(f"{what} is damaged or truncated: {error}") from error


def _open(data: Buffer, limits: Limits) -> Image.Image:
    raw = data if isinstance(data, bytes) else bytes(data)
    file = io.BytesIO(raw)
    for name in _READ:
        # Image.open would try plugins that start other programs, and would hold a limit of its
        # own, one for the whole process, against ours.
        if name not in Image.OPEN:
            Image.init()
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        answer = accept(raw[:16]) if accept else True
        # A text says that the format was recognised but is not supported by this Pillow.
        if not answer or isinstance(answer, str):
            continue
        with _ours(f"the header of the {name} image"):
            file.seek(0)
            image: Image.Image = factory(file, "")
        width, height = image.size
        if width * height > limits.max_pixels:
            raise LimitError(
                f"an image of {width}x{height} pixels",
                hints=[
                    Hint(
                        "max_pixels",
                        f"to raise the limit (now {limits.max_pixels}) if you trust the archive",
                    )
                ],
            )
        return image
    raise DecodeError(
        f"{len(raw)} bytes that are no image of a known format ({', '.join(_READ)})"
        if raw
        else "an empty member is no image"
    )


def _in_mode(image: Image.Image, options: ImageOptions) -> Image.Image:
    mode = options.mode
    if mode == "unchanged":
        if image.mode in ("P", "PA"):
            return image.convert("RGBA" if _transparent(image) else "RGB")
        return image.convert("L") if image.mode == "1" else image
    image = _eight_bits(image)
    if mode == "RGBA":
        return image.convert("RGBA")
    if options.background is not None and _transparent(image):
        layer = image.convert("RGBA")
        red, green, blue = (int(value) for value in options.background)
        image = Image.new("RGBA", image.size, (red, green, blue, 255))
        image.alpha_composite(layer)
    # A transparent palette entry would make Pillow warn that it is dropped, which is the rule.
    image.info.pop("transparency", None)
    if image.mode == "PA":
        image = image.convert("RGBA")
    return image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        # Pillow's own conversion would clip: everything over 255 would be white.
        high = np.clip(np.asarray(image).astype(np.int32), 0, 65535) >> 8
        return Image.fromarray(high.astype(np.uint8))
    if mode in ("I", "F"):
        raise DecodeError(
            f"samples of 32 bits (Pillow's mode {mode}) have no range that could be mapped to 8 "
            f"bits; decode with mode='unchanged'"
        )
    return image


def _transparent(image: Image.Image) -> bool:
    return "A" in image.mode or "a" in image.mode or "transparency" in image.info


def encode_image(extension: str, array: npt.ArrayLike) -> bytes:
    """Encode an array as an image.

    Parameters
    ----------
    extension : str
        A key of `FORMATS`. JPEG is written with quality 95, WebP without loss.
    array : array-like of uint8, shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
        Also uint16 of shape (H, W) or (H, W, 1) for PNG, TIFF and PPM.

    Raises
    ------
    DecodeError
        The format cannot hold such an array.
    """
    pixels = np.asarray(array)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    extra: dict[str, Any] = {}
    name = FORMATS[extension]
    if name == "JPEG":
        extra["quality"] = 95
    elif name == "WEBP":
        extra["lossless"] = True
    target = io.BytesIO()
    try:
        if pixels.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"its dtype is {pixels.dtype}, not uint8")
        Image.fromarray(np.ascontiguousarray(pixels)).save(target, name, **extra)
    except _PILLOW_ERRORS as error:
        raise DecodeError(
            f"an array of shape {pixels.shape} cannot be written as {name}: {error}"
        ) from error
    return target.getvalue()
