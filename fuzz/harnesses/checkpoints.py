"""Saved checkpoints of deflate streams, which may come along with the data."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Hashable, Iterable
from random import Random

from support.deflate import stream_of

from fuzz.harness import Harness, check
from fuzz.mutation import mutate
from imagearchive.storage.compressed import build_checkpoints
from imagearchive.storage.deflate import DeflatedStorage, DeflateStream

_HEAD = struct.Struct("<8s5Q")
_POINT = struct.Struct("<QQQIIIHH")


@functools.cache
def _content() -> tuple[bytes, DeflateStream, bytes, bytes]:
    """Return data, its stream, and the true checkpoints in two parts: points and windows."""
    data = b"".join(b"%d, " % (i * i) for i in range(320_000))
    stream = stream_of(data)
    checkpoints = bytes(build_checkpoints(stream))
    split = _HEAD.size + _HEAD.unpack_from(checkpoints)[4] * _POINT.size
    return data, stream, checkpoints[:split], checkpoints[split:]


class SavedCheckpoints(Harness):
    """Reads ranges of one fixed stream by mutated checkpoints.

    An input has no windows, which would be most of it: those of the true checkpoints follow.
    """

    name = "checkpoints"
    smoke_runs = 150_000
    max_size = 1 << 12

    def seeds(self) -> Iterable[bytes]:
        """Return the true checkpoints."""
        yield _content()[2]

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change bytes, and mostly correct number and checksum of the points."""
        size = _HEAD.size
        changed = bytearray(mutate(rng, data[size:], other[size:], self.tokens))
        head = bytearray(data[:size].ljust(size, b"\0"))
        if rng.random() < 0.1:
            head = bytearray(mutate(rng, bytes(head), other, self.tokens)[:size].ljust(size, b"\0"))
        if rng.random() < 0.9:
            del changed[len(changed) // _POINT.size * _POINT.size :]
            head[32:48] = struct.pack("<QQ", len(changed) // _POINT.size, zlib.crc32(changed))
        return bytes(head + changed)

    def run(self, data: bytes) -> Hashable:
        """Read from every checkpoint; by true checkpoints, the stream must be read as it is."""
        content, stream, true, windows = _content()
        fields = (stream.storage, stream.offset, stream.stored_size, stream.size, stream.crc)
        member = DeflatedStorage(*fields, "a.npy", data + windows)
        points = (len(data) - _HEAD.size) // _POINT.size
        for number in range(min(points, 8)):
            position = _POINT.unpack_from(data, _HEAD.size + number * _POINT.size)[1]
            size = min(100, len(content) - position)
            found = member.read(position, size)
            if data == true:
                check(found == content[position : position + size], "the content differs")
        return points
