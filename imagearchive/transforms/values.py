"""Normalization, casts, and the order of axes."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.arguments import check_flag
from imagearchive.errors.plurals import pluralize
from imagearchive.images.geometry import OutputFormat
from imagearchive.images.random import Stream
from imagearchive.images.render import convert_array
from imagearchive.transforms.base import Array, Layout, Transform
from imagearchive.transforms.image_arguments import check_channel_values
from imagearchive.transforms.moves import with_contiguous_rows

__all__ = ["ImageNetNormalize", "Normalize", "TensorFormat", "ToDtype", "ToTensor"]


FLOAT32: np.dtype[Any] = np.dtype(np.float32)


class TensorFormat(enum.Enum):
    """The order of axes of the result of `ToTensor`."""

    #: (C, H, W)
    PYTORCH_CHW = "CHW"
    #: (H, W, C)
    TENSORFLOW_HWC = "HWC"

    def __repr__(self) -> str:
        return f"TensorFormat.{self.name}"


class Normalize(Transform):
    """Subtract the mean and divide by the standard deviation of each channel; returns float32.

    uint8 images are scaled to [0, 1] first, as torchvision's `ToTensor` does. float32 images are
    not.

    Parameters
    ----------
    mean, std : float or sequence of float
        One number for each channel, or one for all.
    """

    arguments: ClassVar[tuple[str, ...]] = ("mean", "std")
    any_layout = True

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        self.mean = _per_channel("mean", mean)
        self.std = _per_channel("std", std)
        if len(self.mean) != len(self.std):
            raise OptionError(
                f"mean and std must be of equal length, got mean={mean!r} and std={std!r}"
            )
        if not all(v > 0 for v in self.std):
            raise OptionError(f"std must be greater than 0, got {std!r}")

    def scale(self) -> tuple[float, ...]:
        """The factors of values in [0, 1]."""
        return tuple(1.0 / s for s in self.std)

    def bias(self) -> tuple[float, ...]:
        """The offsets that are added to the products."""
        return tuple(-m / s for m, s in zip(self.mean, self.std))

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        channels = array.shape[2 if layout == "HWC" else 0]
        if len(self.mean) not in (1, channels):
            raise OptionError(f"{self!r}: the image has {pluralize(channels, 'channel')}")
        if array.dtype == np.uint8 and layout == "HWC":
            scale = tuple(v / 255.0 for v in self.scale())
            out = np.empty(array.shape, np.float32)
            convert_array(
                with_contiguous_rows(array), OutputFormat("float32", False, scale, self.bias()), out
            )
            return out, layout
        along = (1, 1, -1) if layout == "HWC" else (-1, 1, 1)
        # Divide in double precision, as the native code does, so that both agree to the bit.
        unit = 255.0 if array.dtype == np.uint8 else 1.0
        scale_by = np.array([v / unit for v in self.scale()], np.float32).reshape(along)
        return array * scale_by + np.array(self.bias(), np.float32).reshape(along), layout

    def undo(self, array: Array, layout: Layout) -> Array:
        """Return the values before normalization, float32: for images that were uint8, 0 to 1.

        Parameters
        ----------
        array : ndarray of float, shape (H, W, C) or (C, H, W)
        layout : {"HWC", "CHW"}

        Raises
        ------
        OptionError
            The image has another number of channels than `mean`.
        """
        channels = array.shape[2 if layout == "HWC" else 0]
        if len(self.mean) not in (1, channels):
            raise OptionError(f"{self!r}: the image has {pluralize(channels, 'channel')}")
        along = (1, 1, -1) if layout == "HWC" else (-1, 1, 1)
        std, mean = (np.array(v, np.float32).reshape(along) for v in (self.std, self.mean))
        return array.astype(np.float32) * std + mean

    def output_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Dtype of the result; see `Transform.output_dtype`."""
        return FLOAT32


def _per_channel(name: str, value: Any) -> tuple[float, ...]:
    checked = check_channel_values(name, value)
    return tuple(map(float, checked if isinstance(checked, tuple) else (checked,)))


class ImageNetNormalize(Normalize):
    """`Normalize` with the mean and standard deviation of ImageNet.

    ``mean=(0.485, 0.456, 0.406)`` and ``std=(0.229, 0.224, 0.225)``. uint8 images are scaled to
    [0, 1] first.
    """

    arguments: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class ToTensor(Transform):
    """Change the layout. By default, values and dtype do not change.

    The transforms of this name in torchvision and in current releases of TurboLoader also divide by
    255; pass ``normalize=True`` for that. `Normalize` and `ImageNetNormalize` scale uint8 images
    themselves.

    Parameters
    ----------
    format : TensorFormat
        ``PYTORCH_CHW`` for (C, H, W), ``TENSORFLOW_HWC`` for (H, W, C).
    normalize : bool
        Convert uint8 images to float32 in [0, 1]. Float images keep their values.
    """

    arguments = ("format", "normalize")
    any_layout = True
    any_dtype = True

    def __init__(
        self, format: TensorFormat = TensorFormat.PYTORCH_CHW, normalize: bool = False
    ) -> None:
        super().__init__()
        self.normalize = check_flag("normalize", normalize)
        try:
            self.format = TensorFormat(format)
        except ValueError:
            raise OptionError(
                f"format must be TensorFormat.PYTORCH_CHW or TENSORFLOW_HWC, got {format!r}"
            ) from None

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        wanted: Layout = self.format.value
        if self.normalize and array.dtype == np.uint8:
            array = array * np.float32(1.0 / 255.0)
        if layout != wanted:
            array = array.transpose((2, 0, 1) if wanted == "CHW" else (1, 2, 0))
        return np.ascontiguousarray(array), wanted

    def output_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Dtype of the result; see `Transform.output_dtype`."""
        return FLOAT32 if self.normalize and dtype == np.uint8 else dtype


class ToDtype(Transform):
    """Cast, and optionally scale.

    Parameters
    ----------
    dtype : {"uint8", "float16", "float32"}
        Dtype of the result. Most other transforms take uint8 and float32, so convert to "float16"
        last.
    scale : bool
        Map [0, 255] of uint8 to [0, 1] of floats, and back with rounding. Without scaling, a cast
        to uint8 clips values and drops fractions.
    """

    arguments = ("dtype", "scale")
    any_layout = True

    def __init__(self, dtype: Any, scale: bool = False) -> None:
        super().__init__()
        try:
            self.dtype = np.dtype(dtype).name
        except TypeError:
            raise OptionTypeError(
                f"dtype must be 'uint8', 'float16' or 'float32', got {dtype!r}"
            ) from None
        if dtype is None or self.dtype not in ("uint8", "float16", "float32"):
            raise OptionError(f"dtype must be 'uint8', 'float16' or 'float32', got {dtype!r}")
        self.scale = check_flag("scale", scale)
        self._cast: np.dtype[Any] = np.dtype(self.dtype)

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        dtype = self._cast
        if array.dtype == dtype:
            return array, layout
        if dtype == np.uint8:
            values = np.rint(array * np.float32(255.0)) if self.scale else array
            return np.clip(values, 0.0, 255.0).astype(np.uint8), layout
        if array.dtype == np.uint8 and self.scale:
            return (array * np.float32(1.0 / 255.0)).astype(dtype), layout
        return array.astype(dtype), layout

    def output_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Dtype of the result; see `Transform.output_dtype`."""
        return self._cast
