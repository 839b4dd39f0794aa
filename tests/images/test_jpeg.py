"""JPEGs, whole and by regions, against Pillow; damage and limits."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.images import decode_by_pillow, encode, photo
from support.paths import GOLDEN
from support.rendering import UINT8, add_steps, needs_jpeg, render_jpeg, resize

from imagearchive.errors import DecodeError, LimitError, OptionError
from imagearchive.images.geometry import Geometry
from imagearchive.images.pillow import decode_with_pillow
from imagearchive.images.render import HAVE_JPEG, JPEG_VERSION, Decoder, jpeg_info

JPEGS = sorted((GOLDEN / "jpeg").glob("*.jpg"))


SIDES = st.one_of(st.sampled_from([1, 2, 3, 8, 15, 16, 17, 33]), st.integers(1, 120))


KINDS = [
    {"mode": "RGB", "subsampling": "4:4:4"},
    {"mode": "RGB", "subsampling": "4:2:2"},
    {"mode": "RGB", "subsampling": "4:2:0"},
    {"mode": "L"},
    {"mode": "CMYK"},
]


@needs_jpeg
@settings(max_examples=200)
@given(
    SIDES, SIDES, st.sampled_from(KINDS), st.booleans(), st.integers(0, 2),
    st.tuples(*[st.floats(0, 1)] * 4), st.integers(0, 1000),
)  # fmt: skip
def test_render_region_equals_cut_from_whole(width, height, kind, progressive, restart, part, seed):
    data = encode(
        photo(width, height, seed), progressive=progressive, restart_marker_rows=restart,
        quality=80, **kind,
    )  # fmt: skip
    whole = Decoder().decode(data)
    np.testing.assert_array_equal(whole, decode_by_pillow(data))
    geometry = Geometry(width, height)
    expected = add_steps(geometry, whole, [("crop", *part)])
    np.testing.assert_array_equal(render_jpeg(data, geometry), expected)
    # Resizing a part sees the same pixels as resizing the decoded array.
    geometry = Geometry(width, height)
    x, y = int(part[0] * (width - 1)), int(part[1] * (height - 1))
    box = (x, y, x + 1 + int(part[2] * (width - x - 1)), y + 1 + int(part[3] * (height - y - 1)))
    geometry.resize(29, 23, box)
    geometry.crop(3, 5, 20, 11)
    geometry.flip_x()
    expected = resize(whole, (29, 23), "bilinear", box)[5:16, 3:23][:, ::-1]
    np.testing.assert_array_equal(render_jpeg(data, geometry), expected)


@needs_jpeg
@pytest.mark.parametrize("path", JPEGS, ids=lambda path: path.stem)
def test_render_region_of_unusual_sampling(path):
    data = path.read_bytes()
    whole = Decoder().decode(data)
    assert abs(whole.astype(int) - decode_by_pillow(data)).max() <= 1
    height, width = whole.shape[:2]
    rng = np.random.default_rng(0)
    for _ in range(60):
        geometry = Geometry(width, height)
        expected = add_steps(geometry, whole, [("crop", *rng.random(4))])
        np.testing.assert_array_equal(render_jpeg(data, geometry), expected)


@needs_jpeg
def test_render_crop_inside_padding_is_fill():
    data = encode(photo(40, 30))
    geometry = Geometry(40, 30)
    geometry.pad(50, 0, 0, 0, (1, 2, 3))
    geometry.crop(5, 3, 20, 10)
    assert (render_jpeg(data, geometry) == (1, 2, 3)).all()


@needs_jpeg
def test_render_scaled_only_with_min_reduction():
    data = encode(photo(640, 480), quality=92)
    whole = Decoder().decode(data)
    expected = resize(whole, (70, 50), "bilinear", None).astype(int)
    out = np.empty((50, 70, 3), np.uint8)
    for min_reduction, bound in ((0.0, 0.0), (3.0, 0.5), (1.0, 3.0)):
        geometry = Geometry(640, 480)
        geometry.resize(70, 50)
        geometry.min_reduction = min_reduction
        Decoder().render(data, geometry, UINT8, out)
        assert abs(out - expected).mean() <= bound


@needs_jpeg
def test_render_images_equals_render():
    sizes = [(40, 30), (17, 33), (64, 90)]
    files = [encode(photo(*size), quality=90, progressive=size[1] == 90) for size in sizes]
    places = []
    for file in files:
        geometry = Geometry(*jpeg_info(file)[:2])
        geometry.resize(8, 6)
        places.append(geometry)
    decoder = Decoder()
    one, many = np.zeros((2, 3, 6, 8, 3), np.uint8)
    for file, geometry, out in zip(files, places, one):
        decoder.render(file, geometry, UINT8, out)
    decoder.render_images(files, places, UINT8, many)
    np.testing.assert_array_equal(many, one)
    with pytest.raises(OptionError, match=r"images need . geometries"):
        decoder.render_images(files, places[:2], UINT8, many)
    with pytest.raises(OptionError, match="images need an output"):
        decoder.render_images(files[:2], places[:2], UINT8, many)
    with pytest.raises(TypeError):
        decoder.render_images(["a", "b", "c"], places, UINT8, many)
    with pytest.raises(DecodeError):
        decoder.render_images([files[0], files[1][:-150], files[2]], places, UINT8, many)
    # The decoder is still good.
    decoder.render_images(files, places, UINT8, many)
    np.testing.assert_array_equal(many, one)


@needs_jpeg
def test_decode_truncated_raises():
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        data = encode(photo(90, 70), quality=85, **options)
        decoder = Decoder()
        geometry = Geometry(90, 70)
        geometry.crop(0, 0, 90, 8)  # the top alone: the rest is not decoded
        out = np.empty((8, 90, 3), np.uint8)
        cuts = [*range(0, 700, 41), *range(700, len(data), 97), len(data) - 2, len(data) - 1]
        for cut in cuts:
            with pytest.raises(DecodeError):
                decoder.decode(data[:cut])
            with pytest.raises(DecodeError):
                decoder.render(data[:cut], geometry, UINT8, out)
        # The same decoder goes on.
        np.testing.assert_array_equal(decoder.decode(data), decode_by_pillow(data))
        decoder.render(data, geometry, UINT8, out)
        np.testing.assert_array_equal(out, decode_by_pillow(data)[:8])


@needs_jpeg
@pytest.mark.parametrize("progressive", [False, True])
def test_decode_damaged_raises_or_equals_pillow(progressive):
    data = encode(photo(80, 60), quality=85, progressive=progressive)
    # Damaged headers mean different things to different releases of libjpeg-turbo; the data
    # of the scan do not. A progressive file has headers between its scans.
    start = data.index(b"\xff\xda") + 14
    rng = np.random.default_rng(4)
    decoder, errors, same, other = Decoder(), 0, 0, 0
    for turn in range(500):
        broken = bytearray(data)
        at = int(rng.integers(2 if turn % 3 == 0 else start, len(data)))
        broken[at] ^= 1 << int(rng.integers(8))
        broken = bytes(broken)
        try:
            ours = decoder.decode(broken)
        except (DecodeError, LimitError):
            errors += 1
            continue
        try:
            theirs = decode_by_pillow(broken)
        except OSError:
            assert at < start or progressive
            continue
        if np.array_equal(ours, theirs):
            same += 1
        else:
            assert at < start or progressive
            other += 1
    assert errors > 10
    assert same > 50
    assert other < 5
    np.testing.assert_array_equal(decoder.decode(data), decode_by_pillow(data))


@needs_jpeg
def test_decode_premature_end_raises():
    """Blocks replaced by an early end-of-image: Pillow goes on with gray, we do not."""
    data = encode(photo(200, 150), quality=85)
    cut = data[: len(data) // 2] + b"\xff\xd9"
    with pytest.raises(DecodeError, match="premature end"):
        Decoder().decode(cut)


@needs_jpeg
def test_decode_ignores_bytes_between_and_after():
    data = encode(photo(64, 48))
    whole = decode_by_pillow(data)
    np.testing.assert_array_equal(Decoder().decode(data + b"\0" * 100), whole)
    np.testing.assert_array_equal(Decoder().decode(data[:-2] + b"\0\0" + data[-2:]), whole)
    thumbnail = encode(photo(8, 8))
    comment = b"\xff\xfe" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    with_thumbnail = data[:2] + comment + data[2:]
    np.testing.assert_array_equal(Decoder().decode(with_thumbnail), whole)
    with pytest.raises(DecodeError):
        Decoder().decode(with_thumbnail[:-40])


@needs_jpeg
def test_decode_max_pixels():
    data = encode(photo(64, 48))
    with pytest.raises(LimitError, match="max_pixels"):
        Decoder(64 * 48 - 1).decode(data)
    with pytest.raises(LimitError, match="max_pixels"):
        out = np.empty((48, 64, 3), np.uint8)
        Decoder(64 * 48 - 1).render(data, Geometry(64, 48), UINT8, out)
    assert Decoder(64 * 48).decode(data).shape == (48, 64, 3)
    assert Decoder(None).decode(data).shape == (48, 64, 3)
    # A small file that claims to be huge allocates nothing.
    at = data.index(b"\xff\xc0") + 5
    huge = data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]
    with pytest.raises(LimitError):
        Decoder().decode(huge)
    with pytest.raises(DecodeError, match="contradicts"):
        Decoder().render(data, Geometry(63, 48), UINT8, np.empty((48, 63, 3), np.uint8))


@needs_jpeg
def test_decode_scans_are_limited_by_pixels():
    """490 scans of a large image took half a minute, natively and by Pillow."""
    data = encode(np.zeros((4096, 4096, 3), np.uint8), progressive=True)
    start = data.index(b"\xff\xda")
    end = data.index(b"\xff\xc4", start)
    many = data[:start] + data[start:end] * 80 + data[end:]
    few = data[:start] + data[start:end] * 3 + data[end:]
    for decoder in (Decoder().decode, decode_with_pillow):
        assert decoder(few).shape[:2] == (4096, 4096)
        with pytest.raises(DecodeError, match="scans"):
            decoder(many)


@needs_jpeg
def test_decode_refuses_thousands_of_scans():
    data = encode(photo(32, 24), progressive=True)
    start = data.index(b"\xff\xda")
    end = data.index(b"\xff\xc4", start)
    assert start < end
    scan = data[start:end]
    with pytest.raises(DecodeError, match="scans"):
        Decoder().decode(data[:start] + scan * 2000 + data[end:])
    assert Decoder().decode(data[:start] + scan * 3 + data[end:]).shape == (24, 32, 3)


def test_decode_not_a_jpeg():
    with pytest.raises(DecodeError, match="not a JPEG"):
        Decoder().decode(b"GIF89a")


@needs_jpeg
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("width", [32, 33, 40])
def test_decode_equals_pillow_wherever_the_result_is(width, mode):
    data = encode(photo(width, 21, 3), mode=mode)
    expected, decoder = decode_by_pillow(data), Decoder()
    # They are kept, so they begin at addresses with different remainders.
    results = [decoder.decode(data) for _ in range(16)]
    for result in results:
        np.testing.assert_array_equal(result, expected)


@needs_jpeg
def test_decoder_in_threads():
    files = [encode(photo(150 + i, 120, i)) for i in range(6)]
    expected = [decode_by_pillow(data) for data in files]
    failures = []

    def work(decoder):
        for turn in range(20):
            i = turn % len(files)
            if not np.array_equal(decoder.decode(files[i]), expected[i]):
                failures.append(i)

    pool = [threading.Thread(target=work, args=(Decoder(),)) for _ in range(8)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert not failures

    shared, refused = Decoder(), []

    def share():
        for turn in range(30):
            i = turn % len(files)
            try:
                if not np.array_equal(shared.decode(files[i]), expected[i]):
                    failures.append(i)
            except OptionError as error:
                refused.append(error)

    pool = [threading.Thread(target=share) for _ in range(4)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert not failures
    np.testing.assert_array_equal(shared.decode(files[0]), expected[0])


def test_jpeg_info_size_components_and_orientation():
    for width, height in ((1, 1), (640, 3), (3, 640)):
        assert jpeg_info(encode(photo(width, height))) == (width, height, 3, 1)
    assert jpeg_info(encode(photo(9, 7), mode="L"))[2] == 1
    assert jpeg_info(encode(photo(9, 7), mode="CMYK"))[2] == 4
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(photo(20, 10), exif=exif)
        assert jpeg_info(data) == (20, 10, 3, orientation)
        assert jpeg_info(memoryview(data)) == (20, 10, 3, orientation)
    assert jpeg_info(b"") is None
    assert jpeg_info(b"\x89PNG\r\n\x1a\n") is None
    with pytest.raises(DecodeError):
        jpeg_info(encode(photo(9, 7))[:20])


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_jpeg_info_of_random_bytes(rubbish):
    for data in (rubbish, b"\xff\xd8\xff\xe1\x00\x20Exif\0\0" + rubbish):
        try:
            found = jpeg_info(data)
        except DecodeError:
            continue
        assert found is None or (found[0] > 0 and found[1] > 0 and 1 <= found[3] <= 8)


def test_jpeg_version():
    assert bool(JPEG_VERSION) == HAVE_JPEG
