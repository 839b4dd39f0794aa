"""What a pipeline returns: its layout, dtype, and shape, and how values are brought to them."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from imagearchive.errors import OptionError
from imagearchive.images.geometry import DTYPES
from imagearchive.transforms.base import Array, Layout, Transform, as_array, is_tensor
from imagearchive.transforms.stages import Step
from imagearchive.transforms.values import Normalize, ToDtype, ToTensor

__all__ = ["check_output_dtype", "check_shape", "deliver", "infer_output", "output_array"]


def check_output_dtype(dtype: Any) -> str | None:
    """Return the name of a dtype that a pipeline can return, or None for None.

    Raises
    ------
    OptionError
        A pipeline cannot return it.
    """
    if dtype is None:
        return None
    try:
        name: str = np.dtype(dtype).name
    except TypeError:
        name = ""
    if name not in DTYPES:
        raise OptionError(f"dtype must be 'uint8', 'float16', 'float32' or None, got {dtype!r}")
    return name


def infer_output(
    steps: list[Step], wanted: Layout | None, wanted_dtype: str | None
) -> tuple[Layout | None, np.dtype[Any] | None]:
    """Return layout and dtype of what the steps return, or None where a function decides it."""
    layout: Layout | None = "HWC"
    dtype: np.dtype[Any] | None = np.dtype(np.uint8)
    for step in steps:
        if not isinstance(step, Transform):
            layout = dtype = None
            continue
        if isinstance(step, ToTensor):
            layout = step.format.value
        dtype = step.output_dtype(dtype) if dtype is not None else None
        if dtype is None and isinstance(step, (Normalize, ToDtype)):
            dtype = step.output_dtype(np.dtype(np.uint8))
    if wanted_dtype == "uint8" and dtype is not None and dtype != np.uint8:
        raise OptionError(
            f"dtype='uint8', but the transform ends in {dtype}; leave out normalization, or "
            f"end with ToDtype('uint8', scale=True)"
        )
    return wanted or layout, np.dtype(wanted_dtype) if wanted_dtype else dtype


def deliver(
    value: Any,
    layout: Layout | None,
    out: Array | None,
    wanted: Layout | None,
    wanted_dtype: str | None,
) -> Any:
    """Convert what the steps returned to the requested layout and dtype.

    Parameters
    ----------
    value : object
        What the last step returned.
    layout : {"HWC", "CHW"} or None
        Its layout, where it is known.
    out : ndarray or None
        Where to write it. With None, it is returned.
    wanted, wanted_dtype : str or None
        The layout and dtype that were asked for.
    """
    if not (isinstance(value, (np.ndarray, Image.Image)) or is_tensor(value)):
        if out is None:
            return value
        raise OptionError(
            f"the transform returned {type(value).__name__}, which cannot be put into a batch "
            f"array; return an array, or pass a collate_fn"
        )
    if out is None and not isinstance(value, np.ndarray):
        return value
    if is_tensor(value):
        # A function may return a tensor of any dtype and shape; `as_array` accepts only images.
        array, layout = value.detach().cpu().numpy(), layout or "CHW"
    elif isinstance(value, np.ndarray):
        array = value
    else:
        array, layout = as_array(value)
    if array.ndim == 3 and wanted is not None:
        layout = layout or as_array(array)[1]
        if layout != wanted:
            array = array.transpose((2, 0, 1) if wanted == "CHW" else (1, 2, 0))
    dtype = wanted_dtype if out is None else out.dtype
    if dtype == "uint8" and array.dtype != np.uint8:
        raise OptionError(
            f"the transform returns {array.dtype}, which uint8 would cut; use a float dtype"
        )
    if out is None:
        return np.ascontiguousarray(array, dtype)
    output_array(out, array.shape, out.dtype)
    out[...] = array
    return out


def output_array(out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return `out` if it has this shape, or a new array if it is None."""
    if out is None:
        return np.empty(shape, dtype)
    check_shape(out.shape, shape)
    return out


def check_shape(wanted: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raise OptionError unless an image has the shape that the batch needs."""
    if wanted != shape:
        raise OptionError(
            f"the transform returned an image of shape {shape}, but the batch needs {wanted}; end "
            f"the transform with Resize(width, height) or a crop so that all images have one size"
        )
