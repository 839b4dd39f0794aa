"""The images that two archives have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from imagearchive.processing.report.duplicates import bit_distances, similar_pairs
from imagearchive.processing.report.facts import CommonImages, Example

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.processing.report.identical import Digests
    from imagearchive.processing.report.image_facts import Measurements

__all__ = ["Side", "find_common"]

_MOST_PAIRS: Final = 100


class Side(NamedTuple):
    """One of two archives that are compared."""

    archive: Archive
    measured: Measurements
    compared: Digests

    def example(self, position: int, value: float) -> Example:
        """Return one of its images."""
        return Example(position, self.archive.name(position), value)


def find_common(first: Side, second: Side, numbers: tuple[int, int]) -> CommonImages | None:
    """Return the images that two archives have in common; None if there are none.

    Each image of the second archive that is in the first is one pair of identical images.
    """
    identical = _equal_pairs(first.compared, second.compared)
    (first_rows, ours), (second_rows, theirs) = first.measured.hashes(), second.measured.hashes()
    pairs = similar_pairs(np.concatenate([ours, theirs]))
    pairs = pairs[(pairs[:, 0] < len(ours)) & (pairs[:, 1] >= len(ours))]
    left, right = pairs[:, 0], pairs[:, 1] - len(ours)
    distances = bit_distances(ours[left], theirs[right])
    equal = set(identical)
    similar = [
        (pair, distance)
        for *pair, distance in zip(
            first.measured.positions[first_rows[left]].tolist(),
            second.measured.positions[second_rows[right]].tolist(),
            distances.tolist(),
        )
        if tuple(pair) not in equal
    ]
    similar.sort(key=lambda one: one[1])
    if not identical and not similar:
        return None
    listed = [((one, other), -1) for one, other in identical[:_MOST_PAIRS]]
    listed += [((one, other), distance) for (one, other), distance in similar[:_MOST_PAIRS]]
    return CommonImages(
        *numbers,
        len(identical),
        len(similar),
        [
            (first.example(one, distance), second.example(other, distance))
            for (one, other), distance in listed
        ],
    )


def _equal_pairs(first: Digests, second: Digests) -> list[tuple[int, int]]:
    """Pair each position of the second with the first one of the first that has its digest."""
    position_of: dict[bytes, int] = {}
    for position, digest in zip(first.positions.tolist(), first.digests):
        position_of.setdefault(digest.tobytes(), position)
    found = [
        (position_of[digest.tobytes()], position)
        for position, digest in zip(second.positions.tolist(), second.digests)
        if digest.tobytes() in position_of
    ]
    return sorted(found)
