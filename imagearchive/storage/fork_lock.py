"""`ForkSafeLock`: a lock that no fork leaves locked."""

from __future__ import annotations

import os
import threading
from typing import Any

__all__ = ["ForkSafeLock"]


class ForkSafeLock:
    """A lock for ``with`` blocks that is free in a forked child, whoever held it in the parent.

    Each process has a lock of its own. The block must not fork.

    Parameters
    ----------
    reentrant : bool
        Whether a thread may take the lock again while it holds it.
    """

    def __init__(self, *, reentrant: bool = False) -> None:
        self._new: Any = threading.RLock if reentrant else threading.Lock
        self._locks = {os.getpid(): self._new()}

    def __enter__(self) -> None:
        pid = os.getpid()
        lock = self._locks.get(pid)
        if lock is None:
            # Atomic: of several threads of the child, all get the same lock.
            lock = self._locks.setdefault(pid, self._new())
        lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._locks[os.getpid()].release()
