"""gzip files as compressed streams; also several members one after the other, as bgzip writes."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Final

from imagearchive.errors import CorruptArchiveError
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.deflate import InflateDecoder, inflater_at
from imagearchive.storage.inflate import GZIP, Inflater
from imagearchive.storage.stream_format import DamagedRangeError, StreamFormat, StreamRange

if TYPE_CHECKING:
    from imagearchive.storage.checkpoints import CheckpointBuilder, Point

__all__ = ["GzipFormat"]

logger = logging.getLogger(__name__)

_MAGIC: Final = b"\x1f\x8b\x08"
# CRC-32 and length of a member.
_TRAILER: Final = 8
# What zlib says if one of them differs.
_CHECKS: Final = ("incorrect data check", "incorrect length check")


@dataclasses.dataclass(frozen=True)
class GzipStream(StreamRange):
    """The gzip members in a range of a file, which decompress to one output."""

    label = "gzip"

    def start(self, builder: CheckpointBuilder | None = None) -> GzipDecoder:
        """Return a decoder at the start, which adds checkpoints to a builder."""
        return GzipDecoder(self, Inflater(GZIP), builder=builder)

    def resume(self, point: Point) -> GzipDecoder:
        """Return a decoder at a checkpoint; raises ValueError if it cannot be used."""
        inflater = inflater_at(self, point) if point.inside else Inflater(GZIP)
        return GzipDecoder(self, inflater, point)


class GzipDecoder(InflateDecoder):
    """Decodes a `GzipStream`. zlib checks the CRC-32 of each member that is read from its start."""

    def __init__(
        self,
        stream: GzipStream,
        inflater: Inflater,
        point: Point | None = None,
        builder: CheckpointBuilder | None = None,
    ) -> None:
        super().__init__(stream, inflater, point, builder)
        self._stream = stream
        # A decoder that started inside a member leaves the member's trailer.
        self._skip = _TRAILER if point is not None and point.inside else 0
        self._member_start = self.position

    def next(self, size: int) -> bytes:
        """Return between one and `size` bytes, or none at the end."""
        try:
            return super().next(size)
        except CorruptArchiveError as error:
            if not any(check in error.message for check in _CHECKS):
                raise
            # Any byte of the member may be wrong.
            damaged = DamagedRangeError(error.message)
            damaged.start, damaged.stop = self._member_start, self.position
            raise damaged from error.__cause__

    def _following(self) -> Inflater | None:
        stream = self._stream
        while self._skip:
            available = min(self._skip, self._fetch())
            if not available:
                raise stream.error("its trailer is missing")
            self._use(available)
            self._skip -= available
        # Zeros may follow a member, as on tapes.
        while self._fetch():
            zeros = len(self._pending) - len(bytes(self._pending).lstrip(b"\0"))
            if not zeros:
                break
            self._use(zeros)
        if not self._fetch():
            return None
        if len(self._pending) < len(_MAGIC):
            self._pending = memoryview(stream.read(self.source, len(_MAGIC)))
        if bytes(self._pending[: len(_MAGIC)]) != _MAGIC:
            if self._builder is not None:
                logger.warning(
                    "%s: %s ignored",
                    stream.where,
                    pluralize(
                        stream.stored_size - self.source,
                        "byte after the last gzip member is",
                        "bytes after the last gzip member are",
                    ),
                )
            self._use(len(self._pending))
            return None
        self._member_start = self.position
        if self._builder is not None and self._builder.wants_free(self.position):
            self._builder.add(self.source, self.position)
        return Inflater(GZIP)


class GzipFormat(StreamFormat):
    """gzip, as ``gzip``, ``pigz``, and ``bgzip`` write it."""

    name = "gzip"
    label = "gzip"
    command = "gzip -dk"
    reads_forward = True
    stream_type = GzipStream

    def sniff(self, head: bytes) -> bool:
        """Recognize the header of a member."""
        return head[: len(_MAGIC)] == _MAGIC
