"""Bases of objects for ``with`` blocks: `Closable` for readers, `Abortable` for writers.

What would leave files behind is released at the end of the program, too.
"""

from __future__ import annotations

import atexit
import contextlib
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Abortable", "Closable", "live_objects", "release_at_exit"]

T = TypeVar("T")


def live_objects(objects: WeakSet[T]) -> list[T]:
    """Return the objects of a set that are still alive, while other threads may add some."""
    while True:
        try:
            return list(objects)
        except RuntimeError:
            # Before Python 3.14, a weak set cannot be iterated over while it grows.
            continue


class Closable:
    """Base of objects that hold files or memory until they are closed.

    A subclass extends `close` by what it releases, in such a way that a second call does nothing.
    """

    _closed: bool = False

    def close(self) -> None:
        """Release what is held; a second call does nothing."""
        self._closed = True

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Abortable:
    """Base of writers: a ``with`` block completes the file, or discards it after an error."""

    def close(self) -> None:
        """Complete the file; a second call does nothing."""
        raise NotImplementedError

    def abort(self) -> None:
        """Discard what was written; a second call does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def release_at_exit(resource: Abortable | Closable) -> None:
    """Abort a writer, or close a reader, when the interpreter exits, if it still exists then.

    `__del__` may come too late for what outlives the program: by then, the interpreter may have
    cleared the modules that it needs. Free-threaded Python clears them before the variables of the
    program.
    """
    _released_at_exit.add(resource)


_released_at_exit: WeakSet[Abortable | Closable] = WeakSet()


@atexit.register
def _release_all() -> None:
    # All of them, even if one fails.
    with contextlib.ExitStack() as stack:
        for resource in live_objects(_released_at_exit):
            stack.callback(resource.abort if isinstance(resource, Abortable) else resource.close)
