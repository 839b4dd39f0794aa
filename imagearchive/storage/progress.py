"""Progress bars and log lines for work that takes long when an archive is opened."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["LOG_INTERVAL", "Progress", "byte_progress", "count_progress"]

logger = logging.getLogger(__name__)

#: Called with the number of bytes that are done, and with their total. It may raise an error to
#: stop the work.
Progress = Callable[[int, int], object]

#: Seconds between two log lines.
LOG_INTERVAL: Final = 5.0
# Seconds before a progress bar is shown.
_DELAY: Final = 2.0


@contextmanager
def count_progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """Show a progress bar if work takes more than two seconds and standard error is a terminal.

    The result is called with the number of units that were done since the last call.
    """
    if not _is_terminal():
        yield lambda count: None
        return
    with _bar(what, total, unit=f" {unit}") as bar:
        yield bar.update


@contextmanager
def byte_progress(what: str) -> Iterator[Progress]:
    """Show a progress bar in bytes, as `count_progress` does, or else log how far work has come.

    Threads other than the main one only log, because they work on several files at once.
    """
    shown: list[Any] = []
    shows = _is_terminal() and threading.current_thread() is threading.main_thread()
    logged = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal logged
        if shows:
            if not shown:
                shown.append(_bar(what, total, unit="B", unit_divisor=1000))
            shown[0].update(done - shown[0].n)
        elif time.monotonic() - logged > LOG_INTERVAL:
            logged = time.monotonic()
            logger.info("%s: %d %%", what, 100 * done // max(total, 1))

    try:
        yield report
    finally:
        for bar in shown:
            bar.close()


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _bar(what: str, total: int, **options: Any) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=what,
        unit_scale=True,
        delay=_DELAY,
        leave=False,
        file=sys.stderr,
        **options,
    )
