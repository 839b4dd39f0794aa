"""Decode and encode images with Pillow.

The result depends only on the bytes and the options, never on optional packages.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps

from imagearchive.errors import DecodeError, ImageArchiveError, LimitError, OptionError
from imagearchive.errors.arguments import check_choice, check_integer, check_sequence
from imagearchive.storage.limits import Limits, limit_hint, pixel_limits

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "FORMATS",
    "ImageHeader",
    "ImageMode",
    "ImageOptions",
    "decode_pillow",
    "decode_with_pillow",
    "encode_image",
    "image_format",
    "image_header",
    "image_orientation",
    "image_size",
    "save_image",
]

ImageMode = Literal["RGB", "L", "RGBA", "unchanged", "index"]

#: Extension to Pillow's name of the format to write.
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
# Formats that Pillow reads without starting another program, as it does for EPS.
_READ: Final = (*dict.fromkeys(FORMATS.values()), "JPEG2000", "AVIF")

# Reads of up to 1 KiB that are enough for any header; longer ones count more.
_HEADER_READS: Final = 1 << 14
# Pillow copies a block of plain text for each comment in it.
_PLAIN_PPM: Final = (b"P1", b"P2", b"P3")
_PPM_COMMENTS: Final = 1000
_PPM_COMMENT: Final = re.compile(rb"#[^\r\n]*[\r\n]?")
_PPM_FIELD: Final = re.compile(rb"(?:#[^\r\n]*[\r\n]?|[^\s#])+")
# Tags of TIFF and EXIF.
_BITS_PER_SAMPLE: Final = 258
_ORIENTATION: Final = 274
_TURNED: Final = {orientation: orientation for orientation in range(2, 9)}
# What a PNG has one of if it says an orientation.
_PNG_ORIENTATIONS: Final = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")

# What Pillow's plugins raise for damaged files, depending on format and version. Warnings are
# included because a program may turn them into errors.
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


class ImageHeader(NamedTuple):
    """What the header of an image says.

    Attributes
    ----------
    format : str
        Pillow's name of the format, such as ``"JPEG"``.
    mode : str
        Pillow's name of the color mode, such as ``"RGB"``, ``"L"``, or ``"I;16"``.
    width, height : int
        In pixels, before any EXIF orientation.
    """

    format: str
    mode: str
    width: int
    height: int


@dataclass(frozen=True)
class ImageOptions:
    """How an encoded image becomes an array.

    Attributes
    ----------
    mode : {"RGB", "L", "RGBA", "unchanged", "index"}
        ``RGB`` (3 channels), ``L`` (1) and ``RGBA`` (4) give uint8. ``unchanged`` keeps what the
        file has: uint16 for 16-bit grayscale, float32 for floating-point TIFF; palettes become
        colors. ``index`` is for masks: one channel of the integers that the file stores, which of
        a palette image are its indices; uint8, uint16, or int32.
    exif_transpose : bool
        Rotate the image by its EXIF orientation. Off by default, because boxes and labels refer to
        the stored pixels.
    background : sequence of 3 ints, optional
        Color (0 to 255) to composite transparent pixels on. Without it, alpha is dropped and the
        stored colors are kept.
    """

    mode: ImageMode = "RGB"
    exif_transpose: bool = False
    background: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, get_args(ImageMode))
        if self.background is not None:
            color = check_sequence("background", self.background, "three integers")
            if len(color) != 3:
                raise OptionError(f"background must be three integers, got {self.background!r}")
            for value in color:
                check_integer("background", value, 0, 255)


# Made once, since most images are decoded with these.
_OPTIONS: Final = ImageOptions()
_LIMITS: Final = Limits()


def decode_with_pillow(
    data: Buffer, options: ImageOptions | None = None, limits: Limits | None = None
) -> npt.NDArray[Any]:
    """Decode an image; the format is recognized by its content.

    Of an animation, the first frame is decoded; of a TIFF, the first page. 16-bit grayscale is
    reduced to its high byte, as Pillow does with 16-bit color. CMYK and YCCK become RGB without
    color profiles.

    Returns
    -------
    ndarray, shape (H, W, C)
        uint8 unless ``mode="unchanged"``. A new, writable array.

    Raises
    ------
    DecodeError
        The format is unknown, the data is damaged or truncated, or the values have no fixed range
        to map to 8 bits.
    LimitError
        The image has more pixels than ``limits.max_pixels``, or than Pillow's own limit if Pillow
        checks it for the format.
    """
    image = _decode(data, options or _OPTIONS, limits or _LIMITS)
    with _pillow_errors_as_ours("the image"):
        array = np.array(image)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    return array[:, :, None] if array.ndim == 2 else array


def decode_pillow(
    data: Buffer, options: ImageOptions | None = None, limits: Limits | None = None
) -> Image.Image:
    """Decode to a Pillow image; otherwise the same as `decode_with_pillow`."""
    image = _decode(data, options or _OPTIONS, limits or _LIMITS)
    # A plain image does not keep what was read from the file.
    return image.copy() if isinstance(image, ImageFile.ImageFile) else image


def _decode(data: Buffer, options: ImageOptions, limits: Limits) -> Image.Image:
    """Decode an image, which is still that of its file if it needs no conversion."""
    image = _open(data, limits)
    with _pillow_errors_as_ours(f"the {image.format} image"):
        stored_white = _stored_white(image, data) if options.mode == "index" else None
        image.load()
        if options.exif_transpose:
            image = _exif_transposed(image)
        if options.mode == "index":
            return _as_indices(image, stored_white)
        return _in_mode(image, options)


def image_size(data: Buffer) -> tuple[int, int]:
    """Return width and height of an image from its header, before any EXIF orientation.

    Raises
    ------
    DecodeError
        The format is unknown, or the header is damaged.
    """
    width, height = _open(data, pixel_limits(math.inf)).size
    return width, height


def image_format(data: Buffer) -> str:
    """Return Pillow's name of the format of an image, such as ``"JPEG"``, by its content.

    Raises
    ------
    DecodeError
        The format is unknown, or the header is damaged.
    """
    return image_header(data).format


def image_header(data: Buffer) -> ImageHeader:
    """Return what the header of an image says, without decoding its pixels.

    Raises
    ------
    DecodeError
        The format is unknown, or the header is damaged.
    """
    image = _open(data, pixel_limits(math.inf))
    name = str(image.format)
    return ImageHeader("JPEG" if name == "MPO" else name, image.mode, *image.size)


def image_orientation(data: Buffer, limits: Limits | None = None) -> int:
    """Return the EXIF orientation, 1 to 8, that ``exif_transpose=True`` undoes.

    It is 1 for a TIFF, which Pillow turns whatever it is asked for, and if the EXIF data is
    damaged.

    Raises
    ------
    DecodeError, LimitError
        As from `decode_with_pillow`.
    """
    raw = bytes(data)
    image = _open(raw, limits or _LIMITS)
    if image.format == "PNG" and not any(name in raw for name in _PNG_ORIENTATIONS):
        # Pillow would decode the pixels to look for a chunk behind them.
        return 1
    with _pillow_errors_as_ours(f"the {image.format} image"):
        # The orientation of a TIFF is gone once it is decoded.
        image.load()
        try:
            return _TURNED.get(image.getexif().get(_ORIENTATION, 1), 1)
        except _PILLOW_ERRORS:
            return 1


def _exif_transposed(image: Image.Image) -> Image.Image:
    try:
        transposed = ImageOps.exif_transpose(image)
    except _PILLOW_ERRORS:
        # The pixels are decoded already. Damaged EXIF data has no orientation.
        return image
    # Pillow drops it, but what the values of pixels mean depends on it.
    transposed.format = image.format
    return transposed


@contextlib.contextmanager
def _pillow_errors_as_ours(what: str) -> Iterator[None]:
    """Turn errors of Pillow into errors of this library."""
    try:
        yield
    except ImageArchiveError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # The plugins of GIF, TIFF and WebP check this limit, whatever `max_pixels` is.
        raise LimitError(
            f"{what}: {error} If you trust the archive, raise PIL.Image.MAX_IMAGE_PIXELS "
            f"(now {Image.MAX_IMAGE_PIXELS})"
        ) from error
    except _PILLOW_ERRORS as error:
        raise DecodeError(f"{what} is damaged or truncated: {error}") from error


class _CountedFile(io.BytesIO):
    """Limits how much Pillow's parsers do, whose time grows with the number of their reads.

    They go through markers, chunks, comments, and spaces in Python, some of them byte by byte, and
    some join parts again and again. An archive stores millions of such in a few kilobytes.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._size = len(data)
        self._left = _HEADER_READS

    def begin_pixels(self) -> None:
        """Allow what pixels need, now that the header has been read."""
        self._left = _HEADER_READS + self._size // 64

    def read(self, size: int | None = -1, /) -> bytes:
        """Return at most `size` bytes."""
        # Long reads are counted by their length, except those of values that are read whole.
        self._left -= 1 + (size >> 10 if size and 0 < size <= 1 << 16 else 0)
        if self._left < 0:
            raise DecodeError("an image file of too many small parts; it is made to take long")
        return super().read(size)


def _open(data: Buffer, limits: Limits) -> Image.Image:
    raw = data if isinstance(data, bytes) else bytes(data)
    if raw[:2] in _PLAIN_PPM and raw.count(b"#") > _PPM_COMMENTS:
        raise DecodeError(f"a PPM of more than {_PPM_COMMENTS} comments; it is made to take long")
    file = _CountedFile(raw)
    for name in _READ:
        # Not Image.open: it tries plugins that start other programs, and checks a limit of its
        # own, one for the whole process.
        if name not in Image.OPEN:
            Image.init()
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        answer = accept(raw[:16]) if accept else True
        # A string means that this Pillow recognizes the format but does not support it.
        if not answer or isinstance(answer, str):
            continue
        with _pillow_errors_as_ours(f"the header of the {name} image"):
            file.seek(0)
            image: Image.Image = factory(file, "")
        file.begin_pixels()
        width, height = image.size
        if width * height > limits.max_pixels:
            raise LimitError(
                f"the image has {width} x {height} pixels",
                hints=[limit_hint("max_pixels", limits.max_pixels)],
            )
        if name in ("JPEG", "MPO"):
            _check_scans(raw, _scan_limit(width * height))
        return image
    raise DecodeError(
        f"{len(raw)} bytes are not an image of a known format ({', '.join(_READ)})"
        if raw
        else "an empty member is not an image"
    )


def _scan_limit(pixels: int) -> int:
    """Return how many scans a JPEG may have; the twin of ``watch`` in native/jpeg.c."""
    return min(500, max(32, (1 << 30) // max(pixels, 1)))


def _check_scans(data: bytes, limit: int) -> None:
    """Refuse a JPEG of more scans, each of which can take a few bytes and visit every pixel."""
    # Few files have as many of these bytes anywhere. NumPy counts them faster than `bytes`.
    values = np.frombuffer(data, np.uint8)
    if np.count_nonzero((values[:-1] == 0xFF) & (values[1:] == 0xDA)) <= limit:
        return
    scans = 0
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        marker = data[position + 1]
        if marker == 0xD9:
            return
        if marker == 0xFF:
            position += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            position += 2
        else:
            scans += marker == 0xDA
            if scans > limit:
                raise DecodeError(f"a JPEG of more than {limit} scans; it is made to take long")
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


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
    # Transparency is dropped on purpose; Pillow would warn about a transparent palette entry.
    image.info.pop("transparency", None)
    if image.mode == "PA":
        image = image.convert("RGBA")
    # Converting to the same mode copies every pixel.
    return image if image.mode == mode else image.convert(mode)


def _as_indices(image: Image.Image, stored_white: int | None) -> Image.Image:
    """Return an image of the integers that its file stores; see `_stored_white`."""
    if image.mode == "1":
        return Image.fromarray(np.asarray(image).astype(np.uint8))
    if image.mode in ("L", "I"):
        white = 255 if image.mode == "L" else 65535
        if stored_white in (None, white):
            return image
        # Pillow has spread the values over the whole range.
        spread = np.asarray(image).astype(np.int64)
        return Image.fromarray(
            ((spread * stored_white + white // 2) // white).astype(np.asarray(image).dtype)
        )
    if image.mode == "P" or image.mode.startswith("I;16"):
        return image
    raise DecodeError(
        f"an image of Pillow's mode {image.mode} has no single integer for each pixel; masks are "
        f"palette or grayscale images"
    )


def _stored_white(image: Image.Image, data: Buffer) -> int | None:
    """Return the largest value that a grayscale file can store; None if Pillow keeps its values."""
    if image.format == "PNG":
        depth, color = bytes(memoryview(data)[24:26])
        return (1 << depth) - 1 if color == 0 and depth < 8 else None
    if image.format == "TIFF":
        depth = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))[0]
        return (1 << depth) - 1 if image.mode == "L" and 0 < depth < 8 else None
    if image.format == "PPM":
        fields = list(itertools.islice(_ppm_fields(data), 4))
        return int(fields[3]) if fields[0] in (b"P2", b"P5") else None
    return None


def _ppm_fields(data: Buffer) -> Iterator[bytes]:
    """Iterate over the fields of a PPM header, as Pillow divides it."""
    for match in _PPM_FIELD.finditer(data):
        field = _PPM_COMMENT.sub(b"", match[0])
        if field:
            yield field


def _eight_bits(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        # Pillow's own conversion would clip everything over 255 to white.
        high = np.clip(np.asarray(image).astype(np.int32), 0, 65535) >> 8
        return Image.fromarray(high.astype(np.uint8))
    if mode in ("I", "F"):
        raise DecodeError(
            f"samples of 32 bits (Pillow's mode {mode}) have no fixed range to map to 8 bits; "
            f"decode with mode='unchanged'"
        )
    return image


def _transparent(image: Image.Image) -> bool:
    return "A" in image.mode or "a" in image.mode or "transparency" in image.info


def encode_image(extension: str, array: npt.ArrayLike) -> bytes:
    """Encode an array as an image.

    Parameters
    ----------
    extension : str
        A key of `FORMATS`. JPEG is written with quality 95, WebP losslessly.
    array : array-like of uint8, shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
        PNG, TIFF and PPM also take uint16 of shape (H, W) or (H, W, 1).

    Raises
    ------
    DecodeError
        The format cannot hold such an array.
    """
    options: dict[str, Any] = {}
    if FORMATS[extension] == "JPEG":
        options["quality"] = 95
    elif FORMATS[extension] == "WEBP":
        options["lossless"] = True
    return save_image(extension, array, **options)


def save_image(extension: str, array: npt.ArrayLike, **options: Any) -> bytes:
    """Encode an array as an image with the options of Pillow's ``save``; see `encode_image`."""
    pixels = np.asarray(array)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    name = FORMATS[extension]
    target = io.BytesIO()
    try:
        if pixels.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"its dtype is {pixels.dtype}, not uint8")
        Image.fromarray(np.ascontiguousarray(pixels)).save(target, name, **options)
    except _PILLOW_ERRORS as error:
        raise DecodeError(
            f"an array of shape {pixels.shape} cannot be written as {name}: {error}"
        ) from error
    return target.getvalue()
