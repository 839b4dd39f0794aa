"""From arrays to what a batch holds: tensors, pinned memory, memory formats."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from imagearchive.errors import OptionError
from imagearchive.loader.options import BatchOptions
from imagearchive.transforms.base import is_tensor

__all__ = [
    "as_image",
    "as_output",
    "empty_pinned",
    "images_as_output",
    "labels_as_output",
    "pin",
    "stack_images",
]


def images_as_output(images: Any, options: BatchOptions) -> Any:
    """Return the images of a batch, which `as_output` returned, in the memory that it asks for."""
    # This costs nothing if they are in page-locked memory already.
    images = pin(images, options)
    if options.channels_last and options.output == "torch" and images.ndim == 4:
        # Stored as (N, H, W, C), seen as (N, C, H, W): torch's channels-last format.
        images = images.permute(0, 3, 1, 2)
    return images


def labels_as_output(labels: list[Any], options: BatchOptions, ragged: bool) -> Any:
    """Return labels as one array: of int64 if all are integers, otherwise of their own type.

    Labels of different shapes, and those that are not numbers, stay a list. Arrays in the list
    become tensors if the output is torch, so that a loop over the labels of a batch finds the same
    types whether or not they have one shape.

    Parameters
    ----------
    labels : list
    options : BatchOptions
    ragged : bool
        Whether the labels of the dataset have different lengths, so that they always are a list,
        whatever those of one batch are.
    """
    if ragged:
        return [_as_numbers(label, options, label) for label in labels]
    if type(labels[0]) is int:
        # By far the most common case, and much faster than the code below.
        try:
            array = np.array(labels)
        except ValueError:
            return labels
        return pin(as_output(array, options), options) if array.dtype == np.int64 else labels
    try:
        stacked = np.stack([np.asarray(label) for label in labels])
    except ValueError:
        return [_as_numbers(label, options, label) for label in labels]
    return _as_numbers(stacked, options, labels)


def _as_numbers(value: Any, options: BatchOptions, otherwise: Any) -> Any:
    """Return an array of numbers as a batch holds it, integers as int64; else `otherwise`."""
    if not isinstance(value, np.ndarray):
        return otherwise
    if value.dtype.kind in "iu" and value.dtype != np.uint64:
        value = value.astype(np.int64)
    elif value.dtype.kind not in "bf":
        return otherwise
    return pin(as_output(value, options), options)


def stack_images(images: list[Any]) -> Any:
    """Return images of one shape as one array or tensor."""
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise OptionError(
            f"the images of a batch have different shapes, such as {sorted(shapes)[:3]}: end the "
            f"transform with a Resize or crop of fixed size, or pass a collate_fn"
        )
    if isinstance(images[0], np.ndarray):
        return np.stack(images)
    import torch

    return torch.stack(images)


def as_image(value: Any, options: BatchOptions) -> Any:
    """Convert the result of the user's function to the type and layout of the batch."""
    if isinstance(value, np.ndarray):
        # The pipeline has converted it already.
        return as_output(value, options)
    if not is_tensor(value):
        raise OptionError(
            f"the transform returned {type(value).__name__}, which cannot be put in a batch; "
            f"return an array or a tensor, or pass a collate_fn"
        )
    if options.dtype is not None and str(value.dtype) != f"torch.{options.dtype}":
        if options.dtype == "uint8":
            raise OptionError(
                f"the transform returns {value.dtype}, which uint8 would cut; use a float dtype"
            )
        value = value.float() if options.dtype == "float32" else value.half()
    if options.channels_last and value.ndim == 3:
        value = value.permute(1, 2, 0)
    return value.detach().cpu().numpy() if options.output == "numpy" else value


def as_output(value: Any, options: BatchOptions) -> Any:
    """Return an array, or a torch tensor that shares its memory if the output is torch."""
    if options.output == "numpy" or not isinstance(value, np.ndarray):
        return value
    import torch

    return torch.from_numpy(value if value.flags.writeable else value.copy())


def pin(value: Any, options: BatchOptions) -> Any:
    """Return a tensor in page-locked memory if the batch is to be."""
    return value.pin_memory() if options.pin_memory and hasattr(value, "pin_memory") else value


def empty_pinned(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
    """Return a tensor of any content in page-locked memory."""
    import torch

    kind = getattr(torch, np.dtype(dtype).name)
    # The device is passed since the user may have set another default.
    return torch.empty(shape, dtype=kind, device="cpu", pin_memory=True)
