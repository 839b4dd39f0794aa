"""The base classes of transforms, and the conversion of images to arrays and back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.plurals import pluralize
from imagearchive.images.geometry import Geometry
from imagearchive.images.random import Stream
from imagearchive.transforms.fields import Field
from imagearchive.transforms.moves import GeometryMove, Move, apply_geometry
from imagearchive.transforms.random_keys import InstanceStreams, Key

__all__ = [
    "Array",
    "GeometricTransform",
    "Layout",
    "Operation",
    "Shape",
    "Transform",
    "as_array",
    "check_key",
    "convert_and_apply",
    "require_stream",
]

Array = npt.NDArray[Any]
#: The name of an operation of a `GeometryPlan`, and its arguments.
Operation = tuple[Any, ...]
Layout = Literal["HWC", "CHW"]
#: Height, width and channels; None if they depend on the image.
Shape = tuple[int | None, int | None, int | None]

CHANNELS = (1, 3, 4)


def is_tensor(value: object) -> bool:
    """Whether `value` is a torch tensor. Does not import torch."""
    # Another thread may be in the middle of importing torch.
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def as_array(image: Any, hint: Layout | None = None) -> tuple[Array, Layout]:
    """Return an image of any accepted kind as a three-dimensional array, and its layout.

    Parameters
    ----------
    image : ndarray, PIL.Image.Image or torch.Tensor
        Arrays are (H, W, C), (H, W) or, after `ToTensor`, (C, H, W); tensors are (C, H, W).
    hint : {"HWC", "CHW"}, optional
        The layout of an array whose shape fits both, (H, W, C) by default, and of a tensor,
        (C, H, W) by default.
    """
    if isinstance(image, Image.Image):
        return _from_pillow(image), "HWC"
    tensor = is_tensor(image)
    if tensor:
        array, hint = _from_tensor(image), hint or "CHW"
    elif isinstance(image, np.ndarray):
        array = image
    else:
        raise OptionTypeError(
            f"a transform needs an array, a Pillow image or a torch tensor, got {type(image)!r}"
        )
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    if array.dtype not in (np.uint8, np.float32, np.float16):
        raise OptionTypeError(f"a transform needs uint8 or float32 values, got {array.dtype}")
    if array.ndim == 2:
        array = array[None] if hint == "CHW" else array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise OptionError(
            f"an image must be (H, W, C), (H, W) or (C, H, W) and not empty, got {image.shape}"
        )
    fits_hwc, fits_chw = array.shape[2] in CHANNELS, array.shape[0] in CHANNELS
    if tensor and hint == "CHW" and not fits_chw:
        raise OptionError(
            f"a tensor must be (C, H, W) with 1, 3 or 4 channels, got {tuple(image.shape)}; if it "
            f"is (H, W, C), use permute(2, 0, 1)"
        )
    if fits_chw and (hint == "CHW" or not fits_hwc):
        return array, "CHW"
    if fits_hwc:
        return array, "HWC"
    raise OptionError(f"an image must have 1, 3 or 4 channels, got shape {array.shape}")


def _from_pillow(image: Image.Image) -> Array:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        # Pillow would clip everything over 255 to white.
        array = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    elif image.mode == "I":
        raise OptionTypeError(
            "a Pillow image of mode I has no fixed range to map to 8 bits; pass an array of uint8 "
            "or float32"
        )
    elif image.mode in ("L", "RGB", "RGBA", "F"):
        array = np.asarray(image)
    elif image.mode == "1":
        array = np.asarray(image.convert("L"))
    else:
        # Pillow converts La to few other modes, and warns about a palette with transparency.
        steps = {"La": ("LA", "RGBA"), "P": ("RGBA", "RGB")}
        alpha = image.mode in ("LA", "PA", "RGBa")
        for mode in steps.get(image.mode, ("RGBA",) if alpha else ("RGB",)):
            image = image.convert(mode)
        array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def _from_tensor(tensor: Any) -> Array:
    try:
        array: Array = tensor.detach().cpu().numpy()
    except TypeError as error:
        raise OptionTypeError(
            f"a transform needs uint8 or float32 values, got {tensor.dtype}: {error}"
        ) from None
    return array


def convert_and_apply(
    image: Any,
    hint: Layout | None,
    function: Callable[[Array, Layout], tuple[Array, Layout]],
    any_layout: bool = False,
    any_dtype: bool = False,
) -> tuple[Any, Layout]:
    """Apply a function of arrays to an image of any kind. A tensor becomes a tensor again.

    Parameters
    ----------
    image, hint
        As for `as_array`.
    function : callable
        `Transform.apply_array` without the stream.
    any_layout, any_dtype : bool
        Whether `function` takes (C, H, W), and float16. Otherwise it gets (H, W, C) and float32.
    """
    array, layout = as_array(image, hint)
    if array.dtype == np.float16 and not any_dtype:
        array = array.astype(np.float32)
    if layout == "CHW" and not any_layout:
        array = np.ascontiguousarray(array.transpose(1, 2, 0))
        array = function(array, "HWC")[0]
        array = np.ascontiguousarray(array.transpose(2, 0, 1))
    else:
        array, layout = function(array, layout)
    if is_tensor(image):
        plain = np.require(array, requirements=["C", "W"])
        return sys.modules["torch"].from_numpy(plain).to(image.device), layout
    return array, layout


def require_stream(stream: Stream | None) -> Stream:
    """Return the stream of a random transform; raise where `apply_array` was called without one."""
    if stream is None:
        raise OptionError("a random transform needs a stream")
    return stream


def check_key(key: Any) -> Key | None:
    """Check a key."""
    if key is not None and not isinstance(key, Key):
        raise OptionTypeError(f"key must be a Key(seed, epoch, index) or None, got {key!r}")
    return key


class Transform:
    """The base class of transforms.

    A subclass defines `apply_array`. If it changes the shape or the dtype, it also defines
    `output_shape` or `output_dtype`, which let a loader allocate batches beforehand.

    Any number of threads may share an instance. It can be pickled; without a `Key`, the copy draws
    other random numbers than the original.
    """

    #: Names of the constructor's arguments, which are attributes too. `repr` shows them.
    arguments: ClassVar[tuple[str, ...]] = ()
    #: Whether it needs random numbers.
    is_random: ClassVar[bool] = False
    #: Whether what is at a place of the image may be at another place of the result.
    moves_pixels: ClassVar[bool] = False
    #: Whether `apply_array` takes (C, H, W) as well as (H, W, C).
    any_layout: ClassVar[bool] = False
    #: Whether `apply_array` takes float16; otherwise it gets float32.
    any_dtype: ClassVar[bool] = False
    _streams: InstanceStreams
    #: `Compose`, whose module imports this one.
    _composed: ClassVar[type]

    def __init__(self, *, seed: int | None = None) -> None:
        self._streams = InstanceStreams(seed, type(self).__qualname__)

    @property
    def seed(self) -> int | None:
        """The seed of calls without a key, or None."""
        return self._streams.seed

    def __call__(
        self, image: Any, key: Key | None = None, fields: Mapping[str, Field] | None = None
    ) -> Any:
        """Same as `apply`."""
        return self.apply(image, key, fields)

    def apply(
        self, image: Any, key: Key | None = None, fields: Mapping[str, Field] | None = None
    ) -> Any:
        """Transform one image, or one sample of several fields.

        Parameters
        ----------
        image : ndarray, PIL.Image.Image or torch.Tensor
            An array of uint8 or float32, (H, W, C), (H, W) or, as `ToTensor` returns it, (C, H,
            W); a tensor is (C, H, W). It is not modified.
        key : Key, optional
            Identifies the random choices. By default, they come from the instance's own stream.
        fields : mapping of str to Field, optional
            What the values of a dict are; see `Compose.apply`.

        Returns
        -------
        ndarray or torch.Tensor
            A tensor for a tensor, otherwise an array. It may share memory with `image` if nothing
            changed.
        """
        if isinstance(image, dict):
            return Transform._composed([self]).apply(image, key, fields)
        return self.step(image, None, key)[0]

    def step(self, image: Any, hint: Layout | None, key: Key | None) -> tuple[Any, Layout]:
        """Do `apply` as one of several steps; `hint` is the layout after the previous step."""
        stream = None
        if self.is_random:
            key = check_key(key)
            stream = self._streams.next() if key is None else key.stream()
        return convert_and_apply(
            image,
            hint,
            lambda array, layout: self.apply_array(array, layout, stream),
            self.any_layout,
            self.any_dtype,
        )

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array. Every subclass defines this method.

        Parameters
        ----------
        array : ndarray of uint8 or float32, shape (H, W, C)
            Must not be modified. With ``any_layout`` it may be (C, H, W).
        layout : {"HWC", "CHW"}
            The layout of `array`.
        stream : Stream or None
            Random numbers for this image if ``is_random`` is true.

        Returns
        -------
        ndarray, {"HWC", "CHW"}
            The result and its layout.
        """
        raise NotImplementedError

    def move(self, width: int, height: int, channels: int, stream: Stream | None) -> Move | None:
        """Return where the pixels of an image of that size go, for masks, boxes and keypoints.

        A subclass with ``moves_pixels`` defines it, with the same random choices as `apply_array`
        makes. None if nothing moves.
        """
        raise OptionError(
            f"{type(self).__name__} moves the pixels of an image, but does not say where to, so "
            f"masks, boxes and keypoints cannot follow; define its method move()"
        )

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the result for an image of that shape."""
        return shape

    def output_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the result for an image of that dtype."""
        return dtype

    def preview(self, image: Any, n: int = 16, seed: int = 0, **options: Any) -> Any:
        """Draw what the transform makes of one image under several keys; see `Compose.preview`.

        Returns
        -------
        PIL.Image.Image
        """
        return Transform._composed([self]).preview(image, n, seed, **options)

    def __or__(self, other: Callable[..., Any]) -> Any:
        """Return a `Compose` of both transforms."""
        return Transform._composed([self, other])

    def __repr__(self) -> str:
        values = [f"{name}={getattr(self, name)!r}" for name in self.arguments]
        if self._streams.seed is not None:
            values.append(f"seed={self._streams.seed}")
        return f"{type(self).__name__}({', '.join(values)})"


class GeometricTransform(Transform):
    """A transform that crops, resizes, flips or pads. Several in a row become one native step."""

    moves_pixels = True
    #: Whether it resizes, and whether it flips. One step resizes at most once, before it flips.
    resizes: ClassVar[bool] = False
    flips: ClassVar[bool] = False

    def add_to(self, geometry: Geometry | GeometryMove, stream: Stream | None) -> None:
        """Add this transform to a native step. The size of `geometry` is that of the image."""
        raise NotImplementedError

    def move(self, width: int, height: int, channels: int, stream: Stream | None) -> Move | None:
        """Return where the pixels of an image go; see `Transform.move`."""
        move = GeometryMove(width, height)
        self.add_to(move, stream)
        return move

    @property
    def is_native(self) -> bool:
        """Whether `add_to` can do what the arguments say."""
        return True

    def operations(self) -> tuple[Operation, ...] | None:
        """Return what `add_to` does as operations of a `GeometryPlan`, or None.

        They make the same random choices, for many images by one native call. A subclass does not
        inherit them, because it may change `add_to`.
        """
        return None

    @property
    def fill_value(self) -> tuple[float, ...] | None:
        """The value that it pads with, or None if it does not pad."""
        return None

    def fits_channels(self, channels: int) -> bool:
        """Whether `fill_value` has a number for each channel."""
        return self.fill_value is None or len(self.fill_value) >= channels

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        height, width, channels = array.shape
        if not self.fits_channels(channels):
            raise OptionError(
                f"{self!r}: the image has {pluralize(channels, 'channel')}, but fill has fewer"
            )
        geometry = Geometry(width, height)
        self.add_to(geometry, stream)
        return apply_geometry(array, geometry), layout
