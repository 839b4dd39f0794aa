"""Compressed TAR archives of every format, in one piece and in several."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zlib

import zstandard


def tar_of(members, **options):
    """Return a TAR."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def bgzip(data, block=60_000):
    """Compress in blocks with an extra field, and with the empty block at the end."""
    parts = []
    for start in [*range(0, len(data), block), len(data)]:
        plain = data[start : start + block]
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = packer.compress(plain) + packer.flush()
        extra = b"BC\2\0" + struct.pack("<H", len(body) + 25)
        head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack("<H", len(extra)) + extra
        parts.append(head + body + struct.pack("<II", zlib.crc32(plain), len(plain)))
    return b"".join(parts)


def two_members(data):
    """Compress each half as a gzip member."""
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(data[half:])


def xz_blocks(data, size=150_000):
    """Compress in streams of one block each, with padding after the first."""
    starts = range(999, max(len(data), 1000), size)
    parts = [lzma.compress(data[start : start + size], preset=1) for start in starts]
    return lzma.compress(data[:999], preset=1) + bytes(8) + b"".join(parts)


def zstd_frames(data, size=100_000, **options):
    """Compress in frames, with one to skip at the start."""
    compressor = zstandard.ZstdCompressor(write_checksum=True, **options)
    starts = range(0, max(len(data), 1), size)
    parts = [compressor.compress(data[start : start + size]) for start in starts]
    return struct.pack("<II", 0x184D2A50, 3) + b"abc" + b"".join(parts)


COMPRESS = {
    "gzip": gzip.compress,
    "gzip, level 1": lambda data: gzip.compress(data, 1),
    "gzip, stored": lambda data: gzip.compress(data, 0),
    "gzip, two members": two_members,
    "gzip, zeros at the end": lambda data: gzip.compress(data) + bytes(70_000),
    "bgzip": bgzip,
    "bzip2": bz2.compress,
    "bzip2, level 1": lambda data: bz2.compress(data, 1),
    "bzip2, two streams": lambda data: bz2.compress(data[:999]) + bz2.compress(data[999:], 1),
    "xz": lzma.compress,
    "xz, blocks": xz_blocks,
    "zstd": zstandard.compress,
    "zstd, frames": zstd_frames,
    "zstd, no sizes": lambda data: zstd_frames(data, write_content_size=False),
}
