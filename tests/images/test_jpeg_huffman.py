"""Huffman codes of JPEGs: the same pixels as from Pillow, by the fast decoder where it can."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.images import decode_by_pillow, encode, noise, photo
from support.jpeg import AC_SYMBOLS, DC_SYMBOLS, Code, block_bits, write_jpeg
from support.rendering import UINT8, needs_jpeg, render_jpeg, resize

from imagearchive.errors import DecodeError
from imagearchive.images.geometry import Geometry
from imagearchive.images.render import Decoder

pytestmark = needs_jpeg

SAMPLINGS = {
    "gray": [(1, 1)],
    "4:4:4": [(1, 1)] * 3,
    "4:2:2": [(2, 1), (1, 1), (1, 1)],
    "4:2:0": [(2, 2), (1, 1), (1, 1)],
    "4:1:1": [(4, 1), (1, 1), (1, 1)],
}


def regions(width, height):
    """Corners, edges, and the middle."""
    for x in (0, width // 3, width - 1 - width // 5):
        for y in (0, height // 3, height - 1 - height // 5):
            yield x, y, max(1, width // 5), max(1, height // 5)


def check_regions(data, decoder):
    """Compare the whole image and parts of it with what Pillow decodes."""
    expected = decode_by_pillow(data)
    np.testing.assert_array_equal(decoder.decode(data), expected)
    count = 1
    for x, y, w, h in regions(expected.shape[1], expected.shape[0]):
        geometry = Geometry(expected.shape[1], expected.shape[0])
        geometry.crop(x, y, w, h)
        out = np.empty((h, w, 3), np.uint8)
        decoder.render(data, geometry, UINT8, out)
        np.testing.assert_array_equal(out, expected[y : y + h, x : x + w])
        count += 1
    return count


@pytest.mark.parametrize(("make", "quality"), [(photo, 93), (noise, 60)])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", None])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_blocks": 7}], ids=str)
def test_fast_decoder_of_photographs_equals_pillow(make, quality, subsampling, options):
    # Large enough for the tables that skip several symbols at once.
    mode = "RGB" if subsampling else "L"
    sampling = {"subsampling": subsampling} if subsampling else {}
    data = encode(make(253, 197), quality=quality, mode=mode, **sampling, **options)
    decoder = Decoder()
    for _ in range(3):
        before = decoder.fast_jpegs
        count = check_regions(data, decoder)
        assert decoder.fast_jpegs == before + count


COEFFICIENT = st.tuples(
    st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 62)),
    st.one_of(st.integers(-3, 3), st.integers(-40, 40), st.integers(-2047, 2047)).filter(bool),
)


def fitting(runs):
    """As many of the coefficients as fit into a block."""
    kept, filled = [], 1
    for zeros, value in runs:
        filled += zeros + 1
        if filled > 64:
            break
        kept.append((zeros, value))
    return kept


BLOCK = st.one_of(
    st.lists(COEFFICIENT, max_size=6).map(fitting),
    # Without an end.
    st.lists(st.integers(-3, 3).filter(bool), min_size=63, max_size=63).map(
        lambda values: [(0, value) for value in values]
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(sorted(SAMPLINGS)), st.integers(0, 3))
def test_fast_decoder_of_any_codes_equals_pillow(data, kind, restart):
    sampling = SAMPLINGS[kind]
    dc = Code(data.draw(st.permutations(DC_SYMBOLS)), data.draw(st.integers(0, 8)))
    ac = Code(data.draw(st.permutations(AC_SYMBOLS)), data.draw(st.integers(0, 8)))
    dc_strings, ac_strings = dc.strings(), ac.strings()
    columns, rows = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    patterns = data.draw(st.lists(st.tuples(st.integers(-300, 300), BLOCK), min_size=1, max_size=5))
    blocks = [block_bits(*pattern, dc_strings, ac_strings) for pattern in patterns]
    per_mcu = sum(h * v for h, v in sampling)
    mcus = [
        "".join(blocks[(mcu * 3 + i) % len(blocks)] for i in range(per_mcu))
        for mcu in range(columns * rows)
    ]
    h, v = sampling[0]
    size = columns * 8 * h - data.draw(st.integers(0, 7)), rows * 8 * v
    file = write_jpeg(size, sampling, mcus, dc, ac, restart=restart)
    decoder = Decoder()
    # 4:1:1 is cropped where it is not interpolated, as all kinds of chroma but 4:2:0 and 4:2:2.
    count = check_regions(file, decoder)
    assert decoder.fast_jpegs == count


def test_fast_decoder_of_codes_that_change_equals_pillow():
    # Of each code, enough is skipped for the tables that skip several symbols at once.
    dc, decoder, count = Code(DC_SYMBOLS, 4), Decoder(), 0
    first = list(AC_SYMBOLS)
    late = [*first[:100], *reversed(first[100:])]
    for symbols, short in [(first, 8), (late, 8), (late[::-1], 8), (late[::-1], 5)]:
        ac = Code(symbols, short)
        patterns = [
            [(0, 3), (0, -1), (1, 2), (0, 1), (2, -7), (0, 30), (15, 1)],
            [(0, -2), (3, 1), (0, 1), (0, 9), (10, -4), (20, 12)],
        ]
        blocks = [
            block_bits(i, runs, dc.strings(), ac.strings()) for i, runs in enumerate(patterns)
        ]
        count += check_regions(write_jpeg((160, 160), [(1, 1)], blocks * 200, dc, ac), decoder)
        assert decoder.fast_jpegs == count


DC, AC = Code(DC_SYMBOLS, 4), Code(AC_SYMBOLS, 0)
ORDINARY = block_bits(5, [(0, 3), (20, -7)], DC.strings(), AC.strings())
# The largest values, with codes of 16 bits.
LARGEST = [
    block_bits(sign * 2047, [(0, 2047), (0, -2047)] * 31 + [(0, 1)], DC.strings(), AC.strings())
    for sign in (1, -1)
]
BRIGHT = block_bits(2047, [], DC.strings(), AC.strings())


def gray(mcus, **options):
    return write_jpeg((8 * len(mcus), 8), [(1, 1)], mcus, DC, AC, **options)


def test_fast_decoder_of_the_longest_symbols_equals_pillow():
    decoder = Decoder()
    check_regions(gray([*LARGEST, ORDINARY] * 3), decoder)
    assert decoder.fast_jpegs == 10


def test_fast_decoder_of_ends_with_a_run_equals_pillow():
    # Of symbols without a value, libjpeg looks at the run only if it is 15.
    ac = Code([0x30, 0x01, 0x00, 0x12], 4)
    strings = ac.strings()
    block = block_bits(3, [(0, 1)], DC.strings(), strings)
    assert block.endswith(strings[0x00])
    block = block.removesuffix(strings[0x00]) + strings[0x30]
    file = write_jpeg(
        (320, 8), [(1, 1)], [block, block_bits(-2, [(1, 3)], DC.strings(), strings)] * 20, DC, ac
    )
    decoder = Decoder()
    check_regions(file, decoder)
    assert decoder.fast_jpegs == 10


@pytest.mark.parametrize("factors", [(2, 1), (1, 2), (2, 2), (3, 1)])
def test_fast_decoder_of_gray_with_sampling_factors_equals_pillow(factors):
    # The file has one block after another, as if the factors were 1.
    blocks = [block_bits(i - 3, [(i, 9 - i)], DC.strings(), AC.strings()) for i in range(7)]
    file = write_jpeg((240, 48), [factors], (blocks * 26)[:180], DC, AC)
    decoder = Decoder()
    check_regions(file, decoder)
    assert decoder.fast_jpegs == 10


def mark(data, before, after):
    """Replace restart marker `before`."""
    assert data.count(bytes([0xFF, before])) == 1
    return data.replace(bytes([0xFF, before]), after)


RESTARTS = gray([ORDINARY] * 12, restart=4)

UNUSUAL = {
    "bytes before a restart marker": mark(RESTARTS, 0xD1, b"ten bytes.\xff\xd1"),
    "a byte before a restart marker": mark(RESTARTS, 0xD1, b"x\xff\xd1"),
    "fill bytes before a restart marker": mark(RESTARTS, 0xD1, b"\xff\xff\xd1"),
    "zeros behind the block": gray([ORDINARY, DC.strings()[0] + AC.strings()[0xF0] * 4, ORDINARY]),
    "a coefficient behind the block": gray(
        [ORDINARY, DC.strings()[0] + AC.strings()[0xF0] * 3 + AC.strings()[0xF1] + "1", ORDINARY]
    ),
    "a brightness that overflows": gray([BRIGHT] * 40),
    "tables 2 and 3": gray([ORDINARY] * 9, tables=(2, 3)),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_data_is_left_to_libjpeg(name):
    data = UNUSUAL[name]
    decoder = Decoder()
    try:
        expected = decode_by_pillow(data)
    except OSError:
        expected = None
    if expected is None:
        with pytest.raises(DecodeError):
            decoder.decode(data)
    else:
        np.testing.assert_array_equal(decoder.decode(data), expected)
    assert decoder.fast_jpegs == 0
    # The same decoder goes on.
    check_regions(encode(photo(40, 30)), decoder)
    assert decoder.fast_jpegs == 10


DAMAGED = {
    "another restart marker": (mark(RESTARTS, 0xD1, b"\xff\xd2"), "found marker 0xd2"),
    "no restart marker": (mark(RESTARTS, 0xD1, b""), "found marker 0xd9"),
    "an early restart marker": (
        gray([ORDINARY[:-9], *[ORDINARY] * 8], restart=1),
        "premature end of data segment",
    ),
    "an early end": (gray([*[ORDINARY] * 8, ORDINARY[:-9]]), "premature end of data segment"),
    "an unused code": (gray([ORDINARY, "1" * 30, ORDINARY]), "bad Huffman code"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_codes_raise_what_libjpeg_says(name):
    data, message = DAMAGED[name]
    decoder = Decoder()
    with pytest.raises(DecodeError, match=message):
        decoder.decode(data)
    assert decoder.fast_jpegs == 0


def test_fast_jpegs_of_a_truncated_image_stays():
    decoder = Decoder()
    with pytest.raises(DecodeError, match="truncated"):
        decoder.decode(encode(photo(40, 30))[:-2])
    assert decoder.fast_jpegs == 0


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("divide", [2, 4, 8])
def test_scaled_decoding_equals_pillows_draft(mode, divide):
    data = encode(photo(480, 320), quality=95, mode=mode)
    size = 480 // divide, 320 // divide
    with Image.open(io.BytesIO(data)) as image:
        image.draft(mode, size)
        assert image.size == size
        expected = np.asarray(image.convert("RGB"))
    geometry = Geometry(480, 320)
    geometry.min_reduction = 1.0
    geometry.resize(*size)
    np.testing.assert_array_equal(render_jpeg(data, geometry), expected)
    # A part.
    geometry = Geometry(480, 320)
    geometry.min_reduction = 1.0
    geometry.resize(20, 10, (160, 80, 160 + 20 * divide, 80 + 10 * divide))
    x, y = 160 // divide, 80 // divide
    expected = resize(expected, (20, 10), "bilinear", (x, y, x + 20, y + 10))
    np.testing.assert_array_equal(render_jpeg(data, geometry), expected)


@pytest.mark.parametrize("luma", [(4, 2), (2, 4)])
def test_scaled_region_of_unevenly_sampled_chroma_equals_the_whole(luma):
    # At half the size, the inverse transform scales chroma up in one direction only.
    h, v = luma
    blocks = [block_bits(40 * i - 100, [(i, 30 - i)], DC.strings(), AC.strings()) for i in range(6)]
    count = (h * v + 2) * (40 // h) * (16 // v)
    data = write_jpeg(
        (320, 128), [luma, (1, 1), (1, 1)], [blocks[i * i % 6] for i in range(count)], DC, AC
    )

    def render(x, y, width, height):
        geometry = Geometry(320, 128)
        geometry.min_reduction = 1.0
        geometry.resize(width, height, (2 * x, 2 * y, 2 * (x + width), 2 * (y + height)))
        return render_jpeg(data, geometry)

    whole = render(0, 0, 160, 64)
    for x, y in [(20, 0), (40, 30), (60, 50)]:
        np.testing.assert_array_equal(render(x, y, 99, 8), whole[y : y + 8, x : x + 99])


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7), st.booleans())
def test_flipped_bit_of_a_large_jpeg_equals_pillow(place, bit, restarts):
    data = bytearray(LARGE[restarts])
    start = data.index(b"\xff\xda") + 14
    data[start + int(place * (len(data) - start - 2))] ^= 1 << bit
    try:
        expected = decode_by_pillow(bytes(data))
    except OSError:
        return
    height, width = expected.shape[:2]
    decoder = Decoder()
    for x, y, w, h in regions(width, height):
        geometry = Geometry(width, height)
        geometry.crop(x, y, w, h)
        out = np.empty((h, w, 3), np.uint8)
        try:
            decoder.render(bytes(data), geometry, UINT8, out)
        except DecodeError:
            continue
        np.testing.assert_array_equal(out, expected[y : y + h, x : x + w])


LARGE = [
    encode(photo(300, 260), quality=94, **options)
    for options in ({}, {"restart_marker_rows": 1, "optimize": True})
]
