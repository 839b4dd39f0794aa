"""How `repack` writes images: resized and encoded again, or as they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagearchive.images.decode import image_orientation, image_size
from imagearchive.images.pillow import FORMATS, image_format, save_image
from imagearchive.transforms import CenterCrop, Compose, Resize
from imagearchive.transforms.pipeline import Pipeline, compile_pipeline

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.images.geometry import Geometry
    from imagearchive.images.random import Stream
    from imagearchive.transforms.moves import GeometryMove

__all__ = ["FORMAT_EXTENSIONS", "ImageFormat", "Recipe"]

ImageFormat = Literal["jpeg", "png", "webp"]
FORMAT_EXTENSIONS: Final[dict[ImageFormat, str]] = {"jpeg": "jpg", "png": "png", "webp": "webp"}
# By Pillow's name of a format.
_EXTENSIONS: Final = {FORMATS[end]: end for end in FORMAT_EXTENSIONS.values()}
# As in Pillow's `thumbnail`: decoding at a fraction of the size changes a pixel by less than one
# gray level in the mean.
REDUCING_GAP: Final = 2.0
# The EXIF tag.
_ORIENTATION: Final = 0x0112


class _Shrink(Resize):
    """`Resize` that leaves an image alone whose shorter side is not longer."""

    def add_to(self, geometry: Geometry | GeometryMove, stream: Stream | None) -> None:
        if self.height is not None or min(geometry.width, geometry.height) > self.width:
            super().add_to(geometry, stream)


@dataclass(frozen=True)
class Recipe:
    """How images are written.

    Attributes
    ----------
    resize : int, (int, int), or None
        Length of the shorter side at most, or width and height. None keeps the sizes.
    format : {"jpeg", "png", "webp"} or None
        None keeps the format of each image, but makes PNGs of other formats where they change.
    quality : int
        Of JPEG and WebP.
    """

    resize: int | tuple[int, int] | None
    format: ImageFormat | None
    quality: int

    @property
    def changes_nothing(self) -> bool:
        """Whether every image is written as it is."""
        return self.resize is None and self.format is None

    @cached_property
    def pipeline(self) -> Pipeline:
        """Decodes and resizes images that get no larger."""
        return _compile([] if self.resize is None else [_Shrink(*self._sides())])

    @cached_property
    def fixed_pipeline(self) -> Pipeline:
        """Gives all images one size; of a shorter side, the square in the middle."""
        steps: list[Any] = [Resize(*self._sides())]
        if isinstance(self.resize, int):
            steps.append(CenterCrop(self.resize))
        return _compile(steps)

    def _sides(self) -> tuple[int, int | None]:
        assert self.resize is not None
        return (self.resize, None) if isinstance(self.resize, int) else self.resize

    def keeps(self, encoded: Buffer) -> bool:
        """Whether an image is written as it is."""
        if self.format is not None:
            wanted = FORMATS[FORMAT_EXTENSIONS[self.format]]
            if image_format(encoded) != wanted:
                return False
        if self.resize is None:
            return True
        size = image_size(encoded)
        return min(size) <= self.resize if isinstance(self.resize, int) else size == self.resize

    def encode(self, pixels: npt.NDArray[np.uint8], encoded: Buffer) -> tuple[str, bytes]:
        """Return the extension and the bytes of a changed image.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (H, W, 3)
            Written in gray if no pixel has a color.
        encoded : buffer
            The image as it was, for its format and orientation.
        """
        if self.format is None:
            extension = _EXTENSIONS.get(image_format(encoded), "png")
        else:
            extension = FORMAT_EXTENSIONS[self.format]
        if _is_gray(pixels):
            pixels = pixels[:, :, 0]
        options: dict[str, Any] = {} if extension == "png" else {"quality": self.quality}
        orientation = image_orientation(encoded)
        if orientation != 1:
            # Pixels stay as they are stored, and boxes refer to them.
            exif = Image.Exif()
            exif[_ORIENTATION] = orientation
            options["exif"] = exif.tobytes()
        return extension, save_image(extension, pixels, **options)


def _is_gray(pixels: npt.NDArray[np.uint8]) -> bool:
    # A few rows tell it of nearly every image that has a color.
    some = pixels[:: max(1, len(pixels) // 16)]
    return all(bool((part == part[:, :, :1]).all()) for part in (some, pixels))


def _compile(steps: list[Any]) -> Pipeline:
    return compile_pipeline(Compose(steps), layout="HWC", dtype="uint8", reducing_gap=REDUCING_GAP)
