"""Writes NPZ files with `NpzWriter`, and reads their rows with `numpy.load` alone."""

import zipfile

import numpy as np

from imagearchive.arrays.ragged import columns, row_range, row_shape
from imagearchive.containers.npz.writer import NpzWriter


def load(path):
    """All arrays, by numpy.load alone."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def rows_of(arrays):
    """The rows of each column, by the convention."""
    result = {}
    for name, column in columns(arrays).items():
        data = arrays[column.data]
        if column.kind == "array":
            # With an ellipsis, numbers stay 0-d arrays, which keep their byte order.
            result[name] = [data[row, ...] for row in range(len(data))]
            continue
        offsets = arrays[column.offsets]
        assert offsets[0] == 0
        assert offsets[-1] == len(data)
        result[name] = rows = []
        for row in range(len(offsets) - 1):
            start, stop = row_range(offsets, row, len(data))
            part = data[start:stop]
            if column.kind == "utf8":
                part = part.tobytes().decode("utf-8", "surrogatepass")
            elif column.kind == "bytes":
                part = part.tobytes()
            elif column.shapes:
                part = part.reshape(row_shape(arrays[column.shapes], row, stop - start))
            rows.append(part)
    return result


def write(path, samples, **options):
    with NpzWriter(path, **options) as writer:
        for sample in samples:
            writer.append(**sample)
        assert len(writer) == len(samples)
    arrays = load(path)
    return arrays, rows_of(arrays)
