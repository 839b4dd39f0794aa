"""What a loader reads from: encoded images, or anything with ``[i]``.

A source answers for a few samples at a time with a `Chunk`.
"""

from __future__ import annotations

import bisect
import glob
import hashlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagearchive._pixels import Decoder
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    DecodeError,
    LimitError,
    OptionError,
    OptionTypeError,
    UnsupportedMemberError,
)
from imagearchive.transforms import Key, Pipeline, decode_image

__all__ = ["BROKEN", "Chunk", "Source", "is_damage", "open_source"]

IMAGE_NAMES: Final = ("image", "images", "img", "x")
LABEL_NAMES: Final = (
    *("label", "labels", "target", "targets", "y"),
    *("bboxes", "boxes", "keypoints", "landmarks"),
)

# Bytes that a thread gathers for one native call, of encoded and of decoded images. Beyond that
# calls are not what costs, and decoded images that are no views of a mapped file take memory.
ENCODED_RUN: Final = 1 << 16
DECODED_RUN: Final = 1 << 22
# Stands for the label of a sample that has none, as in `ImageArchive`.
NO_LABEL: Final = -1
# What broken bytes raise, here and in other data sets' own loaders; everything else is an error
# of the program and ends the epoch whatever `on_error` says.
BROKEN: Final = (
    DecodeError,
    CorruptArchiveError,
    UnsupportedMemberError,
    LimitError,
    OSError,
    EOFError,
    SyntaxError,
)

_Array = npt.NDArray[Any]


def is_damage(error: BaseException) -> bool:
    """Whether an error of `BROKEN` speaks of damaged bytes, and not of the system.

    A file that is gone, too many open files or a full memory are not the picture's fault: to skip
    those samples would leave data out in silence.
    """
    return not isinstance(error, OSError) or (
        error.errno is None and not isinstance(error, FileNotFoundError)
    )


class Chunk(Protocol):
    """Some samples of a source, read together."""

    def render_into(
        self, pipeline: Pipeline, keys: Sequence[Key], out: _Array, decoder: Decoder
    ) -> list[Any]:
        """Put the transformed images of all samples into `out`; return their labels."""
        ...

    def render(self, k: int, pipeline: Pipeline, key: Key, decoder: Decoder) -> tuple[Any, Any]:
        """Return the transformed image of the k-th sample and its label."""
        ...

    def sample(self, k: int, decoder: Decoder) -> dict[str, Any]:
        """Return the k-th sample as it is, as a dict."""
        ...


class Source(Protocol):
    """A data set as the loader sees it. Safe for threads."""

    dataset: Any

    def __len__(self) -> int: ...

    def chunk(self, indices: Sequence[int]) -> Chunk:
        """Read the samples of these indices, or prepare to."""
        ...

    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        """Return height, width and channels of all images, None where they may differ."""
        ...

    def name(self, index: int) -> str:
        """Return what to call a sample in messages and reports."""
        ...

    def fingerprint(self) -> str:
        """Return a short text that differs where the data differ, and not where only paths do."""
        ...


def open_source(
    source: Any, columns: tuple[str, str | None] | None, exif_transpose: bool, transformed: bool
) -> tuple[Source, bool]:
    """Return the source, and whether it was opened here, from a path or pattern.

    With `transformed` samples are read to be transformed and not handed out, so that arrays need
    not be copied out of a mapped file first.
    """
    if isinstance(source, (str, os.PathLike)):
        dataset = _open_path(os.fspath(source), copy=not transformed)
        return _wrap(dataset, columns, exif_transpose), True
    return _wrap(source, columns, exif_transpose), False


def _open_path(path: str, copy: bool) -> Any:
    # Imported here, since a loader of other data sets needs none of these.
    if not path.endswith((".npz", ".npy")):
        from imagearchive.datasets.image_archive import ImageArchive

        return ImageArchive(path)
    from imagearchive.datasets.lazy_npz import LazyNPZDataset

    if os.path.exists(path) or not glob.has_magic(path):
        return LazyNPZDataset(path, copy=copy)
    from imagearchive.datasets.combined import CombinedLazyDataset

    found = sorted(glob.glob(path))
    if not found:
        raise ArchiveNotFoundError(f"{path}: no file matches this pattern")
    return CombinedLazyDataset([LazyNPZDataset(name, copy=copy) for name in found])


def _wrap(dataset: Any, columns: tuple[str, str | None] | None, exif_transpose: bool) -> Source:
    if columns is not None and (isinstance(columns, str) or len(columns) != 2):
        raise OptionError(f"columns={columns!r}: two names are wanted, (image, label)")
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise OptionTypeError(
            f"source={dataset!r}: give a path, or a data set with len() and [index]"
        )
    encoded = hasattr(dataset, "read") and hasattr(dataset, "label") and hasattr(dataset, "labels")
    if encoded and _plain(dataset):
        return EncodedSource(dataset, exif_transpose)
    # Ours and torch's data sets that are several in a row keep them under the same name.
    several = getattr(dataset, "datasets", None)
    if isinstance(several, list) and several:
        parts = [_wrap(part, columns, exif_transpose) for part in several]
        if any(isinstance(part, (EncodedSource, JoinedSource)) for part in parts):
            return JoinedSource(dataset, parts)
    return SampleSource(dataset, columns)


def _plain(dataset: Any) -> bool:
    """Whether a data set leaves its images as they are stored, and its labels too."""
    changes = ("transform", "target_transform", "index_transform")
    if any(getattr(dataset, name, None) is not None for name in changes):
        return False
    loader = getattr(dataset, "loader", None)
    # Samples of several views are lists, which no native pass renders.
    several = getattr(dataset, "mode", "single") == "multi"
    return not several and (loader is None or getattr(loader, "__name__", "") == "pil_loader")


class EncodedSource:
    """A data set of encoded images, which the native pipeline decodes."""

    def __init__(self, dataset: Any, exif_transpose: bool) -> None:
        self.dataset = dataset
        self.read = dataset.read
        self.exif_transpose = exif_transpose
        self.label = dataset.label

    def __len__(self) -> int:
        return len(self.dataset)

    def chunk(self, indices: Sequence[int]) -> Chunk:
        return _EncodedChunk(self, indices)

    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        return None, None, 3

    def name(self, index: int) -> str:
        return str(self.dataset.name(index))

    def fingerprint(self) -> str:
        count = len(self)
        return _digest(
            count, (f"{self.name(i)}\0{self.label(i)}\0{self._size(i)}" for i in _sampled(count))
        )

    def _size(self, index: int) -> int:
        try:
            return len(self.read(index))
        except (CorruptArchiveError, UnsupportedMemberError):
            return -1


class _EncodedChunk:
    def __init__(self, source: EncodedSource, indices: Sequence[int]) -> None:
        self._source = source
        self._indices = indices

    def render_into(
        self, pipeline: Pipeline, keys: Sequence[Key], out: _Array, decoder: Decoder
    ) -> list[Any]:
        source, labels = self._source, []
        images: list[Any] = []
        first = waiting = 0
        for index in self._indices:
            image = source.read(index)
            images.append(image)
            labels.append(source.label(index))
            waiting += len(image)
            if waiting >= ENCODED_RUN:
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
            "labels": source.dataset.labels(index),
            "filename": source.name(index),
            "index": index,
        }


class JoinedSource:
    """Several sources, one after the other."""

    def __init__(self, dataset: Any, parts: list[Source]) -> None:
        self.dataset = dataset
        self.parts = parts
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, index: int) -> tuple[Source, int]:
        """Return the part that a sample belongs to, and its index there."""
        number = bisect.bisect_right(self._ends, index)
        return self.parts[number], index - (self._ends[number - 1] if number else 0)

    def chunk(self, indices: Sequence[int]) -> Chunk:
        return _JoinedChunk(self, indices)

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
        return _digest(len(self), (part.fingerprint() for part in self.parts))


class _JoinedChunk:
    def __init__(self, source: JoinedSource, indices: Sequence[int]) -> None:
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


class SampleSource:
    """Any object with ``len`` and ``[i]``: a dict, an (image, label) pair, or an image alone."""

    def __init__(self, dataset: Any, columns: tuple[str, str | None] | None) -> None:
        self.dataset = dataset
        self.columns = columns

    def __len__(self) -> int:
        return len(self.dataset)

    def chunk(self, indices: Sequence[int]) -> Chunk:
        return _SampleChunk(self, indices)

    @cached_property
    def _first_shape(self) -> tuple[int | None, int | None, int | None]:
        if not len(self):
            return None, None, None
        try:
            height, width, channels = image_array(self.pair(0)[0]).shape
        except BROKEN:
            return None, None, None
        return height, width, channels

    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        # Images of a batch must have one shape in the end; the first sample says which.
        return self._first_shape

    def name(self, index: int) -> str:
        name = getattr(self.dataset, "name", None)
        return str(name(index)) if callable(name) else ""

    def fingerprint(self) -> str:
        kind = type(self.dataset).__qualname__
        columns = getattr(self.dataset, "keys", ())
        return _digest(len(self), [kind, *map(str, () if callable(columns) else columns)])

    def pair(self, index: int) -> tuple[Any, Any]:
        """Return the image and the label of one sample."""
        item = self.dataset[index]
        if isinstance(item, Mapping):
            image, label = self.columns or _columns(item)
            if image not in item:
                # The names in the file and those in a sample may differ by their number.
                image = image.removesuffix("s")
            if not image or image not in item:
                raise OptionError(
                    f"sample {index} has the entries {', '.join(map(str, item))}: name the image "
                    f"and its label by columns=(image, label)"
                )
            if label is None:
                return item[image], NO_LABEL
            if self.columns and label not in item:
                raise OptionError(
                    f"sample {index} has the entries {', '.join(map(str, item))}, not {label!r}: "
                    f"name its label by columns=(image, label)"
                )
            return item[image], item.get(label, NO_LABEL)
        if isinstance(item, (tuple, list)):
            return item[0], item[1] if len(item) > 1 else NO_LABEL
        return item, NO_LABEL


class _SampleChunk:
    def __init__(self, source: SampleSource, indices: Sequence[int]) -> None:
        self._source = source
        self._indices = indices

    def render_into(
        self, pipeline: Pipeline, keys: Sequence[Key], out: _Array, decoder: Decoder
    ) -> list[Any]:
        images: list[_Array] = []
        labels: list[Any] = []
        first = waiting = 0
        for index in self._indices:
            image, label = self._source.pair(index)
            images.append(image_array(image))
            labels.append(label)
            waiting += images[-1].nbytes
            if waiting >= DECODED_RUN:
                end = len(labels)
                pipeline.apply_all_into(images, keys[first:end], out[first:end], decoder)
                first, waiting, images = end, 0, []
        if images:
            pipeline.apply_all_into(images, keys[first:], out[first:], decoder)
        return labels

    def render(self, k: int, pipeline: Pipeline, key: Key, decoder: Decoder) -> tuple[Any, Any]:
        image, label = self._source.pair(self._indices[k])
        return pipeline.apply(image_array(image), key, decoder), label

    def sample(self, k: int, decoder: Decoder) -> dict[str, Any]:
        index = self._indices[k]
        item = self._source.dataset[index]
        if isinstance(item, Mapping):
            return {"index": index, **item}
        pair = isinstance(item, (tuple, list))
        image, label = (item[0], item[1] if len(item) > 1 else NO_LABEL) if pair else (item, -1)
        return {
            "image": np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image,
            "label": label,
            "labels": np.atleast_1d(np.asarray(label)),
            "filename": self._source.name(index),
            "index": index,
        }


def image_array(image: Any) -> _Array:
    """Return an image of any common kind as (H, W, C) uint8 or float32.

    Pillow images become RGB; of an array of two dimensions the third is added; a torch tensor is
    taken to be (C, H, W).
    """
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if type(image).__module__.partition(".")[0] == "torch":
        array = np.asarray(image)
        return array.transpose(1, 2, 0) if array.ndim == 3 else array[:, :, None]
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def _columns(names: Iterable[str]) -> tuple[str, str]:
    known = set(names)
    image = next((name for name in IMAGE_NAMES if name in known), "")
    label = next((name for name in LABEL_NAMES if name in known), "")
    return image, label


def _sampled(count: int) -> list[int]:
    return sorted({k * max(count - 1, 0) // 63 for k in range(64)} if count else set())


def _digest(count: int, parts: Iterable[str]) -> str:
    digest = hashlib.sha256(str(count).encode())
    for part in parts:
        digest.update(b"\0")
        digest.update(part.encode(errors="surrogateescape"))
    return f"{count} samples, {digest.hexdigest()[:16]}"
