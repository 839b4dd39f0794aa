"""JPEGs written coefficient by coefficient, with any Huffman codes."""

from dataclasses import dataclass

#: The size of a value's bits and the run of zeros before it, in one byte.
AC_SYMBOLS = [run << 4 | size for run in range(16) for size in range(12)]
AC_SYMBOLS = [symbol for symbol in AC_SYMBOLS if symbol & 15 or symbol in (0x00, 0xF0)]
DC_SYMBOLS = list(range(12))


@dataclass(frozen=True)
class Code:
    """A Huffman code: a bit string for each symbol.

    The first `short` symbols have codes of 1, 2, 3... bits; all others have 16 bits.
    """

    symbols: list[int]
    short: int

    @property
    def lengths(self):
        short = min(self.short, len(self.symbols))
        return [*range(1, short + 1), *[16] * (len(self.symbols) - short)]

    def strings(self):
        """The bit string of each symbol."""
        found, code, before = {}, 0, 0
        for symbol, length in zip(self.symbols, self.lengths):
            code <<= length - before
            found[symbol] = format(code, f"0{length}b")
            code, before = code + 1, length
        return found

    def segment(self, number):
        counts = bytes(self.lengths.count(length) for length in range(1, 17))
        return bytes([number]) + counts + bytes(self.symbols)


def segment(marker, data):
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data


def value_bits(value):
    """The bits of a value: a negative one is written as its complement."""
    size = abs(value).bit_length()
    return format(value if value > 0 else value + (1 << size) - 1, f"0{size}b") if size else ""


def block_bits(dc_difference, runs, dc, ac):
    """The bits of a block; `runs` are (zeros before, value) of its other coefficients."""
    bits = dc[abs(dc_difference).bit_length()] + value_bits(dc_difference)
    filled = 1
    for zeros, value in runs:
        filled += zeros + 1
        while zeros > 15:
            bits += ac[0xF0]
            zeros -= 16
        bits += ac[zeros << 4 | abs(value).bit_length()] + value_bits(value)
    return bits if filled >= 64 else bits + ac[0x00]


def scan_data(bits):
    """Bits as bytes: filled up with ones, and with a zero after each 0xff."""
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big") if bits else b""
    return data.replace(b"\xff", b"\xff\x00")


def write_jpeg(size, sampling, mcus, dc, ac, *, restart=0, tables=(0, 0)):
    """A JPEG of (width, height) pixels.

    `sampling` has (h, v) of each component, `mcus` the bits of each MCU, `dc` and `ac` are the
    codes, and `tables` are their numbers.
    """
    width, height = size
    components = range(1, len(sampling) + 1)
    frame = b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([len(sampling)])
    for number, (h, v) in zip(components, sampling):
        frame += bytes([number, h << 4 | v, 0])
    scan = bytes([len(sampling)])
    for number in components:
        scan += bytes([number, tables[0] << 4 | tables[1]])
    step = restart or len(mcus)
    parts = [scan_data("".join(mcus[at : at + step])) for at in range(0, len(mcus), step)]
    data = parts[0]
    for number, part in enumerate(parts[1:]):
        data += bytes([0xFF, 0xD0 + number % 8]) + part
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, b"\x00" + b"\x01" * 64),
            segment(0xC1, frame),
            segment(0xC4, dc.segment(tables[0])),
            segment(0xC4, ac.segment(0x10 | tables[1])),
            segment(0xDD, restart.to_bytes(2, "big")),
            segment(0xDA, scan + b"\x00\x3f\x00"),
            data,
            b"\xff\xd9",
        ]
    )
