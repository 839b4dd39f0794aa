"""`ForkSafeLock`: a lock that no fork and no interrupt leaves locked."""

from __future__ import annotations

import os
import threading
from typing import Any

__all__ = ["ForkSafeLock"]


class ForkSafeLock:
    """A lock that is free in a forked child, whoever held it in the parent.

    Each process has a lock of its own, for ``with lock.of_process():``. The block must not fork.

    Parameters
    ----------
    reentrant : bool
        Whether a thread may take the lock again while it holds it.
    """

    def __init__(self, *, reentrant: bool = False) -> None:
        self._new: Any = threading.RLock if reentrant else threading.Lock
        self._locks = {os.getpid(): self._new()}

    def of_process(self) -> Any:
        """Return the lock of this process, which is implemented in C.

        Python may raise a `KeyboardInterrupt` within ``__enter__`` or ``__exit__`` of a class that
        is written in Python, and would leave the lock locked. It never does so in C.
        """
        pid = os.getpid()
        lock = self._locks.get(pid)
        if lock is None:
            # Atomic: of several threads of the child, all get the same lock.
            lock = self._locks.setdefault(pid, self._new())
        return lock
