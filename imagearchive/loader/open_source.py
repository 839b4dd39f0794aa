"""`open_source`: the source for a path or a dataset."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imagearchive.archive.samples import Samples
from imagearchive.datasets.label_guard import LabelGuard, LabelKind
from imagearchive.datasets.protocols import EncodedSamples, offered_method
from imagearchive.datasets.samples.extension_samples import ExtensionSamples
from imagearchive.errors import MemberNotFoundError, OptionError, OptionTypeError
from imagearchive.errors.arguments import check_path, shorten
from imagearchive.loader.array_sources import SampleSource
from imagearchive.loader.field_sources import FieldSource
from imagearchive.loader.sources import (
    ConcatenatedSource,
    EncodedSource,
    MixedSource,
    Source,
    SubsetSource,
)
from imagearchive.storage.answers import remember_answers
from imagearchive.storage.location import locate
from imagearchive.storage.patterns import expand_paths

if TYPE_CHECKING:
    from imagearchive.index.nesting import Nested
    from imagearchive.storage.checksums import Verify
    from imagearchive.transforms.fields import Field

__all__ = ["open_source"]


def open_source(
    source: Any,
    columns: tuple[str, str | None] | None,
    exif_transpose: bool,
    transform: Callable[..., Any] | None,
    label_kind: LabelKind | None,
    verify: Verify | None = None,
    decompress_to: str | None = None,
    fields: Mapping[str, Field] | None = None,
    nested: Nested | None = None,
) -> tuple[Source, bool]:
    """Return the source, and whether its dataset was opened here, from a path or pattern.

    Parameters
    ----------
    source : path-like, sequence of path-like, or dataset
    columns : (str, str or None), optional
        Names of the image and the label in samples that are dicts.
    exif_transpose : bool
        Whether to rotate and flip images as their EXIF orientation says.
    transform : callable, optional
        How samples are transformed before they are handed out. If they are, arrays of a mapped file
        are not copied first.
    label_kind : {"places", "values"}, optional
        What the caller says about the labels; see `LabelGuard`.
    verify : {"first", "always", "never"}, optional
        For a path; a dataset has been opened with its own.
    decompress_to : str, optional
        For a path, too.
    fields : mapping of str to Field, optional
        The kinds of the entries of samples that are dicts.
    nested : bool, int, "auto", or "keep", optional
        For a path, too.
    """
    if columns is not None and (not isinstance(columns, (tuple, list)) or len(columns) != 2):
        raise OptionError(f"columns must be a pair of names, (image, label), got {columns!r}")
    paths = _paths(source)
    if paths is None:
        if verify is not None:
            raise OptionError("verify= is for paths; pass it where the dataset is opened")
        if decompress_to is not None:
            raise OptionError("decompress_to= is for paths; pass it where the dataset is opened")
        if nested is not None:
            raise OptionError("nested= is for paths; pass it where the dataset is opened")
        dataset = source
    else:
        dataset = _open_paths(paths, columns, transform is None, verify, decompress_to, nested)
    wrapper = _Wrapper(columns, exif_transpose, transform, label_kind, fields)
    wrapped = wrapper.wrap(dataset)
    if columns is not None and isinstance(wrapped, EncodedSource):
        raise OptionError(
            f"columns= is for samples that are dicts, but those of {type(dataset).__name__} are "
            f"images and labels; leave it out"
        )
    return wrapped, paths is not None


def _paths(source: Any) -> list[str] | None:
    """Return the paths or patterns that a source consists of, or None if it is a dataset."""
    if isinstance(source, (str, bytes, os.PathLike)):
        return [check_path("source", source)]
    if not isinstance(source, (list, tuple)) or not source:
        return None
    are_paths = [isinstance(item, (str, os.PathLike)) for item in source]
    if not any(are_paths):
        return None
    if not all(are_paths):
        number = are_paths.index(False)
        raise OptionTypeError(
            f"source must be a list of paths or a dataset, not a mixture: item "
            f"{are_paths.index(True)} is a path, and item {number} is {shorten(source[number])}"
        )
    return [check_path("source", path) for path in source]


@remember_answers()
def _open_paths(
    patterns: list[str],
    columns: tuple[str, str | None] | None,
    copy: bool,
    verify: Verify | None,
    decompress_to: str | None,
    nested: Nested | None,
) -> Any:
    """Open files of one kind; `copy` says whether rows of arrays are copied."""
    # Imported here, since a loader of other datasets needs none of these.
    from imagearchive.datasets.npz.detect import holds_arrays

    paths = expand_paths(patterns)
    if locate(paths[0]).local_path is None:
        from imagearchive.index.open_indexes import ask_ahead

        ask_ahead([locate(path) for path in paths], head=True)
    if not holds_arrays(paths[0], decompress_to):
        from imagearchive.datasets.image_archive import ImageArchive

        return ImageArchive(
            paths if len(paths) > 1 else paths[0],
            verify=verify or "first",
            decompress_to=decompress_to,
            nested="auto" if nested is None else nested,
        )
    from imagearchive.datasets.combined import CombinedLazyDataset

    wanted = [name for name in columns or () if name is not None]
    parts = [_open_arrays(path, wanted, copy, verify, decompress_to) for path in paths]
    return CombinedLazyDataset(parts) if len(parts) > 1 else parts[0]


def _open_arrays(
    path: str, wanted: list[str], copy: bool, verify: Verify | None, decompress_to: str | None
) -> Any:
    """Open an NPZ with the columns that it has by default, or else with those that are wanted."""
    from imagearchive.datasets.npz.columns import PLURALS
    from imagearchive.datasets.npz.dataset import LazyNPZDataset

    options: dict[str, Any] = {
        "copy": copy,
        "verify": verify or "never",
        "decompress_to": decompress_to,
    }
    dataset = LazyNPZDataset(path, **options)
    if all(name in dataset.keys or PLURALS.get(name) in dataset.keys for name in wanted):
        return dataset
    try:
        chosen = LazyNPZDataset(path, keys=wanted, **options)
    except MemberNotFoundError:
        # The first sample raises, and lists the columns.
        return dataset
    dataset.close()
    return chosen


@dataclass(frozen=True)
class _Wrapper:
    """Makes the source for a dataset, and for the datasets that it consists of."""

    columns: tuple[str, str | None] | None
    exif_transpose: bool
    transform: Callable[..., Any] | None
    label_kind: LabelKind | None
    fields: Mapping[str, Field] | None

    def wrap(self, dataset: Any) -> Source:
        _check_dataset(dataset)
        kind = self.label_kind
        if kind is None:
            kind = getattr(dataset, "label_kind", None)
        guard = LabelGuard(self.transform, kind)
        samples = self._samples(dataset)
        if samples is not None:
            return FieldSource(dataset, samples, guard)
        encoded = offered_method(dataset, "encoded_images")
        images = None if encoded is None else encoded()
        if images is not None:
            return EncodedSource(dataset, images, self.exif_transpose, guard)
        mixed = offered_method(dataset, "mixed_datasets")
        if mixed is not None:
            return MixedSource(dataset, [self.wrap(part) for part in mixed()])
        parts = _concatenated(dataset)
        if parts is not None:
            sources = [self.wrap(part) for part in parts]
            if not all(isinstance(source, SampleSource) for source in sources):
                return ConcatenatedSource(dataset, sources)
        if _is_of_torch(dataset, "Subset"):
            whole = self.wrap(dataset.dataset)
            if not isinstance(whole, SampleSource):
                return SubsetSource(dataset, whole)
        return SampleSource(dataset, self.columns, guard, self.fields)

    def _samples(self, dataset: Any) -> EncodedSamples | None:
        """Return the samples of several fields that a dataset offers, or None."""
        # A single extension gives images without labels.
        if isinstance(dataset, Samples) and len(dataset.extensions) != 1:
            return ExtensionSamples(dataset)
        offered = offered_method(dataset, "encoded_samples")
        # Otherwise as columns= or fields= say.
        changed = self.columns is not None or self.fields is not None
        samples: EncodedSamples | None = None if offered is None or changed else offered()
        return samples


def _check_dataset(dataset: Any) -> None:
    # The keys of a mapping, such as an Archive, are names.
    named = isinstance(dataset, Mapping) and len(dataset) > 0 and 0 not in dataset
    is_indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if named or not is_indexed or isinstance(dataset, Iterator):
        raise OptionTypeError(
            f"source must be a path, an ImageArchive, or a dataset with len() and [i], "
            f"got {shorten(dataset)}"
        )


def _concatenated(dataset: Any) -> Sequence[Any] | None:
    """Return the datasets that a dataset consists of, one after the other, or None."""
    offered = offered_method(dataset, "concatenated_datasets")
    if offered is not None:
        parts: Sequence[Any] = offered()
        return parts
    return dataset.datasets if _is_of_torch(dataset, "ConcatDataset") else None


def _is_of_torch(dataset: Any, name: str) -> bool:
    """Whether this is one of torch's datasets, with its own ``[i]``; torch is not imported."""
    kind: Any = getattr(sys.modules.get("torch.utils.data"), name, None)
    if kind is None or not isinstance(dataset, kind):
        return False
    return getattr(type(dataset), "__getitem__", None) is kind.__getitem__
