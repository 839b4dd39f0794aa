"""`ForkSafeLock`: a lock that no fork leaves locked."""

from __future__ import annotations

import os
import threading

__all__ = ["ForkSafeLock"]


class ForkSafeLock:
    """A lock for ``with`` blocks that is free in a forked child, whoever held it in the parent.

    Each process has a lock of its own. The block must not fork.
    """

    def __init__(self) -> None:
        self._locks = {os.getpid(): threading.Lock()}

    def __enter__(self) -> None:
        pid = os.getpid()
        lock = self._locks.get(pid)
        if lock is None:
            # Atomic: of several threads of the child, all get the same lock.
            lock = self._locks.setdefault(pid, threading.Lock())
        lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._locks[os.getpid()].release()
