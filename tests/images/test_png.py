"""The native decoder of PNG: the pixels that Pillow gives, or no pixels."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.images import encode, noise, photo
from support.png import (
    CHANNELS,
    GRAY,
    KINDS,
    PALETTE,
    RGB,
    RGB_ALPHA,
    SIGNATURE,
    chunk,
    chunks_of,
    compress,
    file_of,
    filtered,
    header,
    write_png,
)
from support.rendering import UINT8

from imagearchive.errors import DecodeError, ImageArchiveError, LimitError
from imagearchive.images.decode import decode_image, image_size
from imagearchive.images.geometry import Geometry
from imagearchive.images.masks import INDEX, decode_mask
from imagearchive.images.pillow import decode_with_pillow
from imagearchive.images.render import (
    HAVE_JPEG,
    Decoder,
    UnsupportedPngError,
    native_info,
    use_simd,
)

DECODER = Decoder()


@pytest.fixture(params=[True, False], ids=["simd", "plain"])
def simd(request):
    if bool(use_simd(request.param)) != request.param:
        pytest.skip("this processor has no AVX2")
    yield
    use_simd(True)


def random_values(height, width, depth, color, seed=0):
    shape = (height, width, CHANNELS[color])
    rng = np.random.default_rng(seed)
    # Repeated rows and pixels, as drawings have them, beside noise.
    values = rng.integers(0, 1 << depth, shape)
    values[height // 2 :] = values[height // 2 : height // 2 + 1, : width // 3 + 1].max(1)[:, None]
    return values


def expect_pillows(data):
    """Decode natively, and compare with Pillow."""
    expected = decode_with_pillow(data)
    np.testing.assert_array_equal(DECODER.decode(data), expected)
    if native_info(data)[2] == 1:
        indices = decode_with_pillow(data, INDEX)[:, :, 0]
        np.testing.assert_array_equal(DECODER.decode_indices(data), indices)
    return expected


def expect_left_to_pillow(data):
    """Whatever Pillow does with the file, `decode_image` does the same."""
    with pytest.raises(UnsupportedPngError):
        DECODER.decode(data)
    assert outcome(decode_image, data) == outcome(decode_with_pillow, data)


def outcome(decode, data):
    try:
        array = decode(data)
    except ImageArchiveError as error:
        return type(error), str(error)
    return array.shape, array.tobytes()


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("filter_type", range(5))
@pytest.mark.parametrize(("depth", "color"), KINDS)
def test_png_of_every_kind_and_filter_equals_pillow(depth, color, filter_type):
    for width in (1, 2, 3, 7, 8, 9, 31, 64, 67):
        for height in (1, 5):
            values = random_values(height, width, depth, color, width)
            expect_pillows(write_png(values, depth, color, filters=[filter_type] * height))


@settings(max_examples=60)
@given(st.data())
def test_png_of_any_shape_and_compression_equals_pillow(data):
    depth, color = data.draw(st.sampled_from(KINDS))
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 80))
    values = random_values(height, width, depth, color, data.draw(st.integers(0, 99)))
    png = write_png(
        values,
        depth,
        color,
        filters=data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height)),
        pieces=data.draw(st.integers(1, 5)),
        level=data.draw(st.integers(0, 9)),
        strategy=data.draw(st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_FIXED,
                                            zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE])),
        memory=data.draw(st.integers(1, 9)),
    )  # fmt: skip
    whole = expect_pillows(png)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    np.testing.assert_array_equal(region(png, x, y, w, h), whole[y : y + h, x : x + w])


def region(png, x, y, w, h):
    width, height = native_info(png)[:2]
    geometry = Geometry(width, height)
    geometry.crop(x, y, w, h)
    out = np.empty((h, w, 3), np.uint8)
    DECODER.render(png, geometry, UINT8, out)
    return out


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_RLE])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_png_larger_than_the_window_of_deflate_equals_pillow(level, strategy):
    pixels = np.concatenate([photo(300, 200), noise(300, 60), photo(300, 200)])
    filters = [y % 5 for y in range(len(pixels))]
    expect_pillows(
        write_png(pixels, 8, RGB, filters=filters, pieces=9, level=level, strategy=strategy)
    )


def test_png_of_long_rows_equals_pillow():
    for width in (30_000, 60_000):
        pixels = np.tile(noise(width // 2, 6), (1, 2, 1))
        expect_pillows(write_png(pixels, 8, RGB, filters=[0, 4, 2, 3, 1, 4]))


def test_png_with_matches_of_every_distance_equals_pillow():
    rows = []
    for distance in range(1, 40):
        pattern = noise(distance, 1, 1, distance).ravel()
        rows.append(np.tile(pattern, 1 + 700 // distance)[:700])
    expect_pillows(write_png(np.array(rows)[:, :, None], 8, GRAY, level=9))


def test_png_decoder_keeps_nothing_between_images():
    large, small = encode(noise(300, 200), "PNG"), encode(photo(9, 5), "PNG")
    once = DECODER.decode(small)
    expect_pillows(large)
    np.testing.assert_array_equal(DECODER.decode(small), once)


def test_png_written_by_pillow_in_every_mode_is_native():
    picture = Image.fromarray(photo(70, 50))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        for options in ({}, {"optimize": True}, {"compress_level": 1}, {"compress_level": 0}):
            buffer = io.BytesIO()
            picture.convert(mode).save(buffer, "PNG", **options)
            expect_pillows(buffer.getvalue())


def test_png_index_behind_the_palette_is_black_as_by_pillow():
    values = np.arange(256).reshape(8, 32, 1)
    for entries in (1, 2, 100, 255):
        expect_pillows(write_png(values, 8, PALETTE, palette=bytes(range(1, 4)) * entries))


@pytest.mark.parametrize("size", [1, 2, 100, 256])
def test_png_transparency_is_dropped_as_by_pillow(size):
    for alphas in (bytes(size), b"\xff" * (size - 1) + b"\0", bytes(range(size))):
        before = chunk(b"tRNS", alphas)
        expect_pillows(write_png(random_values(9, 9, 8, PALETTE), 8, PALETTE, before=before))
    values = random_values(9, 9, 8, RGB)
    expect_pillows(write_png(values, 8, RGB, before=chunk(b"tRNS", bytes(6))))
    expect_pillows(write_png(values[:, :, :1], 8, GRAY, before=chunk(b"tRNS", bytes(2))))


METADATA = {
    "gamma": (b"gAMA", bytes(4)),
    "chromaticities": (b"cHRM", bytes(32)),
    "srgb": (b"sRGB", b"\0"),
    "resolution": (b"pHYs", bytes(9)),
    "text": (b"tEXt", b"Comment\0text"),
    "text-without-key": (b"tEXt", b"text"),
    "compressed-text": (b"zTXt", b"Comment\0\0" + zlib.compress(b"text" * 99)),
    "damaged-text": (b"zTXt", b"Comment\0\0nothing"),
    "international": (b"iTXt", b"Comment\0\0\0\0\0text"),
    "not-utf-8": (b"iTXt", b"Comment\0\0\0\0\0\xff"),
    "profile": (b"iCCP", b"name\0\0" + zlib.compress(noise(40, 40).tobytes())),
    "exif": (b"eXIf", b"MM\0*\0\0\0\x08\0\0\0\0\0\0"),
    "background": (b"bKGD", bytes(6)),
    "time": (b"tIME", bytes(7)),
    "private": (b"prVt", b"anything"),
    "empty": (b"prVt", b""),
}


@pytest.mark.parametrize("name", METADATA)
def test_png_with_metadata_is_native(name):
    values = random_values(5, 7, 8, RGB)
    extra = chunk(*METADATA[name])
    plain = expect_pillows(write_png(values, 8, RGB))
    for place in ({"before": extra}, {"after": extra}, {"before": extra * 3, "after": extra}):
        np.testing.assert_array_equal(expect_pillows(write_png(values, 8, RGB, **place)), plain)


BOMB = compress(bytes(3 << 20), level=9)
LEFT_TO_PILLOW = {
    "short-gamma": {"before": chunk(b"gAMA", bytes(3))},
    "short-gamma-behind": {"after": chunk(b"gAMA", bytes(3))},
    "short-chromaticities": {"before": chunk(b"cHRM", bytes(31))},
    "empty-srgb": {"before": chunk(b"sRGB")},
    "short-resolution": {"before": chunk(b"pHYs", bytes(8))},
    "huge-profile": {"before": chunk(b"iCCP", b"name\0\0" + BOMB)},
    "profile-without-name": {"before": chunk(b"iCCP", b"name")},
    "unknown-profile": {"before": chunk(b"iCCP", b"name\0\1" + BOMB)},
    "huge-text": {"before": chunk(b"zTXt", b"name\0\0" + BOMB)},
    "huge-texts": {"before": chunk(b"zTXt", b"name\0\0" + compress(bytes(1 << 19))) * 140},
    "compressed-international": {"before": chunk(b"iTXt", b"name\0\1\0\0\0" + BOMB)},
    "critical": {"before": chunk(b"ABCD")},
    "bad-name": {"before": chunk(b"a\xe9cd")},
    "digit-in-name": {"before": chunk(b"ab1d")},
    "second-header": {"before": header(7, 5, 8, RGB)},
    "short-transparency": {"before": chunk(b"tRNS", bytes(5))},
    "animation": {"before": chunk(b"acTL", bytes([0, 0, 0, 1, 0, 0, 0, 0]))},
    "frame": {"before": chunk(b"fcTL", bytes(26))},
    "wrong-checksum": {"before": chunk(b"teXt", b"text", crc=1)},
    "many-chunks": {"before": chunk(b"prVt") * 4000},
    "too-many-chunks": {"before": chunk(b"prVt") * 6000},
    "second-pixels": {"after": chunk(b"teXt") + chunk(b"IDAT", b"more")},
}


@pytest.mark.filterwarnings("ignore:Invalid APNG")
@pytest.mark.parametrize("name", LEFT_TO_PILLOW)
def test_png_of_unusual_chunks_is_left_to_pillow(name):
    expect_left_to_pillow(write_png(random_values(5, 7, 8, RGB), 8, RGB, **LEFT_TO_PILLOW[name]))


@pytest.mark.parametrize("palette", [None, b"", b"ab", bytes(771), bytes(3 * 256 + 1)])
def test_png_palette_of_impossible_size_is_left_to_pillow(palette):
    png = write_png(random_values(5, 7, 8, PALETTE), 8, PALETTE, palette=palette or b"")
    if palette is None:
        png = file_of(pair for pair in chunks_of(png) if pair[0] != b"PLTE")
    with pytest.raises(UnsupportedPngError):
        DECODER.decode(png)
    assert outcome(decode_image, png)[0] == outcome(decode_with_pillow, png)[0]


def test_png_of_rare_kinds_is_left_to_pillow():
    values = random_values(8, 8, 8, RGB)
    sixteen = SIGNATURE + header(4, 8, 16, RGB) + chunk(
        b"IDAT", compress(filtered(values.reshape(8, -1).astype(np.uint8), 6, [0] * 8))
    )  # fmt: skip
    expect_left_to_pillow(sixteen + chunk(b"IEND"))
    passes = noise(64, 1, 1).tobytes() * 9
    expect_left_to_pillow(
        SIGNATURE + header(8, 8, 8, GRAY, 1) + chunk(b"IDAT", compress(passes)) + chunk(b"IEND")
    )
    for depth, color in (
        (3, GRAY),
        (16, PALETTE),
        (4, RGB),
        (8, 1),
        (8, 5),
        (8, 7),
        (2, RGB_ALPHA),
    ):
        data = header(8, 8, depth, color) + chunk(b"IDAT", compress(bytes(999))) + chunk(b"IEND")
        expect_left_to_pillow(SIGNATURE + data)


def test_png_with_a_wrong_end_of_its_stream_is_left_to_pillow():
    values = random_values(5, 7, 8, RGB)
    rows = filtered(values.reshape(5, -1).astype(np.uint8), 3, [0] * 5)
    right = compress(rows)
    for stream in (
        right[:-4] + b"\0\0\0\0",  # the checksum
        right[:-1],
        right[:-5],
        compress(rows + b"\0"),
        compress(rows + bytes(22)),
        compress(rows[:-1]),
        compress(rows[:-22]),
        compress(b""),
        b"",
        right[:1],
        b"\x79" + right[1:],
        right[:1] + b"\xbb" + right[2:],  # with a dictionary
    ):
        expect_left_to_pillow(write_png(values, 8, RGB, compressed=stream))
    expect_pillows(write_png(values, 8, RGB, compressed=right + b"behind it"))


def test_png_with_an_unknown_filter_is_left_to_pillow():
    values = random_values(5, 7, 8, RGB)
    rows = bytearray(filtered(values.reshape(5, -1).astype(np.uint8), 3, [0] * 5))
    rows[-22] = 5
    png = write_png(values, 8, RGB, compressed=compress(bytes(rows)))
    expect_left_to_pillow(png)
    # A part above does not need that row.
    np.testing.assert_array_equal(region(png, 1, 0, 5, 4), values[:4, 1:6])


@pytest.mark.parametrize(("depth", "color"), [(8, RGB), (4, PALETTE)])
def test_png_with_any_byte_changed_gives_what_pillow_gives(depth, color):
    png = write_png(random_values(6, 9, depth, color), depth, color, filters=[0, 1, 2, 3, 4, 4])
    for at in range(len(png)):
        for bit in (1, 128):
            changed = bytearray(png)
            changed[at] ^= bit
            for ours, options in ((decode_image, None), (decode_mask, INDEX)):
                assert_same_kind(ours, bytes(changed), options)


@pytest.mark.parametrize(("depth", "color"), [(8, RGB), (4, PALETTE)])
def test_png_cut_anywhere_gives_what_pillow_gives(depth, color):
    png = write_png(random_values(6, 9, depth, color), depth, color, pieces=3)
    for size in range(len(png)):
        assert_same_kind(decode_image, png[:size], None)
        assert_same_kind(decode_mask, png[:size], INDEX)


def assert_same_kind(ours, data, options):
    result = outcome(ours, data)
    expected = outcome(lambda data: decode_with_pillow(data, options), data)
    if options is INDEX and isinstance(expected[0], tuple):
        expected = expected[0][:2], expected[1]
    assert result == expected


def test_png_codes_that_are_not_complete_are_left_to_pillow():
    """Mutations of the tables of deflate, with right checksums around them."""
    values = random_values(20, 30, 8, RGB)
    rows = filtered(values.reshape(20, -1).astype(np.uint8), 3, [1] * 20)
    stream = compress(rows)
    native = 0
    for at in range(2, 60):
        for bit in range(8):
            changed = bytearray(stream)
            changed[at] ^= 1 << bit
            png = write_png(values, 8, RGB, compressed=bytes(changed))
            try:
                DECODER.decode(png)
                native += 1
            except UnsupportedPngError:
                assert outcome(decode_image, png)[0] == outcome(decode_with_pillow, png)[0]
    assert native == 0


def test_png_that_promises_more_than_its_bytes_is_refused_without_allocation():
    small = chunk(b"IDAT", compress(bytes(100)))
    png = SIGNATURE + header(12_000, 12_000, 8, RGB) + small + chunk(b"IEND")
    geometry = Geometry(12_000, 12_000)
    geometry.crop(0, 11_990, 9, 9)
    with pytest.raises(UnsupportedPngError):
        DECODER.render(png, geometry, UINT8, np.empty((9, 9, 3), np.uint8))


def test_png_above_max_pixels_is_a_limit_error():
    png = encode(photo(60, 50), "PNG")
    mask = encode(noise(60, 50, 1), "PNG")
    for decode, data in ((decode_image, png), (decode_mask, mask)):
        with pytest.raises(LimitError, match="60 x 50"):
            decode(data, Decoder(2999))
        assert decode(data, Decoder(3000)).shape[:2] == (50, 60)
    geometry = Geometry(60, 50)
    with pytest.raises(UnsupportedPngError):
        Decoder(2999).render(png, geometry, UINT8, np.empty((50, 60, 3), np.uint8))


def test_png_and_jpeg_images_are_rendered_together():
    second = "JPEG" if HAVE_JPEG else "PNG"
    files = [encode(photo(40, 30, n), fmt) for n, fmt in enumerate(("PNG", second, "PNG"))]
    geometries = []
    for _ in files:
        geometries.append(Geometry(40, 30))
        geometries[-1].crop(5, 6, 20, 10)
    expected = np.stack([DECODER.decode(data)[6:16, 5:25] for data in files])
    out = np.empty((3, 10, 20, 3), np.uint8)
    DECODER.render_images(files, geometries, UINT8, out)
    np.testing.assert_array_equal(out, expected)
    with pytest.raises(DecodeError):
        DECODER.render_images([files[1], files[0][:-30], files[2]], geometries, UINT8, out)


def test_png_geometry_of_another_size_is_refused():
    png = encode(photo(40, 30), "PNG")
    with pytest.raises(DecodeError):
        DECODER.render(png, Geometry(41, 30), UINT8, np.empty((30, 41, 3), np.uint8))


def test_png_orientation_is_unknown_with_metadata_only():
    plain = write_png(random_values(5, 7, 8, RGB), 8, RGB)
    assert native_info(plain) == (7, 5, 3, 1)
    assert image_size(plain) == (7, 5)
    for place in ("before", "after"):
        for name in ("exif", "text", "compressed-text", "international"):
            png = write_png(random_values(5, 7, 8, RGB), 8, RGB, **{place: chunk(*METADATA[name])})
            assert native_info(png) == (7, 5, 3, 0)
    assert native_info(b"\x89PNG") is None
    assert native_info(b"") is None


def test_decode_indices_refuses_images_of_several_channels():
    for data in (encode(photo(9, 9), "PNG"), encode(photo(9, 9), "JPEG", mode="L"), b""):
        with pytest.raises(UnsupportedPngError):
            DECODER.decode_indices(data)
