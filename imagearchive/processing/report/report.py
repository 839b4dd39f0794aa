"""`report`: looks at archives as a whole, and writes a page about them."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from imagearchive.archive.archive import Archive
from imagearchive.archive.describe import describe
from imagearchive.archive.name_tree import name_text
from imagearchive.datasets.npz.detect import holds_arrays
from imagearchive.datasets.samples.dataset import SampleArchive
from imagearchive.errors import ArchiveNotFoundError, ImageArchiveError, OptionError
from imagearchive.errors.arguments import check_flag, check_integer
from imagearchive.images.thumbnails import encode_thumbnail, shrink, thumbnail
from imagearchive.index.nesting import Nested
from imagearchive.processing.report.array_facts import array_facts, image_rows
from imagearchive.processing.report.common_images import Side, find_common
from imagearchive.processing.report.distributions import spread
from imagearchive.processing.report.facts import ArchiveFacts, Example, Report
from imagearchive.processing.report.field_facts import field_facts, images_of_fields
from imagearchive.processing.report.identical import Candidates, compare_bytes
from imagearchive.processing.report.image_facts import (
    Measurements,
    Positions,
    class_of_images,
    find_images,
    measure_images,
)
from imagearchive.processing.report.image_sections import (
    MOST_BARS,
    SHOWN_GROUPS,
    SHOWN_OF_GROUP,
)
from imagearchive.processing.report.report_page import SHOWN_PAIRS, render_page
from imagearchive.processing.report.sample_facts import sample_facts
from imagearchive.storage.atomic import AtomicFile, check_target
from imagearchive.storage.closing import Closable
from imagearchive.storage.executors import Submits, run_tasks
from imagearchive.storage.location import local_path
from imagearchive.storage.path_options import add_options
from imagearchive.storage.patterns import ArchivePath, as_text
from imagearchive.storage.task_threads import TaskThreads

__all__ = ["Survey", "report"]

#: More images than this are sampled.
SAMPLE: Final = 20_000
_SIDE: Final = 104
_QUALITY: Final = 70
_OF_CLASS: Final = 3
_OF_ARRAY: Final = 12
_MOST_IMAGE_ARRAYS: Final = 8
# The ends of so many times more images than are sampled are compared to find identical ones.
_MOST_COMPARED: Final = 50
# The thumbnails of a page, in characters.
_PICTURE_BUDGET: Final = 3 << 20


#: What `report` takes: paths, or samples of several fields.
Source: TypeAlias = "ArchivePath | SampleArchive | Sequence[ArchivePath | SampleArchive]"


def report(
    source: Source,
    output: str | os.PathLike[str] | None = None,
    *,
    root: str | None = None,
    all: bool = False,
    nested: Nested = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int | str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Report:
    """Look at archives as a whole, and write an HTML page about them.

    The page is one file that needs nothing from elsewhere. For each archive, it shows totals, what
    is damaged or was left out, classes, sizes, formats, and colors of the images, mean and standard
    deviation for `Normalize`, thumbnails, extremes, duplicates, and broken images; of an NPZ, what
    is in its arrays; of samples of several fields, what is missing, the sizes of boxes, and the
    classes of masks; and the images that two of the archives have in common.

    Parameters
    ----------
    source : path-like, SampleArchive, or sequence of them
        An archive, or several to compare. A pattern is one archive. Of a `SampleArchive`, the
        images of its fields are measured, and the other fields described; its transform is not
        applied.
    output : path-like, optional
        The page to write. By default, the numbers are returned only.
    root : str, optional
        The directory inside the archives that contains the class directories; by default the one
        with the most images in its subdirectories, or the top one if these are less than half.
    all : bool
        Read all images of an archive, even if there are more than 20,000. Otherwise, so many of
        them are read, evenly spread. The same is true of samples, and of the rows of large arrays.
    nested : bool, int, "auto", or "keep"
        Which archives inside an archive are opened; see `Archive`.
    threads : int, optional
        How many threads decode; by default one for each core.
    overwrite : bool
        Replace an existing page.
    storage_options, filesystem, cache_dir, cache_bytes : optional
        How to reach URLs, and where to cache what was read; see `Archive`.
    progress : callable, optional
        Called with the number of images and samples done since the last call.

    Returns
    -------
    Report

    Raises
    ------
    ArchiveNotFoundError
        There is no such archive. Any other problem of an archive is part of the report.
    OptionError
        `root` is a directory in none of the archives.
    TargetExistsError
        The page exists, without `overwrite`.
    OSError
        The page cannot be written.
    """
    with Survey(
        source,
        root=root,
        all=all,
        nested=nested,
        threads=threads,
        storage_options=storage_options,
        filesystem=filesystem,
        cache_dir=cache_dir,
        cache_bytes=cache_bytes,
    ) as survey:
        return survey.run(output, overwrite, progress)


class Survey(Closable):
    """Archives that are open to be looked at; the arguments are those of `report`.

    Attributes
    ----------
    total : int
        How many images and samples `run` reads.
    """

    def __init__(
        self,
        source: Source,
        *,
        root: str | None,
        all: bool,
        nested: Nested,
        threads: int | None,
        storage_options: Mapping[str, Any] | None,
        filesystem: Any,
        cache_dir: str | os.PathLike[str] | None,
        cache_bytes: int | str | None,
    ) -> None:
        access = (storage_options, filesystem, cache_dir, cache_bytes)
        self._root = None if root is None else name_text(root)
        self._sample = None if check_flag("all", all) else SAMPLE
        self._nested = nested
        self._threads = check_integer(
            "threads", os.cpu_count() or 1 if threads is None else threads, 1
        )
        given: Sequence[Any]
        if isinstance(source, (list, tuple)):
            given = source
        elif isinstance(source, SampleArchive):
            given = [source]
        else:
            texts = as_text(cast("ArchivePath", source))
            given = [texts] if isinstance(texts, str) else texts
        items: list[Any] = [
            item if isinstance(item, SampleArchive) else add_options(as_text(item), *access)
            for item in given
        ]
        if not items:
            raise OptionError("source must name at least one archive, got none")
        self._held = ExitStack()
        try:
            self._looks = [self._open(item) for item in items]
            self._check_root()
        except BaseException:
            self.close()
            raise
        self.total = sum(look.total for look in self._looks)

    def close(self) -> None:
        """Close the archives."""
        super().close()
        self._held.close()

    def _check_root(self) -> None:
        """Refuse a root that no archive has; not every archive needs it."""
        opened = [look.archive for look in self._looks if look.archive is not None]
        if self._root and opened and not any(archive.isdir(self._root) for archive in opened):
            raise OptionError(
                f"root must be a directory in one of the archives, got {self._root!r}"
            )

    def _open(self, item: str | SampleArchive) -> _Look:
        """Open an archive, and find out what the index tells."""
        dataset = item if isinstance(item, SampleArchive) else None
        path = item if isinstance(item, str) else str(item.archives[0].path)
        look = _Look(ArchiveFacts(path))
        facts = look.facts
        try:
            if dataset is None:
                archive = Archive(facts.path, strict=False, nested=self._nested)
                self._held.enter_context(archive)
                images = find_images(archive)
                if len(archive.paths) == 1 and holds_arrays(archive.paths[0], strict=False):
                    look.arrays = archive.paths[0]
            else:
                archive, images = images_of_fields(dataset)
                look.dataset = dataset
                look.total += len(spread(len(dataset), self._sample))
            facts.container = describe(archive)
            chosen = images[spread(len(images), self._sample)]
            facts.classes, look.class_of = class_of_images(archive, images, chosen, self._root)
            if dataset is None:
                facts.samples = sample_facts(archive, self._sample)
            elif facts.classes is not None and len(facts.classes.counts) == 1:
                # The directory of the images, beside those of other fields.
                facts.classes, look.class_of = None, {}
        except (ArchiveNotFoundError, OptionError):
            raise
        except (ImageArchiveError, OSError) as error:
            facts.problem = getattr(error, "message", None) or str(error)
            return look
        look.archive, look.images, look.chosen = archive, images, chosen
        look.total += len(chosen)
        return look

    def run(
        self,
        output: str | os.PathLike[str] | None,
        overwrite: bool,
        progress: Callable[[int], object] | None,
    ) -> Report:
        """Read what there is to read, and write the page; see `report`."""
        target = None if output is None else local_path("output", output)
        if target is not None:
            check_target(target, check_flag("overwrite", overwrite))
        with TaskThreads(self._threads, "report") as executor:
            for look in self._looks:
                self._measure(look, executor, progress or (lambda count: None))
            found = self._compare(executor)
            if target is not None:
                page = render_page(
                    found,
                    _pictures(self._looks, found, executor),
                    _row_pictures(self._looks),
                    [look.examples() for look in self._looks],
                )
                with AtomicFile(target, overwrite=overwrite) as file:
                    # Names may contain bytes that are not UTF-8.
                    file.file.write(page.encode("utf-8", "backslashreplace"))
        return found

    def _measure(self, look: _Look, executor: Submits, progress: Callable[[int], object]) -> None:
        facts = look.facts
        try:
            if look.arrays:
                facts.arrays = array_facts(look.arrays, self._sample)
        except (ImageArchiveError, OSError) as error:
            facts.problem = getattr(error, "message", None) or str(error)
            return
        if look.dataset is not None:
            facts.samples = field_facts(
                look.dataset, self._sample, executor, self._threads, progress
            )
        if look.archive is not None and len(look.images):
            look.measured = measure_images(
                look.archive, look.chosen, executor, self._threads, progress
            )

    def _compare(self, executor: Submits) -> Report:
        """Find identical images, in each archive and in several."""
        found = Report([look.facts for look in self._looks], [])
        looks = [look for look in self._looks if look.measured is not None]
        candidates = [look.candidates() for look in looks]
        compared = compare_bytes(candidates, executor, self._threads, _MOST_COMPARED * SAMPLE)
        sides = []
        for look, digests in zip(looks, compared):
            assert look.archive is not None
            assert look.measured is not None
            look.facts.images = look.measured.summarize(look.images, digests)
            sides.append(Side(look.archive, look.measured, digests))
        numbers = [number for number, look in enumerate(self._looks) if look in looks]
        for second, side in enumerate(sides):
            for first, other in enumerate(sides[:second]):
                common = find_common(other, side, (numbers[first], numbers[second]))
                if common is not None:
                    found.common.append(common)
        return found


@dataclass(eq=False)
class _Look:
    """What was found in one archive, which stays open.

    Attributes
    ----------
    facts : ArchiveFacts
    archive : Archive or None
        None if it cannot be opened.
    dataset : SampleArchive or None
        The samples that the archive holds, if the caller has said what they are.
    arrays : str
        The path of an NPZ; empty for other archives.
    images, chosen : ndarray of int64
        Positions of all images, and of those that are measured.
    class_of : dict of int to str
        The classes of the latter.
    measured : Measurements or None
        What became of these.
    total : int
        How many images and samples are to be read.
    """

    facts: ArchiveFacts
    archive: Archive | None = None
    dataset: SampleArchive | None = None
    arrays: str = ""
    images: Positions = field(default_factory=lambda: np.zeros(0, np.int64))
    chosen: Positions = field(default_factory=lambda: np.zeros(0, np.int64))
    class_of: Mapping[int, str] = field(default_factory=dict)
    measured: Measurements | None = None
    total: int = 0

    def candidates(self) -> Candidates:
        """Return what `compare_bytes` needs."""
        assert self.archive is not None
        assert self.measured is not None
        return Candidates(self.archive, self.images, self.measured.digests())

    def examples(self) -> dict[str, list[Example]]:
        """Choose images to show of each class; none without images."""
        if self.archive is None or self.measured is None:
            return {}
        decoded = self.measured.decoded_positions().tolist()
        return _examples(self.archive, self.facts, self.class_of, decoded)


def _examples(
    archive: Archive, facts: ArchiveFacts, class_of: Mapping[int, str], decoded: Sequence[int]
) -> dict[str, list[Example]]:
    """Choose images to show of each class, evenly spread; without classes, of the archive."""
    members: dict[str, list[int]] = {}
    for position in decoded:
        members.setdefault(class_of.get(position, ""), []).append(position)
    if facts.classes is None:
        return {"": _spread(archive, members.get("", []), 4 * _OF_CLASS)}
    return {
        name: _spread(archive, members.get(name, []), _OF_CLASS)
        for name in list(facts.classes.counts)[:MOST_BARS]
    }


def _spread(archive: Archive, positions: Sequence[int], count: int) -> list[Example]:
    chosen = sorted({len(positions) * i // count for i in range(count)}) if positions else []
    return [Example(positions[i], archive.name(positions[i]), 0.0) for i in chosen]


def _pictures(
    looks: Sequence[_Look], found: Report, executor: Submits
) -> dict[tuple[int, int], str]:
    """Return the thumbnails of the page as URLs, as many as fit."""
    wanted = Counter(_wanted(looks, found))
    pictures: dict[tuple[int, int], str] = {}
    left = _PICTURE_BUDGET
    with closing(
        run_tasks(partial(_picture, looks), wanted, executor, in_flight=16, in_order=True)
    ) as outcomes:
        for outcome in outcomes:
            url = outcome.get()
            if url is None:
                continue
            # An image may be in several places of the page.
            left -= len(url) * wanted[outcome.item]
            if left < 0:
                break
            pictures[outcome.item] = url
    return pictures


def _wanted(looks: Sequence[_Look], found: Report) -> Iterator[tuple[int, int]]:
    """Yield the archives and positions of the images to show, the most important first."""
    for common in found.common:
        for first, second in common.pairs[:SHOWN_PAIRS]:
            yield common.first, first.position
            yield common.second, second.position
    for number, look in enumerate(looks):
        images = look.facts.images
        if images is not None:
            groups = list(look.examples().values()) + list(images.extremes.values())
            for duplicates in (images.identical, images.similar):
                groups += [group[:SHOWN_OF_GROUP] for group in duplicates.listed[:SHOWN_GROUPS]]
            for group in groups:
                for one in group:
                    yield number, one.position


def _picture(looks: Sequence[_Look], where: tuple[int, int]) -> str | None:
    number, position = where
    archive = looks[number].archive
    assert archive is not None
    try:
        return _url(thumbnail(archive.read(position), _SIDE))
    except (ImageArchiveError, OSError, MemoryError):
        return None


def _row_pictures(looks: Sequence[_Look]) -> dict[tuple[int, str], list[tuple[int, str]]]:
    """Return thumbnails of rows of the arrays that may hold images."""
    pictures: dict[tuple[int, str], list[tuple[int, str]]] = {}
    for number, look in enumerate(looks):
        shown = [one for one in look.facts.arrays if one.channel_mean]
        for array in shown[:_MOST_IMAGE_ARRAYS]:
            with suppress(ImageArchiveError, OSError, MemoryError):
                rows = image_rows(look.arrays, array, _OF_ARRAY)
                pictures[number, array.name] = [
                    (row, _url(shrink(pixels, _SIDE))) for row, pixels in rows
                ]
    return pictures


def _url(pixels: npt.NDArray[np.uint8]) -> str:
    encoded = base64.b64encode(encode_thumbnail(pixels, _QUALITY)).decode()
    return f"data:image/jpeg;base64,{encoded}"
