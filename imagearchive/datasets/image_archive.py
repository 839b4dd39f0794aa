"""`ImageArchive`: the images of an archive as a dataset of ``(image, label)``."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagearchive.archive.archive import Archive, check_fingerprint
from imagearchive.archive.member_file import open_bytes
from imagearchive.datasets.cache import SampleCache
from imagearchive.datasets.dataset_base import OptionsDataset, resolve_index, warn_if_empty
from imagearchive.datasets.image_options import (
    ImageArchiveOptions,
    IndexTransform,
    Loader,
    Mode,
    PackedMask,
    TargetTransform,
    Transform,
)
from imagearchive.datasets.label_files import LabelParser, parse_label_line
from imagearchive.datasets.label_guard import LabelGuard, LabelKind
from imagearchive.datasets.labels import Labels, find_labels
from imagearchive.datasets.pil_loader import pil_loader
from imagearchive.datasets.sample_names import SampleNames
from imagearchive.datasets.selection import IMAGE_EXTENSIONS, Selection
from imagearchive.errors import ImageArchiveError, OptionError
from imagearchive.errors.arguments import check_callable, check_choice
from imagearchive.storage.checksums import Verify, check_verify
from imagearchive.storage.location import locate
from imagearchive.storage.mapping import damaged_mappings
from imagearchive.storage.patterns import absolute_paths, as_text

if TYPE_CHECKING:
    from imagearchive.storage.patterns import ArchivePath
    from imagearchive.storage.protocol import StorageKind

__all__ = ["ImageArchive"]

logger = logging.getLogger(__name__)


class ImageArchive(OptionsDataset[ImageArchiveOptions]):
    """Images in an archive, with the labels that their directories or a file give them.

    Sample ``i`` is ``(image, label)``. The label is the class number as `int` if classes come from
    directories, and a float64 array if a label file gives values.

    Parameters
    ----------
    apath : path-like or sequence of path-like
        A TAR or any other archive that `imagearchive.open` knows, a list of them, or a brace
        pattern such as ``train-{0000..0146}.tar``.
    ipath : path-like, optional
        The index file, created if it does not exist. By default ``APATH`` with its extension
        replaced by ``.idx.npy``.
    root : str
        Directory inside the archive that contains the class directories.
    extensions : sequence of str, optional
        Extensions of the files to take, such as ``(".jpg", ".jpeg")``. Case does not matter. By
        default every file is taken.
    loader : callable
        From a binary file object to an image. `PIL.Image.open` works too.
    transform : callable, optional
        Applied to the image.
    target_transform : callable, optional
        Called with the image as loaded, *before* `transform`, and the labels as a list of floats.
        It returns the label of the sample.
    data_in_memory : bool
        Read the whole archive into memory. Forked workers share it; a pickle does not contain it.
    open_after_fork : bool
        Open the archive in `worker_open_archive`, or at the first read. Ignored with
        `data_in_memory`.
    is_valid_file : callable, optional
        From the name of a member to whether to take it.
    index_file : str, optional
        A text file of lines ``number path``, with paths relative to `root`: the images to take, in
        this order, and their numbers in `label_file`. On disk, or inside the archive as
        ``archive.tar/inner/path``.
    label_file : str, optional
        A text file of lines ``image value value …``, where `image` is the path of an image
        relative to `root`, or its number in `index_file`; without an index file, the number of
        the sample. The values of several lines for one image are appended. A path that several
        archives have is an error. On disk or inside the archive.
    label_parser : callable, optional
        From a line of `label_file` to ``(image, values)``, or to None to skip the line.
    label_extension : str, optional
        Take the label of an image from the file of the same name with this extension, as
        WebDataset writes them: ``"cls"``. A single integer becomes an `int`, anything else a
        float64 array.
    split_mask : array-like of bool, optional
        Which samples to keep, one value for each. Classes and label files are numbered as without
        a mask.
    index_transform : callable, optional
        Called with the image and the index of the sample, before `transform`.
    mode : {"single", "multi"}
        With ``"multi"`` every directory of images is one sample, a list of images sorted by name,
        and `index_file` lists directories.
    cache_size : int
        How many decoded images to keep, those used most recently.
    storage : {"auto", "mmap", "pread", "memory"}
        How bytes are read; see `imagearchive.storage.local.open_storage`.
    overwrite_index : bool
        Build the index even if there is a fresh one.
    strict : bool
        Raise an error if the archive is damaged. Otherwise serve the members before the damage.
    label_kind : {"places", "values"}, optional
        Whether labels say where something is in the image, as boxes, keypoints, and masks do, or
        not, as classes do. A transform of this library that moves pixels does not move labels: with
        "places" it is refused, with "values" it is allowed. By default, it is refused where labels
        are certainly places, and a warning is logged once where they may be.
    verify : {"first", "always", "never"} or bool
        When a stored file is compared with its checksum: at its first read in each process, at
        every read, or never; see `imagearchive.Archive`.

    Attributes
    ----------
    archive : Archive
        The archive that the dataset reads.
    classes : list of str
        The directories in `root`, sorted; empty if labels come from files. They do not depend on
        `extensions` and the other options that select samples: a warning names the classes that
        have none.
    class_to_idx : dict of str to int

    Raises
    ------
    ArchiveNotFoundError, UnsupportedArchiveError, CorruptArchiveError, StaleIndexError
        The archive cannot be opened.
    LabelError
        An index or label file does not fit the archive.

    Notes
    -----
    A file beside the class directories does not belong to a class and is not a sample. If there
    are no class directories at all, every file is a sample with the label -1.

    Works unchanged under fork, spawn and forkserver, and in threads: reads are positional. A
    pickle holds paths and options only.
    """

    archive: Archive
    classes: list[str]
    class_to_idx: dict[str, int]
    loader: Loader
    transform: Transform | None
    target_transform: TargetTransform | None
    index_transform: IndexTransform | None
    root: str
    mode: Mode
    _read: Callable[[int], Any]
    _multi: bool
    _cache: SampleCache
    _selection: Selection
    _labels: Labels
    _length: int
    _guard: tuple[Any, LabelGuard] | None = None
    label_kind: LabelKind | None

    _settable: ClassVar[tuple[str, ...]] = (
        "loader",
        "transform",
        "target_transform",
        "index_transform",
    )

    def __init__(
        self,
        apath: ArchivePath,
        ipath: str | os.PathLike[str] | None = None,
        root: str = "",
        extensions: Sequence[str] | str | None = None,
        loader: Loader = pil_loader,
        transform: Transform | None = None,
        target_transform: TargetTransform | None = None,
        data_in_memory: bool = False,
        open_after_fork: bool = False,
        *,
        is_valid_file: Callable[[str], bool] | None = None,
        index_file: str | os.PathLike[str] | None = None,
        label_file: str | os.PathLike[str] | None = None,
        label_parser: LabelParser = parse_label_line,
        label_extension: str | None = None,
        split_mask: npt.ArrayLike | None = None,
        index_transform: IndexTransform | None = None,
        mode: Mode = "single",
        cache_size: int = 0,
        storage: StorageKind = "auto",
        overwrite_index: bool = False,
        strict: bool = True,
        label_kind: LabelKind | None = None,
        verify: Verify | bool = "first",
    ) -> None:
        check_choice("mode", mode, ("single", "multi"))
        check_callable("loader", loader)
        if label_extension is not None and (label_file is not None or mode == "multi"):
            raise OptionError(
                "label_extension= cannot be combined with label_file= or with mode='multi'"
            )
        if data_in_memory and open_after_fork:
            logger.info("open_after_fork is ignored: the archive is in memory already")
        options = ImageArchiveOptions(
            apath=as_text(apath),
            ipath=None if ipath is None else locate(ipath).path,
            root=os.fspath(root),
            extensions=extensions,
            loader=loader,
            transform=transform,
            target_transform=target_transform,
            data_in_memory=data_in_memory,
            open_after_fork=open_after_fork,
            is_valid_file=is_valid_file,
            index_file=None if index_file is None else locate(index_file).path,
            label_file=None if label_file is None else locate(label_file).path,
            label_parser=label_parser,
            label_extension=None if label_extension is None else str(label_extension),
            split_mask=None if split_mask is None else PackedMask.pack(split_mask),
            index_transform=index_transform,
            mode=mode,
            cache_size=cache_size,
            storage=storage,
            strict=strict,
            label_kind=label_kind,
            verify=check_verify(verify),
        )
        self._start(options, overwrite_index=overwrite_index)
        # Messages show the path as given; a pickle may be opened in another directory.
        self._options = dataclasses.replace(options, apath=absolute_paths(options.apath))

    # --- opening ----------------------------------------------------------------------------

    def _set_up(self, options: ImageArchiveOptions, overwrite_index: bool) -> None:
        self.loader = options.loader
        self.transform = options.transform
        self.target_transform = options.target_transform
        self.index_transform = options.index_transform
        self.root = options.root
        self.mode = options.mode
        self.label_kind = options.label_kind
        self._multi = options.mode == "multi"
        self._cache = SampleCache(options.cache_size)
        self.archive = Archive(
            options.apath,
            options.ipath,
            storage="memory" if options.data_in_memory else options.storage,
            overwrite_index=overwrite_index,
            strict=options.strict,
            verify=options.verify,
        )
        self._read = self.archive.read
        if self._pickled_fingerprint is not None:
            check_fingerprint(self.archive, self._pickled_fingerprint)
        extensions = options.extensions
        if options.label_extension is not None and extensions is None:
            extensions = IMAGE_EXTENSIONS
        self._selection = Selection(
            self.archive,
            options.root,
            extensions,
            options.is_valid_file,
            options.index_file,
            options.label_file,
            self._multi,
        )
        self._labels = find_labels(
            self.archive,
            self._selection,
            options.label_file,
            options.label_parser,
            options.label_extension,
        )
        if options.split_mask is not None:
            self._split(options.split_mask)
        self.classes = self._labels.classes
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        self._guard_labels()
        self._length = len(self._selection)
        if self._pickled_fingerprint is None:
            self._warn_of_missing(options)
        if options.data_in_memory or not options.open_after_fork:
            self.worker_open_archive()

    def _warn_of_missing(self, options: ImageArchiveOptions) -> None:
        """Log that there are no samples, or that none of them has a class."""
        warn_if_empty(options.apath, self._length)
        if (
            self._length
            and not self.classes
            and options.label_file is None
            and options.label_extension is None
            and self.archive.table.meta
        ):
            logger.warning(
                "%s: no sample is in a class directory, so all %d have the label -1, the first is "
                "%r; name the directory that contains the class directories with root=, or the "
                "labels with label_file= or label_extension=. Archives within an archive must be "
                "extracted first",
                options.apath,
                self._length,
                self.archive.name(int(self._selection.view(0)[0])),
            )

    def _split(self, mask: PackedMask) -> None:
        count = len(self._selection)
        if mask.length != count:
            raise OptionError(
                f"split_mask must have one value for each of the {count} samples, got "
                f"{mask.length} values"
            )
        rows = mask.rows()
        self._labels = self._labels.select(rows)
        self._selection.keep(rows)

    def _fingerprint(self) -> str:
        return self.archive.table.fingerprint()

    # --- samples ----------------------------------------------------------------------------

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

    def prefetch(self, indices: Sequence[int]) -> None:
        """Ask the kernel to read samples ahead that are needed soon; returns at once."""
        samples = [self._index(index) for index in indices]
        if self._multi:
            self.archive.prefetch(p for sample in samples for p in self._selection.view(sample))
        else:
            chosen = self._selection.positions
            self.archive.prefetch(samples if chosen is None else chosen[samples].tolist())

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
            where = (
                f"{info.archive}: member {info.name!r} at offset {info.offset} ({info.size} bytes)"
            )
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

    def encoded_images(self) -> ImageArchive | None:
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
        if self.archive.table.derived and self._length:
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

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        root = f", root={self.root!r}" if self.root else ""
        return f"ImageArchive({self.archive.path!r}{root}, {self._length} samples{classes})"


def _size_of(image: Any) -> tuple[int, ...] | None:
    """Return height and width of an image, and anything else behind them; None if unknown."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    return image.shape if isinstance(image, np.ndarray) else None
