"""The samples of any dataset or batch, as samples whose fields have kinds, for pictures of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from imagearchive.datasets.permutation import Permutation
from imagearchive.datasets.protocols import EncodedImages, offered_method
from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.images.masks import decode_mask
from imagearchive.images.thumbnails import thumbnail
from imagearchive.transforms.base import is_tensor
from imagearchive.transforms.drawing import as_numpy
from imagearchive.transforms.fields import (
    KEY,
    Boxes,
    Field,
    Image,
    Keypoints,
    Label,
    Mask,
    Sample,
    Text,
)

__all__ = [
    "all_labels",
    "are_images",
    "as_shown_sample",
    "batch_columns",
    "choose_samples",
    "class_names",
    "count_samples",
    "is_picture",
    "labels_of",
    "load_sample",
    "locate_sample",
]

#: What values are called whose dataset does not tell their kind.
_KINDS: Final[Mapping[str, Callable[[], Field]]] = {
    **dict.fromkeys(("image", "images", "img", "x"), Image),
    **dict.fromkeys(("mask", "masks", "segmentation"), Mask),
    **dict.fromkeys(("boxes", "bboxes"), Boxes),
    **dict.fromkeys(("keypoints", "landmarks"), Keypoints),
    **dict.fromkeys(("label", "labels", "target", "targets", "y", "class"), Label),
    **dict.fromkeys(("text", "caption"), Text),
}
_ENCODED: Final = (bytes, bytearray, memoryview)


def count_samples(data: Any) -> int:
    """Return the number of samples of a dataset or a batch.

    Raises
    ------
    OptionTypeError
        It is neither.
    """
    columns = batch_columns(data)
    if columns is not None:
        return min((len(column) for column in columns.values()), default=0)
    readable = hasattr(data, "load") or (
        hasattr(data, "__getitem__") and not isinstance(data, (Mapping, str, *_ENCODED))
    )
    if not hasattr(data, "__len__") or not readable:
        raise OptionTypeError(
            f"data must be a dataset, such as ImageArchive(path), or a batch of a loader, got "
            f"{type(data).__name__}"
        )
    return len(data)


def batch_columns(data: Any) -> dict[str, Any] | None:
    """Return the columns of a batch; None if the data is a sequence of samples."""
    if isinstance(data, dict):
        # Entries without a length say something of the whole batch.
        return {str(name): column for name, column in data.items() if _is_column(column)}
    if _is_array(data, 4):
        return {"image": data}
    if isinstance(data, (tuple, list)) and len(data) and are_images(data[0]):
        names = ["image", "label", *(str(number) for number in range(2, len(data)))]
        return {name: column for name, column in zip(names, data) if _is_column(column)}
    return None


def _is_column(value: Any) -> bool:
    if isinstance(value, np.ndarray) or is_tensor(value):
        return bool(value.ndim)
    return isinstance(value, (list, tuple))


def are_images(value: Any) -> bool:
    """Whether a value is the images of a batch, not one sample."""
    if isinstance(value, list):
        return bool(value) and all(
            isinstance(one, PillowImage.Image) or _is_array(one, 3) for one in value
        )
    return _is_array(value, 4)


def _is_array(value: Any, ndim: int) -> bool:
    return (isinstance(value, np.ndarray) or is_tensor(value)) and value.ndim == ndim


def class_names(data: Any) -> list[str] | None:
    """Return the names of the classes of a dataset; None if there are none."""
    names = getattr(data, "classes", None)
    if not names:
        parts = getattr(data, "datasets", None)
        found = [class_names(part) for part in parts] if isinstance(parts, list) else []
        # Numbers have names only if all parts agree on them.
        names = found[0] if found and all(one == found[0] for one in found) else None
    return [str(name) for name in names] if names else None


def load_sample(
    data: Any, index: int, size: int, fields: Mapping[str, Field] | None = None
) -> Sample:
    """Return a sample of a dataset or a batch, with the kinds of its fields.

    Parameters
    ----------
    data : dataset or batch
    index : int
    size : int
        The longer side of the picture that it is for. Images that nothing refers to are decoded
        at about this size.
    fields : mapping of str to Field, optional
        The kinds of its values. By default they follow from names and types.
    """
    columns = batch_columns(data)
    if columns is not None:
        kinds = fields or getattr(data, "fields", None)
        return as_shown_sample(
            {name: column[index] for name, column in columns.items()}, kinds, size
        )
    images = _encoded_images(data)
    if images is not None:
        pixels = thumbnail(images.read(index), size)
        return as_shown_sample((pixels, images.label(index)), None, size)
    if not hasattr(data, "__getitem__"):
        return as_shown_sample(data.load(index), fields, size)
    return as_shown_sample(data[index], fields, size)


def locate_sample(data: Any, index: int) -> tuple[Any, int]:
    """Return the innermost dataset that a sample is from, and its index there."""
    while True:
        parts = offered_method(data, "mixed_datasets") or offered_method(
            data, "concatenated_datasets"
        )
        locate = None if parts is None else offered_method(data, "locate")
        if parts is None or locate is None:
            break
        number, index = locate(index)
        data = parts()[number]
    return data, index


def labels_of(data: Any, index: int, fields: Mapping[str, Field] | None = None) -> list[Any]:
    """Return the classes of a sample: its label, or those of its boxes."""
    data, index = locate_sample(data, index)
    images = _encoded_images(data)
    if images is not None:
        label = images.label(index)
    else:
        sample = load_sample(data, index, 16, fields)
        kinds = sample.fields.items()
        name = next((name for name, kind in kinds if isinstance(kind, Label)), None)
        label = None if name is None else sample.get(name)
    if label is None or isinstance(label, str):
        return [label]
    found: list[Any] = as_numpy(label).ravel().tolist()
    return found


def _encoded_images(data: Any) -> EncodedImages | None:
    method = offered_method(data, "encoded_images")
    images: EncodedImages | None = None if method is None else method()
    return images


def as_shown_sample(item: Any, fields: Mapping[str, Field] | None, size: int) -> Sample:
    """Return what a dataset or a batch has of a sample as a `Sample`; see `load_sample`."""
    if isinstance(item, Sample) and fields is None:
        return item
    if isinstance(item, (tuple, list)):
        if item and all(is_picture(value) for value in item):
            # The views of one sample.
            item = {f"view {number}": value for number, value in enumerate(item)}
        else:
            item = {("image", "label")[k] if k < 2 else str(k): v for k, v in enumerate(item)}
            views = item.get("image")
            if isinstance(views, list):
                item = {f"view {k}": v for k, v in enumerate(views)} | item
                del item["image"]
    elif not isinstance(item, Mapping):
        item = {"image": item}
    values: dict[str, Any] = {}
    kinds: dict[str, Field] = {}
    for name, value in item.items():
        kind = (fields or {}).get(name) or _guess_kind(str(name), value)
        values[name] = value
        if kind is not None and value is not None:
            kinds[name] = kind
            values[name] = _decoded(kind, value, size)
    return Sample(values, kinds)


def _guess_kind(name: str, value: Any) -> Field | None:
    if name == KEY:
        return None
    if is_picture(value) and name not in ("mask", "masks", "segmentation"):
        return Image()
    kind = _KINDS.get(name)
    if isinstance(value, str):
        return Text()
    if kind is None or (kind is Image and not (is_picture(value) or _is_array(value, 2))):
        return None
    ndim = len(np.shape(value))
    fits = {Boxes: ndim in (1, 2), Keypoints: ndim in (2, 3), Mask: ndim in (2, 3)}
    return kind() if fits.get(kind, True) else None  # type: ignore[call-overload]


def is_picture(value: Any) -> bool:
    """Whether a value looks like an image."""
    if isinstance(value, PillowImage.Image):
        return True
    if isinstance(value, _ENCODED):
        return bytes(value[:4]) in (b"\x89PNG", b"RIFF") or bytes(value[:2]) == b"\xff\xd8"
    if _is_array(value, 3):
        return value.shape[0] in (1, 3, 4) or value.shape[2] in (1, 3, 4)
    return False


def _decoded(kind: Field, value: Any, size: int) -> Any:
    if isinstance(kind, Image):
        if isinstance(value, _ENCODED):
            return thumbnail(value, size)
        if _is_array(value, 2):
            return value[:, :, None]
    elif isinstance(kind, Mask) and isinstance(value, _ENCODED):
        return decode_mask(value)
    return value


# --- which samples ------------------------------------------------------------------------------


def choose_samples(
    data: Any,
    count: int,
    n: int,
    seed: int,
    classes: Sequence[Any] | None,
    fields: Mapping[str, Field] | None = None,
) -> list[int]:
    """Return the indices of up to `n` samples, chosen at random.

    Parameters
    ----------
    data : dataset or batch
    count : int
        Number of its samples.
    n, seed : int
    classes : sequence of str or int, optional
        Take equally many of each of these classes, in this order. By default, take from all
        samples, in their order.
    fields : mapping of str to Field, optional
        As for `load_sample`.

    Raises
    ------
    OptionError
        There is no such class.
    """
    order = Permutation(count, seed) if count else None
    if classes is None:
        if order is None:
            return []
        return sorted(order.take(np.arange(min(n, count))).tolist())
    if not classes:
        raise OptionError("classes must name at least one class, got none")
    numbers = [_class_number(name, class_names(data)) for name in classes]
    shares = [n // len(numbers) + (k < n % len(numbers)) for k in range(len(numbers))]
    found: dict[Any, list[int]] = {number: [] for number in numbers}
    wanted = dict(zip(numbers, shares))
    at_hand = all_labels(data)
    if at_hand is not None and len(at_hand) == count:
        for number, share in wanted.items():
            rows = np.flatnonzero(at_hand == number)
            if len(rows):
                taken = Permutation(len(rows), seed).take(np.arange(min(share, len(rows))))
                found[number] = rows[np.sort(taken)].tolist()
    else:
        for index in () if order is None else _in_order(order, count):
            labels = _labels_or_none(data, index, fields)
            label = next((k for k in labels if k in found and len(found[k]) < wanted[k]), None)
            if label is not None:
                found[label].append(index)
                if all(len(found[one]) == share for one, share in wanted.items()):
                    break
        found = {number: sorted(rows) for number, rows in found.items()}
    return [index for number in found for index in found[number]]


def _labels_or_none(data: Any, index: int, fields: Mapping[str, Field] | None) -> list[Any]:
    try:
        return labels_of(data, index, fields)
    except Exception:  # noqa: BLE001
        # What cannot be read is of no class.
        return []


def _in_order(order: Permutation, count: int) -> Iterator[int]:
    for start in range(0, count, 1024):
        yield from order.take(np.arange(start, min(start + 1024, count))).tolist()


def _class_number(name: Any, names: Sequence[str] | None) -> Any:
    if isinstance(name, (int, np.integer)):
        return int(name)
    if names is None:
        return str(name)
    if name not in names:
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise OptionError(f"classes has {name!r}, but the classes are {shown}")
    return names.index(name)


def all_labels(data: Any) -> npt.NDArray[Any] | None:
    """Return the labels of all samples if they can be had without reading the samples."""
    columns = batch_columns(data)
    if columns is not None:
        found = columns.get("label")
    else:
        parts = offered_method(data, "concatenated_datasets")
        if parts is not None:
            labels = [all_labels(part) for part in parts()]
            known = [one for one in labels if one is not None]
            return np.concatenate(known) if len(known) == len(labels) else None
        found = getattr(data, "targets", None)
        arrays = getattr(data, "arrays", None)
        if found is None and isinstance(arrays, Mapping):
            name = next((name for name in ("labels", "label", "y") if name in arrays), None)
            # The labels of pixels may be larger than memory.
            is_flat = name is not None and len(arrays) and data.get_batch([0])[name].ndim == 1
            found = arrays[name] if is_flat else None
    if found is None:
        return None
    found = as_numpy(found)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    return found if found.ndim == 1 and found.dtype.kind in "iuUf" else None
