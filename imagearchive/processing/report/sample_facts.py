"""Which files the samples of an archive have, where a sample is several files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imagearchive.datasets.selection import IMAGE_EXTENSIONS
from imagearchive.errors import ImageArchiveError
from imagearchive.processing.report.distributions import sort_counts, spread
from imagearchive.processing.report.facts import SampleFacts

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["sample_facts"]

_MOST_MISSING: Final = 100
# An extension that so many of the samples have is one that each should have.
_MOST: Final = 0.5
_ANY_IMAGE: Final = "image"


def sample_facts(archive: Archive, most: int | None = None) -> SampleFacts | None:
    """Count the files of samples by extension.

    Whether a sample lacks an image does not depend on the extension of its image.

    Parameters
    ----------
    archive : Archive
    most : int, optional
        How many samples to look at, evenly spread; by default all.

    Returns
    -------
    SampleFacts or None
        None unless most samples consist of several files.
    """
    samples = archive.samples()
    count = len(samples)
    if not count or len(archive) < (1 + _MOST) * count:
        return None
    counts: dict[str, int] = {}
    kinds: list[tuple[int, frozenset[str]]] = []
    known: dict[frozenset[str], frozenset[str]] = {}
    for index in spread(count, most):
        try:
            extensions = [extension for extension, _ in samples.members(index)[1]]
        except ImageArchiveError:
            # Extensions that differ in case only.
            continue
        for extension in extensions:
            counts[extension] = counts.get(extension, 0) + 1
        found = frozenset(
            _ANY_IMAGE if extension in IMAGE_EXTENSIONS else extension for extension in extensions
        )
        kinds.append((index, known.setdefault(found, found)))
    totals: dict[str, int] = {}
    for _, found in kinds:
        for kind in found:
            totals[kind] = totals.get(kind, 0) + 1
    expected = {kind for kind, total in totals.items() if total > _MOST * len(kinds)}
    lacking = [(index, sorted(expected - found)) for index, found in kinds if expected - found]
    missing = [(samples.key(index), kind) for index, absent in lacking for kind in absent]
    return SampleFacts(
        count, len(kinds), sort_counts(counts), len(lacking), missing[:_MOST_MISSING]
    )
