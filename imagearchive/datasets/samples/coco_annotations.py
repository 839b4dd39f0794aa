"""The entries of samples that come from a COCO file: its annotations, by the samples' images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.samples.annotation_part import AnnotationPart, RowContext
from imagearchive.datasets.samples.annotations import Annotations
from imagearchive.datasets.samples.coco_columns import CocoColumns, parse_coco
from imagearchive.datasets.samples.saved_arrays import open_saved
from imagearchive.errors import CorruptIndexError, ImageArchiveError, LabelError
from imagearchive.errors.plurals import pluralize
from imagearchive.transforms.fields import Field, Image

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.companion_files import CompanionFile
    from imagearchive.datasets.samples.pairing import Pairing
    from imagearchive.datasets.samples.sample_members import Part, SampleMembers
    from imagearchive.transforms.compound_fields import Coco

__all__ = ["CocoAnnotations"]


class CocoAnnotations(Annotations, AnnotationPart):
    """The annotations of a COCO file.

    Parameters
    ----------
    name : str
        Of the field.
    field : Coco
        Says what is read.
    file : CompanionFile
    archive : Archive
        May contain the file. The columns are saved beside its index.
    image : str
        The pattern of the names of images.

    Raises
    ------
    LabelError
        The file cannot be read, is not a COCO file, or is damaged.
    """

    def __init__(
        self, name: str, field: Coco, file: CompanionFile, archive: Archive, image: str
    ) -> None:
        holders = file.signatures(archive)
        self.description = repr((file.path, field))
        self.identity = repr(holders)
        self._saved = open_saved(
            [archive],
            "\0".join(["coco", file.path, repr((field.masks, field.keypoints, field.crowd))]),
            None if holders is None else self.identity,
            lambda: parse_coco(str(file), file.read(archive), field),
            lambda found: CocoColumns.is_valid(found, field),
            holders,
        )
        self._columns = CocoColumns(str(file), self._saved, field)
        self._image = image
        self.name = name
        self.entries: Mapping[str, Field] = field.entries()
        self.parts = [self]
        self.classes = {"classes": self._columns.classes}
        self.fingerprint = str(self._columns.checksum)

    def rows(self, members: SampleMembers, pairing: Pairing) -> list[npt.NDArray[np.int64]]:
        """Return the image of each sample, -1 if the file does not list it; see `Annotations`."""
        columns = self._columns
        image = next(part for part in members.parts if isinstance(part.field, Image))
        listed = self._rows_by_key(image)
        rows = []
        used = set()
        for key in map(members.key, range(len(members))):
            row = listed.get(key, -1)
            if row in used:
                raise LabelError(
                    f"several samples have the key {key!r}, so the annotations of {columns.name} "
                    f"cannot be assigned; open the archives one by one, each with its own, and "
                    f"use CombinedLazyDataset"
                )
            if row >= 0:
                used.add(row)
            rows.append(row)
        return [np.array(rows, np.int64)]

    def _rows_by_key(self, image: Part) -> dict[str, int]:
        names = self._columns.file_names
        found: dict[str, int] = {}
        for row in range(len(names)):
            key = image.pattern.key_below(names.bytes_of(row))
            if key is not None and found.setdefault(key, row) != row:
                raise LabelError(
                    f"{self._columns.name}: two images are of the sample {key!r}, "
                    f"{names.text(found[key])!r} and {names.text(row)!r}; list each file once"
                )
        return found

    def where(self, row: int) -> str:
        """Return the name of an image of the file for messages."""
        return f"{self._columns.name}: {self._columns.file_names.text(row)!r}"

    def describe_missing(self, count: int, total: int, keys: Sequence[str]) -> str:
        """Return the message for samples whose images the file does not list."""
        names = self._columns.file_names
        example = names.text(0) if len(names) else None
        return (
            f"{self._columns.name}: this file lacks the images of {count:,} of "
            f"{pluralize(total, 'sample', grouped=True)}, such as that of {keys[0]!r}; its first "
            f"file_name is {example!r}, and the pattern is {self._image!r}"
        )

    def values(self, row: int, context: RowContext) -> dict[str, Any]:
        """Return the entries of a sample; see `AnnotationPart`."""
        try:
            found = self._columns.values(row, context.max_pixels)
        except ImageArchiveError:
            raise
        except (ValueError, IndexError, OverflowError) as error:
            if self._saved.file is None:
                raise
            raise CorruptIndexError(
                f"{self._saved.file.path}: the saved annotations are damaged ({error}); delete it "
                f"and open the archive again"
            ) from error
        return dict(zip(self.entries, found))
