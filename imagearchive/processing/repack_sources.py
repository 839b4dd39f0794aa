"""What `repack` reads: the samples of an archive, an `ImageArchive`, or a `SampleArchive`.

Sources are picklable, and safe for threads; worker processes use them, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from imagearchive.archive.archive import Archive
from imagearchive.codecs.codec import with_name
from imagearchive.codecs.codec_registry import encode_member, extension_of
from imagearchive.datasets.image_archive import ImageArchive
from imagearchive.datasets.npz.detect import holds_arrays
from imagearchive.datasets.samples.dataset import SampleArchive
from imagearchive.errors import ImageArchiveError, OptionError
from imagearchive.images.pillow import FORMATS
from imagearchive.processing.repack_fields import field_source
from imagearchive.processing.repack_recipe import Recipe
from imagearchive.processing.repack_source import (
    ENDS,
    RepackSource,
    Row,
    Written,
    some_samples,
    without_dots,
)
from imagearchive.transforms.fields import (
    Field,
    Image,
    Label,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["as_source", "check_keys"]

_IMAGES: Final = frozenset((*FORMATS, "jp2", "avif"))
# Extensions of members that may say where something is in an image.
_PLACES: Final = frozenset(("json", "npy", "npz", "xml"))


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
        return field_source(source)
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
    if len(archive.paths) == 1 and holds_arrays(archive.paths[0], strict=False):
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
    """The images of an `ImageArchive`, each with its label beside it unless its name tells it.

    If classes have names that the directories do not tell, each becomes a directory.
    """

    def __init__(self, dataset: ImageArchive) -> None:
        self._dataset = dataset
        self._named = _names_tell_labels(dataset)
        self._folders = [] if self._named else _class_folders(dataset)
        self._named |= bool(self._folders)

    def __len__(self) -> int:
        return len(self._dataset)

    def key(self, index: int) -> str:
        folder, slash, last = self._dataset.name(index).rpartition("/")
        above = f"{self._folders[self._dataset.label(index)]}/" if self._folders else ""
        return above + folder + slash + without_dots(last.rpartition(".")[0] or last)

    @property
    def is_remote(self) -> bool:
        return self._dataset.requests_ahead > 0

    def origin(self, index: int) -> str:
        return f"image {index}, {self._dataset.name(index)},"

    def fingerprint(self) -> str:
        dataset = self._dataset
        labels = [
            (dataset.name(index), str(dataset.label(index))) for index in some_samples(len(self))
        ]
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
        return {name: kind("{key}." + "|".join(ENDS[kind])) for name, kind in kinds.items()}


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


def _class_folders(dataset: ImageArchive) -> list[str]:
    """Return the names of the classes if directories with these names get the same numbers.

    Without classes, and where the numbers would differ, the list is empty.
    """
    classes = dataset.classes
    labels = {dataset.label(index) for index in range(len(dataset))} if classes else set()
    if (
        labels == set(range(len(classes)))
        and all(type(label) is int for label in labels)
        and classes == sorted(set(classes))
        and all(name.strip(". ") and not set(name) & set("/\\\0") for name in classes)
    ):
        return classes
    return []
