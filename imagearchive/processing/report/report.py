"""`report`: looks at archives as a whole, and writes a page about them."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, Final, NamedTuple

from imagearchive.archive.archive import Archive
from imagearchive.archive.describe import describe
from imagearchive.archive.name_tree import name_text
from imagearchive.datasets.npz.detect import holds_arrays
from imagearchive.errors import ArchiveNotFoundError, ImageArchiveError, OptionError
from imagearchive.errors.arguments import check_flag, check_integer
from imagearchive.images.thumbnails import encode_thumbnail, thumbnail
from imagearchive.index.nesting import Nested
from imagearchive.processing.report.array_facts import array_facts
from imagearchive.processing.report.distributions import spread
from imagearchive.processing.report.facts import ArchiveFacts, Example, Report
from imagearchive.processing.report.image_facts import (
    Measurements,
    class_of_images,
    find_common,
    find_images,
    measure_images,
)
from imagearchive.processing.report.report_page import (
    MOST_BARS,
    SHOWN_GROUPS,
    SHOWN_OF_GROUP,
    SHOWN_PAIRS,
    render_page,
)
from imagearchive.processing.report.sample_facts import sample_facts
from imagearchive.storage.atomic import AtomicFile, check_target
from imagearchive.storage.executors import Submits, run_tasks
from imagearchive.storage.location import local_path
from imagearchive.storage.path_options import add_options
from imagearchive.storage.patterns import ArchivePath, as_text
from imagearchive.storage.task_threads import TaskThreads

__all__ = ["report"]

#: More images than this are sampled.
SAMPLE: Final = 20_000
_SIDE: Final = 104
_QUALITY: Final = 70
_OF_CLASS: Final = 3
# The thumbnails of a page, in characters.
_PICTURE_BUDGET: Final = 3 << 20


def report(
    source: ArchivePath,
    output: str | os.PathLike[str] | None = None,
    *,
    root: str | None = None,
    all: bool = False,
    nested: Nested = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
    progress: Callable[[int], object] | None = None,
) -> Report:
    """Look at archives as a whole, and write an HTML page about them.

    The page is one file that needs nothing from elsewhere. For each archive, it shows totals, what
    is damaged or was left out, classes, sizes, formats, and colors of the images, mean and standard
    deviation for `Normalize`, thumbnails, extremes, duplicates, and broken images; of an NPZ, what
    is in its arrays; and the images that two of the archives have in common.

    Parameters
    ----------
    source : path-like or sequence of path-like
        An archive, or several to compare. A pattern is one archive.
    output : path-like, optional
        The page to write. By default, the numbers are returned only.
    root : str, optional
        The directory inside the archives that contains the class directories; by default the one
        with the most images in its subdirectories, or the top one if these are less than half.
    all : bool
        Read all images of an archive, even if there are more than 20,000. Otherwise, so many of
        them are read, evenly spread. The same is true of the rows of large arrays.
    nested : bool, int, "auto", or "keep"
        Which archives inside an archive are opened; see `Archive`.
    threads : int, optional
        How many threads decode; by default one for each core.
    overwrite : bool
        Replace an existing page.
    storage_options, filesystem : optional
        How to reach URLs; see `Archive`.
    progress : callable, optional
        Called with the number of images done since the last call.

    Returns
    -------
    Report

    Raises
    ------
    ArchiveNotFoundError
        There is no such archive. Any other problem of an archive is part of the report.
    TargetExistsError
        The page exists, without `overwrite`.
    OSError
        The page cannot be written.
    """
    options = _Options(
        None if root is None else name_text(root),
        None if check_flag("all", all) else SAMPLE,
        nested,
        check_integer("threads", os.cpu_count() or 1 if threads is None else threads, 1),
        progress or (lambda count: None),
    )
    given = add_options(as_text(source), storage_options, filesystem)
    paths = [given] if isinstance(given, str) else list(given)
    if not paths:
        raise OptionError("source must name at least one archive, got none")
    target = None if output is None else local_path("output", output)
    if target is not None:
        check_target(target, check_flag("overwrite", overwrite))
    with ExitStack() as stack:
        executor = stack.enter_context(TaskThreads(options.threads, "report"))
        looks = [_look_at(path, options, executor, stack) for path in paths]
        found = Report([look.facts for look in looks], [])
        for second, look in enumerate(looks):
            for first, other in enumerate(looks[:second]):
                if look.measured is not None and other.measured is not None:
                    common = find_common(other.measured, look.measured, (first, second))
                    if common is not None:
                        found.common.append(common)
        if target is not None:
            examples = [look.examples for look in looks]
            page = render_page(found, _pictures(looks, found, executor), examples)
            with AtomicFile(target, overwrite=overwrite) as file:
                # Names may contain bytes that are not UTF-8.
                file.file.write(page.encode("utf-8", "backslashreplace"))
    return found


class _Options(NamedTuple):
    root: str | None
    sample: int | None
    nested: Nested
    threads: int
    progress: Callable[[int], object]


class _Look(NamedTuple):
    """What was found in one archive, which stays open."""

    facts: ArchiveFacts
    archive: Archive | None = None
    measured: Measurements | None = None
    examples: Mapping[str, Sequence[Example]] = {}


def _look_at(path: str, options: _Options, executor: Submits, stack: ExitStack) -> _Look:
    facts = ArchiveFacts(path)
    try:
        archive = stack.enter_context(Archive(path, strict=False, nested=options.nested))
        facts.container = describe(archive)
        images = find_images(archive)
        chosen = images[spread(len(images), options.sample)]
        facts.classes, class_of = class_of_images(archive, images, chosen, options.root)
        facts.samples = sample_facts(archive, options.sample)
        if len(archive.paths) == 1 and holds_arrays(archive.paths[0]):
            facts.arrays = array_facts(archive.paths[0], options.sample)
    except (ArchiveNotFoundError, OptionError):
        raise
    except (ImageArchiveError, OSError) as error:
        facts.problem = getattr(error, "message", None) or str(error)
        return _Look(facts)
    if not len(images):
        return _Look(facts, archive)
    measured = measure_images(archive, chosen, executor, options.threads, options.progress)
    facts.images = measured.summarize(images)
    examples = _examples(archive, facts, class_of, measured.decoded_positions().tolist())
    return _Look(facts, archive, measured, examples)


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
            groups = list(look.examples.values()) + list(images.extremes.values())
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
        encoded = encode_thumbnail(thumbnail(archive.read(position), _SIDE), _QUALITY)
    except (ImageArchiveError, OSError, MemoryError):
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"
