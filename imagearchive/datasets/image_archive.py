"""Images in an archive as a dataset of ``(image, label)``."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagearchive.archive.archive import Archive, check_same
from imagearchive.archive.name_tree import decode
from imagearchive.archive.samples import Samples
from imagearchive.archive.view_file import ViewFile
from imagearchive.datasets.cache import SampleCache
from imagearchive.datasets.labels import (
    LabelParser,
    RaggedLabels,
    parse_label_line,
    read_label_file,
)
from imagearchive.datasets.selection import IMAGE_EXTENSIONS, Selection, find_classes
from imagearchive.errors import (
    ImageArchiveError,
    LabelError,
    OptionError,
    OptionTypeError,
    SampleIndexError,
)
from imagearchive.images.pillow import decode_pillow
from imagearchive.images.render import MAX_PIXELS
from imagearchive.storage.limits import Limits
from imagearchive.storage.patterns import absolute, spelled

if TYPE_CHECKING:
    from types import TracebackType

    from imagearchive.storage.patterns import ArchivePath
    from imagearchive.storage.protocol import StorageKind

__all__ = ["ImageArchive", "pil_loader"]

logger = logging.getLogger(__name__)

NO_CLASS: Final = -1
# As many as the native decoder takes.
PIXELS: Final = Limits(max_pixels=MAX_PIXELS)
# Attributes that a user may set after construction.
CHANGEABLE: Final = ("loader", "transform", "target_transform", "index_transform")

Transform = Callable[[Any], Any]


def pil_loader(file: BinaryIO) -> Image.Image:
    """Decode an image file with Pillow.

    Parameters
    ----------
    file : binary file object
        A JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, JPEG 2000 or AVIF. Other formats that Pillow knows
        need a loader of your own, such as `PIL.Image.open`, which may start programs for them.

    Returns
    -------
    PIL.Image.Image
        Loaded, in mode RGB; the same pixels as `DecodedView` and `DataLoader` give.

    Raises
    ------
    DecodeError
        It is no image of these formats, truncated or damaged.
    LimitError
        It has more than 178,956,970 pixels, as a file that is made to exhaust memory may have.
    """
    return decode_pillow(file.read(), limits=PIXELS)


class ImageArchive:
    """Images in an archive, with the labels that their directories or a file give them.

    Sample ``i`` is ``(image, label)``. The label is the class number as `int` where classes come
    from directories, and a float64 array where a label file gives values.

    Parameters
    ----------
    apath : path-like or sequence of path-like
        A TAR or any other archive that `imagearchive.open` knows, a list of them, or a brace
        pattern such as ``train-{0000..0146}.tar``.
    ipath : path-like, optional
        The index file; ``APATH`` with ``.idx.npy`` for its extension by default. It is created
        where it does not exist.
    root : str
        Directory inside the archive that holds the class directories.
    extensions : sequence of str, optional
        Extensions of the files to take, such as ``(".jpg", ".jpeg")``, without regard to case.
        By default every file is taken.
    loader : callable
        From a binary file object to an image. `PIL.Image.open` works, too.
    transform : callable, optional
        Applied to the image.
    target_transform : callable, optional
        Applied to the image as loaded, *before* `transform`, and the labels as a list of floats;
        what it returns is the label of the sample.
    data_in_memory : bool
        Read the whole archive into memory. Forked workers share it; a pickle does not carry it.
    open_after_fork : bool
        Open the archive in `worker_open_archive`, or at the first read. Ignored with
        `data_in_memory`.
    is_valid_file : callable, optional
        From the name of a member to whether it is taken.
    index_file : str, optional
        A text file of lines ``number path``, paths counted from `root`: the images to take, in
        this order, and the numbers that `label_file` calls them by. On disk, or inside the
        archive as ``archive.tar/inner/path``.
    label_file : str, optional
        A text file of lines ``image value value …``, where `image` is a number of `index_file`,
        without one the position of the sample, or the path of an image counted from `root`.
        Several lines for one image append. On disk or inside the archive.
    label_parser : callable, optional
        From a line of `label_file` to ``(image, values)``, or None to pass it over.
    label_extension : str, optional
        Take the label of an image from the file that has its name but this extension, as
        WebDataset writes them: ``"cls"``. A lone whole number becomes an `int`, anything else a
        float64 array.
    split_mask : array-like of bool, optional
        Which samples to keep, one value for each; classes and label files count all of them.
    index_transform : callable, optional
        Applied to the image and the position of the sample, before `transform`.
    mode : {"single", "multi"}
        With ``"multi"`` every directory that holds images is one sample, a list of images sorted
        by name, and `index_file` lists directories.
    cache_size : int
        How many decoded images to keep.
    storage : {"auto", "mmap", "pread", "memory"}
        How bytes are read; see `imagearchive.storage.local.open_storage`.
    overwrite_index : bool
        Build the index even where a fresh one is there.
    strict : bool
        Whether damage in the archive is an error; otherwise what lies before it is served.

    Attributes
    ----------
    archive : Archive
        The archive underneath.
    classes : list of str
        The class directories, sorted; empty where labels come from a file.
    class_to_idx : dict of str to int

    Raises
    ------
    ArchiveNotFoundError, UnsupportedArchiveError, CorruptArchiveError, StaleIndexError
        The archive cannot be opened.
    LabelError
        An index or label file does not fit the archive.

    Notes
    -----
    A file that lies beside the class directories belongs to no class and is no sample. Where
    there is no class directory at all, every file is one, labelled -1.

    Works unchanged under fork, spawn and forkserver, and in threads: reads are positional. A
    pickle holds paths and options only.
    """

    def __init__(
        self,
        apath: ArchivePath,
        ipath: str | os.PathLike[str] | None = None,
        root: str = "",
        extensions: Sequence[str] | str | None = None,
        loader: Callable[[BinaryIO], Any] = pil_loader,
        transform: Transform | None = None,
        target_transform: Callable[[Any, list[float]], Any] | None = None,
        data_in_memory: bool = False,
        open_after_fork: bool = False,
        *,
        is_valid_file: Callable[[str], bool] | None = None,
        index_file: str | os.PathLike[str] | None = None,
        label_file: str | os.PathLike[str] | None = None,
        label_parser: LabelParser = parse_label_line,
        label_extension: str | None = None,
        split_mask: npt.ArrayLike | None = None,
        index_transform: Callable[[Any, int], Any] | None = None,
        mode: Literal["single", "multi"] = "single",
        cache_size: int = 0,
        storage: StorageKind = "auto",
        overwrite_index: bool = False,
        strict: bool = True,
    ) -> None:
        self._options: dict[str, Any] = {
            "apath": absolute(spelled(apath)),
            "ipath": None if ipath is None else os.path.abspath(os.fsdecode(ipath)),
            "root": root,
            "extensions": extensions,
            "loader": loader,
            "transform": transform,
            "target_transform": target_transform,
            "data_in_memory": data_in_memory,
            "open_after_fork": open_after_fork,
            "is_valid_file": is_valid_file,
            "index_file": None if index_file is None else os.path.abspath(index_file),
            "label_file": None if label_file is None else os.path.abspath(label_file),
            "label_parser": label_parser,
            "label_extension": label_extension,
            "split_mask": None if split_mask is None else _packed(split_mask),
            "index_transform": index_transform,
            "mode": mode,
            "cache_size": cache_size,
            "storage": storage,
            "strict": strict,
        }
        if mode not in ("single", "multi"):
            raise OptionError(f"mode={mode!r}: choose 'single' or 'multi'")
        if not callable(loader):
            raise OptionTypeError(f"loader={loader!r}: a function of a binary file is wanted")
        if label_extension is not None and (label_file is not None or mode == "multi"):
            raise OptionError(
                "label_extension= goes neither with label_file= nor with mode='multi'"
            )
        if data_in_memory and open_after_fork:
            logger.info("open_after_fork is ignored: the data are in memory already")
        self.loader = loader
        self.transform = transform
        self.target_transform = target_transform
        self.index_transform = index_transform
        self.root = os.fspath(root)
        self.mode = mode
        self.archive = Archive(
            apath,
            ipath,
            storage="memory" if data_in_memory else storage,
            overwrite_index=overwrite_index,
            strict=strict,
        )
        self._read = self.archive.read
        self._multi = mode == "multi"
        self._cache = SampleCache(cache_size)
        self.classes: list[str] = []
        self._labels: RaggedLabels | None = None
        self._mates: Samples | None = None
        if label_extension is not None and extensions is None:
            extensions = IMAGE_EXTENSIONS
        self._selection = Selection(
            self.archive,
            self.root,
            extensions,
            is_valid_file,
            self._options["index_file"],
            self._options["label_file"],
            self._multi,
        )
        self._label()
        self._split()
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        self._length = len(self._selection)
        if data_in_memory or not open_after_fork:
            self.worker_open_archive()
        # What is set on the dataset from here on travels in a pickle.
        self._own = frozenset(self.__dict__) | {"_own"}

    # --- opening ----------------------------------------------------------------------------

    def _label(self) -> None:
        """Find the label of every sample."""
        table = self.archive.table
        label_file = self._options["label_file"]
        if label_file is not None:
            self._labels = read_label_file(
                self.archive,
                label_file,
                len(self._selection),
                self._selection.resolver(),
                self._options["label_parser"],
            )
            return
        if self._options["label_extension"] is not None:
            self._mates = Samples(self.archive, (str(self._options["label_extension"]),))
            return
        if not table.meta:
            # The index of the original ImageArchive: it has labels and no names.
            labels = RaggedLabels(table.label_values, table.label_offsets)
            chosen = self._selection.positions
            self._labels = labels if chosen is None else labels.select(chosen)
            return
        prefix = self._selection.prefix
        first = self._selection.first_positions()
        if first is None and not prefix and len(table.label_values) == len(table):
            # Every member lies in a class directory: the table has the numbers.
            directories = table.lookup.children(0, len(table), 0)[0].tolist()
            names = [table.lookup.sorted_name(place) for place in directories]
            self.classes = [decode(n) for n in sorted(name[: name.index(b"/")] for name in names)]
            self._labels = RaggedLabels(table.label_values, table.label_offsets)
            return
        self.classes, numbers = find_classes(table, prefix, first)
        inside = numbers >= 0
        if self.classes and not inside.all() and self._selection.numbers is None:
            logger.info(
                "%s: %d files beside the class directories are no samples",
                self.archive.path,
                int((~inside).sum()),
            )
            self._selection.keep(np.flatnonzero(inside))
            numbers = numbers[inside]
        self._labels = RaggedLabels(
            numbers.astype(np.float64), np.arange(len(numbers) + 1, dtype=np.uint64)
        )

    def _split(self) -> None:
        packed = self._options["split_mask"]
        if packed is None:
            return
        length, bits = packed
        count = len(self._selection)
        if length != count:
            raise OptionError(
                f"split_mask of {length} values for {count} samples: one value each is wanted"
            )
        rows = np.flatnonzero(np.unpackbits(bits, count=count))
        if self._labels is not None:
            self._labels = self._labels.select(rows)
        self._selection.keep(rows)

    # --- samples ----------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        sample = self._sample(index)
        image = self._cache.get(sample, self._load)
        label = (
            self.label(sample)
            if self.target_transform is None
            else self.target_transform(image, self.labels(sample).tolist())
        )
        by_index = self.index_transform
        if by_index is not None:
            image = self._each(lambda one: by_index(one, sample), image)
        if self.transform is not None:
            image = self._each(self.transform, image)
        return image, label

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """Return several samples; PyTorch's loader asks for a batch this way."""
        self.prefetch(indices)
        return [self[index] for index in indices]

    def prefetch(self, indices: Sequence[int]) -> None:
        """Ask the kernel for samples that are going to be read soon; returns at once."""
        samples = [self._sample(index) for index in indices]
        if self._multi:
            self.archive.prefetch(p for sample in samples for p in self._selection.view(sample))
        else:
            chosen = self._selection.positions
            self.archive.prefetch(samples if chosen is None else chosen[samples].tolist())

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return (self[index] for index in range(self._length))

    def _each(self, function: Transform, image: Any) -> Any:
        return [function(view) for view in image] if self._multi else function(image)

    def _load(self, sample: int) -> Any:
        if self._multi:
            return [self._load_member(position) for position in self._selection.view(sample)]
        return self._load_member(self._selection.position(sample))

    def _load_member(self, position: int) -> Any:
        file: Any = ViewFile(self._read(position))
        try:
            return self.loader(file)
        except Exception as error:
            where = self._described(position)
            if self.loader is pil_loader and isinstance(error, ImageArchiveError):
                # Its hints are not for this class, which has no such arguments.
                raise type(error)(f"{where}: {error.message}") from error
            if hasattr(error, "add_note"):
                error.add_note(f"raised by the loader for {where}")
            raise

    def _described(self, position: int) -> str:
        info = self.archive.info(position)
        return f"{info.archive}: member {info.name!r} at offset {info.offset} ({info.size} bytes)"

    def _sample(self, index: int) -> int:
        try:
            sample = operator.index(index)
        except TypeError:
            raise OptionTypeError(
                f"a sample is given by its number, not by {type(index).__name__}; for several, use "
                f"torch.utils.data.Subset or split_mask="
            ) from None
        if sample < 0:
            sample += self._length
        if not 0 <= sample < self._length:
            raise SampleIndexError(f"sample {index} of {self._length} in {self.archive.path}")
        return sample

    def read(self, index: int) -> Any:
        """Return the encoded bytes of a sample, without decoding.

        Returns
        -------
        bytes-like, or with ``mode="multi"`` a list of them
            Not copied where the archive is mapped.
        """
        sample = self._sample(index)
        if self._multi:
            return [self._read(position) for position in self._selection.view(sample)]
        return self._read(self._selection.position(sample))

    def name(self, index: int) -> str:
        """Return the name of a sample's member; with ``mode="multi"`` that of its directory."""
        sample = self._sample(index)
        return (
            self._selection.directory(sample)
            if self._multi
            else self.archive.name(self._selection.position(sample))
        )

    def label(self, index: int) -> Any:
        """Return the label of a sample as ``self[index]`` does without `target_transform`."""
        sample = self._sample(index)
        if self._mates is not None:
            values = self._mate_labels(sample)
            whole = len(values) == 1 and float(values[0]).is_integer()
            return int(values[0]) if whole else values
        if self._by_class and self._labels is not None:
            return self._labels.number(sample, NO_CLASS)
        return self.labels(sample)

    def labels(self, index: int) -> npt.NDArray[np.float64]:
        """Return the labels of a sample: its class number, or what the label file says.

        Returns
        -------
        ndarray of float64, shape (k,)
        """
        sample = self._sample(index)
        if self._labels is None:
            return self._mate_labels(sample)
        return self._labels[sample].copy()

    def encoded_images(self) -> ImageArchive | None:
        """Return this dataset if its samples are its stored images, otherwise None.

        They are not where a loader, a transform or ``mode="multi"`` makes something else of them.
        `DataLoader` then asks for the samples.
        """
        changes = (self.transform, self.target_transform, self.index_transform)
        unchanged = all(change is None for change in changes)
        return self if unchanged and self.loader is pil_loader and not self._multi else None

    @property
    def _by_class(self) -> bool:
        return self._options["label_file"] is None and bool(self.archive.table.meta)

    def _mate_labels(self, sample: int) -> npt.NDArray[np.float64]:
        mates = self._mates
        if mates is None:
            raise LabelError(f"{self.archive.path}: the samples have no labels")
        position = mates.find(
            self._selection.position(sample),
            [str(self._options["label_extension"]).lower().lstrip(".")],
        )
        text = bytes(self._read(position)).decode("utf-8", "replace")
        try:
            return np.array([float(value) for value in text.split()], np.float64)
        except ValueError:
            raise LabelError(
                f"{self.archive.path}: member {self.archive.name(position)!r} holds "
                f"{text[:80]!r}, not numbers"
            ) from None

    @property
    def targets(self) -> npt.NDArray[Any]:
        """The labels of all samples, made anew at each access.

        Returns
        -------
        ndarray
            int64 of shape (N,) for classes; with a label file float64 of shape (N,) or (N, k),
            or object of shape (N,) where the numbers of values differ.
        """
        if self._labels is None:
            labels = [self.labels(sample) for sample in range(self._length)]
            offsets = np.cumsum([0, *(len(values) for values in labels)]).astype(np.uint64)
            flat = np.concatenate([np.zeros(0), *labels])
            found = RaggedLabels(flat, offsets).as_array()
            whole = found.dtype == np.float64 and (found == np.floor(found)).all()
            return found.astype(np.int64) if whole else found
        if self._by_class:
            return self._labels.values.astype(np.int64)
        return self._labels.as_array()

    @property
    def samples(self) -> SampleNames:
        """Name and label of every sample: a sequence, made one by one when asked for."""
        return SampleNames(self)

    @property
    def index_table(self) -> npt.NDArray[Any]:
        """The rows of the index: index, offset, size and more of every member that is used.

        The whole table, without a copy, where every member is a sample. Labels: see `targets`.
        """
        entries = self.archive.table.entries
        chosen = self._selection.positions
        return entries if chosen is None else entries[chosen]

    # --- processes --------------------------------------------------------------------------

    def worker_open_archive(self, worker_id: int = 0) -> None:
        """Open the archive in this process; pass it to a loader as ``worker_init_fn``.

        Parameters
        ----------
        worker_id : int
            Not used; loaders pass it.
        """
        if len(self.archive.table.files) == 1 and self.archive.table.scanner != "directory":
            self.archive.storage()

    def close(self) -> None:
        """Close the archive; views returned by `read` stay valid. A second call does nothing."""
        self._cache.clear()
        self.archive.close()

    def __enter__(self) -> ImageArchive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        options = {**self._options, **{name: getattr(self, name) for name in CHANGEABLE}}
        later = {name: value for name, value in self.__dict__.items() if name not in self._own}
        return _reopen, (type(self), options, self.archive.table.token()), later or None

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        root = f", root={self.root!r}" if self.root else ""
        return f"ImageArchive({self.archive.path!r}{root}, {self._length} samples{classes})"


class SampleNames(Sequence[tuple[str, Any]]):
    """``(name, label)`` of every sample of a dataset, without a list of them."""

    def __init__(self, dataset: ImageArchive) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._dataset.name(index), self._dataset.label(index)


def _packed(split_mask: npt.ArrayLike) -> tuple[int, npt.NDArray[np.uint8]]:
    """Return the length and the bits of a mask; an eighth of its size in a pickle."""
    mask = np.asarray(split_mask)
    if mask.ndim != 1 or not np.isin(mask, (0, 1)).all():
        raise OptionError(
            "split_mask: one true or false for each sample is wanted, such as [1, 0, 1]"
        )
    return len(mask), np.packbits(mask.astype(np.bool_))


def _reopen(kind: type[ImageArchive], options: dict[str, Any], token: str) -> ImageArchive:
    # Subclasses may take other arguments; what they set comes back as state.
    dataset = kind.__new__(kind)
    mask = options["split_mask"]
    if mask is not None:
        mask = np.unpackbits(mask[1], count=mask[0])
    ImageArchive.__init__(dataset, **{**options, "split_mask": mask})
    check_same(dataset.archive, token)
    return dataset
