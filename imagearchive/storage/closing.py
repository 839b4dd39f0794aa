"""Bases of objects for ``with`` blocks: `Closable` for readers, `Abortable` for writers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from weakref import WeakSet

    from typing_extensions import Self

__all__ = ["Abortable", "Closable", "live_objects"]

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
