"""Values that differ in length from sample to sample, in a form that torch can batch.

torch's default collate stacks arrays and transposes lists, and raises where lengths differ. It
looks a value's type up in a table that its documentation invites to extend. `RaggedList` and
`RaggedArray` are a list and an array in every other respect; a batch of them is a list.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import numpy as np

__all__ = ["LooseArray", "RaggedArray", "RaggedList", "register", "varying"]


class RaggedList(list[Any]):
    """A list that a batch holds as it is: a batch of these is a list of lists."""

    __slots__ = ()


class RaggedArray(np.ndarray[Any, Any]):
    """An array that is not stacked: a batch of these is a list of tensors.

    Arrays whose items are no numbers stay arrays.
    """

    __slots__ = ()


class LooseArray(np.ndarray[Any, Any]):
    """An array that is stacked where all of a batch have one shape, and listed otherwise."""

    __slots__ = ()


def varying(value: Any, stack: bool = False) -> Any:
    """Return a value of a column whose rows differ, as something that can be batched.

    Parameters
    ----------
    value : object
        Lists, arrays and what is in dictionaries change their type, and nothing else about them;
        other values are returned as they are.
    stack : bool
        Whether arrays of one shape are stacked.
    """
    if not _registered:
        register()
    kind = type(value)
    if kind is list:
        return RaggedList(value)
    if kind is np.ndarray:
        return value.view(LooseArray if stack else RaggedArray)
    if kind is dict:
        return _varying_items(value, stack, {})
    return value


def _varying_items(value: dict[Any, Any], stack: bool, seen: dict[int, Any]) -> dict[Any, Any]:
    """Likewise for a dictionary, which may hold others many times over, and itself."""
    found = seen.get(id(value))
    if found is None:
        found = seen[id(value)] = {}
        for key, item in value.items():
            nested = type(item) is dict
            found[key] = _varying_items(item, stack, seen) if nested else varying(item, stack)
    return cast("dict[Any, Any]", found)


_registered = False


def register() -> None:
    """Tell torch how to batch these, in this process, if torch is there."""
    global _registered  # noqa: PLW0603  once for each process
    torch = sys.modules.get("torch")
    if _registered or torch is None:
        return
    if getattr(torch.__spec__, "_initializing", False):
        # Another thread imports it just now; a later row comes back here.
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

    # Some rows may be no arrays: what a list of objects holds need not be of one kind.
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
    """Return the array as one that torch can share: native, contiguous and writable."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view(np.ndarray)
    plain = plain.reshape(array.shape)
    return plain if plain.flags.writeable else plain.copy()
