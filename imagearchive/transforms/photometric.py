"""Color adjustments, grayscale and blur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imagearchive.errors import OptionError
from imagearchive.errors.arguments import check_choice, check_integer, check_number, is_number
from imagearchive.images.random import Stream
from imagearchive.images.render import blend_gray, blend_value, gray, mean_gray, shift_hue
from imagearchive.transforms.base import (
    Array,
    Layout,
    Shape,
    Transform,
    convert_and_apply,
    require_stream,
)
from imagearchive.transforms.image_arguments import MAX_SIDE, check_interval

__all__ = [
    "ColorJitter",
    "GaussianBlur",
    "Grayscale",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
]

#: Weights of red, green and blue in gray, ITU-R 601.
GRAY = np.array([0.299, 0.587, 0.114], np.float32)


def adjust_brightness(image: Any, factor: float) -> Any:
    """Blend with black: 0 gives black, 1 the image, 2 twice the brightness.

    The image may be of any kind that a transform accepts, float32 in [0, 1]. uint8 results equal
    Pillow's ``ImageEnhance.Brightness``. Alpha does not change, here and in the other adjustments.
    """
    factor = _factor(factor)
    return convert_and_apply(
        image, None, lambda array, layout: (_brightness(array, factor), layout)
    )[0]


def adjust_contrast(image: Any, factor: float) -> Any:
    """Blend with the mean gray value, as Pillow's ``ImageEnhance.Contrast``."""
    factor = _factor(factor)
    return convert_and_apply(image, None, lambda array, layout: (_contrast(array, factor), layout))[
        0
    ]


def adjust_saturation(image: Any, factor: float) -> Any:
    """Blend each pixel with its gray value, as Pillow's ``ImageEnhance.Color``."""
    factor = _factor(factor)
    return convert_and_apply(
        image, None, lambda array, layout: (_saturation(array, factor), layout)
    )[0]


def adjust_hue(image: Any, shift: float) -> Any:
    """Rotate the hue in HSV by `shift` of a full circle, from -0.5 to 0.5."""
    shift = float(check_number("shift", shift, -0.5, 0.5))
    return convert_and_apply(image, None, lambda array, layout: (_hue(array, shift), layout))[0]


def _factor(factor: Any) -> float:
    return float(check_number("factor", factor, 0))


def _brightness(array: Array, factor: float) -> Array:
    color, alpha = _split(array)
    if array.dtype == np.uint8:
        blend_value(color, factor, 0)
        return _join(color, alpha)
    return _join(np.clip(color * np.float32(factor), 0.0, 1.0), alpha)


def _contrast(array: Array, factor: float) -> Array:
    color, alpha = _split(array)
    if array.dtype == np.uint8:
        mean = mean_gray(color) if color.shape[2] == 3 else int(color.mean() + 0.5)
        blend_value(color, factor, mean)
        return _join(color, alpha)
    level = np.float32(_gray(color).mean())
    return _join(_blend(color, level, factor), alpha)


def _saturation(array: Array, factor: float) -> Array:
    color, alpha = _split(array)
    if color.shape[2] == 1:
        return array
    if array.dtype == np.uint8:
        blend_gray(color, factor)
        return _join(color, alpha)
    return _join(_blend(color, _gray(color), factor), alpha)


def _hue(array: Array, shift: float) -> Array:
    color, alpha = _split(array)
    if color.shape[2] == 1:
        return array
    if array.dtype == np.uint8:
        shift_hue(color, int(shift * 255) % 256)
        return _join(color, alpha)
    return _join(_shifted(color, shift), alpha)


def _split(array: Array) -> tuple[Array, Array | None]:
    """Return a copy of the color channels, and alpha or None."""
    if array.shape[2] == 4:
        return array[:, :, :3].copy(), array[:, :, 3:]
    return array.copy(), None


def _join(color: Array, alpha: Array | None) -> Array:
    return color if alpha is None else np.concatenate([color, alpha], axis=2)


def _gray(color: Array) -> Array:
    return color if color.shape[2] == 1 else (color @ GRAY)[:, :, None]


def _blend(color: Array, other: Array | np.float32, factor: float) -> Array:
    f = np.float32(factor)
    blended: Array = np.clip(other * (np.float32(1.0) - f) + color * f, 0.0, 1.0)
    return blended


def _shifted(color: Array, shift: float) -> Array:
    """Shift the hue of floats: RGB to HSV and back."""
    r, g, b = color[:, :, 0], color[:, :, 1], color[:, :, 2]
    high, low = color.max(axis=2), color.min(axis=2)
    spread = high - low
    safe = np.where(spread == 0, np.float32(1), spread)
    hue = np.where(
        high == r, (g - b) / safe, np.where(high == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    )
    hue = (hue / 6 + np.float32(shift)) % 1.0 * 6
    channels = []
    for offset in (5, 3, 1):
        # Distance of the hue from the peak of this channel: 5, 3, 1 for red, green, blue.
        k = (offset + hue) % 6
        channels.append(high - spread * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(channels, axis=2).astype(np.float32)


class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue by random factors, in random order.

    Factors are drawn as in torchvision. uint8 results equal Pillow's ``ImageEnhance``. float32
    images must be in [0, 1].

    Parameters
    ----------
    brightness, contrast, saturation : float or (float, float)
        The factor is drawn from [max(0, 1 - x), 1 + x], or between the two bounds.
    hue : float or (float, float)
        The shift is drawn from [-x, x], where x is at most 0.5, or between the two bounds.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    arguments = ("brightness", "contrast", "saturation", "hue")
    is_random = True

    def __init__(
        self,
        brightness: float | Sequence[float] = 0.0,
        contrast: float | Sequence[float] = 0.0,
        saturation: float | Sequence[float] = 0.0,
        hue: float | Sequence[float] = 0.0,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.brightness, *bounds = _factors(brightness, "brightness")
        self.contrast, *more = _factors(contrast, "contrast")
        self.saturation, *most = _factors(saturation, "saturation")
        self.hue, low, high = _hue_shifts(hue)
        self._bounds = (bounds, more, most, (low, high))

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        stream = require_stream(stream)
        order = stream.permutation(4)
        values = [stream.uniform(*bounds) for bounds in self._bounds]
        for which in order:
            if which == 3 and values[3] != 0.0:
                array = _hue(array, values[3])
            elif which < 3 and values[which] != 1.0:
                array = ADJUSTMENTS[which](array, values[which])
        return array, layout


ADJUSTMENTS = (_brightness, _contrast, _saturation)


def _factors(value: Any, name: str) -> tuple[Any, float, float]:
    """Return what the caller passed, for `repr`, and the bounds of the factor."""
    if is_number(value):
        value = check_number(name, value, 0)
        return value, max(0.0, 1.0 - value), 1.0 + value
    bounds = check_interval(name, value, 0.0)
    return bounds, *bounds


def _hue_shifts(hue: Any) -> tuple[Any, float, float]:
    if is_number(hue):
        hue = check_number("hue", hue, 0, 0.5)
        return hue, -hue, hue
    bounds = check_interval("hue", hue, -0.5, 0.5)
    return bounds, *bounds


class Grayscale(Transform):
    """Convert to grayscale with the weights of ITU-R 601, as Pillow's ``convert("L")``.

    Parameters
    ----------
    num_output_channels : {1, 3}
        1, or 3 to repeat the gray value.
    """

    arguments = ("num_output_channels",)

    def __init__(self, num_output_channels: int = 1) -> None:
        super().__init__()
        channels = num_output_channels
        self.num_output_channels = check_choice("num_output_channels", channels, (1, 3))

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        color = np.ascontiguousarray(array[:, :, :3])
        if color.shape[2] == 3:
            color = gray(color) if color.dtype == np.uint8 else _gray(color)
        return np.repeat(color, self.num_output_channels, axis=2), layout

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        return shape[0], shape[1], self.num_output_channels


class GaussianBlur(Transform):
    """Blur with a Gaussian kernel of random width. The image is mirrored at its edges.

    Parameters
    ----------
    kernel_size : int
        Width of the kernel in pixels, odd.
    sigma : float or (float, float)
        Standard deviation in pixels, or its bounds.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    arguments = ("kernel_size", "sigma")
    is_random = True

    def __init__(
        self,
        kernel_size: int,
        sigma: float | Sequence[float] = (0.1, 2.0),
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.kernel_size = check_integer("kernel_size", kernel_size, 1, MAX_SIDE)
        if self.kernel_size % 2 == 0:
            raise OptionError(f"kernel_size must be odd, got {kernel_size!r}")
        self.sigma: float | tuple[float, float]
        if is_number(sigma):
            self.sigma = check_number("sigma", sigma)
            self._bounds = float(self.sigma), float(self.sigma)
        else:
            self.sigma = self._bounds = check_interval("sigma", sigma)
        # Anything narrower does not blur, and its square could underflow.
        if self._bounds[0] < 1e-3:
            raise OptionError(f"sigma must be at least 0.001, got {sigma!r}")

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        stream = require_stream(stream)
        sigma = stream.uniform(*self._bounds)
        reach = self.kernel_size // 2
        if reach == 0:
            return array, layout
        if reach >= min(array.shape[:2]):
            raise OptionError(
                f"{self!r}: an image of {array.shape[1]} x {array.shape[0]} pixels is too small "
                f"for this kernel"
            )
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        kernel = (kernel / kernel.sum()).astype(np.float32)
        image = array.astype(np.float32)
        for axis in (0, 1):
            widths = [(0, 0)] * 3
            widths[axis] = (reach, reach)
            padded = np.pad(image, widths, mode="reflect")
            length = array.shape[axis]
            image = np.zeros_like(image)
            for j in range(self.kernel_size):
                part = padded[j : j + length] if axis == 0 else padded[:, j : j + length]
                image += kernel[j] * part
        if array.dtype == np.uint8:
            image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        return image, layout
