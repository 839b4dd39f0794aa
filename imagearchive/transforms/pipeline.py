"""Pipelines compiled into as few native passes as their transforms allow."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from imagearchive.errors import DecodeError
from imagearchive.errors.arguments import check_choice, check_flag, check_number
from imagearchive.errors.plurals import pluralize
from imagearchive.images.decode import decode_image, decode_refused, local_decoder
from imagearchive.images.geometry import Geometry, OutputFormat
from imagearchive.images.geometry_plan import GeometryPlan
from imagearchive.images.render import Decoder, convert_array, convert_arrays, native_info
from imagearchive.transforms.base import Array, Layout, Shape, Transform, as_array, is_tensor
from imagearchive.transforms.compose import flat
from imagearchive.transforms.fields import Sample
from imagearchive.transforms.joint import JointImage, JointPass, MixingTransform, Others
from imagearchive.transforms.moves import (
    UINT8_FORMAT,
    GeometryMove,
    Move,
    apply_geometry,
    with_contiguous_rows,
)
from imagearchive.transforms.pipeline_output import (
    check_output_dtype,
    check_shape,
    deliver,
    infer_output,
    output_array,
)
from imagearchive.transforms.random_keys import Key, SampleKeys
from imagearchive.transforms.stages import (
    GeometricStage,
    Step,
    output_stage,
    run_step,
    split_stages,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Pipeline", "compile_pipeline"]

# Images of one native call. After an image that it refuses, the rest of them are passed again.
MAX_CALL: Final = 64


class Pipeline:
    """A transform prepared for a loader's threads; see `compile_pipeline`.

    Any number of threads may share a pipeline, each with its own `Decoder`. It can be pickled.

    Attributes
    ----------
    compiled : bool
        Whether one native pass does everything.
    layout : {"HWC", "CHW"} or None
        Layout of the result, or None if a function decides it.
    dtype : numpy.dtype or None
        Dtype of the result, or None if a function decides it.
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
        dtype = check_output_dtype(dtype)
        self.exif_transpose = check_flag("exif_transpose", exif_transpose)
        if reducing_gap is not None:
            reducing_gap = check_number("reducing_gap", reducing_gap, 1)
        self.reducing_gap = reducing_gap
        steps = flat(transform)
        self._output_stage = output_stage(steps)
        self._stages = split_stages(steps[: self._output_stage.first])
        self._requested_layout = layout
        self._requested_dtype = dtype
        self._steps = steps
        self.layout: Layout | None
        self.layout, self.dtype = infer_output(steps, layout, dtype)
        first = self._stages[0] if self._stages else None
        self._geometric_stage = first if isinstance(first, GeometricStage) else None
        self.compiled = not self._stages or (
            self._geometric_stage is not None and len(self._stages) == 1
        )
        self._plan = (
            self._geometric_stage.plan() if self._geometric_stage and self.compiled else None
        )
        self._output_format = OutputFormat(
            dtype or self._output_stage.dtype,
            (layout or self._output_stage.layout) == "CHW",
            self._output_stage.scale,
            self._output_stage.bias,
        )

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Shape of the results from encoded images, or None if it depends on the image."""
        return self.shape_for(None, None, 3)

    def shape_for(
        self, height: int | None, width: int | None, channels: int | None
    ) -> tuple[int, int, int] | None:
        """Shape of the result for an (H, W, C) array of that shape, or None if it is not known."""
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

        Raises the same errors as `render_into`.
        """
        return self._render_encoded(encoded, key, None, decoder or local_decoder())

    def render_into(
        self, encoded: Buffer, key: Key | None, out: Array, decoder: Decoder | None = None
    ) -> None:
        """Decode and transform one image into `out`.

        Parameters
        ----------
        encoded : buffer
            The bytes of the image file.
        key : Key or None
            Identifies the random choices.
        out : ndarray
            C-contiguous, with the shape and dtype of the result. Undefined after an error.
        decoder : Decoder, optional
            One per thread. By default, the library keeps one for each thread.

        Raises
        ------
        DecodeError
            The image is truncated, or so damaged that Pillow refuses it; see `decode_image`.
        LimitError
            It has more pixels than the decoder accepts.
        TransformError
            A crop is larger than the image.
        OptionError
            The result does not have the shape of `out`.
        """
        self._render_encoded(encoded, key, out, decoder or local_decoder())

    def render_all_into(
        self,
        images: Sequence[Buffer],
        keys: Sequence[Key | None],
        out: Array,
        decoder: Decoder | None = None,
    ) -> None:
        """Do `render_into` for several images; JPEGs and PNGs are rendered by one native call.

        Threads that render many small images would otherwise spend their time waiting for the
        GIL.

        Parameters
        ----------
        images : sequence of buffers
        keys : sequence of Key or None
            One per image.
        out : ndarray
            An array of shape ``(len(images), *shape)``.
        """
        decoder = decoder or local_decoder()
        sample_keys = None if self._plan is None else SampleKeys.from_keys(keys)
        if self._plan is not None and sample_keys is not None:
            self._render_planned(self._plan, images, sample_keys, out, decoder)
            return
        if self.compiled:
            # Otherwise one by one, to leave the images that are refused to Pillow.
            with contextlib.suppress(DecodeError):
                geometries = self._native_geometries(images, keys, out)
                if geometries is not None:
                    decoder.render_images(images, geometries, self._output_format, out)
                    return
        for image, key, slot in zip(images, keys, out):
            self._render_encoded(image, key, slot, decoder)

    def _render_planned(
        self,
        plan: GeometryPlan,
        images: Sequence[Buffer],
        keys: SampleKeys,
        out: Array,
        decoder: Decoder,
    ) -> None:
        """Render several images, those that native code refuses one by one."""
        done, gap = 0, self.reducing_gap or 0.0
        while done < len(images):
            part = slice(done, done + MAX_CALL)
            done += decoder.render_planned(
                images[part], keys.seed, keys.epoch, keys.indices[part], plan,
                self._output_format, out[part], self.exif_transpose, gap,
            )  # fmt: skip
            if done < min(part.stop, len(images)):
                self._render_encoded(images[done], keys[done], out[done], decoder)
                done += 1

    def apply(self, array: Any, key: Key | None = None, decoder: Decoder | None = None) -> Any:
        """Do `render` for a decoded image: an array, a Pillow image or a tensor."""
        return self._render_decoded(array, key, None, decoder or local_decoder())

    def apply_into(
        self, array: Any, key: Key | None, out: Array, decoder: Decoder | None = None
    ) -> None:
        """Do `render_into` for a decoded image."""
        self._render_decoded(array, key, out, decoder or local_decoder())

    def apply_all_into(
        self,
        images: Sequence[Any],
        keys: Sequence[Key | None],
        out: Array,
        decoder: Decoder | None = None,
    ) -> None:
        """Do `render_all_into` for decoded images; arrays of one kind take one native call."""
        decoder = decoder or local_decoder()
        arrays = [array for image in images if (array := self._native_input(image)) is not None]
        if len(arrays) < len(images) or len({array.shape[2] for array in arrays}) > 1:
            for image, key, slot in zip(images, keys, out):
                self._render_decoded(image, key, slot, decoder)
            return
        shape, output_format = out.shape[1:], self._output_format
        if self._geometric_stage is None:
            for array in arrays:
                check_shape(shape, output_format.shape(*array.shape))
            convert_arrays(arrays, output_format, out)
            return
        geometries = []
        for array, key in zip(arrays, keys):
            height, width, channels = array.shape
            geometry = self._geometric_stage.geometry(width, height, key)
            check_shape(shape, output_format.shape(geometry.height, geometry.width, channels))
            geometries.append(geometry)
        decoder.render_arrays(arrays, geometries, output_format, out)

    @property
    def needs_others(self) -> bool:
        """Whether it mixes samples, so that `render_sample` needs `others`."""
        return any(isinstance(step, MixingTransform) for step in self._steps)

    def render_sample(
        self,
        sample: Sample,
        key: Key,
        decoder: Decoder | None = None,
        out: Mapping[str, Array] | None = None,
        others: Others | None = None,
    ) -> Sample:
        """Decode and transform one sample of several fields.

        Parameters
        ----------
        sample : Sample
            Images and masks may be encoded. It is not modified.
        key : Key
            Identifies the random choices, which all fields share.
        decoder : Decoder, optional
            One per thread. By default, the library keeps one for each thread.
        out : mapping of str to ndarray, optional
            Where to write images, C-contiguous, with the shape and dtype of the result.
        others : callable, optional
            Gives the k-th other sample for this one, and its key, for transforms that mix samples.

        Returns
        -------
        Sample
            Images have the layout and dtype of the pipeline; masks keep theirs.
        """
        decoder = decoder or local_decoder()
        joint = JointPass(
            sample, key, decoder, self.exif_transpose, self.reducing_gap or 0.0, others
        )
        slots = out or {}
        if self.compiled and self._geometric_stage is not None:
            moves = joint.geometric_moves(self._geometric_stage)
            joint.apply_moves(moves, lambda name, move: self._finish(joint, name, move, slots))
            return joint.result()
        joint.run(self._stages)
        for name in joint.images:
            value, layout = joint.array(name)
            last = len(self._stages)
            value = self._run_stages(value, layout, last, key, slots.get(name), decoder)
            joint.images[name] = JointImage(value, self.layout)
        return joint.result()

    def _finish(self, joint: JointPass, name: str, move: Move, slots: Mapping[str, Array]) -> Array:
        """Render the final image of a compiled pipeline."""
        assert isinstance(move, GeometryMove)
        value, out = joint.images[name].value, slots.get(name)
        if joint.is_native(name):
            slot = self._output_for(move.geometry, 3, out)
            with contextlib.suppress(DecodeError):
                return joint.render(value, move, self._output_format, slot)
        array, layout = joint.moved(name, move)
        last = len(self._stages)
        result: Array = self._run_stages(array, layout, last, joint.key, out, joint.decoder)
        return result

    def _render_encoded(
        self, encoded: Buffer, key: Key | None, out: Array | None, decoder: Decoder
    ) -> Any:
        geometry = self._native_geometry(encoded, key)
        if geometry is None:
            array = decode_image(encoded, decoder, self.exif_transpose)
            return self._run_stages(array, "HWC", 0, key, out, decoder)
        output_format = self._output_format if self.compiled else UINT8_FORMAT
        shape = output_format.shape(geometry.height, geometry.width, 3)
        array = output_array(out if self.compiled else None, shape, output_format.dtype)
        try:
            decoder.render(encoded, geometry, output_format, array)
        except DecodeError as error:
            array = decode_refused(encoded, decoder, error)
            return self._run_stages(array, "HWC", 0, key, out, decoder)
        return array if self.compiled else self._run_stages(array, "HWC", 1, key, out, decoder)

    def _native_geometry(self, encoded: Buffer, key: Key | None) -> Geometry | None:
        """Return the geometry of an image that can be decoded by regions, or None."""
        if self._geometric_stage is None:
            return None
        try:
            info = native_info(encoded)
        except DecodeError:
            return None
        if info is None or (self.exif_transpose and info[3] != 1):
            return None
        geometry = self._geometric_stage.geometry(info[0], info[1], key)
        geometry.min_reduction = self.reducing_gap or 0.0
        return geometry

    def _native_geometries(
        self, images: Sequence[Buffer], keys: Sequence[Key | None], out: Array
    ) -> list[Geometry] | None:
        """Return the geometry of each image, or None unless every one has one."""
        wanted, geometries = out.shape[1:], []
        for image, key in zip(images, keys):
            geometry = self._native_geometry(image, key)
            if geometry is None:
                return None
            check_shape(wanted, self._output_format.shape(geometry.height, geometry.width, 3))
            geometries.append(geometry)
        return geometries

    def _render_decoded(
        self, image: Any, key: Key | None, out: Array | None, decoder: Decoder
    ) -> Any:
        array = self._native_input(image)
        if array is None:
            return self._run_stages(image, None, 0, key, out, decoder)
        if self._geometric_stage is None:
            return self._convert(array, out)
        geometry = self._geometric_stage.geometry(array.shape[1], array.shape[0], key)
        out = self._output_for(geometry, array.shape[2], out)
        decoder.render_array(array, geometry, self._output_format, out)
        return out

    def _native_input(self, image: Any) -> Array | None:
        """Return the image as an array if one native pass can do everything, else None."""
        if not self.compiled or is_tensor(image):
            return None
        array, layout = as_array(image)
        channels = array.shape[2]
        if layout != "HWC" or array.dtype != np.uint8 or not self._fits_channels(channels):
            return None
        if self._geometric_stage is not None and not self._geometric_stage.fits_channels(channels):
            return None
        return with_contiguous_rows(array)

    def _run_stages(
        self,
        value: Any,
        layout: Layout | None,
        first: int,
        key: Key | None,
        out: Array | None,
        decoder: Decoder,
    ) -> Any:
        """Run the stages from `first` on, then the output stage."""
        for stage in self._stages[first:]:
            if isinstance(stage, GeometricStage):
                if (
                    isinstance(value, np.ndarray)
                    and layout == "HWC"
                    and value.ndim == 3
                    and value.dtype in (np.uint8, np.float32)
                    and stage.fits_channels(value.shape[2])
                ):
                    geometry = stage.geometry(value.shape[1], value.shape[0], key)
                    value = apply_geometry(value, geometry, decoder)
                else:
                    for position, transform in enumerate(stage.steps, stage.first):
                        value, layout = run_step(transform, value, layout, key, position)
            else:
                value, layout = run_step(stage.step, value, layout, key, stage.position)
        if (
            isinstance(value, np.ndarray)
            and value.ndim == 3
            and value.dtype == np.uint8
            and value.shape[2] in (1, 3, 4)
            and as_array(value, layout)[1] == "HWC"
            and self._fits_channels(value.shape[2])
        ):
            return self._convert(value, out)
        for position, step in enumerate(self._output_stage.steps, self._output_stage.first):
            value, layout = run_step(step, value, layout, key, position)
        return deliver(value, layout, out, self._requested_layout, self._requested_dtype)

    def _fits_channels(self, channels: int) -> bool:
        """Whether the normalization has numbers for that many channels."""
        return len(self._output_stage.scale) in (1, channels)

    def _output_for(self, geometry: Geometry, channels: int, out: Array | None) -> Array:
        shape = self._output_format.shape(geometry.height, geometry.width, channels)
        return output_array(out, shape, self._output_format.dtype)

    def _convert(self, array: Array, out: Array | None) -> Array:
        shape = self._output_format.shape(*array.shape)
        out = output_array(out, shape, self._output_format.dtype)
        convert_array(with_contiguous_rows(array), self._output_format, out)
        return out

    def __repr__(self) -> str:
        return (
            f"<Pipeline of {pluralize(len(self._steps), 'step')}, shape={self.shape}, "
            f"dtype={self.dtype}, compiled={self.compiled}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        options = (
            self._requested_layout,
            self._requested_dtype,
            self.exif_transpose,
            self.reducing_gap,
        )
        return _restore_pipeline, (self._steps, *options)


def _restore_pipeline(steps: list[Step], *options: Any) -> Pipeline:
    from imagearchive.transforms.compose import Compose

    return Pipeline(Compose(steps), *options)


def compile_pipeline(
    transform: Step | None,
    *,
    layout: Layout | None = None,
    dtype: Any = None,
    exif_transpose: bool = False,
    reducing_gap: float | None = None,
) -> Pipeline:
    """Compile a transform into as few native passes as possible, for use in a loader.

    Crops, one resize, flips and padding in a row become one native step, and `Normalize`,
    `ToDtype` and `ToTensor` at the end become part of the last step. If a pipeline has nothing
    else, one pass takes an encoded JPEG or PNG to the result and decodes only the region it needs.
    Other transforms and functions run on the array in between. The result equals that of the plain
    transform on the decoded image.

    Parameters
    ----------
    transform : callable or None
        A transform, a `Compose`, any function of an image, or None to decode only.
    layout : {"CHW", "HWC"}, optional
        Layout of the result. By default, the transform decides.
    dtype : {"uint8", "float16", "float32"}, optional
        Dtype of the result; values are cast without scaling. By default, the transform decides.
    exif_transpose : bool
        Rotate encoded images by their EXIF orientation. Off by default, as in torchvision.
    reducing_gap : float, optional
        Decode a JPEG at 1/2, 1/4 or 1/8 of its size if the resize that follows still reduces by
        at least this factor. None decodes at full size and is exact. 1 is fastest and differs by
        1 to 3 gray levels in the mean on photographs; 3 differs by less than half a level.

    Raises
    ------
    OptionError
        An option is out of range, or `dtype` is "uint8" but the transform returns floats.
    """
    return Pipeline(transform, layout, dtype, exif_transpose, reducing_gap)
