"""Pipelines compiled into as few native passes as their transforms allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from imagearchive.errors import OptionError
from imagearchive.errors.arguments import check_choice, check_flag, check_number
from imagearchive.images.decode import decode_image, local_decoder
from imagearchive.images.geometry import DTYPES, Geometry, OutputFormat
from imagearchive.images.render import HAVE_JPEG, Decoder, convert_array, convert_arrays, jpeg_info
from imagearchive.transforms.base import (
    UINT8_FORMAT,
    Array,
    GeometricTransform,
    Layout,
    Shape,
    Transform,
    as_array,
    is_tensor,
    render,
    with_contiguous_rows,
)
from imagearchive.transforms.compose import flat, run_step
from imagearchive.transforms.random_keys import Key
from imagearchive.transforms.values import Normalize, ToDtype, ToTensor

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Pipeline", "compile_pipeline"]

Step = Callable[..., Any]


class _GeometricStage(NamedTuple):
    """Neighbouring placements, one native step."""

    first: int
    steps: tuple[GeometricTransform, ...]

    def take(self, channels: int) -> bool:
        """Whether all of them can do with images of as many channels."""
        return all(step.fits_channels(channels) for step in self.steps)

    def geometry(self, width: int, height: int, key: Key | None) -> Geometry:
        geometry = Geometry(width, height)
        for position, step in enumerate(self.steps, self.first):
            geometry_stream = None
            if step.is_random:
                geometry_stream = step._streams.next() if key is None else key.at(position).stream()
            step.add_to(geometry, geometry_stream)
        return geometry


class _Single(NamedTuple):
    """Any other step."""

    position: int
    step: Step


class _Tail(NamedTuple):
    """Normalisation, casts and layout at the end, as one formula for uint8 (H, W, C) input."""

    first: int
    steps: tuple[Step, ...]
    scale: tuple[float, ...]
    bias: tuple[float, ...]
    dtype: str
    layout: Layout


class Pipeline:
    """A transform prepared for a loader's threads; see `compile_pipeline`.

    It may be used from any number of threads, each with its own `Decoder`, and pickled.

    Attributes
    ----------
    compiled : bool
        Whether an image takes one native pass and nothing else.
    layout : {"HWC", "CHW"} or None
        Of the result; None where a function decides.
    dtype : numpy.dtype or None
        Of the result; None where a function decides.
    """

    def __init__(
        self,
        transform: Step | None,
        layout: Layout | None,
        dtype: str | None,
        exif_transpose: bool,
        reducing_gap: float | None,
    ) -> None:
        layout = check_choice("layout", layout, ("HWC", "CHW", None))
        if dtype is not None:
            try:
                name = np.dtype(dtype).name
            except TypeError:
                name = ""
            if name not in DTYPES:
                raise OptionError(
                    f"dtype must be 'uint8', 'float16', 'float32' or None, got {dtype!r}"
                )
            dtype = name
        self.exif_transpose = check_flag("exif_transpose", exif_transpose)
        if reducing_gap is not None:
            reducing_gap = check_number("reducing_gap", reducing_gap, 1)
        self.reducing_gap = reducing_gap
        steps = flat(transform)
        self._tail = _fold(steps)
        self._stages = _stages(steps[: self._tail.first])
        self._wanted_layout = layout
        self._wanted_dtype = dtype
        self._infer(steps)
        first = self._stages[0] if self._stages else None
        self._geometric_stage = first if isinstance(first, _GeometricStage) else None
        self.compiled = not self._stages or (
            self._geometric_stage is not None and len(self._stages) == 1
        )
        self._output_format = OutputFormat(
            dtype or self._tail.dtype,
            (layout or self._tail.layout) == "CHW",
            self._tail.scale,
            self._tail.bias,
        )

    def _infer(self, steps: list[Step]) -> None:
        natural: Layout | None = "HWC"
        dtype: np.dtype[Any] | None = np.dtype(np.uint8)
        for step in steps:
            if not isinstance(step, Transform):
                natural = dtype = None
                continue
            if isinstance(step, ToTensor):
                natural = step.format.value
            dtype = step.output_dtype(dtype) if dtype is not None else None
            if dtype is None and isinstance(step, (Normalize, ToDtype)):
                dtype = step.output_dtype(np.dtype(np.uint8))
        if self._wanted_dtype == "uint8" and dtype is not None and dtype != np.uint8:
            raise OptionError(
                f"dtype='uint8', but the transform ends in {dtype}; leave out normalisation, or "
                f"end with ToDtype('uint8', scale=True)"
            )
        self._steps = steps
        self.layout: Layout | None = self._wanted_layout or natural
        wanted = self._wanted_dtype
        self.dtype = np.dtype(wanted) if wanted is not None else dtype

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Shape of every result from encoded images, or None where they differ."""
        return self.shape_for(None, None, 3)

    def shape_for(
        self, height: int | None, width: int | None, channels: int | None
    ) -> tuple[int, int, int] | None:
        """Shape of the result for (H, W, C) arrays of that shape, or None where it is open."""
        shape: Shape = height, width, channels
        for step in self._steps:
            shape = step.output_shape(shape) if isinstance(step, Transform) else (None, None, None)
        h, w, c = shape
        if h is None or w is None or c is None or self.layout is None:
            return None
        return (c, h, w) if self.layout == "CHW" else (h, w, c)

    def render(
        self, encoded: Buffer, key: Key | None = None, decoder: Decoder | None = None
    ) -> Any:
        """Decode and transform one image into a new array (or what a function returned).

        Raises as `render_into`.
        """
        return self._encoded(encoded, key, None, decoder or local_decoder())

    def render_into(
        self, encoded: Buffer, key: Key | None, out: Array, decoder: Decoder | None = None
    ) -> None:
        """Decode and transform one image into `out`.

        Parameters
        ----------
        encoded : buffer
            The image file's bytes.
        key : Key or None
            What the random choices are a function of.
        out : ndarray
            C-contiguous, of the result's shape and dtype; its content after an error is undefined.
        decoder : Decoder, optional
            Of the calling thread.

        Raises
        ------
        DecodeError
            The image is truncated or damaged.
        LimitError
            It has more pixels than the decoder accepts.
        OptionError
            A crop does not fit the image, or the result does not fit `out`.
        """
        self._encoded(encoded, key, out, decoder or local_decoder())

    def render_all_into(
        self,
        images: Sequence[Buffer],
        keys: Sequence[Key | None],
        out: Array,
        decoder: Decoder | None = None,
    ) -> None:
        """`render_into` for several images, in one native call where they are JPEGs.

        Threads that take many small images would otherwise spend their time on handing over the
        GIL.

        Parameters
        ----------
        images : sequence of buffers
        keys : sequence of Key or None
            One for each.
        out : ndarray
            Of shape ``(len(images), *shape)``.
        """
        decoder = decoder or local_decoder()
        geometries = self._geometries_of_jpegs(images, keys, out) if self.compiled else None
        if geometries is not None:
            decoder.render_jpegs(images, geometries, self._output_format, out)
            return
        for image, key, place in zip(images, keys, out):
            self._encoded(image, key, place, decoder)

    def apply(self, array: Any, key: Key | None = None, decoder: Decoder | None = None) -> Any:
        """`render` for an image that is decoded: what `as_array` accepts."""
        return self._decoded(array, key, None, decoder or local_decoder())

    def apply_into(
        self, array: Any, key: Key | None, out: Array, decoder: Decoder | None = None
    ) -> None:
        """`render_into` for an image that is decoded."""
        self._decoded(array, key, out, decoder or local_decoder())

    def apply_all_into(
        self,
        images: Sequence[Any],
        keys: Sequence[Key | None],
        out: Array,
        decoder: Decoder | None = None,
    ) -> None:
        """`render_all_into` for images that are decoded: arrays of one kind take one call."""
        decoder = decoder or local_decoder()
        arrays = [array for image in images if (array := self._passable(image)) is not None]
        if len(arrays) < len(images) or len({array.shape[2] for array in arrays}) > 1:
            for image, key, place in zip(images, keys, out):
                self._decoded(image, key, place, decoder)
            return
        shape, output_format = out.shape[1:], self._output_format
        if self._geometric_stage is None:
            for array in arrays:
                _check_shape(shape, output_format.shape(*array.shape))
            convert_arrays(arrays, output_format, out)
            return
        geometries = []
        for array, key in zip(arrays, keys):
            height, width, channels = array.shape
            geometry = self._geometric_stage.geometry(width, height, key)
            _check_shape(shape, output_format.shape(geometry.height, geometry.width, channels))
            geometries.append(geometry)
        decoder.render_arrays(arrays, geometries, output_format, out)

    def _encoded(
        self, encoded: Buffer, key: Key | None, out: Array | None, decoder: Decoder
    ) -> Any:
        geometry = self._geometry_of_jpeg(encoded, key)
        if geometry is not None:
            if self.compiled:
                out = self._slot(geometry, 3, out)
                decoder.render(encoded, geometry, self._output_format, out)
                return out
            array = np.empty((geometry.height, geometry.width, 3), np.uint8)
            decoder.render(encoded, geometry, UINT8_FORMAT, array)
            return self._rest(array, "HWC", 1, key, out, decoder)
        array = decode_image(encoded, decoder, self.exif_transpose)
        return self._rest(array, "HWC", 0, key, out, decoder)

    def _geometry_of_jpeg(self, encoded: Buffer, key: Key | None) -> Geometry | None:
        """Where the pixels of a JPEG go that is decoded by regions; None for any other image."""
        if not HAVE_JPEG or self._geometric_stage is None:
            return None
        info = jpeg_info(encoded)
        if info is None or (self.exif_transpose and info[3] > 1):
            return None
        geometry = self._geometric_stage.geometry(info[0], info[1], key)
        geometry.min_reduction = self.reducing_gap or 0.0
        return geometry

    def _geometries_of_jpegs(
        self, images: Sequence[Buffer], keys: Sequence[Key | None], out: Array
    ) -> list[Geometry] | None:
        """The same for several images, None where one of them has none."""
        wanted, geometries = out.shape[1:], []
        for image, key in zip(images, keys):
            geometry = self._geometry_of_jpeg(image, key)
            if geometry is None:
                return None
            _check_shape(wanted, self._output_format.shape(geometry.height, geometry.width, 3))
            geometries.append(geometry)
        return geometries

    def _decoded(self, image: Any, key: Key | None, out: Array | None, decoder: Decoder) -> Any:
        array = self._passable(image)
        if array is None:
            return self._rest(image, None, 0, key, out, decoder)
        if self._geometric_stage is None:
            return self._convert(array, out)
        geometry = self._geometric_stage.geometry(array.shape[1], array.shape[0], key)
        out = self._slot(geometry, array.shape[2], out)
        decoder.render_array(array, geometry, self._output_format, out)
        return out

    def _passable(self, image: Any) -> Array | None:
        """The image as an array where one native pass is all it takes, else None."""
        if not self.compiled or is_tensor(image):
            return None
        array, layout = as_array(image)
        channels = array.shape[2]
        if layout != "HWC" or array.dtype != np.uint8 or not self._fits(channels):
            return None
        if self._geometric_stage is not None and not self._geometric_stage.take(channels):
            return None
        return with_contiguous_rows(array)

    def _rest(
        self,
        value: Any,
        layout: Layout | None,
        first: int,
        key: Key | None,
        out: Array | None,
        decoder: Decoder,
    ) -> Any:
        """The stages from `first` on, and the tail."""
        for stage in self._stages[first:]:
            if isinstance(stage, _GeometricStage):
                if (
                    isinstance(value, np.ndarray)
                    and layout == "HWC"
                    and value.ndim == 3
                    and value.dtype in (np.uint8, np.float32)
                    and stage.take(value.shape[2])
                ):
                    geometry = stage.geometry(value.shape[1], value.shape[0], key)
                    value = render(value, geometry, decoder)
                else:
                    for position, placed in enumerate(stage.steps, stage.first):
                        value, layout = run_step(placed, value, layout, key, position)
            else:
                value, layout = run_step(stage.step, value, layout, key, stage.position)
        if (
            isinstance(value, np.ndarray)
            and value.ndim == 3
            and value.dtype == np.uint8
            and value.shape[2] in (1, 3, 4)
            and as_array(value, layout)[1] == "HWC"
            and self._fits(value.shape[2])
        ):
            return self._convert(value, out)
        for position, step in enumerate(self._tail.steps, self._tail.first):
            value, layout = run_step(step, value, layout, key, position)
        return self._delivered(value, layout, out)

    def _fits(self, channels: int) -> bool:
        """Whether the normalisation has the numbers for as many channels."""
        return len(self._tail.scale) in (1, channels)

    def _slot(self, geometry: Geometry, channels: int, out: Array | None) -> Array:
        shape = self._output_format.shape(geometry.height, geometry.width, channels)
        return _checked(out, shape, self._output_format.dtype)

    def _convert(self, array: Array, out: Array | None) -> Array:
        shape = self._output_format.shape(*array.shape)
        out = _checked(out, shape, self._output_format.dtype)
        convert_array(with_contiguous_rows(array), self._output_format, out)
        return out

    def _delivered(self, value: Any, layout: Layout | None, out: Array | None) -> Any:
        """Bring what the steps left into the layout and dtype that were asked for."""
        if not (isinstance(value, (np.ndarray, Image.Image)) or is_tensor(value)):
            if out is None:
                return value
            raise OptionError(
                f"the transform returned {type(value).__name__}, which cannot be put in a batch "
                f"array; return an array, or pass a collate_fn"
            )
        if out is None and not isinstance(value, np.ndarray):
            return value
        if is_tensor(value):
            # Of any dtype and shape, unlike an image that goes into one of our transforms.
            array, layout = value.detach().cpu().numpy(), layout or "CHW"
        elif isinstance(value, np.ndarray):
            array = value
        else:
            array, layout = as_array(value)
        wanted = self._wanted_layout
        if array.ndim == 3 and wanted is not None:
            layout = layout or as_array(array)[1]
            if layout != wanted:
                array = array.transpose((2, 0, 1) if wanted == "CHW" else (1, 2, 0))
        dtype = self._wanted_dtype if out is None else out.dtype
        if dtype == "uint8" and array.dtype != np.uint8:
            raise OptionError(
                f"the transform gives {array.dtype}, which uint8 would cut; ask for a float dtype"
            )
        if out is None:
            return np.ascontiguousarray(array, dtype)
        _checked(out, array.shape, out.dtype)
        out[...] = array
        return out

    def __repr__(self) -> str:
        return (
            f"<Pipeline of {len(self._steps)} steps, shape={self.shape}, dtype={self.dtype}, "
            f"compiled={self.compiled}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        options = (self._wanted_layout, self._wanted_dtype, self.exif_transpose, self.reducing_gap)
        return _rebuilt, (self._steps, *options)


def _rebuilt(steps: list[Step], *options: Any) -> Pipeline:
    from imagearchive.transforms.compose import Compose

    return Pipeline(Compose(steps), *options)


def _checked(out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if out is None:
        return np.empty(shape, dtype)
    _check_shape(out.shape, shape)
    return out


def _check_shape(wanted: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if wanted != shape:
        raise OptionError(
            f"an image came out as {shape}, the batch needs {wanted}; end the transform with "
            f"a Resize(width, height) or a crop so that all images have one size"
        )


def compile_pipeline(
    transform: Step | None,
    *,
    layout: Layout | None = None,
    dtype: Any = None,
    exif_transpose: bool = False,
    reducing_gap: float | None = None,
) -> Pipeline:
    """Prepare a transform for a loader.

    A run of crops, one resize, flips and padding becomes one native step, and `Normalize`,
    `ToDtype` and `ToTensor` at the end become part of the last one. Where a pipeline consists of
    nothing else, an encoded JPEG goes through one pass that decodes only the region it needs.
    Other transforms and functions run on the array in between. The result equals that of the
    plain transform on the decoded image.

    Parameters
    ----------
    transform : callable or None
        A transform, a `Compose`, any function of an image, or nothing.
    layout : {"CHW", "HWC"}, optional
        Of the result; by default as the transform leaves it.
    dtype : {"uint8", "float16", "float32"}, optional
        Of the result, values cast unscaled; by default as the transform leaves it.
    exif_transpose : bool
        Turn encoded images as their EXIF orientation says. Off by default, as in torchvision.
    reducing_gap : float, optional
        Decode a JPEG at 1/2, 1/4 or 1/8 of its size where the resize that follows still reduces by
        at least this factor. None decodes at full size and is exact. 1 is fastest and sharper than
        the plain path, by 1 to 3 grey levels in the mean on photographs; 3 differs by less than
        half a level in the mean.

    Raises
    ------
    OptionError
        `dtype` is "uint8" and the transform ends in floats.
    """
    return Pipeline(transform, layout, dtype, exif_transpose, reducing_gap)


def _stages(steps: list[Step]) -> list[_GeometricStage | _Single]:
    stages: list[_GeometricStage | _Single] = []
    run: list[GeometricTransform] = []
    moved, fill = False, None
    for position, step in enumerate(steps):
        if not (isinstance(step, GeometricTransform) and step.is_native):
            if run:
                stages.append(_GeometricStage(position - len(run), tuple(run)))
            stages.append(_Single(position, step))
            run, moved, fill = [], False, None
            continue
        pads = step.fill_value
        if (moved and step.resizes) or (fill is not None and pads is not None and pads != fill):
            stages.append(_GeometricStage(position - len(run), tuple(run)))
            run, moved, fill = [], False, None
        run.append(step)
        moved = moved or step.resizes or step.flips or pads is not None
        fill = pads if pads is not None else fill
    if run:
        stages.append(_GeometricStage(len(steps) - len(run), tuple(run)))
    return stages


def _fold(steps: list[Step]) -> _Tail:
    """The longest end of the pipeline that is one formula for uint8 (H, W, C) input."""
    first = len(steps)
    while first and isinstance(steps[first - 1], (Normalize, ToDtype, ToTensor)):
        first -= 1
    while True:
        tail = _formula(first, steps[first:])
        if tail is not None:
            return tail
        first += 1


def _formula(first: int, steps: list[Step]) -> _Tail | None:
    scale: tuple[float, ...] = (1.0,)
    bias: tuple[float, ...] = (0.0,)
    dtype, layout = "uint8", "HWC"
    for step in steps:
        if isinstance(step, ToTensor):
            layout = step.format.value
        elif dtype == "float16":
            return None
        elif isinstance(step, Normalize):
            unit = 1.0 / 255.0 if dtype == "uint8" else 1.0
            n = len(step.std)
            if len(scale) not in (1, n) and n != 1:
                return None
            count = max(n, len(scale))
            times, plus = step.scale() * (count // n), step.bias() * (count // n)
            scale, bias = scale * (count // len(scale)), bias * (count // len(bias))
            scale = tuple(a * unit * t for a, t in zip(scale, times))
            bias = tuple(b * unit * t + p for b, t, p in zip(bias, times, plus))
            dtype = "float32"
        elif isinstance(step, ToDtype) and step.dtype != dtype:
            if step.dtype == "uint8":
                return None
            if dtype == "uint8" and step.scale:
                scale = tuple(v / 255.0 for v in scale)
            dtype = step.dtype
    return _Tail(first, tuple(steps), scale, bias, dtype, layout)  # type: ignore[arg-type]
