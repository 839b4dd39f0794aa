"""What a loader reads from. The sources in this module hold encoded images.

A source returns a few samples at a time as a `Chunk`.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Callable, Container, Iterable, Sequence
from functools import cached_property
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.label_guard import LabelGuard
from imagearchive.datasets.protocols import EncodedImages
from imagearchive.errors import (
    CorruptArchiveError,
    DecodeError,
    LimitError,
    UnsupportedMemberError,
)
from imagearchive.errors.plurals import pluralize
from imagearchive.images.render import Decoder
from imagearchive.loader.field_layout import PAIR_LAYOUT, FieldLayout, common_layout
from imagearchive.loader.options import MAX_PART
from imagearchive.transforms import Key, Pipeline, decode_image
from imagearchive.transforms.fields import Sample

__all__ = [
    "BROKEN",
    "Chunk",
    "Source",
    "first_readable",
    "is_damage",
    "make_fingerprint",
    "part_samples",
    "requests_ahead",
    "spread_indices",
]

# Bytes that a thread gathers for one native call. With more, calls no longer cost anything.
CALL_BYTES: Final = 1 << 16
# The errors that broken bytes raise, here and in other datasets. Any other error is one of the
# program, and ends the epoch whatever `on_error` is.
BROKEN: Final = (
    DecodeError,
    CorruptArchiveError,
    UnsupportedMemberError,
    LimitError,
    OSError,
    EOFError,
    SyntaxError,
)

# The same limit as `MAX_PART` for images of at most 1 KiB.
MAX_SMALL_PART: Final = 64
# How many samples are tried to find one that can be read.
MAX_TRIED: Final = 64

_Array = npt.NDArray[Any]
Value = TypeVar("Value")


def is_damage(error: BaseException) -> bool:
    """Whether an error of `BROKEN` is about damaged bytes, not about the system.

    A missing file, too many open files, or a lack of memory does not make an image broken. Skipping
    the sample would silently leave out good data.
    """
    return not isinstance(error, OSError) or (
        error.errno is None and not isinstance(error, FileNotFoundError)
    )


def requests_ahead(source: Any) -> int:
    """Return how many samples of a source or dataset are best requested ahead; 0 for local ones.

    Those on servers have an attribute of this name; see `imagearchive.datasets.protocols`.
    """
    found: int = getattr(source, "requests_ahead", 0)
    return found


def part_samples(source: Any) -> int:
    """Return how many samples of a source a thread should load at a time."""
    found: int = getattr(source, "part_samples", MAX_PART)
    return found


class Chunk(Protocol):
    """Some samples of a source, read together."""

    def render_into(
        self, pipeline: Pipeline, keys: Sequence[Key], out: _Array, decoder: Decoder
    ) -> list[Any]:
        """Write the transformed images of all samples to `out`; return their labels."""
        ...

    def render(self, k: int, pipeline: Pipeline, key: Key, decoder: Decoder) -> tuple[Any, Any]:
        """Return the transformed image of the k-th sample and its label."""
        ...

    def sample(self, k: int, decoder: Decoder) -> dict[str, Any]:
        """Return the k-th sample without transforms, as a dict."""
        ...


class Source(Protocol):
    """A dataset as the loader sees it. Safe for threads."""

    dataset: Any
    guard: LabelGuard

    def __len__(self) -> int: ...

    def layout(self) -> FieldLayout | None:
        """Return the fields of the samples; None for pairs of an image and a label."""
        ...

    def ragged_labels(self) -> bool:
        """Whether the labels of pairs have different lengths."""
        ...

    def load_fields(self, index: int, encoded: Container[str], decoder: Decoder) -> Sample:
        """Return a sample as fields; those in `encoded` may be as they are stored.

        The fields of a pair are those of `PAIR_LAYOUT`.
        """
        ...

    def chunk(self, indices: Sequence[int]) -> Chunk:
        """Return the samples of these indices. They may be read later, when they are asked for."""
        ...

    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        """Return height, width and channels of the images, None for each that may differ."""
        ...

    def name(self, index: int) -> str:
        """Return the name of a sample for messages and reports."""
        ...

    def fingerprint(self) -> str:
        """Return a short text that depends on the data, not on their paths."""
        ...

    def prefetch(self, indices: Sequence[int]) -> None:
        """Start reading these samples ahead, if possible; return at once."""
        ...

    def check_unchanged(self) -> None:
        """Raise StaleIndexError if a file has changed since it was opened."""
        ...


class EncodedSource:
    """A dataset of encoded images, which the native pipeline decodes."""

    def __init__(
        self, dataset: Any, images: EncodedImages, exif_transpose: bool, guard: LabelGuard
    ) -> None:
        guard.check_sizes(images.label_sizes() if hasattr(images, "label_sizes") else None)
        self.guard = guard
        self.dataset = dataset
        self.images = images
        self.exif_transpose = exif_transpose
        self.read = images.read
        self.read_views = getattr(images, "read_views", _no_views)
        self.label = self._checked_label if guard.active else images.label
        self._label_list = getattr(images, "label_list", None)
        self.prefetch = images.prefetch
        self.requests_ahead = requests_ahead(images)
        self.check_unchanged = images.check_unchanged

    def _checked_label(self, index: int) -> Any:
        label = self.images.label(index)
        self.guard.check(label, None)
        return label

    def labels(self, indices: npt.NDArray[np.int64]) -> list[Any]:
        """Return the labels of several samples."""
        if self._label_list is None:
            return [self.label(index) for index in indices.tolist()]
        labels: list[Any] = self._label_list(indices)
        if self.guard.active:
            for label in labels:
                if type(label) is not int:
                    self.guard.check(label, None)
        return labels

    def __len__(self) -> int:
        return len(self.images)

    def layout(self) -> None:
        return None

    def ragged_labels(self) -> bool:
        sizes = self.images.label_sizes() if hasattr(self.images, "label_sizes") else None
        return sizes is not None and len(sizes) > 0 and bool((sizes != sizes[0]).any())

    def load_fields(self, index: int, encoded: Container[str], decoder: Decoder) -> Sample:
        values = {"image": self.read(index), "label": self.label(index)}
        return Sample(values, PAIR_LAYOUT.kinds)

    def chunk(self, indices: Sequence[int]) -> Chunk:
        return _EncodedChunk(self, indices)

    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        return None, None, 3

    def name(self, index: int) -> str:
        return str(self.images.name(index))

    @cached_property
    def part_samples(self) -> int:
        """See `part_samples`: as many as one native call takes, if the images are small."""
        size: Callable[[int], int] | None = getattr(self.images, "encoded_size", None)
        chosen = spread_indices(len(self))
        if size is None or not chosen:
            return MAX_PART
        mean = sum(map(size, chosen)) // len(chosen)
        return min(max(CALL_BYTES // max(mean, 1), MAX_PART), MAX_SMALL_PART)

    def fingerprint(self) -> str:
        count, chosen = len(self), spread_indices(len(self))
        size: Callable[[int], int] | None = getattr(self.images, "encoded_size", None)
        if size is None:
            size = self._read_size
            self.prefetch(chosen)
        return make_fingerprint(
            count, (f"{self.name(i)}\0{self.label(i)}\0{size(i)}" for i in chosen)
        )

    def _read_size(self, index: int) -> int:
        try:
            return len(self.read(index))
        except (CorruptArchiveError, UnsupportedMemberError):
            return -1


def _no_views(indices: npt.NDArray[np.int64]) -> None:
    return None


class _EncodedChunk:
    def __init__(self, source: EncodedSource, indices: Sequence[int]) -> None:
        self._source = source
        self._indices = indices

    def render_into(
        self, pipeline: Pipeline, keys: Sequence[Key], out: _Array, decoder: Decoder
    ) -> list[Any]:
        source = self._source
        indices = np.array(self._indices, np.int64)
        views = source.read_views(indices)
        if views is not None:
            pipeline.render_all_into(views, keys, out, decoder)
            return source.labels(indices)
        labels: list[Any] = []
        images: list[Any] = []
        first = waiting = 0
        for index in self._indices:
            image = source.read(index)
            images.append(image)
            labels.append(source.label(index))
            waiting += len(image)
            if waiting >= CALL_BYTES:
                end = len(labels)
                pipeline.render_all_into(images, keys[first:end], out[first:end], decoder)
                first, waiting, images = end, 0, []
        if images:
            pipeline.render_all_into(images, keys[first:], out[first:], decoder)
        return labels

    def render(self, k: int, pipeline: Pipeline, key: Key, decoder: Decoder) -> tuple[Any, Any]:
        index = self._indices[k]
        image = pipeline.render(self._source.read(index), key, decoder)
        return image, self._source.label(index)

    def sample(self, k: int, decoder: Decoder) -> dict[str, Any]:
        index = self._indices[k]
        source = self._source
        image = decode_image(source.read(index), decoder, exif_transpose=source.exif_transpose)
        return {
            "image": image,
            "label": source.label(index),
            "labels": source.images.labels(index),
            "filename": source.name(index),
            "index": index,
        }


class ConcatenatedSource:
    """Several sources, one after the other."""

    def __init__(self, dataset: Any, parts: list[Source]) -> None:
        self.dataset = dataset
        self.parts = parts
        self.guard = parts[0].guard
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, index: int) -> tuple[Source, int]:
        """Return the part that a sample belongs to, and its index there."""
        number, inner = self.place(index)
        return self.parts[number], inner

    def place(self, index: int) -> tuple[int, int]:
        """Return the number of the part that a sample belongs to, and its index there."""
        number = bisect.bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def layout(self) -> FieldLayout | None:
        layouts = [part.layout() for part in self.parts]
        return common_layout(layouts)

    def ragged_labels(self) -> bool:
        return any(part.ragged_labels() for part in self.parts)

    def load_fields(self, index: int, encoded: Container[str], decoder: Decoder) -> Sample:
        part, inner = self.locate(index)
        return part.load_fields(inner, encoded, decoder)

    def chunk(self, indices: Sequence[int]) -> Chunk:
        return _ConcatenatedChunk(self, indices)

    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        shapes = [part.image_shape() for part in self.parts]
        height, width, channels = (
            sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes)
        )
        return height, width, channels

    def name(self, index: int) -> str:
        part, inner = self.locate(index)
        return part.name(inner)

    def fingerprint(self) -> str:
        return make_fingerprint(len(self), (part.fingerprint() for part in self.parts))

    @property
    def requests_ahead(self) -> int:
        """See `requests_ahead`."""
        return max(map(requests_ahead, self.parts), default=0)

    def prefetch(self, indices: Sequence[int]) -> None:
        by_part: dict[int, list[int]] = {}
        for index in indices:
            number, inner = self.place(index)
            by_part.setdefault(number, []).append(inner)
        for number, inner_indices in by_part.items():
            self.parts[number].prefetch(inner_indices)

    def check_unchanged(self) -> None:
        for part in self.parts:
            part.check_unchanged()


class MixedSource(ConcatenatedSource):
    """Several sources that a `Mixture` mixes."""

    def __len__(self) -> int:
        return len(self.dataset)

    def place(self, index: int) -> tuple[int, int]:
        found: tuple[int, int] = self.dataset.locate(index)
        return found


class _ConcatenatedChunk:
    def __init__(self, source: ConcatenatedSource, indices: Sequence[int]) -> None:
        self._source = source
        self._indices = indices

    def _chunk(self, k: int) -> Chunk:
        part, inner = self._source.locate(self._indices[k])
        return part.chunk([inner])

    def render_into(
        self, pipeline: Pipeline, keys: Sequence[Key], out: _Array, decoder: Decoder
    ) -> list[Any]:
        labels = []
        for k, key in enumerate(keys):
            labels += self._chunk(k).render_into(pipeline, [key], out[k : k + 1], decoder)
        return labels

    def render(self, k: int, pipeline: Pipeline, key: Key, decoder: Decoder) -> tuple[Any, Any]:
        return self._chunk(k).render(0, pipeline, key, decoder)

    def sample(self, k: int, decoder: Decoder) -> dict[str, Any]:
        return {**self._chunk(k).sample(0, decoder), "index": self._indices[k]}


class SubsetSource:
    """Some samples of a source, as torch's `Subset` picks them."""

    def __init__(self, dataset: Any, whole: Source) -> None:
        self.dataset = dataset
        self.whole = whole
        self.guard = whole.guard

    def __len__(self) -> int:
        return len(self.dataset)

    def inner(self, index: int) -> int:
        """Return the index in the whole source."""
        inner = int(self.dataset.indices[index])
        return inner + len(self.whole) if inner < 0 else inner

    def layout(self) -> FieldLayout | None:
        return self.whole.layout()

    def ragged_labels(self) -> bool:
        return self.whole.ragged_labels()

    def load_fields(self, index: int, encoded: Container[str], decoder: Decoder) -> Sample:
        return self.whole.load_fields(self.inner(index), encoded, decoder)

    def chunk(self, indices: Sequence[int]) -> Chunk:
        return _SubsetChunk(self.whole.chunk([self.inner(index) for index in indices]), indices)

    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        return self.whole.image_shape()

    def name(self, index: int) -> str:
        return self.whole.name(self.inner(index))

    def fingerprint(self) -> str:
        count = len(self)
        picked = (str(self.inner(index)) for index in spread_indices(count))
        return make_fingerprint(count, itertools.chain([self.whole.fingerprint()], picked))

    def prefetch(self, indices: Sequence[int]) -> None:
        self.whole.prefetch([self.inner(index) for index in indices])

    @property
    def requests_ahead(self) -> int:
        """See `requests_ahead`."""
        return requests_ahead(self.whole)

    def check_unchanged(self) -> None:
        self.whole.check_unchanged()


class _SubsetChunk:
    def __init__(self, chunk: Chunk, indices: Sequence[int]) -> None:
        self._chunk = chunk
        self._indices = indices

    def render_into(
        self, pipeline: Pipeline, keys: Sequence[Key], out: _Array, decoder: Decoder
    ) -> list[Any]:
        return self._chunk.render_into(pipeline, keys, out, decoder)

    def render(self, k: int, pipeline: Pipeline, key: Key, decoder: Decoder) -> tuple[Any, Any]:
        return self._chunk.render(k, pipeline, key, decoder)

    def sample(self, k: int, decoder: Decoder) -> dict[str, Any]:
        return {**self._chunk.sample(k, decoder), "index": self._indices[k]}


def first_readable(count: int, read: Callable[[int], Value]) -> Value | None:
    """Return what `read` gives for the first sample that is not damaged; None if there is none."""
    for index in range(min(count, MAX_TRIED)):
        try:
            return read(index)
        except BROKEN:
            continue
    return None


def spread_indices(count: int) -> list[int]:
    """Return up to 64 evenly spaced indices."""
    return sorted({k * max(count - 1, 0) // 63 for k in range(64)} if count else set())


def make_fingerprint(count: int, parts: Iterable[str]) -> str:
    """Return a fingerprint of a dataset of `count` samples, some of which these parts describe."""
    result = hashlib.sha256(str(count).encode())
    for part in parts:
        result.update(b"\0")
        result.update(part.encode(errors="surrogateescape"))
    return f"{pluralize(count, 'sample')}, {result.hexdigest()[:16]}"
