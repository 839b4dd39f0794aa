"""Values of different lengths that torch's default collate can batch.

It stacks arrays and transposes lists, and raises an error if lengths differ. For each type it
calls the function in a table that users may extend. `RaggedList` and `RaggedArray` are a list and
an array in every other respect; a batch of them is a list.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import numpy as np

__all__ = ["LooseArray", "RaggedArray", "RaggedList", "batchable", "register"]


class RaggedList(list[Any]):
    """A list that is not transposed: a batch of these is a list of lists."""

    __slots__ = ()


class RaggedArray(np.ndarray[Any, Any]):
    """An array that is not stacked: a batch of these is a list of tensors.

    Arrays whose items are not numbers stay arrays.
    """

    __slots__ = ()


class LooseArray(np.ndarray[Any, Any]):
    """An array that is stacked if all arrays of a batch have one shape, and listed otherwise."""

    __slots__ = ()


def batchable(value: Any, stack: bool = False) -> Any:
    """Return a value of a column whose rows differ in length in a type that can be batched.

    Parameters
    ----------
    value : object
        Lists and arrays, also those in dictionaries, change only their type; other values are
        returned unchanged.
    stack : bool
        Whether arrays of one shape may be stacked.
    """
    if not _registered:
        register()
    kind = type(value)
    if kind is list:
        return RaggedList(value)
    if kind is np.ndarray:
        return value.view(LooseArray if stack else RaggedArray)
    if kind is dict:
        return _batchable_items(value, stack, {})
    return value


def _batchable_items(value: dict[Any, Any], stack: bool, seen: dict[int, Any]) -> dict[Any, Any]:
    """Do the same for a dictionary, which may contain others several times, or itself."""
    found = seen.get(id(value))
    if found is None:
        found = seen[id(value)] = {}
        for key, item in value.items():
            nested = type(item) is dict
            found[key] = _batchable_items(item, stack, seen) if nested else batchable(item, stack)
    return cast("dict[Any, Any]", found)


_registered = False


def register() -> None:
    """Tell torch how to batch these types in this process, if it is imported."""
    global _registered  # noqa: PLW0603  once for each process
    torch = sys.modules.get("torch")
    if _registered or torch is None:
        return
    if getattr(torch.__spec__, "_initializing", False):
        # Another thread is importing it; the next row calls this again.
        return
    from torch.utils.data._utils.collate import default_collate_fn_map

    default_collate_fn_map.update(
        {RaggedList: _collate_lists, RaggedArray: _collate_arrays, LooseArray: _collate_loose}
    )
    _registered = True


def _collate_lists(batch: list[Any], **_: Any) -> list[Any]:
    return list(batch)


def _collate_arrays(batch: list[Any], **_: Any) -> list[Any]:
    import torch

    # Some rows may not be arrays, since an array of objects may contain several types.
    return [
        torch.from_numpy(_plain(value))
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc"
        else value
        for value in batch
    ]


def _collate_loose(batch: list[Any], **_: Any) -> Any:
    import torch

    rows = _collate_arrays(batch)
    shapes = {(row.shape, row.dtype) if torch.is_tensor(row) else None for row in rows}
    return torch.stack(rows) if len(shapes) == 1 and None not in shapes else rows


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the array in a form that torch can share: native, contiguous and writable."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view(np.ndarray)
    plain = plain.reshape(array.shape)
    return plain if plain.flags.writeable else plain.copy()
