"""The options of a `SampleArchive`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagearchive.datasets.companion_files import CompanionFile
    from imagearchive.datasets.samples.keys import Keys
    from imagearchive.datasets.samples.pairing import Missing
    from imagearchive.datasets.samples.table_annotations import SampleTable
    from imagearchive.index.nesting import Nested
    from imagearchive.storage.checksums import Verify
    from imagearchive.storage.protocol import StorageKind
    from imagearchive.transforms.fields import Field, Sample

__all__ = ["SampleArchiveOptions", "SampleTransform"]

SampleTransform = Callable[["Sample"], Any]


@dataclass(frozen=True)
class SampleArchiveOptions:
    """What a `SampleArchive` is made of; its constructor documents each field."""

    apath: str | list[str] | None
    fields: Mapping[str, Field]
    keys: Keys | None
    missing: Missing
    annotations: CompanionFile | None
    table: SampleTable | None
    first_dot: bool
    transform: SampleTransform | None
    ipath: str | None
    data_in_memory: bool
    open_after_fork: bool
    cache_size: int
    storage: StorageKind
    strict: bool
    verify: Verify
    nested: Nested | None
