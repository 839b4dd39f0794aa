"""Methods by which `DataLoader` reads a dataset faster than one sample after another.

If a subclass overrides ``[i]``, `DataLoader` asks for its samples and ignores the methods of the
base class.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from imagearchive.images.render import Decoder
from imagearchive.transforms.fields import Field, Sample

__all__ = [
    "ConcatenatedDataset",
    "EncodedDataset",
    "EncodedImages",
    "EncodedSamples",
    "FieldDataset",
    "MixedDataset",
    "OrderedDataset",
    "RemoteSamples",
    "offered_method",
]


class EncodedImages(Protocol):
    """Images as they are stored, with their labels. Safe for threads.

    A class may also have a method ``encoded_size(index)``, which returns how many bytes `read`
    returns, without reading them, and ``label_sizes()``, as `ImageArchive` has them.
    """

    def __len__(self) -> int: ...

    def read(self, index: int) -> Any:
        """Return an encoded image, as bytes or a view of them."""
        ...

    def label(self, index: int) -> Any:
        """Return the label that a batch holds."""
        ...

    def labels(self, index: int) -> npt.NDArray[np.float64]:
        """Return all labels, shape (k,)."""
        ...

    def name(self, index: int) -> str:
        """Return a name for messages and reports."""
        ...

    def prefetch(self, indices: Sequence[int]) -> None:
        """Start to read these images ahead if possible; return at once."""
        ...

    def check_unchanged(self) -> None:
        """Raise StaleIndexError if a file has changed since it was opened."""
        ...


class RemoteSamples(Protocol):
    """Samples on servers, which are read faster if many are requested at once.

    Attributes
    ----------
    requests_ahead : int
        How many are best requested before they are read.
    """

    requests_ahead: int


class EncodedDataset(Protocol):
    """A dataset whose samples are encoded images, decoded and otherwise unchanged."""

    def encoded_images(self) -> EncodedImages | None:
        """Return the images, or None if an option such as a transform changes them."""
        ...


class ConcatenatedDataset(Protocol):
    """A dataset of all samples of a first dataset, then those of a second, and so on."""

    def concatenated_datasets(self) -> Sequence[Any]:
        """Return the datasets in their order."""
        ...


class OrderedDataset(Protocol):
    """A dataset that knows where the data of its samples are."""

    def data_order(self) -> npt.NDArray[np.int64] | None:
        """Return the indices of the samples in the order of their data, or None if it is theirs."""
        ...

    def expect_nearby_reads(self, samples: int, places: int) -> None:
        """Get ready for reads that stay within so many samples at so many places for a while.

        If `samples` is 0, they may be anywhere.
        """
        ...


class EncodedSamples(Protocol):
    """Samples of several fields. Safe for threads.

    Attributes
    ----------
    fields : mapping of str to Field
        The kinds of the fields, as far as they are known before a sample is read.
    form : {"dict", "tuple"}
        Whether a batch is a dict of columns or a tuple of them.
    has_keys : bool
        Whether a batch has the keys of its samples.
    """

    fields: Mapping[str, Field]
    form: Literal["dict", "tuple"]
    has_keys: bool

    def __len__(self) -> int: ...

    def load(
        self, index: int, encoded: Container[str] = (), decoder: Decoder | None = None
    ) -> Sample:
        """Return a sample, in which these images and masks are as they are stored."""
        ...

    def optional_fields(self) -> frozenset[str]:
        """Return the fields that may be None."""
        ...

    def key(self, index: int) -> str:
        """Return a name for messages and reports."""
        ...

    def prefetch(self, indices: Sequence[int]) -> None:
        """Start to read these samples ahead if possible; return at once."""
        ...

    def check_unchanged(self) -> None:
        """Raise StaleIndexError if a file has changed since it was opened."""
        ...


class FieldDataset(Protocol):
    """A dataset of samples of several fields, decoded and otherwise unchanged."""

    def encoded_samples(self) -> EncodedSamples | None:
        """Return the samples, or None if an option such as a transform changes them."""
        ...


class MixedDataset(Protocol):
    """A dataset of samples of several datasets in any order."""

    def mixed_datasets(self) -> Sequence[Any]:
        """Return the datasets."""
        ...

    def locate(self, index: int) -> tuple[int, int]:
        """Return the number of the dataset that a sample is from, and its index there."""
        ...


def offered_method(dataset: Any, method: str) -> Any:
    """Return a method of these protocols, or None.

    It is looked up in the class, since a wrapper may hand on attributes of what it wraps.
    """
    for kind in type(dataset).__mro__:
        if method in vars(kind):
            return getattr(dataset, method)
        if "__getitem__" in vars(kind):
            # A subclass that makes other samples.
            return None
    return None
