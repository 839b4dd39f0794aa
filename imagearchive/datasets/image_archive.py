"""`ImageArchive`: the images of an archive as a dataset of ``(image, label)``."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from imagearchive.archive.archive import Archive, check_fingerprint
from imagearchive.archive.name_tree import name_text
from imagearchive.datasets.cache import SampleCache
from imagearchive.datasets.class_numbers import NO_CLASS, ClassNumbers
from imagearchive.datasets.companion_files import CompanionFile
from imagearchive.datasets.dataset_base import IndexArguments, SaveIndex, warn_if_empty
from imagearchive.datasets.image_options import (
    ImageArchiveOptions,
    IndexTransform,
    Loader,
    Mode,
    PackedMask,
    TargetTransform,
    Transform,
)
from imagearchive.datasets.image_samples import ImageSamples
from imagearchive.datasets.label_files import LabelParser, parse_label_line
from imagearchive.datasets.label_guard import LabelKind
from imagearchive.datasets.labels import ArrayLabels, ClassesFrom, Labels, NoLabels, find_labels
from imagearchive.datasets.likely_root import warn_of_doubtful_classes
from imagearchive.datasets.listed_samples import (
    ListedSamples,
    MissingMode,
    TableOptions,
    list_options,
)
from imagearchive.datasets.pil_loader import pil_loader
from imagearchive.datasets.selection import IMAGE_EXTENSIONS, Selection
from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.arguments import (
    check_callable,
    check_choice,
    check_flag,
    check_sequence,
    shorten,
)
from imagearchive.errors.plurals import pluralize
from imagearchive.index.nesting import Nested
from imagearchive.storage.checksums import Verify, check_verify
from imagearchive.storage.location import locate
from imagearchive.storage.path_options import add_options
from imagearchive.storage.patterns import absolute_paths, as_text

if TYPE_CHECKING:
    from imagearchive.storage.patterns import ArchivePath
    from imagearchive.storage.protocol import StorageKind

__all__ = ["ImageArchive"]

logger = logging.getLogger(__name__)


class ImageArchive(ImageSamples):
    """Images in an archive, with the labels that their directories or a file give them.

    Sample ``i`` is ``(image, label)``. The label is an `int` if it is the number of a class or
    another integer, a `float` if it is one column of a table, and otherwise an array of numbers.

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
        the sample. The values of several lines for one image are appended. If every image has
        one integer, labels are `int`, and -1 for images that are not in the file; otherwise they
        are float64 arrays. A path that several archives have is an error. On disk or inside an
        archive, as `table`.
    label_parser : callable, optional
        From a line of `label_file` to ``(image, values)``, or to None to skip the line.
    table : mapping, list of dict, dataframe, or path, optional
        A table with one row for each sample. The samples are its rows, in their order. A dataframe
        is a table of pandas, polars, or pyarrow. A path names a CSV, TSV, JSON, JSON Lines, or
        Parquet file, or a ``.txt`` file of cells separated by whitespace: on disk, inside the
        archive, or inside another as ``labels.zip/train.csv``.
    image : str or int, optional
        The column of `table` with the names of the images: the path of a member relative to
        `root`. Its extension may be missing, or the directories at its beginning, or both, if
        only one member fits. Integers number the columns of a text file without a header.
    label : str, int, or list of them, optional
        The column with the labels. Numbers stay as they are. Text is the names of classes, which
        are numbered in sorted order, those of the whole table. Several columns of numbers make an
        array of shape (k,). By default labels come from directories.
    split : str, int, or list of them, optional
        Take the rows of `table` that have this value, or one of these, in `split_column`; of
        `members`, the list of this name.
    split_column : str or int
        See `split`.
    members : sequence of str, dict of sequences, or path, optional
        The names of the images to take, in this order, as in the column `image` of a table. A path
        names a text file of one name in each line, or a JSON file of a list, or of a dict of lists,
        which are taken one after the other.
    missing : {"error", "drop"}
        What to do with a name in `table` or `members` that no member fits: raise an error, or leave
        it out and log how many were.
    class_to_idx : dict of str to int, optional
        The numbers of the classes, in place of those in sorted order, so that several datasets
        agree. Numbers in a table or a label file are looked up too. A class that is not in it is
        an error.
    classes_from : {"directory", "archive"}
        With ``"archive"`` every archive in `apath` is a class, named after its file without
        extension; of a single archive that holds archives, each of these is.
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
    save_index : {"auto", "remote"}
        With "remote", save the index beside an archive on a server as well; see
        `imagearchive.Archive`.
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
    decompress_to : path-like, optional
        A directory in which a compressed archive is decompressed once; see `imagearchive.Archive`.
    nested : bool, int, "auto", or "keep"
        Which members that are archives themselves are opened in place; see `imagearchive.open`. By
        default, all of them if the archive has no other members, so that the classes of a TAR of
        TARs are those.
    storage_options, filesystem, cache_dir, cache_bytes : optional
        How to reach URLs, and where to cache what was read; see `imagearchive.Archive`.

    Attributes
    ----------
    archive : Archive
        The archive that the dataset reads.
    classes : list of str
        The names of the classes, sorted; empty if labels are not names. Directories in `root` are
        classes whatever `extensions` and the other options select: a warning names the classes
        that have no samples. With the argument `class_to_idx`, its names in the order of their
        numbers.
    class_to_idx : dict of str to int

    Raises
    ------
    ArchiveNotFoundError, UnsupportedArchiveError, CorruptArchiveError, StaleIndexError
        The archive cannot be opened.
    LabelError
        A table, a list of members, an index file, or a label file does not fit the archive.

    Notes
    -----
    A file beside the class directories does not belong to a class and is not a sample. If there
    are no class directories at all, every file is a sample with the label -1.

    Works unchanged under fork, spawn and forkserver, and in threads: reads are positional. A
    pickle holds paths and options, and with `table` or `members` the positions and labels of
    the samples as arrays.
    """

    classes: list[str]
    class_to_idx: dict[str, int]
    root: str
    mode: Mode

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
        table: Any = None,
        image: str | int | None = None,
        label: str | int | Sequence[str | int] | None = None,
        split: Any = None,
        split_column: str | int = "split",
        members: Any = None,
        missing: MissingMode = "error",
        class_to_idx: Mapping[Any, int] | None = None,
        classes_from: ClassesFrom = "directory",
        split_mask: npt.ArrayLike | None = None,
        index_transform: IndexTransform | None = None,
        mode: Mode = "single",
        cache_size: int = 0,
        storage: StorageKind = "auto",
        overwrite_index: bool = False,
        save_index: SaveIndex = "auto",
        strict: bool = True,
        label_kind: LabelKind | None = None,
        verify: Verify | bool = "first",
        decompress_to: str | os.PathLike[str] | None = None,
        nested: Nested = "auto",
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | str | None = None,
    ) -> None:
        access = (storage_options, filesystem, cache_dir, cache_bytes)
        check_choice("mode", mode, ("single", "multi"))
        check_callable("loader", loader)
        functions = {
            "transform": transform,
            "target_transform": target_transform,
            "index_transform": index_transform,
            "is_valid_file": is_valid_file,
        }
        for name, function in functions.items():
            if function is not None:
                check_callable(name, function)
        if label_extension is not None and (label_file is not None or mode == "multi"):
            raise OptionError(
                "label_extension= cannot be combined with label_file= or with mode='multi'"
            )
        listing = list_options(table, image, label, split, split_column, members, missing)
        if listing is not None and (mode == "multi" or index_file is not None):
            raise OptionError(
                "table= and members= cannot be combined with index_file= or with mode='multi'"
            )
        if label is not None and (label_file is not None or label_extension is not None):
            raise OptionError("label= cannot be combined with label_file= or label_extension=")
        check_choice("classes_from", classes_from, ("directory", "archive"))
        if data_in_memory and open_after_fork:
            logger.info("open_after_fork is ignored: the archive is in memory already")
        options = ImageArchiveOptions(
            apath=add_options(as_text(apath), *access),
            ipath=None if ipath is None else locate(add_options(ipath, *access), "ipath").path,
            root=name_text(root),
            extensions=_check_extensions(extensions),
            loader=loader,
            transform=transform,
            target_transform=target_transform,
            data_in_memory=check_flag("data_in_memory", data_in_memory),
            open_after_fork=check_flag("open_after_fork", open_after_fork),
            is_valid_file=is_valid_file,
            index_file=_companion("index_file", add_options(index_file, *access)),
            label_file=_companion("label_file", add_options(label_file, *access)),
            label_parser=label_parser,
            label_extension=None if label_extension is None else name_text(label_extension),
            listing=listing,
            class_to_idx=None if class_to_idx is None else ClassNumbers.check(class_to_idx),
            classes_from=classes_from,
            split_mask=None if split_mask is None else PackedMask.pack(split_mask),
            index_transform=index_transform,
            mode=mode,
            cache_size=cache_size,
            storage=storage,
            strict=check_flag("strict", strict),
            label_kind=label_kind,
            verify=check_verify(verify),
            decompress_to=None if decompress_to is None else locate(decompress_to).path,
            nested=nested,
        )
        self._start(options, index=IndexArguments(overwrite_index, save_index))
        # Messages show the path as given; a pickle may be opened in another directory.
        self._options = dataclasses.replace(self._options, apath=absolute_paths(options.apath))

    # --- opening ----------------------------------------------------------------------------

    def _set_up(self, options: ImageArchiveOptions, index: IndexArguments) -> None:
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
            **index._asdict(),
            strict=options.strict,
            verify=options.verify,
            decompress_to=options.decompress_to,
            nested=options.nested,
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
        self._labels = self._find_labels(options)
        if options.split_mask is not None:
            self._split(options.split_mask)
        self.classes = self._labels.classes
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        if options.class_to_idx is not None:
            self.classes = options.class_to_idx.classes
            self.class_to_idx = dict(options.class_to_idx.number_of)
        self._guard_labels()
        self._length = len(self._selection)
        if self._pickled_fingerprint is None:
            self._warn_of_missing(options)
        if options.data_in_memory or not options.open_after_fork:
            self.worker_open_archive()

    def _find_labels(self, options: ImageArchiveOptions) -> Labels:
        """Return the labels; a table or a list of members selects the samples first."""
        listed = options.listing
        if listed is not None:
            if not isinstance(listed, ListedSamples):
                listed = listed.resolve(self.archive, self._selection, options.class_to_idx)
                # What was read once need not be read in every worker process.
                self._options = dataclasses.replace(options, listing=listed)
            self._selection.take(listed.positions)
            if listed.labels is not None:
                return ArrayLabels(listed.labels, listed.classes)
        return find_labels(
            self.archive,
            self._selection,
            options.label_file,
            options.label_parser,
            options.label_extension,
            options.class_to_idx,
            options.classes_from,
        )

    def _warn_of_missing(self, options: ImageArchiveOptions) -> None:
        """Log that there are no samples, or that their directories are probably not classes."""
        warn_if_empty(options.apath, self._length)
        listed = options.listing
        if (
            self._length
            and options.label_file is None
            and options.label_extension is None
            and options.classes_from == "directory"
            and (not isinstance(listed, TableOptions) or listed.label is None)
            and self.archive.table.meta
        ):
            labels = self._labels
            has_class = bool(labels.classes) or (
                not isinstance(labels, NoLabels) and (labels.targets() != NO_CLASS).any()
            )
            classes = self.classes if has_class else []
            warn_of_doubtful_classes(self.archive, self._selection, classes)

    def _split(self, mask: PackedMask) -> None:
        count = len(self._selection)
        if mask.length != count:
            raise OptionError(
                f"split_mask must have {pluralize(count, 'value')}, one for each sample, got "
                f"{mask.length}"
            )
        rows = mask.rows()
        self._labels = self._labels.select(rows)
        self._selection.keep(rows)

    def _fingerprint(self) -> str:
        return self.archive.table.fingerprint()

    def __repr__(self) -> str:
        count = len(self.classes)
        classes = f", {pluralize(count, 'class')}" if count else ""
        root = f", root={self.root!r}" if self.root else ""
        samples = pluralize(self._length, "sample")
        return f"ImageArchive({self.archive.path!r}{root}, {samples}{classes})"


def _companion(argument: str, path: str | os.PathLike[str] | None) -> CompanionFile | None:
    return None if path is None else CompanionFile.at(argument, path)


def _check_extensions(extensions: Any) -> str | tuple[str, ...] | None:
    if extensions is None or isinstance(extensions, str):
        return extensions
    listed = check_sequence("extensions", extensions, "a sequence of extensions such as '.jpg'")
    for extension in listed:
        if not isinstance(extension, str):
            raise OptionTypeError(
                f"extensions must be strings such as '.jpg', got {shorten(extension)}"
            )
    return listed
