"""Random erasing and published augmentation policies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.arguments import check_choice, check_integer
from imagearchive.errors.plurals import pluralize
from imagearchive.images.random import Stream
from imagearchive.transforms.base import Array, Layout, Transform, require_stream
from imagearchive.transforms.image_arguments import (
    MAX_SIDE,
    Fill,
    check_channel_values,
    check_interval,
    check_probability,
    expand_channels,
    round_to_bytes,
)
from imagearchive.transforms.moves import FunctionMove, Move
from imagearchive.transforms.warp import WARP_FILTERS, inverse, rotation

__all__ = ["RandAugment", "RandomErasing", "TrivialAugmentWide"]


class RandomErasing(Transform):
    """Overwrite a random rectangle (Zhong et al., "Random erasing data augmentation", 2017).

    Parameters
    ----------
    p : float
        Probability that the image changes.
    scale : (float, float)
        Bounds of the rectangle's area, as fractions of the image's.
    ratio : (float, float)
        Bounds of the rectangle's height divided by its width.
    value : float, sequence of float or "random"
        What to write, one number for all channels or one for each. "random" draws every value,
        standard normal for float32 images and uniform for uint8.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    arguments = ("p", "scale", "ratio", "value")
    is_random = True
    any_layout = True

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | Sequence[float] | Literal["random"] = 0,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.p = check_probability("p", p)
        self.scale = check_interval("scale", scale, 0.0, 1.0)
        self.ratio = check_interval("ratio", ratio, 0.0)
        if self.ratio[0] == 0.0:
            raise OptionError(f"ratio must be greater than 0, got {ratio!r}")
        if isinstance(value, str) and value != "random":
            raise OptionError(f"value must be numbers or 'random', got {value!r}")
        self.value = value if isinstance(value, str) else check_channel_values("value", value)

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        stream = require_stream(stream)
        if stream.random() >= self.p:
            return array, layout
        view = array if layout == "HWC" else array.transpose(1, 2, 0)
        height, width, channels = view.shape
        logs = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = width * height * stream.uniform(*self.scale)
            ratio = math.exp(stream.uniform(*logs))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < h < height and 0 < w < width:
                y, x = stream.below(height - h + 1), stream.below(width - w + 1)
                break
        else:
            return array, layout
        result = array.copy()
        target = result if layout == "HWC" else result.transpose(1, 2, 0)
        target = target[y : y + h, x : x + w]
        if isinstance(self.value, str):
            generator = stream.generator()
            if array.dtype == np.uint8:
                target[:] = generator.integers(0, 256, target.shape, np.uint8)
            else:
                target[:] = generator.standard_normal(target.shape, np.float32)
        else:
            several = expand_channels("value", self.value, channels)
            target[:] = round_to_bytes(several) if array.dtype == np.uint8 else several
        return result, layout


class _Policy(Transform):
    """Operations on 8-bit images by Pillow."""

    is_random = True
    moves_pixels = True

    def __init__(self, interpolation: str, fill: Fill, seed: int | None) -> None:
        super().__init__(seed=seed)
        self.interpolation = check_choice("interpolation", interpolation, WARP_FILTERS)
        self.fill = check_channel_values("fill", fill)

    def _steps(self, width: int, height: int, stream: Stream) -> list[tuple[str, float]]:
        raise NotImplementedError

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        height, width = array.shape[:2]
        return self._operate(array, self._steps(width, height, require_stream(stream))), layout

    def move(self, width: int, height: int, channels: int, stream: Stream | None) -> Move | None:
        """Return where the pixels of an image go; see `Transform.move`."""
        steps = self._steps(width, height, require_stream(stream))
        matrix = np.eye(3)
        for name, magnitude in steps:
            coefficients = _coefficients(name, magnitude, width, height)
            if coefficients is not None:
                matrix = inverse(coefficients) @ matrix

        def mask(array: Array, fill: Sequence[int]) -> Array:
            one = array.shape[2] == 1
            image = Image.fromarray(np.ascontiguousarray(array[:, :, 0] if one else array))
            color = fill[0] if one else tuple(fill)
            for name, magnitude in steps:
                if _coefficients(name, magnitude, width, height) is not None:
                    nearest = Image.Resampling.NEAREST
                    image = _apply_operation(image, name, magnitude, nearest, color)
            moved = np.asarray(image)
            return moved[:, :, None] if one else moved

        return FunctionMove(width, height, matrix, lambda array: self._operate(array, steps), mask)

    def _operate(self, array: Array, steps: list[tuple[str, float]]) -> Array:
        if array.dtype != np.uint8 or array.shape[2] == 4:
            raise OptionTypeError(
                f"{type(self).__name__} needs a gray or RGB image of uint8, got {array.dtype} with "
                f"{pluralize(array.shape[2], 'channel')}; put it before normalization"
            )
        channels = array.shape[2]
        image = Image.fromarray(np.ascontiguousarray(array[:, :, 0] if channels == 1 else array))
        several = round_to_bytes(expand_channels("fill", self.fill, channels))
        fill = several if channels == 3 else several[0]
        resample = Image.Resampling[self.interpolation.upper()]
        for name, magnitude in steps:
            image = _apply_operation(image, name, magnitude, resample, fill)
        result = np.array(image)
        return result[:, :, None] if channels == 1 else result


def _affine(name: str, magnitude: float) -> tuple[float, ...] | None:
    """Return the coefficients of a shear or a translation, or None for other operations."""
    return {
        "ShearX": (1, magnitude, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, magnitude, 1, 0),
        "TranslateX": (1, 0, int(magnitude), 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, int(magnitude)),
    }.get(name)


def _coefficients(name: str, magnitude: float, width: int, height: int) -> Sequence[float] | None:
    """Return the coefficients of an operation that moves pixels, or None for others."""
    if name == "Rotate":
        return rotation(magnitude, width, height, False)[0]
    return _affine(name, magnitude)


def _apply_operation(
    image: Image.Image,
    name: str,
    magnitude: float,
    resample: Image.Resampling,
    fill: tuple[int, ...] | int,
) -> Image.Image:
    """Apply one operation. `magnitude` has the sign and unit of the published policies."""
    matrix = _affine(name, magnitude)
    if matrix is not None:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill)
    if name == "Rotate":
        return image.rotate(magnitude, resample, fillcolor=fill)
    enhancer = {
        "Brightness": ImageEnhance.Brightness,
        "Color": ImageEnhance.Color,
        "Contrast": ImageEnhance.Contrast,
        "Sharpness": ImageEnhance.Sharpness,
    }.get(name)
    if enhancer is not None:
        return enhancer(image).enhance(1.0 + magnitude)
    if name == "Posterize":
        return ImageOps.posterize(image, int(magnitude))
    if name == "Solarize":
        # Thresholds may be fractions. Values from the threshold on are inverted.
        return ImageOps.solarize(image, math.ceil(magnitude))
    if name == "AutoContrast":
        return ImageOps.autocontrast(image)
    if name == "Equalize":
        return ImageOps.equalize(image)
    return image


#: Name, and whether the sign of the magnitude is random.
OPERATIONS = (
    ("Identity", False),
    ("ShearX", True),
    ("ShearY", True),
    ("TranslateX", True),
    ("TranslateY", True),
    ("Rotate", True),
    ("Brightness", True),
    ("Color", True),
    ("Contrast", True),
    ("Sharpness", True),
    ("Posterize", False),
    ("Solarize", False),
    ("AutoContrast", False),
    ("Equalize", False),
)


def _magnitude(
    name: str, bin_: int, bins: int, limits: dict[str, float], posterize_bits: float
) -> float:
    """Return the magnitude of a bin, linear from 0 to the limit."""
    # Products come before the division, which makes integers exact: a rounding error would move
    # the threshold of Solarize or a translation by one.
    steps = max(bins - 1, 1)
    if name == "Posterize":
        return 8 - round(posterize_bits * bin_ / steps)
    if name == "Solarize":
        return 255.0 * (steps - bin_) / steps
    return limits.get(name, 0.0) * bin_ / steps


class RandAugment(_Policy):
    """Apply several random operations of one strength (Cubuk et al., "RandAugment", 2019).

    Operations and ranges are those of torchvision.

    Parameters
    ----------
    num_ops : int
        Number of operations per image.
    magnitude : int
        Strength of the operations, from 0 to ``num_magnitude_bins - 1``.
    num_magnitude_bins : int
        Number of strengths.
    interpolation : {"nearest", "bilinear", "bicubic"}
        How the geometric operations compute values between pixels.
    fill : float or sequence of float
        Value of pixels outside the image, one number for all channels or one for each.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    arguments = ("num_ops", "magnitude", "num_magnitude_bins", "interpolation", "fill")

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: int = 9,
        num_magnitude_bins: int = 31,
        interpolation: str = "nearest",
        fill: Fill = 0,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(interpolation, fill, seed)
        self.num_ops = check_integer("num_ops", num_ops, 0, MAX_SIDE)
        self.num_magnitude_bins = check_integer(
            "num_magnitude_bins", num_magnitude_bins, 1, MAX_SIDE
        )
        self.magnitude = check_integer("magnitude", magnitude, 0, self.num_magnitude_bins - 1)

    def _steps(self, width: int, height: int, stream: Stream) -> list[tuple[str, float]]:
        limits = dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 0.9)
        limits |= {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30.0}
        limits |= {"TranslateX": 150 * width / 331, "TranslateY": 150 * height / 331}
        steps = []
        for _ in range(self.num_ops):
            name, signed = OPERATIONS[stream.below(len(OPERATIONS))]
            size = _magnitude(name, self.magnitude, self.num_magnitude_bins, limits, 4)
            steps.append((name, -size if signed and stream.below(2) else size))
        return steps


class TrivialAugmentWide(_Policy):
    """Apply one random operation of random strength (Müller and Hutter, "TrivialAugment", 2021).

    Parameters
    ----------
    num_magnitude_bins : int
        Number of strengths.
    interpolation : {"nearest", "bilinear", "bicubic"}
        How the geometric operations compute values between pixels.
    fill : float or sequence of float
        Value of pixels outside the image, one number for all channels or one for each.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    arguments = ("num_magnitude_bins", "interpolation", "fill")

    def __init__(
        self,
        num_magnitude_bins: int = 31,
        interpolation: str = "nearest",
        fill: Fill = 0,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(interpolation, fill, seed)
        self.num_magnitude_bins = check_integer(
            "num_magnitude_bins", num_magnitude_bins, 1, MAX_SIDE
        )

    def _steps(self, width: int, height: int, stream: Stream) -> list[tuple[str, float]]:
        limits = dict.fromkeys(
            ("Brightness", "Color", "Contrast", "Sharpness", "ShearX", "ShearY"), 0.99
        )
        limits |= {"TranslateX": 32.0, "TranslateY": 32.0, "Rotate": 135.0}
        name, signed = OPERATIONS[stream.below(len(OPERATIONS))]
        bin_ = stream.below(self.num_magnitude_bins)
        size = _magnitude(name, bin_, self.num_magnitude_bins, limits, 6)
        return [(name, -size if signed and stream.below(2) else size)]
