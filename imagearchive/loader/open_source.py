"""What stands behind a path or a data set, as a source."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from typing import Any, Final

from imagearchive.errors import ArchiveNotFoundError, OptionError, OptionTypeError
from imagearchive.loader.array_sources import SampleSource
from imagearchive.loader.sources import EncodedSource, JoinedSource, Source, SubsetSource

__all__ = ["open_source"]

# Classes whose samples are those of others; named, not imported, since torch may not be there.
JOINED: Final = (
    "imagearchive.datasets.combined.CombinedLazyDataset",
    "torch.utils.data.dataset.ConcatDataset",
)
SUBSET: Final = "torch.utils.data.dataset.Subset"


def open_source(
    source: Any, columns: tuple[str, str | None] | None, exif_transpose: bool, transformed: bool
) -> tuple[Source, bool]:
    """Return the source, and whether it was opened here, from a path or pattern.

    With `transformed` samples are read to be transformed and not handed out, so that arrays need
    not be copied out of a mapped file first.
    """
    if columns is not None and (not isinstance(columns, (tuple, list)) or len(columns) != 2):
        raise OptionError(f"columns={columns!r}: two names are wanted, (image, label)")
    if isinstance(source, (str, bytes, os.PathLike)):
        dataset = _open_paths([os.fsdecode(source)], copy=not transformed)
    elif _are_paths(source):
        dataset = _open_paths([os.fsdecode(path) for path in source], copy=not transformed)
    else:
        return _wrap(source, columns, exif_transpose), False
    return _wrap(dataset, columns, exif_transpose), True


def _are_paths(source: Any) -> bool:
    return (
        isinstance(source, (list, tuple))
        and len(source) > 0
        and all(isinstance(path, (str, os.PathLike)) for path in source)
    )


def _open_paths(paths: list[str], copy: bool) -> Any:
    found: list[str] = []
    for path in paths:
        if not glob.has_magic(path) or os.path.exists(path):
            found.append(path)
            continue
        several = sorted(glob.glob(path))
        if not several:
            raise ArchiveNotFoundError(f"{path}: no file matches this pattern")
        found += several
    # Imported here, since a loader of other data sets needs none of these.
    if not all(path.endswith((".npz", ".npy")) for path in found):
        from imagearchive.datasets.image_archive import ImageArchive

        return ImageArchive(found if len(found) > 1 else found[0])
    from imagearchive.datasets.combined import CombinedLazyDataset
    from imagearchive.datasets.npz.dataset import LazyNPZDataset

    if len(found) == 1:
        return LazyNPZDataset(found[0], copy=copy)
    return CombinedLazyDataset([LazyNPZDataset(name, copy=copy) for name in found])


def _wrap(dataset: Any, columns: tuple[str, str | None] | None, exif_transpose: bool) -> Source:
    # Of a mapping, such as an Archive, the keys are names.
    named = isinstance(dataset, Mapping) and len(dataset) > 0 and 0 not in dataset
    if named or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise OptionTypeError(
            f"source={dataset!r}: give a path, an ImageArchive, or a data set with len() and "
            f"[number]"
        )
    encoded = all(hasattr(dataset, name) for name in ("read", "label", "labels"))
    if encoded and _plain(dataset):
        return EncodedSource(dataset, exif_transpose)
    if _gets_as(dataset, *JOINED):
        parts = [_wrap(part, columns, exif_transpose) for part in dataset.datasets]
        if not all(isinstance(part, SampleSource) for part in parts):
            return JoinedSource(dataset, parts)
    if _gets_as(dataset, SUBSET):
        whole = _wrap(dataset.dataset, columns, exif_transpose)
        if not isinstance(whole, SampleSource):
            return SubsetSource(dataset, whole)
    return SampleSource(dataset, columns)


def _gets_as(dataset: Any, *owners: str) -> bool:
    """Whether ``[i]`` of a data set is that of one of these classes, and not overridden."""
    method = getattr(type(dataset), "__getitem__", None)
    name = f"{getattr(method, '__module__', '')}.{getattr(method, '__qualname__', '')}"
    return name.removesuffix(".__getitem__") in owners


def _plain(dataset: Any) -> bool:
    """Whether a data set leaves its images as they are stored, and its labels too."""
    changes = ("transform", "target_transform", "index_transform")
    if any(getattr(dataset, name, None) is not None for name in changes):
        return False
    # What a subclass makes of a sample is not known here.
    kinds = (kind for kind in type(dataset).__mro__ if _is_ours(kind))
    ours = next(kinds, None)
    if ours is not None and not _gets_as(dataset, f"{ours.__module__}.{ours.__qualname__}"):
        return False
    loader = getattr(dataset, "loader", None)
    # Others call functions of their own so, after torchvision's.
    by_pillow = getattr(loader, "__name__", "") == "pil_loader" and _is_ours(loader)
    # Samples of several views are lists, which no native pass renders.
    several = getattr(dataset, "mode", "single") == "multi"
    return not several and (loader is None or by_pillow)


def _is_ours(thing: Any) -> bool:
    return str(thing.__module__).partition(".")[0] == __name__.partition(".")[0]
