"""The kinds of fields that a sample is made of: where a field comes from, and what its values are.

A sample is a `Sample`: a dict of the name of a field to its value, which also knows the kind of
each. Transforms go by the kind: geometry moves images, masks, boxes, and keypoints alike, and
color changes images only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeVar, get_args

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.arguments import (
    check_callable,
    check_choice,
    check_flag,
    check_integer,
    check_number,
    shorten,
)
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.patterns import as_text

if TYPE_CHECKING:
    from typing_extensions import Self

    from imagearchive.storage.patterns import ArchivePath

__all__ = [
    "KEY",
    "Array",
    "BoxFormat",
    "Boxes",
    "Bytes",
    "ColumnField",
    "Field",
    "Image",
    "Json",
    "Keypoints",
    "Label",
    "Mask",
    "Sample",
    "Text",
]

#: The entry of every sample that holds its key.
KEY: Final = "__key__"

BoxFormat = Literal["xyxy", "xywh", "cxcywh"]


Kind = TypeVar("Kind", bound="Field")


class Field:
    """A field of a sample, decoded by the extension of its member. Base class of all kinds.

    Parameters
    ----------
    *source : path-like
        A pattern with ``{key}``, or an archive and a pattern of names in it.
    decoder : callable, optional
        From the bytes of the member, `bytes` or `memoryview`, to the value. By default the codec
        of its extension.

    Attributes
    ----------
    archive : path-like, sequence of path-like, or None
        As given; None for the archive of the dataset.
    pattern : str or None
        As given; None for a field of a dataset that does not come from members.
    decoder : callable or None

    Notes
    -----
    Immutable, compared by value, and picklable if `decoder` is.
    """

    #: Names of the keyword arguments, which are attributes too.
    arguments: ClassVar[tuple[str, ...]] = ("decoder",)
    #: Whether values are places in the image, which geometric transforms must move.
    is_place: ClassVar[bool] = False
    #: Whether values of different samples may have different lengths.
    ragged: bool = False

    archive: ArchivePath | None
    pattern: str | None
    decoder: Callable[[Any], Any] | None

    def __init__(
        self,
        *source: Any,
        decoder: Callable[[Any], Any] | None = None,
    ) -> None:
        name = type(self).__name__
        if len(source) > 2:
            raise OptionTypeError(
                f"{name} takes a pattern, or an archive and a pattern, got "
                f"{pluralize(len(source), 'argument')}"
            )
        pattern = source[-1] if source else None
        if pattern is not None and not isinstance(pattern, str):
            raise OptionTypeError(
                f"the pattern of {name} must be a str such as '{{key}}.jpg', "
                f"got {type(pattern).__name__}"
            )
        self._set("archive", as_text(source[0]) if len(source) == 2 else None)
        self._set("pattern", pattern)
        self._set("decoder", None if decoder is None else check_callable("decoder", decoder))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed; make another")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed; make another")

    def at(self, archive: str | list[str]) -> Self:
        """Return the same field of another archive."""
        attributes = {**vars(self), "archive": archive}
        return _restore(type(self), attributes)

    def _identity(self) -> tuple[Any, ...]:
        archive = tuple(self.archive) if isinstance(self.archive, list) else self.archive
        return (archive, self.pattern, *(getattr(self, name) for name in self.arguments))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((type(self), repr(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), dict(vars(self)))

    def __repr__(self) -> str:
        source = [self.pattern] if self.archive is None else [self.archive, self.pattern]
        shown = [repr(value) for value in source if value is not None]
        defaults = type(self).__init__.__kwdefaults__ or {}
        shown += [
            f"{name}={getattr(self, name)!r}"
            for name in self.arguments
            if name not in defaults or getattr(self, name) != defaults[name]
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


class ColumnField(Field):
    """A field that may be a column of a table. Base class of the kinds that may.

    Parameters
    ----------
    *source, decoder
        As for `Field`.
    column : str or int, optional
        The column of ``table=`` in `SampleArchive` that has the values, in place of a pattern.
    """

    arguments = (*Field.arguments, "column")

    column: str | int | None

    def __init__(
        self,
        *source: Any,
        decoder: Callable[[Any], Any] | None = None,
        column: str | int | None = None,
    ) -> None:
        super().__init__(*source, decoder=decoder)
        if column is not None:
            name = type(self).__name__
            if isinstance(column, bool) or not isinstance(column, (str, int)):
                raise OptionTypeError(
                    f"column= of {name} must be the name or the number of a column of table=, got "
                    f"{shorten(column)}"
                )
            if source or decoder is not None:
                raise OptionError(
                    f"{name} takes a pattern, with decoder= if you like, or column=; not both"
                )
        self._set("column", column)


def _restore(kind: type[Kind], attributes: dict[str, Any]) -> Kind:
    field = kind.__new__(kind)
    vars(field).update(attributes)
    return field


class Image(Field):
    """An image: an array of uint8 of shape (H, W, 3), or, to a compiled pipeline, encoded bytes."""


class Mask(Field):
    """Integers, one for each pixel of the image: an array of shape (H, W), or (N, H, W).

    The values of a palette image are its indices, not its colors, and are never interpolated.
    The dtype is that of the file: uint8, uint16, or int32.

    Parameters
    ----------
    *source, decoder
        As for `Field`.
    fill : int
        What transforms write outside the image, such as 255 for "not labeled".
    """

    arguments = (*Field.arguments, "fill")
    is_place = True

    fill: int

    def __init__(
        self,
        *source: Any,
        decoder: Callable[[Any], Any] | None = None,
        fill: int = 0,
    ) -> None:
        super().__init__(*source, decoder=decoder)
        self._set("fill", check_integer("fill", fill, -(1 << 31), (1 << 31) - 1))


class Boxes(ColumnField):
    """Boxes in the stored image: an array of float32 of shape (n, 4), in pixels.

    The values of a sample always are ``x1, y1, x2, y2``, whatever the file has.

    Parameters
    ----------
    *source, decoder
        As for `Field`. Files are ``.npy``, ``.json`` (a list of boxes), or ``.txt`` (a box a line).
    column : str or int, optional
        A column of ``table=`` in place of a pattern. A cell is a list of boxes, or text as in a
        file.
    format : {"xyxy", "xywh", "cxcywh"}
        What the four numbers in the file are: two corners; the upper left corner and the size; or
        the center and the size.
    relative : bool
        Whether the numbers are fractions of the width and height of the image.
    labels : str or sequence of str, optional
        Fields of the sample with one entry for each box. A transform that drops a box drops its
        entries there. If the file has five numbers for each box, as YOLO's do, the first is its
        class, and becomes the field of this name, int64 of shape (n,).
    image : str, optional
        The field of the image that the boxes are in. By default the first one.
    min_visibility : float
        Transforms drop a box if less than this part of its area remains in the image, from 0 to 1.
        A box of which nothing remains is always dropped.
    min_size : float
        Transforms drop a box if less than this many pixels of its width or height remain.
    """

    arguments = (
        *ColumnField.arguments,
        *("format", "relative", "labels", "image", "min_visibility", "min_size"),
    )
    is_place = True
    ragged = True

    format: BoxFormat
    relative: bool
    labels: tuple[str, ...]
    image: str | None
    min_visibility: float
    min_size: float

    def __init__(
        self,
        *source: Any,
        decoder: Callable[[Any], Any] | None = None,
        column: str | int | None = None,
        format: BoxFormat = "xyxy",
        relative: bool = False,
        labels: str | Sequence[str] = (),
        image: str | None = None,
        min_visibility: float = 0.0,
        min_size: float = 1.0,
    ) -> None:
        super().__init__(*source, decoder=decoder, column=column)
        self._set("format", check_choice("format", format, get_args(BoxFormat)))
        self._set("relative", check_flag("relative", relative))
        self._set("labels", (labels,) if isinstance(labels, str) else tuple(labels))
        self._set("image", image)
        self._set("min_visibility", float(check_number("min_visibility", min_visibility, 0, 1)))
        self._set("min_size", float(check_number("min_size", min_size, 0)))


class Keypoints(ColumnField):
    """Points in the stored image: an array of float32 of shape (n, 2), in pixels.

    The center of the top left pixel is at (0, 0). The corners of `Boxes`, in contrast, lie on the
    edges of pixels: a box around that pixel alone is (0, 0, 1, 1).

    The shape is (n, 3) if the third number of each point is its visibility, and (m, n, 2) or
    (m, n, 3) for the points of several objects.

    Parameters
    ----------
    *source, decoder
        As for `Field`. Files are ``.npy``, ``.json``, or ``.txt`` (a point a line).
    column : str or int, optional
        A column of ``table=`` in place of a pattern. A cell is a list of points, or text as in a
        file.
    visibility : bool, optional
        Whether points have a visibility. By default they do if they have three numbers. Points with
        visibility 0 are not labeled: transforms leave them as they are. Points that a transform
        moves out of the image get visibility 0.
    flip_pairs : sequence of (int, int)
        Points that change places when the image is mirrored, such as the left and the right eye.
    relative : bool
        Whether the numbers are fractions of the width and height of the image.
    labels : str or sequence of str, optional
        Fields with one entry for each object, as for `Boxes`; for points of several objects only.
    image : str, optional
        The field of the image that the points are in. By default the first one.
    ragged : bool
        Whether the number of points differs among samples. If not, `DataLoader` stacks them.
    """

    arguments = (
        *ColumnField.arguments,
        *("visibility", "flip_pairs", "relative", "labels", "image", "ragged"),
    )
    is_place = True

    visibility: bool | None
    flip_pairs: tuple[tuple[int, int], ...]
    relative: bool
    labels: tuple[str, ...]
    image: str | None

    def __init__(
        self,
        *source: Any,
        decoder: Callable[[Any], Any] | None = None,
        column: str | int | None = None,
        visibility: bool | None = None,
        flip_pairs: Sequence[tuple[int, int]] = (),
        relative: bool = False,
        labels: str | Sequence[str] = (),
        image: str | None = None,
        ragged: bool = True,
    ) -> None:
        super().__init__(*source, decoder=decoder, column=column)
        self._set("ragged", check_flag("ragged", ragged))
        if visibility is not None:
            visibility = check_flag("visibility", visibility)
        self._set("visibility", visibility)
        self._set("flip_pairs", _check_pairs(flip_pairs))
        self._set("relative", check_flag("relative", relative))
        self._set("labels", (labels,) if isinstance(labels, str) else tuple(labels))
        self._set("image", image)


def _check_pairs(pairs: Any) -> tuple[tuple[int, int], ...]:
    try:
        lists = [tuple(pair) for pair in pairs]
    except TypeError:
        lists = [()]
    if any(len(pair) != 2 for pair in lists):
        raise OptionTypeError(
            f"flip_pairs must be a list of pairs of point numbers such as [(1, 2)], got {pairs!r}"
        )
    checked = tuple(
        (check_integer("flip_pairs", a, 0), check_integer("flip_pairs", b, 0)) for a, b in lists
    )
    points = [point for pair in checked for point in pair]
    if len(set(points)) < len(points):
        raise OptionError(f"flip_pairs must name each point at most once, got {pairs!r}")
    return checked


class Text(ColumnField):
    """Text in UTF-8: a str.

    Parameters
    ----------
    *source, decoder
        As for `Field`.
    column : str or int, optional
        A column of ``table=`` in place of a pattern.
    """


class Json(ColumnField):
    """A JSON document: dict, list, str, number, bool, or None.

    Parameters
    ----------
    *source, decoder
        As for `Field`.
    column : str or int, optional
        A column of ``table=`` in place of a pattern. Text in a cell is a JSON document.
    """


class Array(ColumnField):
    """A NumPy array, from a ``.npy`` file.

    Parameters
    ----------
    *source, decoder
        As for `Field`.
    column : str or int, optional
        A column of ``table=`` in place of a pattern. A cell is a list of numbers, or of such lists,
        which becomes an array of int64 or float64.
    ragged : bool
        Whether the length, the first dimension, differs among samples. If not, `DataLoader` stacks
        the arrays of a batch.
    """

    arguments = (*ColumnField.arguments, "ragged")

    def __init__(
        self,
        *source: Any,
        decoder: Callable[[Any], Any] | None = None,
        column: str | int | None = None,
        ragged: bool = False,
    ) -> None:
        super().__init__(*source, decoder=decoder, column=column)
        self._set("ragged", check_flag("ragged", ragged))


class Bytes(Field):
    """The bytes of a member, not decoded."""


class Label(ColumnField):
    """A number, or several: an int or a float, or a float64 array.

    Files are text: one integer gives an int, one other number a float, several an array.

    Parameters
    ----------
    *source, decoder
        As for `Field`.
    column : str or int, optional
        A column of ``table=`` in place of a pattern. Text is the names of classes, which are
        numbered in sorted order, those of the whole table.
    class_to_idx : dict of str to int, optional
        The numbers of the classes in `column`, so that several datasets agree; see `ImageArchive`.
    ragged : bool
        Whether the number of numbers differs among samples. If not, `DataLoader` stacks the labels
        of a batch.
    """

    arguments = (*ColumnField.arguments, "class_to_idx", "ragged")

    class_to_idx: Mapping[Any, int] | None

    def __init__(
        self,
        *source: Any,
        decoder: Callable[[Any], Any] | None = None,
        column: str | int | None = None,
        class_to_idx: Mapping[Any, int] | None = None,
        ragged: bool = False,
    ) -> None:
        super().__init__(*source, decoder=decoder, column=column)
        if class_to_idx is not None and column is None:
            raise OptionError("class_to_idx= numbers the classes in column=, which is missing")
        if class_to_idx is not None and not isinstance(class_to_idx, Mapping):
            raise OptionTypeError(
                f"class_to_idx must be a dict from the names of classes to their numbers, got "
                f"{shorten(class_to_idx)}"
            )
        self._set("class_to_idx", None if class_to_idx is None else dict(class_to_idx))
        self._set("ragged", check_flag("ragged", ragged))


class Sample(dict[str, Any]):
    """A sample: a dict of the name of a field to its value, with the kind of each field.

    Attributes
    ----------
    fields : mapping of str to Field
        The kinds, read-only, shared by all samples of a dataset. Entries of the dict that it lacks,
        such as ``__key__``, are of no kind.
    """

    __slots__ = ("fields",)

    def __init__(self, values: Mapping[str, Any], fields: Mapping[str, Field]) -> None:
        super().__init__(values)
        self.fields = fields if isinstance(fields, MappingProxyType) else MappingProxyType(fields)

    def copy(self) -> Sample:
        """Return a sample with the same values and fields."""
        return Sample(self, self.fields)

    __copy__ = copy

    def __reduce__(self) -> tuple[Any, ...]:
        return Sample, (dict(self), dict(self.fields))
