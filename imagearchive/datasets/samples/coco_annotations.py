"""The entries of samples that come from a COCO file: its annotations, by the samples' images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.samples.coco_columns import CocoColumns
from imagearchive.datasets.samples.pairing import SKIP_OR_NONE, Missing
from imagearchive.errors import LabelError
from imagearchive.transforms.compound_fields import Coco
from imagearchive.transforms.fields import Field, Image

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.companion_files import CompanionFile
    from imagearchive.datasets.samples.sample_members import SampleMembers

__all__ = ["CocoAnnotations"]


class CocoAnnotations:
    """The annotations of the samples.

    Parameters
    ----------
    file : CompanionFile
    archive : Archive
        May contain the file.
    field : Coco
        Says what is read.

    Attributes
    ----------
    entries : mapping of str to Field
        The kinds of the entries of a sample.
    classes : list of str
        The names of the categories.
    fingerprint : str
        Of the content of the file.

    Raises
    ------
    LabelError
        The file cannot be read, is not a COCO file, or is damaged.
    """

    def __init__(self, file: CompanionFile, archive: Archive, field: Coco) -> None:
        self._columns = CocoColumns(str(file), file.read(archive), field)
        self._rows: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.entries: Mapping[str, Field] = field.entries()
        self.classes = self._columns.classes
        self.fingerprint = str(self._columns.checksum)

    def match(self, members: SampleMembers, missing: Missing) -> npt.NDArray[np.bool_]:
        """Find the image of each sample in the file.

        Returns
        -------
        ndarray of bool, shape (len(members),)
            Which samples are kept: with ``missing="skip"``, those whose images are in the file.

        Raises
        ------
        LabelError
            The image of a sample is not in the file, or is there twice.
        """
        count = len(members)
        image = next(part for part in members.parts if isinstance(part.field, Image))
        rows = self._columns.rows(image.pattern, map(members.key, range(count)))
        absent = rows < 0
        if absent.any() and (missing == "error" or (missing == "skip" and absent.all())):
            key = members.key(int(np.flatnonzero(absent)[0]))
            raise LabelError(
                f"{self._columns.name}: the images of {int(absent.sum()):,} of {count:,} samples "
                f"are not in this file, such as that of {key!r}; its first file_name is "
                f"{self._columns.example!r}, and the pattern is {image.pattern.text!r}",
                hints=SKIP_OR_NONE,
            )
        kept = ~absent if missing == "skip" else np.ones(count, np.bool_)
        self._rows = rows[kept]
        return kept

    def optional(self) -> set[str]:
        """Return the entries that some samples lack."""
        return set(self.entries) if (self._rows < 0).any() else set()

    def values(self, sample: int, max_pixels: float) -> dict[str, Any]:
        """Return the entries of a sample, each None if its image is not in the file.

        Raises
        ------
        LimitError
            The masks or the keypoints are too large.
        """
        row = int(self._rows[sample])
        if row < 0:
            return dict.fromkeys(self.entries)
        return dict(zip(self.entries, self._columns.values(row, max_pixels)))
