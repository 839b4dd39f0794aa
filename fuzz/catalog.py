"""All harnesses by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from fuzz.harness import Harness
from fuzz.harnesses.annotations import Annotations
from fuzz.harnesses.archive import WholeArchive
from fuzz.harnesses.barecat import Barecat
from fuzz.harnesses.bins import Bins
from fuzz.harnesses.checkpoints import SavedCheckpoints
from fuzz.harnesses.compressed import CompressedArchives
from fuzz.harnesses.deflate import Compressed
from fuzz.harnesses.index import IndexFile
from fuzz.harnesses.jpeg import JpegRegions
from fuzz.harnesses.key_join import KeyJoin
from fuzz.harnesses.labels import LabelFiles
from fuzz.harnesses.mapped import MappedFiles
from fuzz.harnesses.nested import NestedArchives
from fuzz.harnesses.npy import NpyHeaders
from fuzz.harnesses.npz import NpzRows
from fuzz.harnesses.objects import ObjectArrays
from fuzz.harnesses.png import PngImages
from fuzz.harnesses.small_files import SmallFiles
from fuzz.harnesses.tables import PlainPickles, Tables
from fuzz.harnesses.tar import Tar
from fuzz.harnesses.values import Values
from fuzz.harnesses.zip import Zip

HARNESSES: Final[tuple[type[Harness], ...]] = (
    Tar,
    Zip,
    NpyHeaders,
    ObjectArrays,
    NpzRows,
    IndexFile,
    SavedCheckpoints,
    Compressed,
    CompressedArchives,
    NestedArchives,
    KeyJoin,
    LabelFiles,
    Tables,
    PlainPickles,
    Annotations,
    Values,
    JpegRegions,
    PngImages,
    Barecat,
    Bins,
    WholeArchive,
    MappedFiles,
    SmallFiles,
)


def all_harnesses() -> Mapping[str, Harness]:
    """Return the harnesses by name."""
    return {kind.name: kind() for kind in HARNESSES}


def harness_named(name: str) -> Harness:
    """Return the harness of a name, or exit with a message."""
    found = all_harnesses().get(name)
    if found is None:
        sys.exit(f"no harness is named {name!r}; there are {', '.join(all_harnesses())}")
    return found
