"""The cells of a column as arrays, and the values of fields that they give."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.class_numbers import ClassNumbers
from imagearchive.datasets.samples.field_values import decode_field
from imagearchive.datasets.samples.flat_text import FlatText
from imagearchive.datasets.samples.saved_arrays import is_array
from imagearchive.datasets.table_rows import label_numbers
from imagearchive.errors import LabelError
from imagearchive.errors.arguments import shorten
from imagearchive.transforms.fields import Boxes, ColumnField, Keypoints, Label, Text

if TYPE_CHECKING:
    from imagearchive.datasets.samples.field_values import SizeOf
    from imagearchive.datasets.table_columns import Column

__all__ = ["Cells", "cells_of"]


class Cells:
    """The cells of a column: numbers, or text as a file of the field would have it.

    Parameters
    ----------
    sections : mapping of str to ndarray
        As `cells_of` returns them.
    prefix : str
        Of their names.
    """

    def __init__(self, sections: Mapping[str, npt.NDArray[Any]], prefix: str) -> None:
        self.present: npt.NDArray[Any] = sections[f"{prefix}present"]
        self._numbers: npt.NDArray[Any] | None = sections.get(f"{prefix}numbers")
        self._text: FlatText | None = None
        if self._numbers is None:
            self._text = FlatText(sections[f"{prefix}text"], sections[f"{prefix}offsets"])

    @staticmethod
    def is_valid(sections: Mapping[str, npt.NDArray[Any]], prefix: str, count: int) -> bool:
        """Whether arrays that were saved have the right types and shapes."""
        present = sections.get(f"{prefix}present")
        if present is None or not is_array(present, np.bool_, 1) or len(present) != count:
            return False
        numbers = sections.get(f"{prefix}numbers")
        if numbers is not None:
            return numbers.shape == (count,) and numbers.dtype in (np.int64, np.float64)
        data, offsets = (sections.get(f"{prefix}{name}") for name in ("text", "offsets"))
        if data is None or offsets is None:
            return False
        text = FlatText(data, offsets)
        return text.is_valid and len(text) == count

    def value(self, field: ColumnField, row: int, size_of: SizeOf) -> Any:
        """Return the value of a cell that is present, as a file of the field gives it.

        Raises
        ------
        DecodeError, LimitError
            The cell is not of this kind.
        ValueError
            Arrays that were saved are damaged.
        """
        if self._numbers is not None:
            return self._numbers[row].item()
        assert self._text is not None
        data = self._text.bytes_of(row)
        if type(field) is Text:
            return self._text.text(row)
        # Boxes and points may be written as in a text file, too.
        is_text = isinstance(field, (Boxes, Keypoints)) and data.lstrip()[:1] != b"["
        return decode_field(field, "cell.txt" if is_text else "cell.json", data, size_of)


def cells_of(
    column: Column, field: ColumnField, prefix: str
) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    """Return the cells of a column as arrays, and the names of classes if they are numbered.

    Raises
    ------
    LabelError
        A cell cannot be a value of the field.
    """
    if isinstance(field, Label) and not column.is_nested:
        return _label_cells(column, field, prefix)
    texts, present = [], []
    for row, cell in enumerate(_plain_cells(column)):
        is_missing = _is_missing(cell, column.is_typed and isinstance(field, Text))
        present.append(not is_missing)
        texts.append("" if is_missing else _text_of(cell, field, column.where, row))
    text = FlatText.of(texts)
    sections = {
        f"{prefix}present": np.array(present, np.bool_),
        f"{prefix}text": text.data,
        f"{prefix}offsets": text.offsets,
    }
    return sections, []


def _plain_cells(column: Column) -> list[Any]:
    return column.cells.tolist() if isinstance(column.cells, np.ndarray) else list(column.cells)


def _is_missing(cell: Any, may_be_empty: bool) -> bool:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return True
    return isinstance(cell, str) and not cell and not may_be_empty


def _text_of(cell: Any, field: ColumnField, where: str, row: int) -> str:
    """Return a cell as a file of the field would have it."""
    if isinstance(cell, str):
        return cell
    if isinstance(field, Text):
        if isinstance(cell, int):
            return str(cell)
        raise LabelError(f"{where}: row {row}: expected text, got {shorten(cell)}")
    try:
        return json.dumps(cell, default=_plain_value)
    except (TypeError, ValueError, RecursionError) as error:
        raise LabelError(
            f"{where}: row {row}: expected numbers, text, or lists and dicts of them: {error}"
        ) from error


def _plain_value(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"got {type(value).__name__}")


def _label_cells(
    column: Column, field: Label, prefix: str
) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    numbers = column.numbers()
    if numbers is None:
        present = np.array([bool(cell) for cell in column.cells], np.bool_)
    else:
        present = ~np.isnan(numbers)
    class_to_idx = None if field.class_to_idx is None else ClassNumbers.check(field.class_to_idx)
    found, classes = label_numbers(column, np.flatnonzero(present), class_to_idx)
    # A text file shows only what is there, and integers are integers although some are missing.
    if found.dtype.kind == "f" and not column.is_typed and not (found % 1).any():
        found = found.astype(np.int64)
    values = np.zeros(len(present), np.int64 if found.dtype.kind == "i" else np.float64)
    values[present] = found
    if class_to_idx is not None:
        classes = class_to_idx.classes
    return {f"{prefix}present": present, f"{prefix}numbers": values}, classes
