"""How a column whose rows differ in length or shape is stored in an NPZ.

An NPZ is a set of named arrays. A column whose rows all have the same shape is one array with the
name of the column; its first dimension is the number of rows. Any other column is several plain
arrays, named after the column with a suffix:

====================  ==================  ========================================================
array                 dtype, shape        meaning
====================  ==================  ========================================================
``NAME.values``       any, (total, ...)   the rows of a numeric column, concatenated
``NAME.utf8``         uint8, (total,)     the rows of a column of strings, encoded as UTF-8 (lone
                                          surrogates as by the error handler "surrogatepass")
``NAME.bytes``        uint8, (total,)     the rows of a column of byte strings
``NAME.offsets``      <i8, (n + 1,)       row ``i`` is ``data[offsets[i]:offsets[i + 1]]``;
                                          ``offsets[0]`` is 0, and offsets never decrease
``NAME.shapes``       <i8, (n, ndim)      optional, only with ``values``: ``values`` is then
                                          flat, offsets count elements, and row ``i`` is its
                                          slice, reshaped in C order to ``shapes[i]``
====================  ==================  ========================================================

A column is ragged only if the file has ``offsets`` and exactly one of the first three, and no array
called ``NAME``. Every other array is a plain column, even if its name contains dots. Without
``shapes``, offsets count entries of the first dimension of ``values``: if images have different
numbers of boxes, ``values`` is (total, 4) and a row is (k, 4).

Plain NumPy reads it in one line::

    data = np.load("train.npz")
    rows = np.split(data["bboxes.values"], data["bboxes.offsets"][1:-1])
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from imagearchive.errors import CorruptArchiveError
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "BYTES",
    "OFFSETS",
    "SHAPES",
    "UTF8",
    "VALUES",
    "Column",
    "columns",
    "row_range",
    "row_shape",
]

VALUES: Final = ".values"
UTF8: Final = ".utf8"
BYTES: Final = ".bytes"
OFFSETS: Final = ".offsets"
SHAPES: Final = ".shapes"

Kind = Literal["array", "values", "utf8", "bytes"]

_KINDS: Final[dict[str, Kind]] = {VALUES: "values", UTF8: "utf8", BYTES: "bytes"}


@dataclass(frozen=True)
class Column:
    """The arrays that make up one column.

    Attributes
    ----------
    name : str
        Name of the column.
    kind : {"array", "values", "utf8", "bytes"}
        A row is ``array[i]``, or a slice of the data: an array, a str or bytes.
    data : str
        Key of the array with the elements.
    offsets : str or None
        Key of the offsets; None for kind "array".
    shapes : str or None
        Key of the shapes, if rows differ in more than their first dimension.
    """

    name: str
    kind: Kind
    data: str
    offsets: str | None = None
    shapes: str | None = None


def columns(keys: Iterable[str]) -> dict[str, Column]:
    """Group the arrays of an NPZ into columns.

    Parameters
    ----------
    keys : iterable of str
        Names of the arrays, without ``.npy``.

    Returns
    -------
    dict of str to Column
        By the name of the column, in the order of their first arrays.
    """
    # A dict, unlike a set, keeps the order of the file.
    names = dict.fromkeys(keys)
    found: dict[str, Column] = {}
    owner: dict[str, str] = {}
    for key in names:
        for suffix, kind in _KINDS.items():
            name = key.removesuffix(suffix)
            offsets = name + OFFSETS
            if name == key or name in names or offsets not in names:
                continue
            if sum(name + other in names for other in _KINDS) > 1:
                continue
            shapes = name + SHAPES if suffix == VALUES and name + SHAPES in names else None
            found[name] = Column(name, kind, key, offsets, shapes)
            owner.update(dict.fromkeys((key, offsets, *([shapes] if shapes else [])), name))
    return {
        name: found.get(name, Column(name, "array", name))
        for name in dict.fromkeys(owner.get(key, key) for key in names)
    }


def row_range(
    offsets: npt.NDArray[Any], row: int, length: int, where: str = "<array>"
) -> tuple[int, int]:
    """Return the start and end of a row in the data of a ragged column.

    Parameters
    ----------
    offsets : ndarray of int, shape (n + 1,)
        Offsets of the column; two of them are read.
    row : int
        Index of the row, ``0 <= row < n``.
    length : int
        First dimension of the data.
    where : str
        Name of the column in messages.

    Raises
    ------
    CorruptArchiveError
        The offsets decrease or exceed the data.
    """
    start, end = int(offsets[row]), int(offsets[row + 1])
    if not 0 <= start <= end <= length:
        raise CorruptArchiveError(
            f"{where}: row {row} claims entries {start} to {end} of {length}; the file is damaged"
        )
    return start, end


def row_shape(
    shapes: npt.NDArray[Any], row: int, count: int, where: str = "<array>"
) -> tuple[int, ...]:
    """Return the shape of a row of a column with ``shapes``.

    Raises
    ------
    CorruptArchiveError
        The shape does not have `count` elements.
    """
    shape = tuple(int(length) for length in shapes[row])
    if any(length < 0 for length in shape) or math.prod(shape) != count:
        raise CorruptArchiveError(
            f"{where}: row {row} has shape {shape} but {pluralize(count, 'element')}; the file is "
            "damaged"
        )
    return shape
