"""The samples of an `ImageArchive`: reads, decodes, and labels one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagearchive.archive.archive import Archive
from imagearchive.archive.member_file import open_bytes
from imagearchive.datasets.cache import SampleCache
from imagearchive.datasets.dataset_base import OptionsDataset, resolve_index
from imagearchive.datasets.image_options import (
    ImageArchiveOptions,
    IndexTransform,
    Loader,
    TargetTransform,
    Transform,
)
from imagearchive.datasets.label_guard import LabelGuard, LabelKind
from imagearchive.datasets.labels import Labels
from imagearchive.datasets.pil_loader import pil_loader
from imagearchive.datasets.sample_names import SampleNames
from imagearchive.datasets.selection import Selection
from imagearchive.errors import ImageArchiveError
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.mapping import damaged_mappings

__all__ = ["ImageSamples"]


class ImageSamples(OptionsDataset[ImageArchiveOptions]):
    """What an `ImageArchive` does once it is open.

    A subclass sets all attributes in `_set_up`.
    """

    archive: Archive
    loader: Loader
    transform: Transform | None
    target_transform: TargetTransform | None
    index_transform: IndexTransform | None
    label_kind: LabelKind | None
    _read: Callable[[int], Any]
    _multi: bool
    _cache: SampleCache
    _selection: Selection
    _labels: Labels
    _length: int
    _guard: tuple[Any, LabelGuard] | None = None

    _settable: ClassVar[tuple[str, ...]] = (
        "loader",
        "transform",
        "target_transform",
        "index_transform",
    )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        sample = self._index(index)
        image = self._cache.get(sample, self._load)
        label = (
            self._labels.label(sample)
            if self.target_transform is None
            else self.target_transform(image, self._labels.values(sample).tolist())
        )
        by_index = self.index_transform
        if by_index is not None:
            image = self._each(lambda one: by_index(one, sample), image)
        if self.transform is not None:
            guard = self._guard_labels()
            if guard.active:
                guard.check(label, _size_of(image))
            image = self._each(self.transform, image)
        return image, label

    def _guard_labels(self) -> LabelGuard:
        """Return the guard for the current transform, which may have been set since."""
        transform = self.transform
        if self._guard is None or self._guard[0] is not transform:
            guard = LabelGuard(transform, self.label_kind)
            guard.check_sizes(self.label_sizes())
            self._guard = transform, guard
        return self._guard[1]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """Return several samples; PyTorch's loader calls it for a batch."""
        self.prefetch(indices)
        return [self[index] for index in indices]

    @property
    def requests_ahead(self) -> int:
        """How many samples are best requested ahead; 0 for local archives."""
        return self.archive.requests_ahead

    def prefetch(self, indices: Sequence[int]) -> None:
        """Ask the kernel to read samples ahead that are needed soon; returns at once."""
        samples = self._indices(indices)
        if self._multi:
            self.archive.prefetch(p for sample in samples for p in self._selection.view(sample))
        else:
            chosen = self._selection.positions
            self.archive.prefetch(samples if chosen is None else chosen[samples])

    def _indices(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the indices of samples, which are checked all at once if they are integers."""
        found = np.asarray(indices)
        are_integers = found.dtype == np.int64 and found.ndim == 1 and found.size > 0
        # As unsigned numbers, negative ones are large.
        if are_integers and found.view(np.uint64).max() < self._length:
            return found
        return np.array([self._index(index) for index in indices], np.int64)

    def _each(self, function: Transform, image: Any) -> Any:
        return [function(view) for view in image] if self._multi else function(image)

    def _load(self, sample: int) -> Any:
        if self._multi:
            return [self._load_member(position) for position in self._selection.view(sample)]
        return self._load_member(self._selection.position(sample))

    def _load_member(self, position: int) -> Any:
        file = open_bytes(self._read(position))
        try:
            image = self.loader(file)
        except Exception as error:
            self.archive.check_unchanged()
            info = self.archive.info(position)
            size = pluralize(info.size, "byte")
            where = f"{info.archive}: member {info.name!r} at offset {info.offset} ({size})"
            if self.loader is pil_loader and isinstance(error, ImageArchiveError):
                raise type(error)(f"{where}: {error.message}", hints=error.hints) from error
            if hasattr(error, "add_note"):
                error.add_note(f"raised by the loader for {where}")
            raise
        if damaged_mappings():
            self.archive.check_unchanged()
        return image

    def _index(self, index: int) -> int:
        if index.__class__ is int and 0 <= index < self._length:
            return index
        hint = "for several samples use torch.utils.data.Subset or split_mask="
        return resolve_index(index, self._length, str(self.archive.path), hint=hint)

    def read(self, index: int) -> Any:
        """Return the encoded bytes of a sample, without decoding.

        Returns
        -------
        bytes-like, or with ``mode="multi"`` a list of them
            Not copied if the archive is mapped.
        """
        sample = self._index(index)
        if self._multi:
            return [self._read(position) for position in self._selection.view(sample)]
        return self._read(self._selection.position(sample))

    def encoded_size(self, index: int) -> int:
        """Return how many bytes `read` returns, from the index; with ``mode="multi"`` their sum."""
        sample = self._index(index)
        views = self._selection.view(sample) if self._multi else [self._selection.position(sample)]
        return sum(self.archive.table.lookup.row(position)[2] for position in views)

    def read_views(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> list[memoryview] | None:
        """Return the encoded bytes of several samples, by one native call if that is possible.

        Returns
        -------
        list of memoryview, or None
            As from `read`. None unless all of them are stored in mapped archives, and need not be
            compared with their checksums any more; use `read` then.
        """
        if self._multi or type(self).read is not ImageSamples.read:
            return None
        samples, chosen = self._indices(indices), self._selection.positions
        return self.archive.views(samples if chosen is None else chosen[samples])

    def name(self, index: int) -> str:
        """Return the name of a sample's member; with ``mode="multi"`` that of its directory."""
        sample = self._index(index)
        return (
            self._selection.directory(sample)
            if self._multi
            else self.archive.name(self._selection.position(sample))
        )

    def label(self, index: int) -> Any:
        """Return the label of a sample as ``self[index]`` does without `target_transform`."""
        return self._labels.label(self._index(index))

    def label_list(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> list[Any]:
        """Return the labels of several samples, as `label` returns them."""
        if type(self).label is not ImageSamples.label:
            return [self.label(index) for index in self._indices(indices).tolist()]
        return self._labels.label_list(self._indices(indices))

    def labels(self, index: int) -> npt.NDArray[np.float64]:
        """Return the labels of a sample: its class number, or its values in the label file.

        Returns
        -------
        ndarray of float64, shape (k,)
        """
        return self._labels.values(self._index(index))

    def label_sizes(self) -> npt.NDArray[np.int64] | None:
        """Return how many values each sample has in the label file; None without a label file."""
        return self._labels.sizes()

    def encoded_images(self) -> ImageSamples | None:
        """Return this dataset if its samples are its stored images, otherwise None.

        None if a loader, a transform or ``mode="multi"`` makes something else of them; `DataLoader`
        then asks for the samples.
        """
        changes = (self.transform, self.target_transform, self.index_transform)
        unchanged = all(change is None for change in changes)
        return self if unchanged and self.loader is pil_loader and not self._multi else None

    def expect_nearby_reads(self, samples: int, places: int = 1) -> None:
        """Get ready for reads that stay within so many samples at so many places for a while.

        If `samples` is 0, they may be anywhere. This matters for compressed archives only; see
        `Archive.keep_decompressed`. `DataLoader` calls it.
        """
        if self.archive.table.compressed and self._length:
            size = int(self.archive.table.entries["stored_size"].mean())
            self.archive.keep_decompressed(samples * max(size, 1), places)

    def data_order(self) -> npt.NDArray[np.int64] | None:
        """Return the indices of the samples in the order of their data in the archive.

        ``shuffle="blocks"`` of `DataLoader` keeps together what is stored together.

        Returns
        -------
        ndarray of int64, shape (N,), or None
            None if it is the order of the samples.
        """
        entries = self.archive.table.entries
        first = self._selection.first_positions()
        shards = entries["shard"] if first is None else entries["shard"][first]
        offsets = entries["offset"] if first is None else entries["offset"][first]
        same = shards[1:] == shards[:-1]
        ascends = (shards[1:] > shards[:-1]) | (same & (offsets[1:] >= offsets[:-1]))
        return None if ascends.all() else np.lexsort((offsets, shards))

    @property
    def targets(self) -> npt.NDArray[Any]:
        """The labels of all samples, a new array at each access.

        Returns
        -------
        ndarray
            int64 of shape (N,) for classes; with a label file float64 of shape (N,) or (N, k),
            or object of shape (N,) if samples have different numbers of values.
        """
        return self._labels.targets()

    @property
    def samples(self) -> SampleNames:
        """Name and label of every sample: a sequence whose items are made when asked for."""
        return SampleNames(self)

    @property
    def index_table(self) -> npt.NDArray[Any]:
        """The rows of the index for the members that are used: index, offset, size and more.

        The whole table, without a copy, if every member is a sample. For labels see `targets`.
        """
        entries = self.archive.table.entries
        chosen = self._selection.positions
        return entries if chosen is None else entries[chosen]

    # --- life -------------------------------------------------------------------------------

    def worker_open_archive(self, worker_id: int | None = None) -> None:
        """Open the archive in this process; pass it to a loader as ``worker_init_fn``.

        Parameters
        ----------
        worker_id : int, optional
            Number of the worker, which loaders pass. It is not used.
        """
        self.archive.open_file()

    def check_unchanged(self) -> None:
        """Raise if one of the open files has changed; see `Archive.check_unchanged`."""
        self.archive.check_unchanged()

    def close(self) -> None:
        """Close the archive; views returned by `read` stay valid. A second call does nothing."""
        super().close()
        self._cache.clear()
        self.archive.close()


def _size_of(image: Any) -> tuple[int, ...] | None:
    """Return height and width of an image, and anything else behind them; None if unknown."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    return image.shape if isinstance(image, np.ndarray) else None
