"""Samples of any other form, such as decoded images, from objects with ``len`` and ``[i]``."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from imagearchive.datasets.label_guard import LabelGuard
from imagearchive.datasets.protocols import offered_method
from imagearchive.errors import OptionError
from imagearchive.errors.plurals import pluralize
from imagearchive.images.decode import local_decoder
from imagearchive.images.render import Decoder
from imagearchive.loader.field_layout import PAIR_LAYOUT, FieldLayout, infer_kind
from imagearchive.loader.sources import (
    BROKEN,
    Chunk,
    first_readable,
    make_fingerprint,
    spread_indices,
)
from imagearchive.transforms import Key, Pipeline, decode_image
from imagearchive.transforms.base import is_tensor
from imagearchive.transforms.fields import KEY, Array, Field, Image, Sample

__all__ = ["image_array"]

IMAGE_NAMES: Final = ("image", "images", "img", "x")
LABEL_NAMES: Final = (
    *("label", "labels", "target", "targets", "y"),
    *("bboxes", "boxes", "keypoints", "landmarks"),
)
# Bytes that a thread gathers for one native call. With more, calls no longer cost anything, and
# images that are not views of a mapped file take memory.
CALL_BYTES: Final = 1 << 22
# The label of a sample that has none, as in `ImageArchive`.
NO_LABEL: Final = -1

CHANNELS: Final = (1, 3, 4)

_Array = npt.NDArray[Any]


class SampleSource:
    """Any object with ``len`` and ``[i]``: a dict, an (image, label) pair, or an image alone."""

    def __init__(
        self,
        dataset: Any,
        columns: tuple[str, str | None] | None,
        guard: LabelGuard,
        kinds: Mapping[str, Field] | None = None,
    ) -> None:
        self.guard = guard
        self.dataset = dataset
        self.columns = columns
        self._kinds = kinds
        self._requested = _has_requested_keys(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def chunk(self, indices: Sequence[int]) -> Chunk:
        return _SampleChunk(self, indices)

    @cached_property
    def _example(self) -> Any:
        """The first sample that can be read; None if there is none."""
        if len(self):
            self.prefetch([0])
        return first_readable(len(self), lambda index: self.dataset[index])

    @cached_property
    def _layout(self) -> FieldLayout | None:
        """The fields of the first sample that can be read; None if it is an image and a label."""
        if self.columns is not None:
            return None
        item = self._example
        if isinstance(item, Mapping):
            return self._layout_of_dict(item)
        if isinstance(item, (tuple, list)) and len(item) > 2 and self._kinds is None:
            values = {str(number): value for number, value in enumerate(item)}
            kinds = {name: infer_kind(name, value) for name, value in values.items() if name != "0"}
            kinds = {"0": Image(), **kinds}
            examples = {name: value for name, value in values.items() if name != "0"}
            return FieldLayout(kinds, "tuple", False, frozenset(), examples)
        if self._kinds is not None and item is not None:
            raise OptionError(
                f"fields= is for samples that are dicts, but the samples are {type(item).__name__}"
            )
        return None

    def _layout_of_dict(self, item: Mapping[Any, Any]) -> FieldLayout | None:
        values = {str(name): value for name, value in item.items() if name != KEY}
        own = dict(item.fields) if isinstance(item, Sample) else None
        if self._kinds is None and own is None:
            image, label = _guess_columns(values, self._requested)
            if not image or values.keys() <= {image, label}:
                return None
            given: Mapping[str, Field] = {image: Image()}
        else:
            given = {**(own or {}), **(self._kinds or {})}
        unknown = [name for name in self._kinds or () if name not in values]
        if unknown:
            raise OptionError(
                f"fields= names {unknown[0]!r}, but the samples have the entries "
                f"{', '.join(values)}"
            )
        kinds = {
            name: given[name] if name in given else infer_kind(name, value)
            for name, value in values.items()
        }
        for name in _ragged_fields(self.dataset) - given.keys():
            if isinstance(kinds.get(name), Array):
                kinds[name] = Array(ragged=True)
        examples = {
            name: value for name, value in values.items() if not isinstance(kinds[name], Image)
        }
        return FieldLayout(kinds, "dict", KEY in item, frozenset(), examples)

    def layout(self) -> FieldLayout | None:
        return self._layout

    @cached_property
    def _ragged_labels(self) -> bool:
        ragged = _ragged_fields(self.dataset)
        if not ragged or not len(self):
            return False
        item = self._example
        if not isinstance(item, Mapping):
            return False
        label = (self.columns or _guess_columns(item, self._requested))[1]
        return label in ragged and isinstance(item.get(label), np.ndarray)

    def ragged_labels(self) -> bool:
        return self._ragged_labels

    def load_fields(self, index: int, encoded: Container[str], decoder: Decoder) -> Sample:
        layout = self._layout
        if layout is None:
            image, label = self.pair(index)
            return Sample({"image": image, "label": label}, PAIR_LAYOUT.kinds)
        item = self.dataset[index]
        if isinstance(item, Mapping):
            return Sample({str(name): value for name, value in item.items()}, layout.kinds)
        if not isinstance(item, (tuple, list)):
            item = [item]
        return Sample({str(number): value for number, value in enumerate(item)}, layout.kinds)

    @cached_property
    def _first_shape(self) -> tuple[int | None, int | None, int | None]:
        if not len(self):
            return None, None, None
        self.prefetch([0])
        try:
            if self._layout is None:
                image = self.pair(0)[0]
            else:
                # Several images are not all of one size.
                sample = self.load_fields(0, (), local_decoder())
                images = self._layout.images
                image = sample[images[0]] if len(images) == 1 else None
            if image is None:
                return None, None, None
            height, width, channels = image_array(image).shape
        except BROKEN:
            return None, None, None
        return height, width, channels

    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        # Images of a batch must have one shape; it is taken from the first sample.
        return self._first_shape

    def name(self, index: int) -> str:
        name = getattr(self.dataset, "name", None)
        return str(name(index)) if callable(name) else ""

    def fingerprint(self) -> str:
        count, kind = len(self), type(self.dataset).__qualname__
        get_batch = getattr(self.dataset, "get_batch", None)
        if get_batch is None or not count:
            return make_fingerprint(count, [kind])
        columns = get_batch(spread_indices(count)[::8])
        return make_fingerprint(
            count, (f"{name}\0{_content(columns[name])}" for name in sorted(columns))
        )

    @property
    def requests_ahead(self) -> int:
        """See `imagearchive.loader.sources.requests_ahead`."""
        found = getattr(self.dataset, "requests_ahead", 0)
        return found if type(found) is int and offered_method(self.dataset, "prefetch") else 0

    def prefetch(self, indices: Sequence[int]) -> None:
        # Most objects with [i] have no way to read ahead.
        if self.requests_ahead:
            self.dataset.prefetch(indices)

    def check_unchanged(self) -> None:
        check = getattr(self.dataset, "check_unchanged", None)
        if check is not None:
            check()

    def pair(self, index: int) -> tuple[Any, Any]:
        """Return the image and the label of one sample."""
        item = self.dataset[index]
        if not isinstance(item, Mapping):
            self._refuse_columns(item)
            return split_pair(index, item)
        image, label = self._chosen_entries(index, item)
        if label is None:
            return item[image], NO_LABEL
        found = _checked_label(index, item.get(label, NO_LABEL))
        self.guard.check_column(found, label)
        return item[image], found

    def sample(self, index: int) -> dict[str, Any]:
        """Return one sample without transforms, as a dict."""
        item = self.dataset[index]
        if isinstance(item, Mapping):
            if self.columns is None:
                return {"index": index, **item}
            chosen = self._chosen_entries(index, item)
            return {"index": index, **{name: item[name] for name in chosen if name is not None}}
        self._refuse_columns(item)
        image, label = split_pair(index, item)
        return {
            "image": np.asarray(image.convert("RGB"))
            if isinstance(image, PillowImage.Image)
            else image,
            "label": label,
            "labels": np.atleast_1d(np.asarray(label)),
            "filename": self.name(index),
            "index": index,
        }

    def _chosen_entries(self, index: int, item: Mapping[Any, Any]) -> tuple[str, str | None]:
        """Return the names of the image and the label of a sample that is a dict."""
        image, label = self.columns or _guess_columns(item, self._requested)
        if image not in item:
            # A column "images" of a file is "image" in a sample.
            image = image.removesuffix("s")
        if not image or image not in item:
            raise OptionError(
                f"sample {index} has the entries {', '.join(map(repr, item))}; name those of the "
                f"image and its label, as in columns=('image', 'label')"
            )
        if self.columns and label is not None and label not in item:
            raise OptionError(
                f"sample {index} has no entry {label!r}, which columns= names as its label; its "
                f"entries are {', '.join(map(repr, item))}"
            )
        return image, label

    def _refuse_columns(self, item: Any) -> None:
        if self.columns is not None:
            raise OptionError(
                f"columns= is for samples that are dicts, but the samples are "
                f"{type(item).__name__}; leave it out"
            )


def split_pair(index: int, item: Any) -> tuple[Any, Any]:
    """Return the image and the label of a sample that is not a dict."""
    if not isinstance(item, (tuple, list)):
        return item, NO_LABEL
    if not 1 <= len(item) <= 2:
        raise OptionError(
            f"sample {index} has {pluralize(len(item), 'value')}, but a sample dict has an image "
            "and a label; pass a transform to get a column for each value, or return dicts"
        )
    return item[0], _checked_label(index, item[1]) if len(item) == 2 else NO_LABEL


def _checked_label(index: int, label: Any) -> Any:
    if isinstance(label, (memoryview, bytearray)):
        # As an array, the text "7" would be the number 55.
        raise OptionError(
            f"the label of sample {index} is undecoded ({type(label).__name__}); return a number, "
            f"an array, or a str"
        )
    return label


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
            images.append(image_array(image, decoder))
            self._source.guard.check(label, images[-1].shape)
            labels.append(label)
            waiting += images[-1].nbytes
            if waiting >= CALL_BYTES:
                end = len(labels)
                pipeline.apply_all_into(images, keys[first:end], out[first:end], decoder)
                first, waiting, images = end, 0, []
        if images:
            pipeline.apply_all_into(images, keys[first:], out[first:], decoder)
        return labels

    def render(self, k: int, pipeline: Pipeline, key: Key, decoder: Decoder) -> tuple[Any, Any]:
        image, label = self._source.pair(self._indices[k])
        array = image_array(image, decoder)
        self._source.guard.check(label, array.shape)
        return pipeline.apply(array, key, decoder), label

    def sample(self, k: int, decoder: Decoder) -> dict[str, Any]:
        return self._source.sample(self._indices[k])


def image_array(image: Any, decoder: Decoder | None = None) -> _Array:
    """Return an image of any common kind as (H, W, C) uint8 or float32.

    A Pillow image becomes RGB, and an encoded image is decoded. An (H, W) array gets a third
    dimension. Torch tensors are taken to be (C, H, W), as are arrays that cannot be (H, W, C).
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode_image(image, decoder)
    if isinstance(image, PillowImage.Image):
        return np.asarray(image.convert("RGB"))
    if is_tensor(image):
        array = np.asarray(image)
        return array.transpose(1, 2, 0) if array.ndim == 3 else array[:, :, None]
    array = np.asarray(image)
    if array.ndim not in (2, 3) or array.dtype.kind not in "biuf":
        kind = f"an array of shape {array.shape}" if array.ndim else type(image).__name__
        raise OptionError(
            f"an image of the dataset must be an (H, W) or (H, W, C) array, a tensor, a Pillow "
            f"image, or an encoded image, got {kind}"
        )
    if array.ndim == 2:
        return array[:, :, None]
    channels_first = array.shape[0] in CHANNELS and array.shape[2] not in CHANNELS
    return array.transpose(1, 2, 0) if channels_first else array


def _guess_columns(names: Iterable[str], requested: bool) -> tuple[str, str]:
    """Return the names of image and label by what they are usually called.

    If the names were `requested` and there are at most two, the first is the image and the second
    the label, unless one of them has the usual name of the other.
    """
    known = list(names)
    image = next((name for name in IMAGE_NAMES if name in known), "")
    label = next((name for name in LABEL_NAMES if name in known), "")
    if requested and len(known) <= 2:
        rest = [name for name in known if name not in (image, label)]
        if not image and rest:
            image = rest.pop(0)
        if not label and rest:
            label = rest.pop(0)
    return image, label


def _has_requested_keys(dataset: Any) -> bool:
    """Whether the columns of a dataset, or of one of which it is a part, were given by name."""
    while True:
        if getattr(dataset, "requested_keys", None) is not None:
            return True
        if parts := getattr(dataset, "datasets", None):
            dataset = parts[0]
        elif (whole := getattr(dataset, "dataset", None)) is not None:
            dataset = whole
        else:
            return False


def _ragged_fields(dataset: Any) -> frozenset[str]:
    """Return the entries of samples that a dataset, or a part of it, says are ragged."""
    offered = getattr(dataset, "ragged_fields", None)
    if callable(offered):
        found: frozenset[str] = offered()
        return found
    parts = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    return frozenset(name for part in parts if part is not None for name in _ragged_fields(part))


def _content(column: _Array) -> str:
    """Return a digest of an array; of an array of objects, only their shapes."""
    if column.dtype != object:
        return hashlib.sha256(np.ascontiguousarray(column).tobytes()).hexdigest()
    return str([np.shape(value) for value in column])
