"""The options of an `ImageArchive`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from imagearchive.errors import OptionError

if TYPE_CHECKING:
    from imagearchive.datasets.class_numbers import ClassNumbers
    from imagearchive.datasets.companion_files import CompanionFile
    from imagearchive.datasets.label_files import LabelParser
    from imagearchive.datasets.label_guard import LabelKind
    from imagearchive.datasets.labels import ClassesFrom
    from imagearchive.datasets.listed_samples import ListedSamples, MembersOptions, TableOptions
    from imagearchive.index.nesting import Nested
    from imagearchive.storage.checksums import Verify
    from imagearchive.storage.protocol import StorageKind

__all__ = [
    "ImageArchiveOptions",
    "IndexTransform",
    "Loader",
    "Mode",
    "PackedMask",
    "TargetTransform",
    "Transform",
]

Mode = Literal["single", "multi"]
Loader = Callable[[BinaryIO], Any]
Transform = Callable[[Any], Any]
TargetTransform = Callable[[Any, list[float]], Any]
IndexTransform = Callable[[Any, int], Any]


@dataclass(frozen=True)
class PackedMask:
    """A mask as bits, which take an eighth of its size in a pickle."""

    length: int
    bits: npt.NDArray[np.uint8]

    @classmethod
    def pack(cls, split_mask: npt.ArrayLike) -> PackedMask:
        """Return a mask of 0 and 1, or of booleans, as bits."""
        mask = np.asarray(split_mask)
        if mask.ndim != 1 or not np.isin(mask, (0, 1)).all():
            raise OptionError(
                "split_mask must have one true or false value for each sample, such as [1, 0, 1]"
            )
        return cls(len(mask), np.packbits(mask.astype(np.bool_)))

    def rows(self) -> npt.NDArray[np.int64]:
        """Return the positions of the true values."""
        return np.flatnonzero(np.unpackbits(self.bits, count=self.length))


@dataclass(frozen=True)
class ImageArchiveOptions:
    """What an `ImageArchive` is made of; its constructor documents each field."""

    apath: str | list[str]
    ipath: str | None
    root: str
    extensions: Sequence[str] | str | None
    loader: Loader
    transform: Transform | None
    target_transform: TargetTransform | None
    data_in_memory: bool
    open_after_fork: bool
    is_valid_file: Callable[[str], bool] | None
    index_file: CompanionFile | None
    label_file: CompanionFile | None
    label_parser: LabelParser
    label_extension: str | None
    listing: TableOptions | MembersOptions | ListedSamples | None
    class_to_idx: ClassNumbers | None
    classes_from: ClassesFrom
    split_mask: PackedMask | None
    index_transform: IndexTransform | None
    mode: Mode
    cache_size: int
    storage: StorageKind
    strict: bool
    label_kind: LabelKind | None
    verify: Verify
    decompress_to: str | None
    nested: Nested
