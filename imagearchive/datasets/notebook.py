"""What a notebook shows of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from imagearchive.datasets.pil_loader import pil_loader
from imagearchive.datasets.protocols import offered_method
from imagearchive.datasets.shown_samples import (
    all_labels,
    as_shown_sample,
    class_names,
    locate_sample,
)
from imagearchive.images.notebook import SIDE, STRIP, Summary, count_classes, format_bytes
from imagearchive.transforms.drawing import draw_sample, images_of

__all__ = ["summarize_dataset"]


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
    load = offered_method(dataset, "load")
    if load is not None:
        return lambda: _drawn(dataset, load(index))
    read = offered_method(dataset, "read")
    if read is not None and offered_method(dataset, "label") is not None and _is_plain(dataset):
        return lambda: read(index)
    if getattr(dataset, "transform", None) is not None:
        return None
    return lambda: _drawn(dataset, dataset[index])


def _is_plain(dataset: Any) -> bool:
    """Whether the images of an `ImageArchive` are what `read` returns, decoded."""
    return getattr(dataset, "loader", None) is pil_loader and dataset.mode == "single"


def _drawn(dataset: Any, item: Any) -> Any:
    sample = as_shown_sample(item, None, SIDE)
    names = images_of(sample)
    if not names:
        return None
    return np.asarray(draw_sample(sample, names[0], SIDE, class_names(dataset)))
