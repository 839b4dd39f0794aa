"""From the values of a field in several samples to a column of a batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.errors import OptionError
from imagearchive.loader.field_layout import FieldLayout, ragged_fields
from imagearchive.loader.options import Ragged
from imagearchive.transforms.base import is_tensor
from imagearchive.transforms.fields import Array, Boxes, Field, Keypoints, Label, Mask

__all__ = ["make_columns"]

NUMERIC: Final = (Array, Boxes, Keypoints, Label, Mask)


def make_columns(
    layout: FieldLayout,
    values: dict[str, list[Any]],
    ragged: Ragged,
    to_output: Callable[[npt.NDArray[Any]], Any],
) -> dict[str, Any]:
    """Return the columns of all fields that are not images.

    What a column is depends on its field and never on the values of one batch.

    Parameters
    ----------
    layout : FieldLayout
    values : dict of str to list
        Of each field, one value for each sample of the batch.
    ragged : {"list", "nested", "pad"}
        How values of different lengths are put together.
    to_output : callable
        From an array to what the batch holds.

    Raises
    ------
    OptionError
        Values of one field have different shapes or types.
    """
    lengthy = ragged_fields(layout.kinds)
    columns: dict[str, Any] = {}
    for name, column in values.items():
        kind = layout.kinds[name]
        if name in layout.optional:
            columns[name] = [
                None if value is None else _element(kind, value, to_output) for value in column
            ]
        elif not _is_numeric(kind, layout.examples.get(name)):
            columns[name] = column
        elif name in lengthy or _has_objects(kind, layout.examples.get(name)):
            _add_ragged(columns, name, [_array(kind, value) for value in column], ragged, to_output)
        else:
            columns[name] = to_output(_stack(name, kind, column, layout.examples.get(name)))
    return columns


def _is_numeric(kind: Field, example: Any) -> bool:
    """Whether the values of a field are numbers, which `example`, if there is one, is too."""
    if not isinstance(kind, NUMERIC):
        # What a codec of the user makes of a member.
        return type(kind) is Field and _is_number(example)
    return example is None or _is_number(example)


def _is_number(value: Any) -> bool:
    if value is None or isinstance(value, (str, bytes, dict, list, tuple)):
        return False
    return is_tensor(value) or np.asarray(value).dtype.kind in "biufc"


def _has_objects(kind: Field, example: Any) -> bool:
    """Whether a mask is one of several objects, of which each image has its own number."""
    return isinstance(kind, Mask) and np.ndim(example) == 3


def _element(kind: Field, value: Any, to_output: Callable[[npt.NDArray[Any]], Any]) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return to_output(_array(kind, value))
    return value


def _array(kind: Field, value: Any) -> npt.NDArray[Any]:
    """Return a value as an array of a type that torch computes with."""
    array = np.asarray(value.detach().cpu() if is_tensor(value) else value)
    if isinstance(kind, Label) and array.dtype.kind in "iu" and array.dtype != np.uint64:
        return array.astype(np.int64)
    if isinstance(kind, Mask) and array.dtype == np.uint16:
        return array.astype(np.int32)
    return array


def _stack(name: str, kind: Field, column: Sequence[Any], example: Any) -> npt.NDArray[Any]:
    wanted = _array(kind, example) if example is not None else None
    arrays = [_array(kind, value) for value in column]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        ways_out: dict[type[Field], str] = {
            Mask: "end the transform with a Resize or crop of fixed size",
            Array: f"declare it ragged, {name!r}: Array(..., ragged=True)",
            Label: f"declare it ragged, {name!r}: Label(..., ragged=True)",
        }
        way_out = ways_out.get(type(kind))
        raise OptionError(
            f"the values of the field {name!r} have different shapes, such as {shapes[:3]}; "
            f"{f'{way_out}, or ' if way_out else ''}pass a collate_fn"
        )
    stacked = np.stack(arrays)
    if isinstance(kind, Label) and wanted is not None and stacked.dtype.kind != wanted.dtype.kind:
        raise OptionError(
            f"the field {name!r} is {wanted.dtype} in the first sample and {stacked.dtype} in "
            f"others; make all values of one type, as with decoder=float"
        )
    return stacked


def _add_ragged(
    columns: dict[str, Any],
    name: str,
    arrays: list[npt.NDArray[Any]],
    ragged: Ragged,
    to_output: Callable[[npt.NDArray[Any]], Any],
) -> None:
    if ragged == "list":
        columns[name] = [to_output(array) for array in arrays]
        return
    if any(array.ndim == 0 for array in arrays) or len({array.shape[1:] for array in arrays}) > 1:
        raise OptionError(
            f"the values of the field {name!r} differ in more than their length, so they cannot be "
            f"put into one tensor; pass ragged='list'"
        )
    if ragged == "nested":
        # The output is torch: `LoaderOptions` has checked it.
        torch = sys.modules["torch"]
        columns[name] = torch.nested.nested_tensor(
            [to_output(array) for array in arrays], layout=torch.jagged
        )
        return
    lengths = [len(array) for array in arrays]
    padded = np.zeros((len(arrays), max(lengths), *arrays[0].shape[1:]), np.result_type(*arrays))
    if padded.dtype.kind == "i":
        # No class has this number.
        padded -= 1
    for row, array in zip(padded, arrays):
        row[: len(array)] = array
    columns[name] = to_output(padded)
    columns[f"{name}_lengths"] = to_output(np.array(lengths, np.int64))
