"""A gzip file that decompresses to itself, after Russ Cox, "Zip Files All The Way Down" (2010)."""

import struct
import zlib

# Everything is made of units of five bytes.
UNIT = 5


def literal(units):
    """Return a stored block that outputs the next units."""
    size = UNIT * units
    return struct.pack("<BHH", 0, size, size ^ 0xFFFF)


def repeat_four():
    """Return a block of five bytes that outputs the last four units again, by two matches."""
    # Bits from the lowest on, codes of the fixed tables from their highest: length 10, distance 20.
    match = "0001000" + "01000" + "110"
    bits = "010" + 2 * match + "0000000"
    return int(bits[::-1], 2).to_bytes(UNIT, "little")


def quine():
    """Return the file."""
    size = 0
    for _ in range(2):
        data = _assemble(0, size)
        size = len(data)
    # The checksum of the file is an affine function of the one that it contains.
    constant = zlib.crc32(_assemble(0, size))
    rows = [(zlib.crc32(_assemble(1 << bit, size)) ^ constant) ^ (1 << bit) for bit in range(32)]
    crc = _solve(rows, constant)
    return _assemble(crc, size)


def _assemble(crc, size):
    prefix = b"\x1f\x8b\x08\x08" + bytes(4) + b"\0\xff" + b"quin\0"
    suffix = b"\x01\0\0\xff\xff" + struct.pack("<II", crc, size) + b"\0\0"
    l0, l1, l4, r4 = literal(0), literal(1), literal(4), repeat_four()
    parts = [prefix, l4, prefix, l4, r4, l1, r4, l1, l1, l4, r4, l1, l1, l4, r4]
    parts += [l4, r4, l4, r4, l4, r4, l4, r4, l0, l0, l4, r4, l0, l0, l4, r4, suffix, r4, suffix]
    return b"".join(parts)


def _solve(columns, constant):
    """Return the combination of columns that gives a constant, over the field of two elements."""
    basis = {}
    for bit, column in enumerate(columns):
        value, used = column, 1 << bit
        while value and value.bit_length() in basis:
            other, others = basis[value.bit_length()]
            value, used = value ^ other, used ^ others
        if value:
            basis[value.bit_length()] = value, used
    found = 0
    while constant:
        value, used = basis[constant.bit_length()]
        constant, found = constant ^ value, found ^ used
    return found
