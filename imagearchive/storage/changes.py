"""Tell a file that changed while it was open from one that is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from imagearchive.errors import StaleIndexError
from imagearchive.storage.mapping import damaged_mappings

__all__ = ["Changeable", "changes_first"]


class Changeable(Protocol):
    """Anything that reads open files."""

    def check_unchanged(self) -> None:
        """Raise StaleIndexError if one of the files has changed since it was opened."""
        ...


@contextmanager
def changes_first(source: Changeable) -> Iterator[None]:
    """Raise `StaleIndexError` if a file changed while the block read from it.

    Whatever else goes wrong in the block is then a consequence: a damaged image, a wrong checksum,
    or EFAULT from a system call that was given the missing bytes of a mapped file. Without an
    error, only bytes of a mapping that could not be read are noticed.

    Parameters
    ----------
    source : Changeable
        What the block reads from.
    """
    try:
        yield
    except StaleIndexError:
        raise
    except Exception:
        source.check_unchanged()
        raise
    if damaged_mappings():
        source.check_unchanged()
