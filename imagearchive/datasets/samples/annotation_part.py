"""A part of samples that is not a member: a row of a COCO file or of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from imagearchive.transforms.fields import Field

__all__ = ["AnnotationPart", "RowContext"]


class RowContext(NamedTuple):
    """What the values of a row may depend on.

    Attributes
    ----------
    size_of : callable
        From a field to a function that returns the width and height of the image that it is in.
    max_pixels : float
        Of a mask.
    """

    size_of: Callable[[Field], Callable[[], tuple[int, int]]]
    max_pixels: float


class AnnotationPart:
    """A part of samples whose values are rows, numbered from 0.

    Attributes
    ----------
    name : str
        Of the field.
    entries : mapping of str to Field
        The kinds of the entries of a sample that a row gives.
    """

    name: str
    entries: Mapping[str, Field]

    def values(self, row: int, context: RowContext) -> dict[str, Any]:
        """Return the entries of a sample.

        Raises
        ------
        DecodeError, LimitError
            The values of the row cannot be used.
        CorruptIndexError
            What was saved is damaged.
        """
        raise NotImplementedError

    def where(self, row: int) -> str:
        """Return the name of a row for messages."""
        raise NotImplementedError

    def describe_missing(self, count: int, total: int, keys: Sequence[str]) -> str:
        """Return the message for `count` of `total` samples without a row; `keys` are some."""
        raise NotImplementedError
