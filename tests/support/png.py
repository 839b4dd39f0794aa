"""PNG files that Pillow cannot write: every depth, filter, compression, and order of chunks."""

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
#: What a PNG without interlacing can store in up to 8 bits.
KINDS = [(1, GRAY), (2, GRAY), (4, GRAY), (8, GRAY), (8, RGB), (1, PALETTE), (2, PALETTE),
         (4, PALETTE), (8, PALETTE), (8, GRAY_ALPHA), (8, RGB_ALPHA)]  # fmt: skip


def chunk(kind, data=b"", crc=None):
    """One chunk; its checksum is right unless another is given."""
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def header(width, height, depth, color, interlace=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace))


def chunks_of(data):
    """The chunks of a file, as pairs of kind and data."""
    found, at = [], len(SIGNATURE)
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def file_of(chunks):
    """A file of pairs of kind and data."""
    return SIGNATURE + b"".join(chunk(kind, data) for kind, data in chunks)


def filtered(rows, step, filters):
    """Rows of bytes, each after the number of its filter and filtered by it.

    `rows` is (H, n) uint8; `step` is the bytes of a pixel; `filters` has a number for each row.
    """
    rows = rows.astype(np.int64)
    padded = np.pad(rows, ((1, 0), (step, 0)))
    left, above, corner = padded[1:, :-step], padded[:-1, step:], padded[:-1, :-step]
    estimate = left + above - corner
    distances = np.stack([abs(estimate - value) for value in (left, above, corner)])
    paeth = np.choose(distances.argmin(0), [left, above, corner])
    predictions = [0 * rows, left, above, (left + above) // 2, paeth]
    lines = [(row - predictions[f][y]) & 255 for y, (row, f) in enumerate(zip(rows, filters))]
    return b"".join(bytes([f]) + line.astype(np.uint8).tobytes() for f, line in zip(filters, lines))


def pack_rows(values, depth):
    """(H, n) integers of `depth` bits as (H, bytes) uint8, the first one highest."""
    if depth == 8:
        return values.astype(np.uint8)
    bits = values[:, :, None] >> np.arange(depth - 1, -1, -1) & 1
    return np.packbits(bits.reshape(len(values), -1).astype(np.uint8), axis=1)


def compress(data, level=6, strategy=zlib.Z_DEFAULT_STRATEGY, memory=8):
    compressor = zlib.compressobj(level, zlib.DEFLATED, 15, memory, strategy)
    return compressor.compress(data) + compressor.flush()


def write_png(
    values, depth, color, *, filters=None, palette=None, compressed=None, pieces=1, before=b"",
    after=b"", **options
):  # fmt: skip
    """A PNG of (H, W, C) integers.

    `filters` are numbers, one for each row; `compressed` replaces the pixels; `pieces` is how many
    chunks they are cut into; `before` and `after` are chunks around them.
    """
    height, width = values.shape[:2]
    rows = pack_rows(values.reshape(height, -1), depth)
    step = max(1, depth * CHANNELS[color] // 8)
    if compressed is None:
        compressed = compress(filtered(rows, step, filters or [0] * height), **options)
    ends = np.linspace(0, len(compressed), pieces + 1).astype(int)
    data = b"".join(chunk(b"IDAT", compressed[a:b]) for a, b in zip(ends, ends[1:]))
    if color == PALETTE and palette is None:
        palette = bytes(i * 7 % 256 for i in range(3 << depth))
    colors = chunk(b"PLTE", palette) if palette is not None else b""
    return SIGNATURE + header(width, height, depth, color) + colors + before + data + after + chunk(
        b"IEND"
    )  # fmt: skip
