"""What all transforms share: input of several kinds, layouts, keys, and how they print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.images.decode import local_decoder
from imagearchive.images.geometry import Geometry, OutputFormat
from imagearchive.images.random import Stream
from imagearchive.images.render import Decoder
from imagearchive.transforms.random_keys import InstanceStreams, Key

__all__ = [
    "Array",
    "GeometricTransform",
    "Layout",
    "Shape",
    "Transform",
    "as_array",
    "check_key",
    "convert_and_apply",
    "require_stream",
]

Array = npt.NDArray[Any]
Layout = Literal["HWC", "CHW"]
#: Height, width and channels, None where they depend on the image.
Shape = tuple[int | None, int | None, int | None]

CHANNELS = (1, 3, 4)
UINT8_FORMAT = OutputFormat("uint8")
FLOAT32_FORMAT = OutputFormat("float32")


def is_tensor(value: object) -> bool:
    """Whether `value` is a torch tensor; torch is not imported for the question."""
    # Another thread may be in the middle of importing torch.
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def as_array(image: Any, hint: Layout | None = None) -> tuple[Array, Layout]:
    """An image of any accepted kind as a three-dimensional array, and its layout.

    Parameters
    ----------
    image : ndarray, PIL.Image.Image or torch.Tensor
        Arrays are (H, W, C), (H, W) or, after `ToTensor`, (C, H, W); tensors are (C, H, W).
    hint : {"HWC", "CHW"}, optional
        Decides where an array's shape fits both layouts, which is (H, W, C) otherwise, and in
        place of (C, H, W) for a tensor.
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
            f"a transform needs an array, a Pillow image or a torch tensor, not {type(image)!r}"
        )
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    if array.dtype not in (np.uint8, np.float32, np.float16):
        raise OptionTypeError(f"a transform needs uint8 or float32 values, not {array.dtype}")
    if array.ndim == 2:
        array = array[None] if hint == "CHW" else array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise OptionError(
            f"an image is (H, W, C), (H, W) or (C, H, W), none of them 0, not {image.shape}"
        )
    fits_hwc, fits_chw = array.shape[2] in CHANNELS, array.shape[0] in CHANNELS
    if tensor and hint == "CHW" and not fits_chw:
        raise OptionError(
            f"a tensor is (C, H, W) with 1, 3 or 4 channels, not {tuple(image.shape)}; "
            f"permute(2, 0, 1) makes it so from (H, W, C)"
        )
    if fits_chw and (hint == "CHW" or not fits_hwc):
        return array, "CHW"
    if fits_hwc:
        return array, "HWC"
    raise OptionError(f"an image has 1, 3 or 4 channels; {array.shape} has them nowhere")


def _from_pillow(image: Image.Image) -> Array:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        # Pillow would clip: everything over 255 would be white.
        array = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    elif image.mode == "I":
        raise OptionTypeError(
            "a Pillow image of mode I has no range that could be mapped to 8 bits; pass an array "
            "of uint8 or float32"
        )
    elif image.mode in ("L", "RGB", "RGBA", "F"):
        array = np.asarray(image)
    elif image.mode == "1":
        array = np.asarray(image.convert("L"))
    else:
        # Palettes may carry transparency, and premultiplied modes convert to few others.
        steps = {"La": ("LA",), "RGBa": ("RGBA",), "P": ("RGBA",), "PA": ("RGBA",)}
        for mode in (*steps.get(image.mode, ()), "RGB"):
            image = image.convert(mode)
        array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def _from_tensor(tensor: Any) -> Array:
    try:
        array: Array = tensor.detach().cpu().numpy()
    except TypeError as error:
        raise OptionTypeError(
            f"a transform needs uint8 or float32 values, not {tensor.dtype}: {error}"
        ) from None
    return array


def convert_and_apply(
    image: Any,
    hint: Layout | None,
    change: Callable[[Array, Layout], tuple[Array, Layout]],
    any_layout: bool = False,
    any_dtype: bool = False,
) -> tuple[Any, Layout]:
    """Let `apply_array` work on an image of any kind; what comes back is a tensor for a tensor.

    Parameters
    ----------
    image, hint
        As for `as_array`.
    change : callable
        As `Transform.apply_array`, without the stream.
    any_layout, any_dtype : bool
        Whether it takes (C, H, W) and float16; otherwise it gets (H, W, C) and float32.
    """
    array, layout = as_array(image, hint)
    if array.dtype == np.float16 and not any_dtype:
        array = array.astype(np.float32)
    if layout == "CHW" and not any_layout:
        array = np.ascontiguousarray(array.transpose(1, 2, 0))
        array = change(array, "HWC")[0]
        array = np.ascontiguousarray(array.transpose(2, 0, 1))
    else:
        array, layout = change(array, layout)
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
        raise OptionTypeError(f"key={key!r}: needs a Key(seed, epoch, index) or None")
    return key


class Transform:
    """Base of the transforms; derive from it to write one.

    A subclass defines `apply_array`. If it changes the shape or the dtype, it also defines
    `output_shape` or `output_dtype`, which let a loader allocate batches beforehand.

    An instance may be used from any number of threads. It can be pickled; the copy draws from
    other random streams than the original unless a `Key` is passed.
    """

    #: Names of the constructor's arguments, each also an attribute.
    arguments: ClassVar[tuple[str, ...]] = ()
    #: Whether random numbers are needed.
    is_random: ClassVar[bool] = False
    #: Whether `apply_array` takes (C, H, W) as well as (H, W, C).
    any_layout: ClassVar[bool] = False
    #: Whether float16 stays; otherwise it is widened.
    any_dtype: ClassVar[bool] = False
    _streams: InstanceStreams

    def __init__(self, *, seed: int | None = None) -> None:
        self._streams = InstanceStreams(seed, type(self).__qualname__)

    @property
    def seed(self) -> int | None:
        """What makes calls without a key repeatable, if given."""
        return self._streams.seed

    def __call__(self, image: Any, key: Key | None = None) -> Any:
        """The same as `apply`."""
        return self.apply(image, key)

    def apply(self, image: Any, key: Key | None = None) -> Any:
        """Transform one image.

        Parameters
        ----------
        image : ndarray, PIL.Image.Image or torch.Tensor
            (H, W, C) or (H, W) array of uint8 or float32, or the (C, H, W) that `ToTensor` gives;
            a tensor is (C, H, W). It is not changed.
        key : Key, optional
            What the random choices are a function of; without one, the next of this instance.

        Returns
        -------
        ndarray or torch.Tensor
            A tensor for a tensor, an array otherwise. Where nothing had to be changed, it may share
            the memory of `image`.
        """
        return self.step(image, None, key)[0]

    def step(self, image: Any, hint: Layout | None, key: Key | None) -> tuple[Any, Layout]:
        """`apply` for one of several in a row, which knows the layout and passes it on."""
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
        """Transform one array; what a subclass defines.

        Parameters
        ----------
        array : ndarray of uint8 or float32, shape (H, W, C)
            Not to be changed in place. With ``any_layout`` it may be (C, H, W).
        layout : {"HWC", "CHW"}
            Which of them it is.
        stream : Stream or None
            Random numbers for this image, where ``is_random`` is true.

        Returns
        -------
        ndarray, {"HWC", "CHW"}
            The result and its layout.
        """
        raise NotImplementedError

    def output_shape(self, shape: Shape) -> Shape:
        """The output's shape for an input's."""
        return shape

    def output_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The output's dtype for an input's."""
        return dtype

    def __repr__(self) -> str:
        values = [f"{name}={getattr(self, name)!r}" for name in self.arguments]
        if self._streams.seed is not None:
            values.append(f"seed={self._streams.seed}")
        return f"{type(self).__name__}({', '.join(values)})"


class GeometricTransform(Transform):
    """A transform that only moves pixels or resizes, so that several become one native step."""

    #: Whether it resizes, and whether it flips. A resize can follow only crops in one step.
    resizes: ClassVar[bool] = False
    flips: ClassVar[bool] = False

    def add_to(self, geometry: Geometry, stream: Stream | None) -> None:
        """Add this transform to a step; the canvas of `geometry` is the image that it sees."""
        raise NotImplementedError

    @property
    def is_native(self) -> bool:
        """Whether `add_to` can be used with these arguments."""
        return True

    @property
    def fill_value(self) -> tuple[float, ...] | None:
        """What it pads with, or None where it does not pad."""
        return None

    def fits_channels(self, channels: int) -> bool:
        """Whether there is a number to pad with for each of as many channels."""
        return self.fill_value is None or len(self.fill_value) >= channels

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        height, width, channels = array.shape
        if not self.fits_channels(channels):
            raise OptionError(f"{self!r}: the image has {channels} channels, fill has fewer")
        geometry = Geometry(width, height)
        self.add_to(geometry, stream)
        return apply_geometry(array, geometry), layout


def apply_geometry(array: Array, geometry: Geometry, decoder: Decoder | None = None) -> Array:
    """A new array from an (H, W, C) one."""
    out = np.empty((geometry.height, geometry.width, array.shape[2]), array.dtype)
    output_format = FLOAT32_FORMAT if array.dtype == np.float32 else UINT8_FORMAT
    (decoder or local_decoder()).render_array(
        with_contiguous_rows(array), geometry, output_format, out
    )
    return out


def with_contiguous_rows(array: Array) -> Array:
    """The array itself where the pixels of a row lie side by side, otherwise a copy."""
    _, width, channels = array.shape
    item = array.itemsize
    side_by_side = array.strides[1:] == (channels * item, item) or (width == 1 and channels == 1)
    return array if side_by_side and array.flags.aligned else np.array(array, order="C")
