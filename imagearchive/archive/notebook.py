"""What a notebook shows of an archive."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from imagearchive.images.notebook import STRIP, Summary, format_bytes
from imagearchive.index.summary import summarize_table

if TYPE_CHECKING:
    from imagearchive.archive.member_reader import MemberReader

__all__ = ["summarize_archive"]

_EXTENSIONS: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
#: So many names are looked at to find images.
_NAMES: Final = 4096
#: In a compressed archive only the first members can be read quickly.
_FIRST: Final = 256


def summarize_archive(archive: MemberReader) -> Summary:
    """Return the facts of the table, and thumbnails of images all over the archive."""
    summary = summarize_table(archive.table)
    summary.title = repr(archive)
    # Requests to a server may take longer than a notebook is to wait.
    if not archive.requests_ahead:
        summary.pictures = _pictures(archive)
    return summary


def _pictures(archive: MemberReader) -> Iterator[tuple[str, Callable[[], Any]]]:
    count = len(archive.table)
    positions: list[int]
    if archive.table.compressed:
        positions = list(range(min(count, _FIRST)))
    else:
        positions = np.linspace(0, max(count - 1, 0), min(count, _NAMES)).astype(int).tolist()
    names = ((position, archive.name(position)) for position in positions)
    images = [(at, name) for at, name in names if name.lower().endswith(_EXTENSIONS)]
    chosen = np.linspace(0, max(len(images) - 1, 0), min(STRIP, len(images))).astype(int)
    for number in chosen.tolist():
        position, name = images[number]
        yield name, functools.partial(_read, archive, position)


def _read(archive: MemberReader, position: int) -> Any:
    size = int(archive.table.entries["size"][position])
    if size > 16_000_000:
        raise ValueError(f"{format_bytes(size)} are too much for a thumbnail here")
    return archive.read(position)
