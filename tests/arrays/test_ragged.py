"""Ragged columns: grouping arrays, and checks of offsets and shapes."""

import numpy as np
import pytest

from imagearchive.arrays.ragged import Column, columns, row_range, row_shape
from imagearchive.errors import CorruptArchiveError


def test_columns_groups_the_parts_of_ragged_columns():
    keys = ["images", "b.offsets", "b.values", "s.utf8", "s.offsets", "c.values", "c.offsets"]
    keys += ["c.shapes", "d.values", "e", "e.values", "e.offsets", "f.utf8", "f.bytes", "f.offsets"]
    assert columns(keys) == {
        "images": Column("images", "array", "images"),
        "b": Column("b", "values", "b.values", "b.offsets"),
        "s": Column("s", "utf8", "s.utf8", "s.offsets"),
        "c": Column("c", "values", "c.values", "c.offsets", "c.shapes"),
        "d.values": Column("d.values", "array", "d.values"),
        **{key: Column(key, "array", key) for key in keys if key[0] in "ef"},
    }
    assert list(columns(["z", "b.offsets", "a", "b.values"])) == ["z", "b", "a"]


def test_row_range_and_shape_are_checked():
    offsets = np.array([0, 2, 2, 5, 4, -1, 9])
    assert row_range(offsets, 0, 5) == (0, 2)
    assert row_range(offsets, 1, 5) == (2, 2)
    for row in (3, 4, 5):
        with pytest.raises(CorruptArchiveError, match=f"x: row {row}"):
            row_range(offsets, row, 5, "x")
    shapes = np.array([[2, 3], [-2, -3], [2, 2]])
    assert row_shape(shapes, 0, 6) == (2, 3)
    for row in (1, 2):
        with pytest.raises(CorruptArchiveError, match=f"x: row {row}"):
            row_shape(shapes, row, 6, "x")
