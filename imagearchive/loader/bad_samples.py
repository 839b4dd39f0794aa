"""The samples of a loader that cannot be read, or whose images are damaged."""

from __future__ import annotations

import logging
from collections.abc import Container
from typing import Final, NamedTuple

__all__ = ["BadSample", "BadSampleLog"]

logger = logging.getLogger(__name__)

MAX_LOGGED_DAMAGE: Final = 100


class BadSample(NamedTuple):
    """A sample that could not be read, or whose image is damaged.

    Attributes
    ----------
    index : int
        Its index in the dataset.
    member : str
        Its name in the archive.
    reason : str
        What is wrong with it.
    """

    index: int  # type: ignore[assignment]  # hides the method of tuples
    member: str
    reason: str


class BadSampleLog:
    """The bad samples found so far. Each is logged when it is first reported."""

    def __init__(self) -> None:
        self._errors: dict[int, BadSample] = {}
        self._damaged: dict[int, BadSample] = {}

    @property
    def errors(self) -> list[BadSample]:
        """The broken samples, each once."""
        return list(self._errors.values())

    @property
    def damaged(self) -> list[BadSample]:
        """The samples with a damaged image that Pillow decodes, each once."""
        return list(self._damaged.values())

    @property
    def known_damaged(self) -> Container[int]:
        """The indices of these, also of those that are still to come."""
        return self._damaged

    def report_error(self, bad: BadSample) -> None:
        """Log a broken sample."""
        if bad.index not in self._errors:
            self._errors[bad.index] = bad
            logger.warning("sample %d (%s): %s", *bad)

    def report_damaged(self, bad: BadSample) -> None:
        """Log a damaged sample."""
        if bad.index in self._damaged:
            return
        self._damaged[bad.index] = bad
        if len(self._damaged) <= MAX_LOGGED_DAMAGE:
            logger.warning(
                "sample %d (%s): its data is damaged (%s); it is decoded as by Pillow, with wrong "
                "pixels",
                *bad,
            )
        if len(self._damaged) == MAX_LOGGED_DAMAGE:
            logger.warning("more damaged samples are not logged; DataLoader.damaged lists them")
