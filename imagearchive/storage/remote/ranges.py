"""Which requests read a set of ranges: neighbors together, long ones in parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

__all__ = ["MAX_GAP", "MAX_REQUEST", "Request", "plan_requests"]

#: Two ranges are read by one request if at most this many bytes are between them: those take less
#: time than a second request.
MAX_GAP: Final = 1 << 20
# A gap of so many bytes is never too large, nor is one of so many times the bytes that are wanted.
_SMALL_GAP: Final = 64 << 10
_WASTE: Final = 1
#: The most bytes of a request. Larger ones are not faster, and one that fails has to be repeated.
MAX_REQUEST: Final = 8 << 20


class Request(NamedTuple):
    """One request, and the ranges that it serves.

    Attributes
    ----------
    offset, size : int
        What is requested.
    ranges : list of (int, int)
        Offset and size of each range inside it, in ascending order.
    """

    offset: int
    size: int
    ranges: list[tuple[int, int]]


def plan_requests(
    ranges: Iterable[tuple[int, int]], max_gap: int = MAX_GAP, max_request: int = MAX_REQUEST
) -> list[Request]:
    """Return the requests for ranges, ordered by offset.

    Parameters
    ----------
    ranges : iterable of (int, int)
        Offset and size of each, in any order; they may overlap. Equal ones count once.
    max_gap : int
        Most bytes between two ranges of one request.
    max_request : int
        Most bytes of a request. A longer range is a request of its own: its reader waits for all
        of it anyway.
    """
    planned: list[Request] = []
    for offset, size in sorted(set(ranges)):
        if not size:
            continue
        if planned:
            start, length, served = planned[-1]
            end = max(start + length, offset + size)
            wanted = sum(one for _, one in served) + size
            gap = offset - (start + length)
            # Nor do the bytes between a few small ranges outweigh them.
            if gap <= min(max_gap, max(_SMALL_GAP, _WASTE * wanted)) and end - start <= max_request:
                served.append((offset, size))
                planned[-1] = Request(start, end - start, served)
                continue
        planned.append(Request(offset, size, [(offset, size)]))
    return planned
