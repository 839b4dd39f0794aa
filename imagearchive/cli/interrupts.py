"""Signals that end a command: Ctrl-C, and SIGTERM from batch systems."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

__all__ = ["Interrupts"]

#: For so many seconds after a signal, further ones are ignored: whoever presses Ctrl-C twice does
#: not want to interrupt the cleanup.
GRACE_PERIOD: Final = 2.0

# The handlers that a process starts with.
_DEFAULTS: Final[dict[signal.Signals, Any]] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


class Interrupts:
    """A context manager that notes SIGINT and SIGTERM.

    The first of them raises `KeyboardInterrupt`, so that the command cleans up, and so does one
    after the grace period. Where the caller has a signal handler of its own, or is not the main
    thread, nothing is changed.

    Attributes
    ----------
    status : int
        The exit status that the signal calls for, 130 or 143; 0 if there was none.
    """

    def __init__(self) -> None:
        self.status = 0
        self._when = 0.0
        self._delayed = False
        self._set: list[signal.Signals] = []

    def __enter__(self) -> Interrupts:
        for number, default in _DEFAULTS.items():
            # Only the main thread may set a handler.
            with contextlib.suppress(ValueError):
                if signal.getsignal(number) is default:
                    signal.signal(number, self._interrupt)
                    self._set.append(number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._set:
            signal.signal(number, _DEFAULTS[number])

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
        if self.status:
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.status and now - self._when < GRACE_PERIOD:
            return
        self.status, self._when = 128 + number, now
        if not self._delayed:
            raise KeyboardInterrupt
