"""How a column whose rows differ in length or shape lies in an NPZ: the convention, in one place.

An NPZ is a set of named arrays. A column whose rows all have one shape is one array named as the
column, its first dimension counting the rows. Any other column is several plain arrays, whose
names are that of the column and a suffix:

====================  ==================  ========================================================
array                 dtype, shape        meaning
====================  ==================  ========================================================
``NAME.values``       any, (total, ...)   the rows of a numeric column one after the other
``NAME.utf8``         uint8, (total,)     the rows of a column of strings, encoded as UTF-8 (with
                                          lone surrogates passed through, as "surrogatepass" does)
``NAME.bytes``        uint8, (total,)     the rows of a column of byte strings
``NAME.offsets``      <i8, (n + 1,)       row ``i`` is ``data[offsets[i]:offsets[i + 1]]``;
                                          ``offsets[0]`` is 0, and no offset is below the last
``NAME.shapes``       <i8, (n, ndim)      optional, beside ``values`` alone: ``values`` is then
                                          flat, offsets count elements, and row ``i`` is the
                                          slice in C order as ``shapes[i]``
====================  ==================  ========================================================

A column is ragged only where exactly one of the first three and ``offsets`` are there and the
file has no array called ``NAME``; every other array is a plain column, whatever dots its name has.
Without ``shapes``, offsets count entries of the first dimension of ``values``: for boxes that
number differently from image to image, ``values`` is (total, 4) and a row is (k, 4).

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
        What a row is: ``array[i]``, or a slice of the data: an array, a str, or bytes.
    data : str
        Key of the array that holds the elements.
    offsets : str or None
        Key of the offsets; None for kind "array".
    shapes : str or None
        Key of the shapes, where rows differ beyond their first dimension.
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
        By name of the column, in the order in which their first array comes.
    """
    # A dict keeps the order of the file, which a set would lose.
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
    """Start and end of a row in the data of a ragged column.

    Parameters
    ----------
    offsets : ndarray of int, shape (n + 1,)
        Offsets of the column; two of them are read.
    row : int
        Number of the row, ``0 <= row < n``.
    length : int
        First dimension of the data.
    where : str
        What to call the column in messages.

    Raises
    ------
    CorruptArchiveError
        The offsets do not lie in order inside the data.
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
    """Shape of a row of a column with ``shapes``, checked against its number of elements.

    Raises
    ------
    CorruptArchiveError
        The shape does not have `count` elements.
    """
    shape = tuple(int(length) for length in shapes[row])
    if any(length < 0 for length in shape) or math.prod(shape) != count:
        raise CorruptArchiveError(
            f"{where}: row {row} has shape {shape} but {count} elements; the file is damaged"
        )
    return shape
