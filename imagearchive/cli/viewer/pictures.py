"""Images of members, small and large, encoded for a browser."""

from __future__ import annotations

import threading
from typing import Final

from imagearchive.archive.archive import Archive
from imagearchive.errors import DecodeError, LimitError
from imagearchive.errors.plurals import pluralize
from imagearchive.images.pillow import save_image
from imagearchive.images.thumbnails import encode_thumbnail, thumbnail
from imagearchive.storage.lru import LRUCache

__all__ = ["LARGEST_FILE", "Pictures"]

THUMBNAIL_SIDE: Final = 192
LARGE_SIDE: Final = 1600
LARGEST_FILE: Final = 256 << 20
# Up to this many pixels are sent without loss, so that every one of them can be seen.
_LOSSLESS_PIXELS: Final = 512 * 512
_WHITE: Final = (255, 255, 255)
_DECODED_AT_ONCE: Final = 4


class Pictures:
    """Decodes images on demand, and keeps thumbnails up to a number of bytes. Safe for threads.

    Parameters
    ----------
    archive : Archive
    limit : int
        How many bytes of thumbnails to keep.
    """

    def __init__(self, archive: Archive, limit: int = 64 << 20) -> None:
        self._archive = archive
        self._limit = limit
        self._thumbnails = LRUCache[int, bytes](1 << 40)
        self.kept_bytes = 0
        self._counting = threading.Lock()
        self._decoding = threading.BoundedSemaphore(_DECODED_AT_ONCE)

    def thumbnail(self, position: int) -> bytes:
        """Return a small JPEG of a member.

        Raises
        ------
        DecodeError, LimitError, CorruptArchiveError
            There is no image to show.
        """
        kept = self._thumbnails.get(position)
        if kept is None:
            with self._decoding:
                data = self._read(position)
                kept = encode_thumbnail(thumbnail(data, THUMBNAIL_SIDE, background=_WHITE))
            with self._counting:
                self._keep(position, kept)
        return bytes(kept)

    def _keep(self, position: int, picture: bytes) -> None:
        # Another thread may have been faster.
        if self._thumbnails.setdefault(position, picture) is picture:
            self.kept_bytes += len(picture)
        while self.kept_bytes > self._limit:
            self.kept_bytes -= len(self._thumbnails.pop_oldest() or b"")

    def large(self, position: int) -> tuple[str, bytes]:
        """Return the media type and the bytes of a member as an image that fits a screen."""
        with self._decoding:
            pixels = thumbnail(self._read(position), LARGE_SIDE, background=_WHITE)
            if pixels.shape[0] * pixels.shape[1] <= _LOSSLESS_PIXELS:
                return "image/png", save_image("png", pixels)
            return "image/jpeg", encode_thumbnail(pixels, 90)

    def _read(self, position: int) -> bytes | memoryview:
        size = self._archive.info(position).size
        if size > LARGEST_FILE:
            raise LimitError(
                f"the file has {pluralize(size, 'byte')}; larger than {LARGEST_FILE} is not shown"
            )
        try:
            return self._archive.read(position)
        except (OSError, MemoryError) as error:
            raise DecodeError(f"the member cannot be read: {error}") from error
