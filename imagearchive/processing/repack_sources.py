"""What `repack` reads: the samples of an archive, an `ImageArchive`, or a `SampleArchive`.

Sources are picklable, and safe for threads; worker processes use them, too.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from imagearchive.archive.archive import Archive
from imagearchive.codecs.codec import with_name
from imagearchive.codecs.codec_registry import encode_member, extension_of
from imagearchive.datasets.image_archive import ImageArchive
from imagearchive.datasets.npz.detect import holds_arrays
from imagearchive.datasets.samples.dataset import SampleArchive
from imagearchive.errors import ImageArchiveError, OptionError, UnsupportedMemberError
from imagearchive.errors.hints import Hint
from imagearchive.images.pillow import FORMATS, image_format
from imagearchive.processing.repack_recipe import Recipe
from imagearchive.transforms.fields import (
    KEY,
    Array,
    Boxes,
    Bytes,
    Field,
    Image,
    Json,
    Keypoints,
    Label,
    Mask,
    Text,
)
from imagearchive.transforms.random_keys import Key

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["RepackSource", "Row", "Written", "as_source", "check_keys"]

_IMAGES: Final = frozenset((*FORMATS, "jp2", "avif"))
# Extensions of members that may say where something is in an image.
_PLACES: Final = frozenset(("json", "npy", "npz", "xml"))
_KEY: Final = Key(0)
_NOT_OF_THE_FILE: Final = ("decoder", "format", "relative")
# How many samples the fingerprint of a dataset covers, as that of the members of an archive does.
_SOME: Final = 256
# Formats that are copied only, by Pillow's name.
_COPIED: Final = {"JPEG2000": "jp2", "AVIF": "avif"}
# The extensions that members of a kind of field may have; all others are .npy.
_ENDS: Final[dict[type[Field], list[str]]] = {
    Image: ["jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "jp2", "avif"],
    Mask: ["png", "npy"],
    Label: ["cls", "npy"],
    Text: ["txt"],
    Json: ["json"],
    Bytes: ["bin"],
}
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


class Written(NamedTuple):
    """One sample, ready to be written.

    Attributes
    ----------
    key : str
    members : list of (str, bytes-like)
        Names and contents.
    images, encoded : int
        How many images it has, and how many of them were encoded again.
    stored : int
        Bytes of its members in the source.
    """

    key: str
    members: list[tuple[str, Buffer]]
    images: int
    encoded: int
    stored: int


class Row(NamedTuple):
    """One sample as a row of an NPZ.

    Attributes
    ----------
    values : dict of str to object
        By column.
    stored : int
        Bytes of its members in the source.
    """

    values: dict[str, Any]
    stored: int


class RepackSource(ABC):
    """Samples to write."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def key(self, index: int) -> str:
        """Return the key that a sample gets."""

    @abstractmethod
    def origin(self, index: int) -> str:
        """Return where a sample is from, for messages."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return text that differs if the archives, the labels, or the fields do."""

    @abstractmethod
    def write(self, index: int, recipe: Recipe) -> Written:
        """Return a sample as members of an archive."""

    @abstractmethod
    def row(self, index: int, recipe: Recipe) -> Row:
        """Return a sample as a row of an NPZ, with images of one size."""

    @abstractmethod
    def image(self, index: int) -> Buffer | None:
        """Return the first image of a sample, encoded; None if it has none."""

    @property
    @abstractmethod
    def is_remote(self) -> bool:
        """Whether a server has the samples."""

    def fields(self) -> dict[str, Field] | None:
        """Return what `SampleArchive` needs to read the result; None if it needs nothing."""
        return None

    def warning(self, recipe: Recipe) -> str:
        """Return what the user should know before; empty if there is nothing."""
        return ""


def as_source(source: Any) -> RepackSource:
    """Return the samples of a dataset, or of an open archive.

    Raises
    ------
    OptionError
        The dataset changes its samples, or it is an NPZ.
    """
    if isinstance(source, SampleArchive):
        if source.transform is not None:
            raise OptionError(
                "repack writes what is stored; pass a SampleArchive without transform"
            )
        return _Fields(source)
    if isinstance(source, ImageArchive):
        if source.encoded_images() is None:
            raise OptionError(
                "repack writes what is stored; pass an ImageArchive without transforms, loader= "
                "and mode='multi'"
            )
        _check_images(source.archive)
        return _LabeledImages(source)
    _check_images(source)
    return _Members(source)


def check_keys(samples: RepackSource) -> None:
    """Refuse samples that would have one key in the shards.

    Raises
    ------
    OptionError
    """
    count = len(samples)
    hashes = np.fromiter((hash(samples.key(index)) for index in range(count)), np.int64, count)
    order = np.argsort(hashes, kind="stable")
    repeated = np.zeros(count, np.bool_)
    repeated[1:] = np.diff(hashes[order]) == 0
    repeated[:-1] |= repeated[1:]
    first: dict[str, int] = {}
    for index in order[repeated].tolist():
        key = samples.key(index)
        earlier = first.setdefault(key, index)
        if earlier != index:
            raise OptionError(
                f"{samples.origin(earlier)} and {samples.origin(index)} would both have the key "
                f"{key!r}, and those of samples must differ; repack archives with equal names one "
                f"at a time"
            )


def _check_images(archive: Archive) -> None:
    """Refuse arrays, which are not images of samples but whole columns of them."""
    if len(archive.paths) == 1 and holds_arrays(archive.paths[0]):
        raise OptionError(
            f"{archive.paths[0]} holds arrays, which need no repacking: LazyNPZDataset and "
            f"DataLoader read their rows in place. repack takes the archive of image files that "
            f"they were made from"
        )


def _rewritten(name: str, data: Buffer, recipe: Recipe) -> tuple[str, Buffer, bool]:
    """Return the name and the content of an image, and whether it was encoded again."""
    try:
        if recipe.keeps(data):
            return name, data, False
        extension, encoded = recipe.encode(recipe.pipeline.render(data), data)
    except ImageArchiveError as error:
        raise with_name(name, error) from error
    if FORMATS.get(extension_of(name)) != FORMATS[extension]:
        name = f"{name.rpartition('.')[0]}.{extension}"
    return name, encoded, True


class _Members(RepackSource):
    """The members of an archive, in samples as WebDataset groups them."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._samples = archive.samples()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Members, (self._archive,)

    def __len__(self) -> int:
        return len(self._samples)

    def key(self, index: int) -> str:
        return self._samples.key(index)

    @property
    def is_remote(self) -> bool:
        return self._archive.requests_ahead > 0

    def origin(self, index: int) -> str:
        info = self._archive.info(int(self._samples.positions[index]))
        return f"{info.archive}: {info.name}"

    def fingerprint(self) -> str:
        return self._archive.table.fingerprint()

    def write(self, index: int, recipe: Recipe) -> Written:
        key, members = self._samples.members(index)
        images = [extension for extension, _ in members if _is_image(extension)]
        if len(images) > 1 and not recipe.changes_nothing:
            raise OptionError(
                f"the sample {key!r} has several images ({', '.join(images)}), of which some may "
                f"be masks; say what they are: pass a SampleArchive, or --field on the command "
                f"line. If dots in names mean nothing, so that each image is a sample: "
                f"SampleArchive(..., {{'image': '{{key}}.png'}}, first_dot=False), or --field "
                f"'image={{key}}.png' --whole-key"
            )
        written: list[tuple[str, Buffer]] = []
        encoded = stored = 0
        for extension, position in members:
            name = self._archive.name(position)
            data: Buffer = self._archive.read(position)
            stored += memoryview(data).nbytes
            if extension in images:
                name, data, again = _rewritten(name, data, recipe)
                encoded += again
            written.append((name, data))
        return Written(key, written, len(images), encoded, stored)

    def row(self, index: int, recipe: Recipe) -> Row:
        raise OptionError("an NPZ needs labels or fields: pass an ImageArchive or a SampleArchive")

    def image(self, index: int) -> Buffer | None:
        for extension, position in self._samples.members(index)[1]:
            if _is_image(extension):
                return self._archive.read(position)
        return None

    def warning(self, recipe: Recipe) -> str:
        if recipe.resize is None or not len(self):
            return ""
        names = [extension for extension, _ in self._samples.members(0)[1]]
        places = [name for name in names if extension_of(f"x.{name}") in _PLACES]
        if not places:
            return ""
        return (
            f"members such as .{places[0]} are copied as they are; if they say where something is "
            f"in the images, pass a SampleArchive, or --field on the command line"
        )


def _is_image(extension: str) -> bool:
    return extension_of(f"x.{extension}") in _IMAGES


class _LabeledImages(RepackSource):
    """The images of an `ImageArchive`, each with its label beside it unless its name tells it."""

    def __init__(self, dataset: ImageArchive) -> None:
        self._dataset = dataset
        self._named = _names_tell_labels(dataset)

    def __len__(self) -> int:
        return len(self._dataset)

    def key(self, index: int) -> str:
        folder, slash, last = self._dataset.name(index).rpartition("/")
        return folder + slash + _without_dots(last.rpartition(".")[0] or last)

    @property
    def is_remote(self) -> bool:
        return self._dataset.requests_ahead > 0

    def origin(self, index: int) -> str:
        return f"image {index}, {self._dataset.name(index)},"

    def fingerprint(self) -> str:
        dataset = self._dataset
        labels = [(dataset.name(index), str(dataset.label(index))) for index in _some(len(self))]
        return f"{dataset.archive.table.fingerprint()} {labels}"

    def write(self, index: int, recipe: Recipe) -> Written:
        data, key = self._dataset.read(index), self.key(index)
        extension = extension_of(self._dataset.name(index)) or "img"
        name, image, again = _rewritten(f"{key}.{extension}", data, recipe)
        members: list[tuple[str, Buffer]] = [(name, image)]
        if not self._named:
            label = self._dataset.label(index)
            end = "cls" if isinstance(label, int) else "npy"
            value = label if end == "cls" else np.asarray(label)
            members.append((f"{key}.{end}", encode_member(f"x.{end}", value, False, {})))
        return Written(key, members, 1, int(again), memoryview(data).nbytes)

    def row(self, index: int, recipe: Recipe) -> Row:
        label, classes = self._dataset.label(index), self._dataset.classes
        data = self._dataset.read(index)
        try:
            image = recipe.fixed_pipeline.render(data)
        except ImageArchiveError as error:
            raise with_name(self._dataset.name(index), error) from error
        row = {"images": image, "labels": label}
        if classes and isinstance(label, int):
            row["class_names"] = classes[label] if 0 <= label < len(classes) else ""
        return Row(row, memoryview(data).nbytes)

    def image(self, index: int) -> Buffer | None:
        data: Buffer = self._dataset.read(index)
        return data

    def fields(self) -> dict[str, Field] | None:
        if self._named:
            return None
        kinds = {"image": Image, "label": Label}
        return {name: kind("{key}." + "|".join(_ENDS[kind])) for name, kind in kinds.items()}


def _without_dots(stem: str) -> str:
    """Return the last part of a key, which the first dot would end."""
    return stem.replace(".", "_")


def _some(count: int) -> range:
    return range(0, count, max(1, count // _SOME))


def _names_tell_labels(dataset: ImageArchive) -> bool:
    """Whether the directories of the images, numbered in sorted order, are their labels."""
    root = dataset.root.strip("/")
    start = len(root) + 1 if root else 0
    numbers: dict[str, int] = {}
    for index in range(len(dataset)):
        label = dataset.label(index)
        directory, slash, _ = dataset.name(index)[start:].partition("/")
        if not slash or not isinstance(label, int) or numbers.setdefault(directory, label) != label:
            return False
    return [numbers[name] for name in sorted(numbers)] == list(range(len(numbers)))


class _Fields(RepackSource):
    """The samples of a `SampleArchive`, whose fields become members ``KEY.FIELD.EXTENSION``."""

    def __init__(self, dataset: SampleArchive) -> None:
        self._dataset = dataset
        self._images = [
            name
            for name, kind in dataset.fields.items()
            if isinstance(kind, Image) and kind.decoder is None
        ]

    def __len__(self) -> int:
        return len(self._dataset)

    def key(self, index: int) -> str:
        folder, slash, last = self._dataset.key(index).rpartition("/")
        return folder + slash + _without_dots(last)

    @property
    def is_remote(self) -> bool:
        return self._dataset.requests_ahead > 0

    def origin(self, index: int) -> str:
        return f"sample {index}, {self._dataset.key(index)!r},"

    def fingerprint(self) -> str:
        archives = [archive.table.fingerprint() for archive in self._dataset.archives]
        # A function is at another address in each process.
        fields = [(name, _ADDRESS.sub("", repr(f))) for name, f in self._dataset.fields.items()]
        keys = [self._dataset.key(index) for index in _some(len(self))]
        return f"{archives} {fields} {keys}"

    def write(self, index: int, recipe: Recipe) -> Written:
        sample = self._dataset.load(index, encoded=self._images)
        present = [name for name in self._images if sample[name] is not None]
        kept = [name for name in present if recipe.keeps(sample[name])]
        moved = sample
        if len(kept) < len(present):
            moved = recipe.pipeline.render_sample(sample, _KEY)
        key = self.key(index)
        members: list[tuple[str, Buffer]] = []
        stored = 0
        for name, kind in sample.fields.items():
            value = moved[name]
            if value is None:
                continue
            if name not in self._images:
                end, data = _encode_field(name, kind, value)
                stored += memoryview(data).nbytes
            else:
                stored += memoryview(sample[name]).nbytes
                if name in kept:
                    end, data = _extension_of_format(sample[name]), sample[name]
                else:
                    end, data = recipe.encode(value, sample[name])
            members.append((f"{key}.{name}.{end}", data))
        return Written(key, members, len(present), len(present) - len(kept), stored)

    def row(self, index: int, recipe: Recipe) -> Row:
        sample = self._dataset.load(index, encoded=self._images)
        for name in sample.fields:
            if sample[name] is None:
                raise OptionError(
                    f"the sample {sample[KEY]!r} lacks {name!r}, and every row of an NPZ has all "
                    f"columns; SampleArchive can leave such samples out",
                    hints=[Hint("missing='skip'", "to do so")],
                )
        moved = recipe.fixed_pipeline.render_sample(sample, _KEY)
        stored = sum(memoryview(sample[name]).nbytes for name in self._images)
        return Row({"keys": sample[KEY], **{name: moved[name] for name in sample.fields}}, stored)

    def image(self, index: int) -> Buffer | None:
        if not self._images:
            return None
        data: Buffer | None = self._dataset.load(index, encoded=self._images)[self._images[0]]
        return data

    def fields(self) -> dict[str, Field]:
        kinds = self._dataset.fields
        # One for each box, so that their number differs.
        labels = {label for kind in kinds.values() for label in getattr(kind, "labels", ())}
        result = {}
        for name, kind in kinds.items():
            arguments = {
                argument: getattr(kind, argument)
                for argument in kind.arguments
                if argument not in _NOT_OF_THE_FILE
            }
            if name in labels:
                arguments["ragged"] = True
            result[name] = type(kind)(f"{{key}}.{name}." + "|".join(_ends_of(kind)), **arguments)
        return result


def _extension_of_format(encoded: Buffer) -> str:
    name = image_format(encoded)
    known = (end for end, other in FORMATS.items() if other == name)
    return next(known, _COPIED.get(name or "", "img"))


def _ends_of(kind: Field) -> list[str]:
    """Return the extensions that members of a kind of field may have."""
    return next((ends for one, ends in _ENDS.items() if isinstance(kind, one)), ["npy"])


def _encode_field(name: str, kind: Field, value: Any) -> tuple[str, Buffer]:
    """Return the extension and the content of a field that is not an encoded image."""
    if isinstance(kind, Bytes):
        return "bin", value
    if isinstance(kind, Mask):
        # A PNG holds one channel of 8 or 16 bits.
        end = "png" if value.ndim == 2 and value.dtype in (np.uint8, np.uint16) else "npy"
    elif isinstance(kind, Text):
        end = "txt"
    elif isinstance(kind, Json):
        end = "json"
    elif isinstance(kind, Label) and isinstance(value, int):
        end = "cls"
    elif isinstance(kind, Image):
        end = "png"
    elif isinstance(kind, (Array, Boxes, Keypoints, Label)):
        end, value = "npy", np.asarray(value)
    else:
        raise UnsupportedMemberError(
            f"the field {name!r} has a decoder or codec of its own, so it is not known how to "
            f"write it; use Bytes to copy it"
        )
    return end, encode_member(f"x.{end}", value, False, {})
