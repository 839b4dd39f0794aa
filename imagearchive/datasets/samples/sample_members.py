"""The members of the samples of a `SampleArchive`: where each part is, and the keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from imagearchive.datasets.samples.field_specs import own_classes
from imagearchive.errors import CorruptIndexError, DecodeError, ImageArchiveError
from imagearchive.images.decode import image_size
from imagearchive.storage.mapping import damaged_mappings
from imagearchive.transforms.compound_fields import Npz
from imagearchive.transforms.fields import Field, Image, Label

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.samples.annotation_part import AnnotationPart, RowContext
    from imagearchive.datasets.samples.pairing import FieldMembers, Pairing
    from imagearchive.datasets.samples.patterns import Pattern
    from imagearchive.storage.protocol import FileStorage

__all__ = ["MemberReader", "Part", "SampleMembers"]


class Part:
    """A field whose values are members, and where they are.

    Attributes
    ----------
    number : int
        The row of its positions.
    name : str
    archive : Archive
    pattern : Pattern
    field : Field
    classes : str or None
        The entry that the classes in a file of boxes become.
    nothing : dict of str to None
        The entries of a sample that lacks this part.
    """

    def __init__(
        self, number: int, members: FieldMembers, field: Field, fields: Mapping[str, Field]
    ) -> None:
        self.number = number
        self.name: str = members.name
        self.archive: Archive = members.archive
        self.pattern: Pattern = members.pattern
        self.field = field
        self.classes = own_classes(self.name, field, fields)
        if isinstance(field, Npz):
            self.nothing: dict[str, Any] = dict.fromkeys(field.kinds or ())
        else:
            self.nothing = {self.name: None}
            if self.classes is not None:
                self.nothing[self.classes] = None

    def entries(self) -> dict[str, Field]:
        """Return the kinds of the entries of a sample, as far as they are known beforehand."""
        if isinstance(self.field, Npz):
            return dict(self.field.kinds or {})
        classes = {} if self.classes is None else {self.classes: Label()}
        return {self.name: self.field, **classes}


class SampleMembers:
    """Which members, and which rows of annotations, the samples consist of.

    Parameters
    ----------
    members : sequence of FieldMembers
    fields : mapping of str to Field
        All fields of the dataset.
    pairing : Pairing
    file : FileStorage or None
        The mapped file of the pairing.
    annotations : sequence of AnnotationPart
        The parts that are rows.

    Attributes
    ----------
    parts : list of Part
    annotations : sequence of AnnotationPart
    positions : ndarray of int32 or int64, shape (F, N)
        As in `Pairing`: the positions of members, followed by the rows of annotations.
    skipped : int
        How many samples were left out.
    """

    def __init__(
        self,
        members: Sequence[FieldMembers],
        fields: Mapping[str, Field],
        pairing: Pairing,
        file: FileStorage | None,
        annotations: Sequence[AnnotationPart] = (),
    ) -> None:
        self.parts = [
            Part(number, field, fields[field.name], fields) for number, field in enumerate(members)
        ]
        self.annotations = annotations
        self.positions: npt.NDArray[Any] = pairing.positions
        self.skipped = pairing.skipped
        self._incomplete = pairing.incomplete
        self._file = file

    def __len__(self) -> int:
        return int(self.positions.shape[1])

    def part(self, name: str) -> Part | None:
        """Return the part of a field; None if there is no such field."""
        return next((part for part in self.parts if part.name == name), None)

    def optional(self) -> set[str]:
        """Return the entries that some samples lack."""
        entries = [
            *(part.nothing for part in self.parts),
            *(part.entries for part in self.annotations),
        ]
        return {name for number in self._incomplete for name in entries[number]}

    def annotated(self, sample: int, context: RowContext, key: str) -> dict[str, Any]:
        """Return the entries of a sample that are rows of annotations.

        Raises
        ------
        DecodeError, LimitError
            A value cannot be used. The message names the field and the key.
        """
        values: dict[str, Any] = {}
        rows = self.positions[len(self.parts) :, sample].tolist()
        for part, row in zip(self.annotations, rows):
            if row < 0:
                values.update(dict.fromkeys(part.entries))
                continue
            try:
                values.update(part.values(row, context))
            except ImageArchiveError as error:
                raise type(error)(
                    f"field {part.name!r} of sample {key!r} ({part.where(row)}): {error.message}",
                    hints=error.hints,
                ) from error
        return values

    def position(self, part: Part, sample: int) -> int:
        """Return the position of a part of a sample in its archive; negative if it is missing.

        Raises
        ------
        CorruptIndexError
            The saved pairing does not fit the archive.
        """
        position = int(self.positions[part.number, sample])
        if damaged_mappings():
            self.check_unchanged()
        if position >= len(part.archive.table):
            raise self._contradiction()
        return position

    def key(self, sample: int) -> str:
        """Return the key of a sample."""
        for part in self.parts:
            position = self.position(part, sample)
            if position >= 0:
                return self.key_at(part, position)
        raise self._contradiction()

    def key_at(self, part: Part, position: int) -> str:
        """Return the key of the sample that a member is a part of."""
        key = part.pattern.key_of(part.archive.table.name_bytes(position))
        if key is None:
            raise self._contradiction()
        return key

    def _contradiction(self) -> CorruptIndexError:
        where = self.parts[0].archive.path if self._file is None else self._file.path
        return CorruptIndexError(
            f"{where}: the saved pairing does not fit the archives; delete it and open them again"
        )

    def explain(
        self, error: ImageArchiveError, part: Part, position: int, key: str
    ) -> ImageArchiveError:
        """Return an error with the field, the key, and the member that it is about."""
        info = part.archive.info(position)
        return type(error)(
            f"field {part.name!r} of sample {key!r} ({info.archive}: {info.name!r}): "
            f"{error.message}",
            hints=error.hints,
        )

    def check_unchanged(self) -> None:
        """Raise StaleIndexError if the file of the pairing has changed since it was opened."""
        if self._file is not None:
            self._file.check_unchanged()


class MemberReader:
    """Reads the members of one sample, and keeps the images, whose size others refer to.

    Parameters
    ----------
    members : SampleMembers
    images : sequence of str
        The fields that are images.
    sample : int
    """

    def __init__(self, members: SampleMembers, images: Sequence[str], sample: int) -> None:
        self._members = members
        self._images = images
        self._sample = sample
        self._encoded: dict[str, Any] = {}

    def read(self, part: Part, position: int) -> Any:
        """Return the bytes of a member."""
        data = part.archive.read(position)
        if isinstance(part.field, Image):
            self._encoded[part.name] = data
        return data

    def size_of(self, field: Field) -> Callable[[], tuple[int, int]]:
        """Return a function that returns the size of the image that a field refers to."""
        return lambda: self._size(field)

    def _size(self, field: Field) -> tuple[int, int]:
        name = getattr(field, "image", None) or self._images[0]
        part = self._members.part(name)
        position = -1 if part is None else self._members.position(part, self._sample)
        if part is None or position < 0:
            raise DecodeError(
                f"it is relative to the size of the image {name!r}, which this sample lacks"
            )
        data = self._encoded.get(part.name)
        return image_size(part.archive.read(position) if data is None else data)
