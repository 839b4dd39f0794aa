"""What a notebook shows of a dataset, and of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, ValuesView
from functools import partial
from typing import Any

import numpy as np

from imagearchive.datasets.pil_loader import pil_loader
from imagearchive.datasets.protocols import offered_method
from imagearchive.datasets.shown_samples import (
    all_labels,
    are_images,
    as_shown_sample,
    batch_columns,
    class_names,
    count_samples,
    is_picture,
    load_sample,
    locate_sample,
)
from imagearchive.errors.plurals import pluralize
from imagearchive.images.notebook import (
    SIDE,
    STRIP,
    Summary,
    check_decoding_time,
    count_classes,
    format_bytes,
    summary_html,
)
from imagearchive.images.thumbnails import thumbnail
from imagearchive.transforms.drawing import draw_sample, images_of
from imagearchive.transforms.fields import Boxes, Image, Keypoints, Mask, Sample

__all__ = ["batch_html", "summarize_dataset"]


def summarize_dataset(dataset: Any) -> Summary:
    """Return its number of samples, its classes, and thumbnails of samples as they are stored."""
    facts = [("samples", f"{len(dataset):,}")]
    archives = _archives(dataset)
    if archives:
        size = sum(archive.total_size for archive in archives)
        facts.append(("size of all members", format_bytes(size)))
    names = class_names(dataset) or []
    if names:
        facts.append(("classes", f"{len(names):,}"))
    labels = all_labels(dataset) if names else None
    if labels is None or labels.dtype.kind not in "iuf":
        labels = np.zeros(0)
    classes, is_estimate = count_classes(labels, names) if len(labels) else ([], False)
    return Summary(repr(dataset), facts, classes, is_estimate, _pictures(dataset))


def batch_html(value: Any) -> str | None:
    """Return what a notebook shows of a batch of images; None of any other tuple, list, or dict.

    IPython shows a value for which it gets None as it would without this function.
    """
    columns = batch_columns(value)
    if columns is None and isinstance(value, list) and value and isinstance(value[0], dict):
        # A list of samples.
        columns = value[0]
        is_batch = any(is_picture(one) for one in columns.values())
    else:
        is_batch = any(are_images(column) for column in (columns or {}).values())
    if columns is None or not is_batch:
        return None
    return summary_html(value, lambda: _summarize_batch(value, columns))


def _summarize_batch(batch: Any, columns: dict[str, Any]) -> Summary:
    count = count_samples(batch)
    facts = [(name, _kind_of(column)) for name, column in columns.items()]
    pictures = (
        (f"sample {index}", partial(_drawn_of_batch, batch, index))
        for index in range(min(STRIP, count))
    )
    return Summary(f"batch of {pluralize(count, 'sample', grouped=True)}", facts, pictures=pictures)


def _kind_of(column: Any) -> str:
    shape = getattr(column, "shape", None)
    name = type(column).__name__
    return name if shape is None else f"{column.dtype} {tuple(shape)}"


def _drawn_of_batch(batch: Any, index: int) -> Any:
    return _drawn(batch, load_sample(batch, index, SIDE))


def _archives(dataset: Any) -> list[Any]:
    found = getattr(dataset, "archives", None)
    if isinstance(found, list):
        return found
    archive = getattr(dataset, "archive", None)
    return [] if archive is None else [archive]


def _pictures(dataset: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    count = len(dataset)
    indices = np.unique(np.linspace(0, max(count - 1, 0), min(STRIP, count)).astype(int))
    if any(archive.table.compressed for archive in _archives(dataset)):
        # Only the first can be read quickly.
        indices = np.arange(len(indices))
    for index in indices.tolist():
        part, inner = locate_sample(dataset, index)
        # Requests to a server may take longer than a notebook is to wait.
        read = None if getattr(part, "requests_ahead", 0) else _reader(part, inner)
        if read is not None:
            yield f"sample {index}", read


def _reader(dataset: Any, index: int) -> Callable[[], Any] | None:
    """Return a function that returns a picture of a sample; None if its transform would be called.

    A random transform without a key would draw other numbers afterwards.
    """
    if offered_method(dataset, "load") is not None:
        return lambda: _drawn(dataset, _load_small(dataset, index))
    read = offered_method(dataset, "read")
    if read is not None and offered_method(dataset, "label") is not None and _is_plain(dataset):
        return lambda: read(index)
    if getattr(dataset, "transform", None) is not None:
        return None
    return lambda: _drawn(dataset, dataset[index])


def _load_small(dataset: Any, index: int) -> Sample:
    """Load a sample; its images are decoded as thumbnails if nothing refers to their pixels.

    Raises
    ------
    ValueError, ImageArchiveError
        It cannot be read, or not soon enough.
    """
    kinds = dataset.fields
    encoded = [name for name, kind in kinds.items() if isinstance(kind, (Image, Mask))]
    sample: Sample = dataset.load(index, encoded=encoded)
    whole = any(isinstance(kind, (Mask, Boxes, Keypoints)) for kind in kinds.values())
    values = dict(sample)
    for name in encoded:
        if isinstance(values.get(name), (bytes, memoryview)):
            check_decoding_time(values[name], whole)
            if not whole:
                values[name] = thumbnail(values[name], SIDE)
    return dataset.load(index) if whole else Sample(values, sample.fields)


def _is_plain(dataset: Any) -> bool:
    """Whether the images of an `ImageArchive` are what `read` returns, decoded."""
    return getattr(dataset, "loader", None) is pil_loader and dataset.mode == "single"


def _drawn(dataset: Any, item: Any) -> Any:
    values = item.values() if isinstance(item, Mapping) else item
    for value in values if isinstance(values, (tuple, list, ValuesView)) else [item]:
        if isinstance(value, (bytes, bytearray, memoryview)) and is_picture(value):
            check_decoding_time(value)
    sample = as_shown_sample(item, None, SIDE)
    names = images_of(sample)
    if not names:
        return None
    return np.asarray(draw_sample(sample, names[0], SIDE, class_names(dataset)))
