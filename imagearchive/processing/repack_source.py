"""What every source of samples for `repack` offers.

Sources are picklable, and safe for threads; worker processes use them, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imagearchive.processing.repack_recipe import Recipe
from imagearchive.transforms.fields import (
    Bytes,
    Field,
    Image,
    Json,
    Label,
    Mask,
    Text,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ENDS", "RepackSource", "Row", "Written", "some_samples", "without_dots"]

# How many samples the fingerprint of a dataset covers, as that of the members of an archive does.
_SOME: Final = 256
#: The extensions that members of a kind of field may have; all others are .npy.
ENDS: Final[dict[type[Field], list[str]]] = {
    Image: ["jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "jp2", "avif"],
    Mask: ["png", "npy"],
    Label: ["cls", "npy"],
    Text: ["txt"],
    Json: ["json"],
    Bytes: ["bin"],
}


class Written(NamedTuple):
    """One sample, ready to be written.

    Attributes
    ----------
    key : str
    members : list of (str, bytes-like)
        Names and contents.
    images, encoded : int
        How many images it has, and how many of them were encoded again.
    stored : int
        Bytes of its members in the source.
    """

    key: str
    members: list[tuple[str, Buffer]]
    images: int
    encoded: int
    stored: int


class Row(NamedTuple):
    """One sample as a row of an NPZ.

    Attributes
    ----------
    values : dict of str to object
        By column.
    stored : int
        Bytes of its members in the source.
    """

    values: dict[str, Any]
    stored: int


class RepackSource(ABC):
    """Samples to write."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def key(self, index: int) -> str:
        """Return the key that a sample gets."""

    @abstractmethod
    def origin(self, index: int) -> str:
        """Return where a sample is from, for messages."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return text that differs if the archives, the labels, or the fields do."""

    @abstractmethod
    def write(self, index: int, recipe: Recipe) -> Written:
        """Return a sample as members of an archive."""

    @abstractmethod
    def row(self, index: int, recipe: Recipe) -> Row:
        """Return a sample as a row of an NPZ, with images of one size."""

    @abstractmethod
    def image(self, index: int) -> Buffer | None:
        """Return the first image of a sample, encoded; None if it has none."""

    @property
    @abstractmethod
    def is_remote(self) -> bool:
        """Whether a server has the samples."""

    def fields(self) -> dict[str, Field] | None:
        """Return what `SampleArchive` needs to read the result; None if it needs nothing."""
        return None

    def warning(self, recipe: Recipe) -> str:
        """Return what the user should know before; empty if there is nothing."""
        return ""


def without_dots(stem: str) -> str:
    """Return the last part of a key, which the first dot would end."""
    return stem.replace(".", "_")


def some_samples(count: int) -> range:
    """Return the indices of the samples that a fingerprint covers."""
    return range(0, count, max(1, count // _SOME))
