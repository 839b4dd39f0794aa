"""`SampleArchive`: samples of several fields, each a member of an archive."""

from __future__ import annotations

import logging
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from imagearchive.archive.archive import Archive
from imagearchive.datasets.cache import SampleCache
from imagearchive.datasets.companion_files import CompanionFile
from imagearchive.datasets.dataset_base import (
    IndexArguments,
    OptionsDataset,
    SaveIndex,
    resolve_index,
    warn_if_empty,
)
from imagearchive.datasets.samples.annotation_part import RowContext
from imagearchive.datasets.samples.annotations import Annotations
from imagearchive.datasets.samples.entry_kinds import EntryKinds
from imagearchive.datasets.samples.field_specs import resolve_fields
from imagearchive.datasets.samples.field_values import decode_field, decode_npz, split_classes
from imagearchive.datasets.samples.keys import check_keys
from imagearchive.datasets.samples.open_fields import (
    open_annotations,
    open_fields,
    pair_fields,
    with_absolute_paths,
)
from imagearchive.datasets.samples.options import SampleArchiveOptions, SampleTransform
from imagearchive.datasets.samples.pairing import Missing
from imagearchive.datasets.samples.sample_members import MemberReader, Part, SampleMembers
from imagearchive.datasets.samples.table_annotations import SampleTable
from imagearchive.errors import DecodeError, ImageArchiveError, OptionError, StaleIndexError
from imagearchive.errors.arguments import check_callable, check_choice, check_flag
from imagearchive.errors.plurals import pluralize
from imagearchive.images.decode import local_decoder
from imagearchive.storage.checksums import Verify, check_verify
from imagearchive.storage.location import locate
from imagearchive.storage.mapping import damaged_mappings
from imagearchive.storage.path_options import add_options
from imagearchive.storage.patterns import as_text
from imagearchive.transforms.compound_fields import Coco, Npz
from imagearchive.transforms.fields import KEY, Array, Boxes, Field, Sample

if TYPE_CHECKING:
    from imagearchive.images.render import Decoder
    from imagearchive.index.nesting import Nested
    from imagearchive.storage.patterns import ArchivePath
    from imagearchive.storage.protocol import StorageKind

__all__ = ["SampleArchive"]

logger = logging.getLogger(__name__)

NOTHING: Final[frozenset[str]] = frozenset()


class SampleArchive(OptionsDataset[SampleArchiveOptions]):
    """Samples of several fields, such as an image, its mask, and its caption.

    Sample ``i`` is a `dict` of the name of a field to its value, with the key of the sample under
    ``"__key__"``. The members of a sample are those whose names have the same key.

    Parameters
    ----------
    apath : path-like or sequence of path-like, optional
        An archive, a list of archives, or a brace pattern, as for `ImageArchive`. It may be left
        out if every field names its own.
    fields : mapping of str to str, (path-like, str), or Field
        For each field a pattern of names with ``{key}``, an archive and a pattern, or a kind that
        has either: ``{"image": "{key}.jpg|png", "mask": Mask("masks.zip", "gt/{key}.png")}``. The
        key may hold slashes. ``|`` separates alternatives; the case of the text after the key does
        not matter. The kind of a pattern follows from its extension: `Image`, `Text` (``txt``),
        `Json`, `Array` (``npy``), `Npz`, `Label` (``cls``), or what a codec of the extension makes
        of it. `Coco` takes a file of annotations in place of a pattern.
    keys : sequence of str, path-like, or column of `table`, optional
        The samples, in this order: keys, or the name of a text file, inside the archive or on
        disk, with a key on each line. With `table` and without `image`, it is the column of the
        keys: the samples are the rows of the table. By default all members that match the first
        field are samples, in archive order.
    table : mapping, list of dict, dataframe, or path, optional
        A table with one row for each sample, as for `ImageArchive`. Fields with ``column=``, such
        as ``Text(column="caption")``, are its columns. An empty cell is a part that is missing.
    image : str or int, optional
        The column of `table` with the names of the images, those of the first field of the kind
        `Image`. They may lack the extension and directories, as for `ImageArchive`. The order of
        the rows does not matter, and an image without a row is a sample that lacks a part.
    split : str, int, or list of them, optional
        Take the rows of `table` that have this value, or one of these, in `split_column`. The
        images of the other rows are not samples.
    split_column : str or int
        See `split`.
    missing : {"error", "skip", "none"}
        What to do if a sample lacks a part: raise an error that says how many do, leave those
        samples out, or have None there. With the last two, rows of `table` whose names fit no
        image are left out.
    first_dot : bool
        Whether a key ends at the first dot of a name, as WebDataset has it, so that ``1.seg.png``
        matches ``{key}.seg.png`` and not ``{key}.png``. Hidden files, and what is below a
        directory such as ``__meta__``, are then in no sample. It concerns keys that are found by a
        pattern with an extension, such as ``{key}.jpg``; those in ``keys=`` may have dots.
    transform : callable, optional
        From a sample to what ``[i]`` returns.
    ipath : path-like, optional
        The index file of `apath`; see `ImageArchive`.
    data_in_memory : bool
        Read the archives into memory.
    open_after_fork : bool
        Open the files in `worker_open_archive`, or at the first read.
    cache_size : int
        How many decoded samples to keep, those used most recently.
    storage : {"auto", "mmap", "pread", "memory"}
        How bytes are read; see `imagearchive.storage.local.open_storage`.
    overwrite_index : bool
        Build the indexes even if there are fresh ones.
    save_index : {"auto", "remote"}
        With "remote", save the index beside each archive on a server as well; see
        `imagearchive.Archive`.
    strict : bool
        Raise an error if an archive is damaged. Otherwise serve the members before the damage.
    verify : {"first", "always", "never"} or bool
        When a stored file is compared with its checksum; see `Archive`.
    nested : bool, int, "auto", or "keep", optional
        Which members that are archives themselves are opened in place, in each archive; see
        `imagearchive.open`. By default, all of them if the archive has no other members, and none
        if one of its fields is a ``.npz`` file.
    storage_options, filesystem, cache_dir, cache_bytes : optional
        How to reach URLs, and where to cache what was read; see `imagearchive.Archive`.

    Attributes
    ----------
    fields : mapping of str to Field
        The kinds of the entries of a sample. The arrays of an `Npz` without ``kinds=`` are known
        only when it is read.
    archives : list of Archive
        The archives that are read, each once.
    classes : list of str
        The names of the classes in a COCO file, or in a column of `table` that is a `Label`, the
        first one with names; empty without one.
    class_names : dict of str to list of str
        The same for each entry of a sample whose values are numbers of classes.
    skipped : int
        How many samples ``missing="skip"`` left out.

    Raises
    ------
    LabelError
        A sample lacks a part, there are several members for one part, a COCO file is damaged, or a
        table does not fit the archive.
    ArchiveNotFoundError, UnsupportedArchiveError, CorruptArchiveError, StaleIndexError
        An archive cannot be opened.
    OptionError, OptionTypeError
        An argument cannot be used.

    Notes
    -----
    All parts of a sample that come from `apath` are in the same one of its archives, so the shards
    of a WebDataset may repeat keys. A member that several patterns match is a part of the field
    whose pattern has the most text, if the sample exists: ``1_mask.png`` is the mask of ``1``, and
    not an image.

    Samples are paired by a native join of names, which is saved beside the index and mapped
    afterwards. There is no Python object for a sample.

    Works unchanged under fork, spawn and forkserver, and in threads. A pickle holds paths and
    options only.
    """

    fields: Mapping[str, Field]
    archives: list[Archive]
    transform: SampleTransform | None
    classes: list[str]
    class_names: Mapping[str, list[str]]
    skipped: int
    _members: SampleMembers
    _annotations: Sequence[Annotations]
    _length: int
    _kinds: EntryKinds
    _optional: frozenset[str]
    _cache: SampleCache

    #: What a batch of `DataLoader` is.
    form: ClassVar[Literal["dict"]] = "dict"
    has_keys: ClassVar[bool] = True

    _settable: ClassVar[tuple[str, ...]] = ("transform",)

    def __init__(
        self,
        apath: ArchivePath | None = None,
        fields: Mapping[str, Any] | None = None,
        keys: Sequence[str] | str | int | os.PathLike[str] | None = None,
        *,
        table: Any = None,
        image: str | int | None = None,
        split: Any = None,
        split_column: str | int = "split",
        missing: Missing = "error",
        first_dot: bool = True,
        transform: SampleTransform | None = None,
        ipath: str | os.PathLike[str] | None = None,
        data_in_memory: bool = False,
        open_after_fork: bool = False,
        cache_size: int = 0,
        storage: StorageKind = "auto",
        overwrite_index: bool = False,
        save_index: SaveIndex = "auto",
        strict: bool = True,
        verify: Verify | bool = "first",
        nested: Nested | None = None,
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | str | None = None,
    ) -> None:
        access = (storage_options, filesystem, cache_dir, cache_bytes)
        resolved = {
            name: field
            if field.archive is None
            else field.at(add_options(as_text(field.archive), *access))
            for name, field in resolve_fields(fields).items()
        }
        coco = next((field for field in resolved.values() if isinstance(field, Coco)), None)
        lacking = [
            name
            for name, field in resolved.items()
            if field.archive is None and field.pattern is not None and field is not coco
        ]
        if apath is None and lacking:
            raise OptionError(
                f"the field {lacking[0]!r} names no archive; pass the archive of all fields first, "
                f"or (archive, pattern) for each field"
            )
        listed = SampleTable.check(table, image, keys, split, split_column, resolved)
        options = SampleArchiveOptions(
            apath=None if apath is None else add_options(as_text(apath), *access),
            fields=resolved,
            keys=None if listed is not None and listed.keys is not None else check_keys(keys),
            missing=check_choice("missing", missing, get_args(Missing)),
            annotations=None if coco is None else CompanionFile.at("path", str(coco.pattern)),
            table=listed,
            first_dot=check_flag("first_dot", first_dot),
            transform=None if transform is None else check_callable("transform", transform),
            ipath=None if ipath is None else locate(add_options(ipath, *access), "ipath").path,
            data_in_memory=data_in_memory,
            open_after_fork=open_after_fork,
            cache_size=cache_size,
            storage=storage,
            strict=strict,
            verify=check_verify(verify),
            nested=nested,
        )
        self._start(options, index=IndexArguments(overwrite_index, save_index))
        # Messages show the paths as given; a pickle may be opened in another directory.
        self._options = with_absolute_paths(options)

    # --- opening ----------------------------------------------------------------------------

    def _set_up(self, options: SampleArchiveOptions, index: IndexArguments) -> None:
        self.transform = options.transform
        self._cache = SampleCache(options.cache_size)
        with ExitStack() as on_error:
            on_error.callback(self.close)
            self.archives = []
            members = open_fields(options, self.archives, index)
            self._annotations = open_annotations(options, members)
            if self._pickled_fingerprint is not None:
                self._check_fingerprint(self._pickled_fingerprint)
            self._members = pair_fields(members, self.archives, self._annotations, options)
            on_error.pop_all()
        self._length = len(self._members)
        self._kinds = self._describe_entries()
        self.fields = self._kinds.fields
        self.skipped = self._members.skipped
        self._optional = frozenset(self._members.optional())
        self.class_names = {
            name: names for source in self._annotations for name, names in source.classes.items()
        }
        self.classes = next(iter(self.class_names.values()), [])
        if self._pickled_fingerprint is None:
            warn_if_empty(options.apath, self._length)
            if self.skipped:
                logger.warning(
                    "%s: samples that lack a part are left out: %d",
                    self._name(),
                    self.skipped,
                )
        if options.data_in_memory or not options.open_after_fork:
            self.worker_open_archive()

    def _describe_entries(self) -> EntryKinds:
        parts = self._members.parts
        return EntryKinds.of(
            [
                *(part.entries() for part in parts),
                *(part.entries for part in self._members.annotations),
            ],
            all(not isinstance(part.field, Npz) or part.field.kinds is not None for part in parts),
        )

    def _fingerprint(self) -> str:
        parts = [archive.table.fingerprint() for archive in self.archives]
        parts += [source.fingerprint for source in self._annotations]
        return " ".join(parts)

    def _check_fingerprint(self, fingerprint: str) -> None:
        if self._fingerprint() != fingerprint:
            raise StaleIndexError(
                f"{self._name()}: an archive changed since the dataset was pickled, so samples "
                f"would differ in this process; open it again in all processes"
            )

    def _name(self) -> str:
        path = self._options.apath
        return str(self.archives[0].path if path is None else path)

    # --- samples ----------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        sample = self._cache.get(self._index(index), self.load)
        return sample if self.transform is None else self.transform(sample)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples; PyTorch's loader calls it for a batch."""
        self.prefetch(indices)
        return [self[index] for index in indices]

    def _index(self, index: int) -> int:
        if index.__class__ is int and 0 <= index < self._length:
            return index
        hint = "for several samples use torch.utils.data.Subset"
        return resolve_index(index, self._length, self._name(), hint=hint)

    def key(self, index: int) -> str:
        """Return the key of a sample, without reading it."""
        return self._members.key(self._index(index))

    #: `DataLoader` names a sample by it.
    name = key

    def member(self, index: int, field: str) -> str | None:
        """Return the name of the member that holds a field of a sample; None if it is missing.

        Raises
        ------
        OptionError
            There is no such field.
        """
        part = self._part(field)
        position = self._members.position(part, self._index(index))
        return None if position < 0 else part.archive.name(position)

    @property
    def parts(self) -> tuple[str, ...]:
        """The fields that are members, and not rows of a table or of a COCO file."""
        return tuple(part.name for part in self._members.parts)

    def member_positions(self, field: str) -> tuple[Archive, npt.NDArray[np.int64]]:
        """Return the archive of a field, and the position of each sample's member in it.

        Returns
        -------
        archive : Archive
        positions : ndarray of int64, shape (N,)
            Negative for a sample that lacks the field.

        Raises
        ------
        OptionError
            There is no such field.
        """
        part = self._part(field)
        return part.archive, self._members.positions[part.number].astype(np.int64)

    def _part(self, field: str) -> Part:
        part = self._members.part(field)
        if part is None:
            names = ", ".join(repr(part.name) for part in self._members.parts)
            raise OptionError(f"there is no field {field!r}; the fields are {names}")
        return part

    def load(
        self, index: int, encoded: Container[str] = NOTHING, decoder: Decoder | None = None
    ) -> Sample:
        """Return a sample without `transform`.

        Parameters
        ----------
        index : int
        encoded : container of str
            Fields of the kinds `Image` and `Mask` that are not decoded; their values are the
            bytes of their members.
        decoder : Decoder, optional
            For the images and masks that are decoded.

        Raises
        ------
        DecodeError, CorruptArchiveError, LimitError, UnsupportedMemberError
            A member cannot be read or decoded. The message names the field and the key.
        """
        sample = self._index(index)
        members = self._members
        reader = MemberReader(members, self._kinds.images, sample)
        values: dict[str, Any] = {KEY: None}
        fields: dict[str, Field] | None = None if self._kinds.is_complete else dict(self.fields)
        for part in members.parts:
            position = members.position(part, sample)
            if position < 0:
                values.update(part.nothing)
                continue
            if values[KEY] is None:
                values[KEY] = members.key_at(part, position)
            try:
                data = reader.read(part, position)
                if part.name in encoded and part.field.decoder is None:
                    values[part.name] = data
                elif isinstance(part.field, Npz):
                    arrays = decode_npz(part.field, data, reader.size_of(part.field))
                    self._add_arrays(values, fields, arrays, part)
                else:
                    self._add(values, part, data, position, reader, decoder)
            except ImageArchiveError as error:
                self.check_unchanged()
                raise members.explain(error, part, position, values[KEY]) from error
            except Exception as error:
                if part.field.decoder is not None and hasattr(error, "add_note"):
                    error.add_note(
                        f"raised by the decoder of the field {part.name!r} for the sample "
                        f"{values[KEY]!r}"
                    )
                raise
        if members.annotations:
            context = RowContext(reader.size_of, (decoder or local_decoder()).max_pixels)
            values.update(members.annotated(sample, context, values[KEY]))
        if damaged_mappings():
            self.check_unchanged()
        return Sample(values, self.fields if fields is None else fields)

    def _add(
        self,
        values: dict[str, Any],
        part: Part,
        data: Any,
        position: int,
        reader: MemberReader,
        decoder: Decoder | None,
    ) -> None:
        field = part.field
        value = decode_field(
            field, part.archive.name(position), data, reader.size_of(field), decoder
        )
        if isinstance(field, Boxes):
            value, classes = split_classes(value, part.classes is not None)
            if part.classes is not None:
                values[part.classes] = classes
        values[part.name] = value

    def _add_arrays(
        self,
        values: dict[str, Any],
        fields: dict[str, Field] | None,
        arrays: dict[str, Any],
        part: Part,
    ) -> None:
        assert isinstance(part.field, Npz)
        for name, array in arrays.items():
            if name in values or (
                fields is not None and name in self.fields and not part.field.kinds
            ):
                raise DecodeError(f"its array {name!r} has the name of another field")
            kind = (part.field.kinds or {}).get(name, Array())
            values[name] = split_classes(array, False)[0] if isinstance(kind, Boxes) else array
            if fields is not None:
                fields[name] = kind

    @property
    def requests_ahead(self) -> int:
        """How many samples are best requested ahead; 0 for local archives."""
        return max((archive.requests_ahead for archive in self.archives), default=0)

    def prefetch(self, indices: Iterable[int]) -> None:
        """Ask the kernel to read samples ahead that are needed soon; returns at once."""
        samples = np.array([self._index(index) for index in indices], np.intp)
        for archive in self.archives:
            rows = [part.number for part in self._members.parts if part.archive is archive]
            positions = self._members.positions[rows][:, samples].ravel()
            archive.prefetch(positions[positions >= 0].tolist())

    def data_order(self) -> npt.NDArray[np.int64] | None:
        """Return the indices of the samples in the order of the data of their first field.

        None if it is the order of the samples. ``shuffle="blocks"`` of `DataLoader` keeps together
        what is stored together.
        """
        part = self._members.parts[0]
        positions = self._members.positions[part.number]
        rows = part.archive.table.entries[np.maximum(positions, 0)]
        shards, offsets = rows["shard"], rows["offset"]
        same = shards[1:] == shards[:-1]
        ascends = (shards[1:] > shards[:-1]) | (same & (offsets[1:] >= offsets[:-1]))
        return None if ascends.all() else np.lexsort((offsets, shards))

    def expect_nearby_reads(self, samples: int, places: int = 1) -> None:
        """Get ready for reads that stay within so many samples; see `ImageArchive`."""
        for archive in self.archives:
            table = archive.table
            if table.derived and self._length:
                # All members between those of the samples are decompressed with them.
                size = max(1, int(table.entries["stored_size"].sum()) // self._length)
                archive.keep_decompressed(samples * size, places)

    def optional_fields(self) -> frozenset[str]:
        """Return the entries of a sample that may be None, because a part is missing."""
        return self._optional

    def encoded_samples(self) -> SampleArchive | None:
        """Return this dataset if its samples are as stored, or None if `transform` changes them."""
        return self if self.transform is None else None

    # --- life -------------------------------------------------------------------------------

    def worker_open_archive(self, worker_id: int | None = None) -> None:
        """Open the archives in this process; pass it to a loader as ``worker_init_fn``.

        Parameters
        ----------
        worker_id : int, optional
            Number of the worker, which loaders pass. It is not used.
        """
        for archive in self.archives:
            archive.open_file()

    def check_unchanged(self) -> None:
        """Raise if one of the open files has changed; see `Archive.check_unchanged`."""
        self._members.check_unchanged()
        for archive in self.archives:
            archive.check_unchanged()

    def close(self) -> None:
        """Close the archives. A second call does nothing."""
        super().close()
        self._cache.clear()
        for archive in self.archives:
            archive.close()

    def __repr__(self) -> str:
        annotated = (name for part in self._members.annotations for name in part.entries)
        names = ", ".join((*(part.name for part in self._members.parts), *annotated))
        return f"SampleArchive({self._name()!r}, {pluralize(self._length, 'sample')} of {names})"
