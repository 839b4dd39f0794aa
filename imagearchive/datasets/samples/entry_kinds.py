"""The kinds of the entries of a sample, as far as they are known before samples are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from imagearchive.errors import OptionError
from imagearchive.transforms.fields import Boxes, Field, Image, Keypoints, Sample

__all__ = ["EntryKinds"]


@dataclass(frozen=True)
class EntryKinds:
    """The entries of every sample of a dataset.

    Attributes
    ----------
    fields : mapping of str to Field
        The kinds, read-only.
    images : tuple of str
        The entries that are images.
    is_complete : bool
        Whether these are all entries. The arrays of an `Npz` may be known only when it is read.
    """

    fields: Mapping[str, Field]
    images: tuple[str, ...]
    is_complete: bool

    @classmethod
    def of(cls, sources: Iterable[Mapping[str, Field]], is_complete: bool) -> EntryKinds:
        """Return the entries that several sources give together.

        Raises
        ------
        OptionError
            Two give the same entry, or a field refers to one that is not there.
        """
        fields: dict[str, Field] = {}
        for added in sources:
            for name, field in added.items():
                if name in fields:
                    raise OptionError(f"two fields give the entry {name!r} of a sample")
                fields[name] = field
        images = tuple(name for name, field in fields.items() if isinstance(field, Image))
        kinds = cls(Sample({}, fields).fields, images, is_complete)
        for name, field in fields.items():
            if isinstance(field, (Boxes, Keypoints)):
                kinds._check_references(name, field)
        return kinds

    def _check_references(self, name: str, field: Boxes | Keypoints) -> None:
        if field.relative and field.image is None and not self.images:
            raise OptionError(
                f"the field {name!r} is relative to the size of an image, and there is no field of "
                f"the kind Image; leave out relative=True"
            )
        if field.image is not None and field.image not in self.images:
            raise OptionError(
                f"the field {name!r} names the image {field.image!r}, which is not a field of the "
                f"kind Image"
            )
        for label in field.labels:
            if self.is_complete and label not in self.fields:
                raise OptionError(
                    f"the field {name!r} names the labels {label!r}, which is not a field"
                )
