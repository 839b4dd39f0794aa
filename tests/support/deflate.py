"""Deflated members for tests."""

import functools
import random
import zlib

import numpy as np

from imagearchive.storage.compressed import build_checkpoints
from imagearchive.storage.deflate import DeflatedStorage, DeflateStream
from imagearchive.storage.local import MemoryStorage

FRONT = b"bytes before the stream"
BACK = b"bytes after the stream" * 9


class CountingStorage(MemoryStorage):
    """Counts the bytes that are read."""

    bytes_read = 0

    def read(self, offset, size):
        self.bytes_read += size
        return super().read(offset, size)


def deflate(data, level=6, strategy=zlib.Z_DEFAULT_STRATEGY):
    """Return a raw deflate stream."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
    return packer.compress(data) + packer.flush()


def photo(size, seed=0):
    """Return bytes that deflate to about three quarters, as images do."""
    steps = np.random.default_rng(seed).integers(-9, 10, size)
    return np.cumsum(steps).astype(np.uint8).tobytes()


def stream_of(data, stream=None, **wrong):
    """Return a `DeflateStream` of the data in a file; keywords replace its fields."""
    stream = deflate(data) if stream is None else stream
    file = CountingStorage(FRONT + stream + BACK, "x.npz")
    fields = {"stored_size": len(stream), "size": len(data), "crc": zlib.crc32(data)} | wrong
    return DeflateStream(file, len(FRONT), where="x.npz: a.npy", **fields)


def member_of(data, stream=None, checkpoints=None, **wrong):
    """Return the data as a `DeflatedStorage`, and the `CountingStorage` below it."""
    parts = stream_of(data, stream, **wrong)
    fields = (parts.offset, parts.stored_size, parts.size, parts.crc)
    return DeflatedStorage(parts.storage, *fields, "x.npz: 'a.npy'", checkpoints), parts.storage


# Name -> data and the options of `deflate`.
CONTENTS = {
    "photo": (photo(5 << 20), {}),
    "noise": (random.Random(1).randbytes(4 << 20), {}),
    "zeros": (bytes(9 << 20), {}),
    "stored blocks": (photo(4 << 20, 2), {"level": 0}),
    "fixed codes": (photo(4 << 20, 3), {"level": 1, "strategy": zlib.Z_FIXED}),
    "text": (b"".join(b"%d, " % i for i in range(600_000)), {"level": 9}),
}


@functools.cache
def example(name):
    """Return the data and the stream of one of `CONTENTS`, and its checkpoints."""
    data, options = CONTENTS[name]
    stream = deflate(data, **options)
    return data, stream, build_checkpoints(stream_of(data, stream))


def _damaged_members():
    """Yield a name, data, a stream and wrong fields."""
    for size, which in ((5000, "small"), (3 << 20, "large")):
        data = photo(size)
        stream = deflate(data)
        flipped = bytearray(stream)
        flipped[len(stream) // 2] ^= 0x55
        half = data[: size // 2]
        trailer = zlib.crc32(half).to_bytes(4, "little") + len(half).to_bytes(4, "little")
        second = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + deflate(data[size // 2 :])
        two = deflate(half) + trailer + second
        yield f"wrong crc, {which}", data, stream, {"crc": 1}
        yield f"longer size, {which}", data, stream, {"size": size + 1}
        yield f"shorter size, {which}", data, stream, {"size": size - 1}
        yield f"truncated, {which}", data, stream[: len(stream) // 2], {}
        yield f"trailing bytes, {which}", data, stream + b"more", {}
        yield f"flipped bits, {which}", data, bytes(flipped), {}
        yield f"noise, {which}", data, random.Random(2).randbytes(len(stream)), {}
        yield f"two streams, {which}", data, two, {"crc": zlib.crc32(data[size // 2 :])}


DAMAGED = list(_damaged_members())
