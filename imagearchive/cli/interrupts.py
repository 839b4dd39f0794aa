"""Ctrl-C while a command runs."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Final

__all__ = ["Interrupts"]

#: For so many seconds after an interrupt, further ones are ignored: whoever presses Ctrl-C twice
#: does not want to interrupt the cleanup.
GRACE_PERIOD: Final = 2.0


class Interrupts:
    """A context manager that notes whether the user has pressed Ctrl-C.

    The first interrupt raises `KeyboardInterrupt`, and so does one after the grace period. Where
    the caller has a signal handler of its own, or is not the main thread, nothing is changed.

    Attributes
    ----------
    seen : bool
        Whether there was an interrupt.
    """

    def __init__(self) -> None:
        self.seen = False
        self._when = 0.0
        self._delayed = False
        self._previous: object = None

    def __enter__(self) -> Interrupts:
        # Only the main thread may set a handler.
        with contextlib.suppress(ValueError):
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._previous = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def delay(self) -> Iterator[None]:
        """Delay interrupts to the end of the block.

        Imports need it: a module that is interrupted while it is imported is left half made.
        """
        self._delayed = True
        try:
            yield
        finally:
            self._delayed = False
        if self.seen:
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.seen and now - self._when < GRACE_PERIOD:
            return
        self.seen, self._when = True, now
        if not self._delayed:
            raise KeyboardInterrupt
