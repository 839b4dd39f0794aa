"""Generator functions that `MpQItr` runs in a child process."""

from __future__ import annotations

import multiprocessing

METHODS = multiprocessing.get_all_start_methods()


def count(n, start=0, *, step=1):
    yield from range(start, start + n * step, step)


def identity(item):
    yield item
