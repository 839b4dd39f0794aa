"""JPEG regions, resampling, normalisation and random streams, against Pillow and NumPy."""

import io
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.paths import GOLDEN

from imagearchive.errors import DecodeError, LimitError, OptionError, OptionTypeError
from imagearchive.images import render as _pixels
from imagearchive.images.geometry import FILTERS, Geometry, OutputFormat
from imagearchive.images.random import Stream, philox_block
from imagearchive.images.render import (
    HAVE_JPEG,
    Decoder,
    convert_array,
    convert_arrays,
    jpeg_info,
    use_simd,
)

JPEGS = sorted((GOLDEN / "jpeg").glob("*.jpg"))
UINT8_FORMAT = OutputFormat("uint8")
SIDES = st.one_of(st.sampled_from([1, 2, 3, 8, 15, 16, 17, 33]), st.integers(1, 120))
needs_jpeg = pytest.mark.skipif(not HAVE_JPEG, reason="built without libjpeg-turbo")


@pytest.fixture(params=[True, False], ids=["vectors", "plain"])
def simd(request):
    use_simd(request.param)
    yield
    use_simd(True)


def noise(width, height, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def photo(width, height, seed=0):
    """Smooth colour with edges and a little noise."""
    rng = np.random.default_rng(seed)
    shape = (height // 16 + 2, width // 16 + 2, 3)
    small = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    smooth[height // 3 :, width // 2 :] = 255 - smooth[height // 3 :, width // 2 :]
    return np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)


def encode(array, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def as_pillow(array):
    height, width, channels = array.shape
    mode = {1: "L", 3: "RGB", 4: "RGBX"}[channels]
    return Image.frombytes(mode, (width, height), array.tobytes())


def resampled(array, size, name, box):
    geometry = Geometry(array.shape[1], array.shape[0])
    geometry.resize(*size, box, name)
    out = np.empty((size[1], size[0], array.shape[2]), array.dtype)
    output_format = UINT8_FORMAT if array.dtype == np.uint8 else OutputFormat("float32")
    Decoder().render_array(array, geometry, output_format, out)
    return out


def rendered(data, geometry):
    out = np.empty((geometry.height, geometry.width, 3), np.uint8)
    Decoder().render(data, geometry, UINT8_FORMAT, out)
    return out


# ---- resampling ----------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    SIDES, SIDES, SIDES, SIDES, st.sampled_from([1, 3, 4]), st.sampled_from(FILTERS),
    st.integers(0, 10**6), st.booleans(),
)  # fmt: skip
def test_resampling_is_pillows_bit_for_bit(width, height, w, h, channels, name, seed, vectors):
    array = noise(width, height, channels, seed)
    rng = np.random.default_rng(seed)
    x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
    x1, y1 = int(rng.integers(x0, width)) + 1, int(rng.integers(y0, height)) + 1
    use_simd(vectors)
    try:
        ours = resampled(array, (w, h), name, (x0, y0, x1, y1))
    finally:
        use_simd(True)
    # Rows first, then columns: newer Pillows turn the order round where it is cheaper.
    method = Image.Resampling[name.upper()]
    theirs = as_pillow(array).resize((w, height), method, (x0, 0, x1, height))
    theirs = np.asarray(theirs.resize((w, h), method, (0, y0, w, y1))).reshape(ours.shape)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("size", [(224, 224), (61, 47), (400, 300), (1, 1), (640, 9)])
@pytest.mark.parametrize("make", [noise, photo])
def test_resampling_is_near_pillows_single_call(make, size, simd):
    array = make(331, 219)
    box = (12.25, 7.5, 300.75, 210.125)
    for box_ in (None, box):
        ours = resampled(array, size, "bilinear", box_).astype(int)
        theirs = np.asarray(
            Image.fromarray(array).resize(size, Image.Resampling.BILINEAR, box_)
        ).astype(int)
        assert abs(ours - theirs).mean() < 0.5
        assert abs(ours - theirs).max() <= 2


@pytest.mark.parametrize("name", FILTERS)
def test_float_resampling_is_pillows(name):
    array = np.random.default_rng(3).standard_normal((37, 53, 3)).astype(np.float32)
    for size in ((20, 11), (90, 70)):
        ours = resampled(array, size, name, None)
        for c in range(3):
            theirs = Image.fromarray(np.ascontiguousarray(array[:, :, c]))
            theirs = theirs.resize(size, Image.Resampling[name.upper()])
            np.testing.assert_allclose(ours[:, :, c], np.asarray(theirs), atol=2e-5)


def test_strong_reduction_reads_all_pixels():
    array = photo(2000, 1501)
    ours = resampled(array, (3, 2), "bilinear", None).astype(int)
    theirs = np.asarray(Image.fromarray(array).resize((3, 2), Image.Resampling.BILINEAR))
    assert abs(ours - theirs).max() <= 1


# ---- geometry ------------------------------------------------------------------------------

MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("crop"), *[st.floats(0, 1)] * 4),
        st.tuples(st.just("pad"), *[st.integers(0, 9)] * 4),
        st.tuples(st.sampled_from(["flip_x", "flip_y"])),
    ),
    max_size=6,
)


def moved(geometry, array, moves):
    """Apply the same moves to a geometry and, by NumPy, to an array."""
    for name, *numbers in moves:
        height, width = array.shape[:2]
        if name == "crop":
            x, y = int(numbers[0] * (width - 1)), int(numbers[1] * (height - 1))
            w = 1 + int(numbers[2] * (width - x - 1))
            h = 1 + int(numbers[3] * (height - y - 1))
            geometry.crop(x, y, w, h)
            array = array[y : y + h, x : x + w]
        elif name == "pad":
            left, top, right, bottom = numbers
            geometry.pad(left, top, right, bottom, (9, 8, 7, 6))
            out = np.empty((height + top + bottom, width + left + right, 3), np.uint8)
            out[:] = (9, 8, 7)
            out[top : top + height, left : left + width] = array
            array = out
        elif name == "flip_x":
            geometry.flip_x()
            array = array[:, ::-1]
        else:
            geometry.flip_y()
            array = array[::-1]
    return array


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, MOVES, st.booleans(), st.integers(0, 1000))
def test_crops_pads_and_flips_are_exact(width, height, moves, resize, seed):
    array = expected = noise(width, height, 3, seed)
    geometry = Geometry(width, height)
    if resize:
        geometry.resize(40, 31)
        expected = resampled(array, (40, 31), "bilinear", None)
    expected = moved(geometry, expected, moves)
    assert (geometry.width, geometry.height) == (expected.shape[1], expected.shape[0])
    out = np.empty(expected.shape, np.uint8)
    Decoder().render_array(array, geometry, UINT8_FORMAT, out)
    np.testing.assert_array_equal(out, expected)
    # Floats go through code of their own.
    if not resize:
        floats = np.empty(expected.shape, np.float32)
        Decoder().render_array(array.astype(np.float32), geometry, OutputFormat("float32"), floats)
        np.testing.assert_array_equal(floats, expected)


def test_geometry_refuses_what_does_not_fit():
    geometry = Geometry(10, 8)
    for call in (
        lambda: geometry.crop(0, 0, 11, 1),
        lambda: geometry.crop(-1, 0, 1, 1),
        lambda: geometry.crop(0, 0, 0, 1),
        lambda: geometry.crop(2**62, 0, 2**62, 1),
        lambda: geometry.resize(0, 1),
        lambda: geometry.resize(1, 2**40),
        lambda: geometry.resize(5, 5, (0, 0, 11, 5)),
        lambda: geometry.resize(5, 5, (0, 0, float("nan"), 5)),
        lambda: geometry.resize(5, 5, (3, 0, 3, 5)),
        lambda: geometry.resize(5, 5, None, "sharp"),
        lambda: geometry.pad(-1, 0, 0, 0),
        lambda: geometry.pad(2**30, 0, 0, 0),
        lambda: Geometry(0, 5),
        lambda: Geometry(5, 2**40),
    ):
        with pytest.raises(OptionError):
            call()
    geometry.flip_x()
    assert not geometry.fresh
    with pytest.raises(OptionError, match="resizes once"):
        geometry.resize(5, 5)


def test_strided_arrays_and_wrong_outputs():
    array = noise(30, 20)
    view = array[2:18:2, 3:27]
    geometry = Geometry(24, 8)
    out = np.empty((8, 24, 3), np.uint8)
    decoder = Decoder()
    decoder.render_array(view, geometry, UINT8_FORMAT, out)
    np.testing.assert_array_equal(out, view)
    decoder.render_array(array[::-1][:8, :24], geometry, UINT8_FORMAT, out)
    np.testing.assert_array_equal(out, array[::-1][:8, :24])
    for bad in (out[:, :-1], out.astype(np.float32), np.empty((8, 24, 4), np.uint8)):
        with pytest.raises(OptionError, match="output must be"):
            decoder.render_array(view, geometry, UINT8_FORMAT, bad)
    with pytest.raises(OptionError, match="side by side"):
        decoder.render_array(array[:, ::-1], Geometry(30, 20), UINT8_FORMAT, np.empty_like(array))
    with pytest.raises((ValueError, BufferError)):
        decoder.render_array(
            view, geometry, UINT8_FORMAT, np.empty((24, 8, 3), np.uint8).swapaxes(0, 1)
        )
    out.setflags(write=False)
    with pytest.raises((ValueError, BufferError)):
        decoder.render_array(view, geometry, UINT8_FORMAT, out)
    with pytest.raises(OptionTypeError):
        decoder.render_array(array.astype(np.int32), Geometry(30, 20), UINT8_FORMAT, out)
    with pytest.raises(OptionError, match="channels"):
        decoder.render_array(np.zeros((4, 4, 2), np.uint8), Geometry(4, 4), UINT8_FORMAT, out)
    # The decoder is still good.
    good = np.empty((8, 24, 3), np.uint8)
    decoder.render_array(view, geometry, UINT8_FORMAT, good)
    np.testing.assert_array_equal(good, view)


def test_many_arrays_in_one_call_are_as_one_by_one():
    arrays = [noise(30, 20)[::2], noise(11, 9), noise(40, 12)[:, 3:27]]
    places = []
    for turn, array in enumerate(arrays):
        geometry = Geometry(array.shape[1], array.shape[0])
        geometry.resize(8, 6)
        if turn:
            geometry.flip_x()
        places.append(geometry)
    output_format = OutputFormat("float32", True, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    decoder = Decoder()
    one, many = np.empty((2, 3, 3, 6, 8), np.float32)
    for array, geometry, out in zip(arrays, places, one):
        decoder.render_array(array, geometry, output_format, out)
    decoder.render_arrays(arrays, places, output_format, many)
    np.testing.assert_array_equal(many, one)

    same = [noise(8, 6), noise(16, 6)[:, :8], noise(8, 6)]
    for array, out in zip(same, one):
        convert_array(array, output_format, out)
    convert_arrays(same, output_format, many)
    np.testing.assert_array_equal(many, one)


@needs_jpeg
def test_many_jpegs_in_one_call_are_as_one_by_one():
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
        decoder.render(file, geometry, UINT8_FORMAT, out)
    decoder.render_jpegs(files, places, UINT8_FORMAT, many)
    np.testing.assert_array_equal(many, one)
    with pytest.raises(OptionError, match="as many geometries"):
        decoder.render_jpegs(files, places[:2], UINT8_FORMAT, many)
    with pytest.raises(OptionError, match="as many places"):
        decoder.render_jpegs(files[:2], places[:2], UINT8_FORMAT, many)
    with pytest.raises(TypeError):
        decoder.render_jpegs(["a", "b", "c"], places, UINT8_FORMAT, many)
    with pytest.raises(DecodeError):
        decoder.render_jpegs([files[0], files[1][:-150], files[2]], places, UINT8_FORMAT, many)
    # The decoder is still good.
    decoder.render_jpegs(files, places, UINT8_FORMAT, many)
    np.testing.assert_array_equal(many, one)


def test_many_arrays_and_what_does_not_fit_them():
    arrays, places = [noise(8, 6)] * 2, [Geometry(8, 6)] * 2
    out = np.full((2, 6, 8, 3), 7, np.uint8)
    decoder = Decoder()
    with pytest.raises(OptionError, match="as many geometries"):
        decoder.render_arrays(arrays, places[:1], UINT8_FORMAT, out)
    with pytest.raises(OptionTypeError, match="geometry"):
        decoder.render_arrays(arrays, [None, None], UINT8_FORMAT, out)
    with pytest.raises(OptionError, match="another size"):
        decoder.render_arrays(arrays, [Geometry(8, 6), Geometry(6, 8)], UINT8_FORMAT, out)
    for render in (
        lambda arrays, out: decoder.render_arrays(arrays, places, UINT8_FORMAT, out),
        lambda arrays, out: convert_arrays(arrays, UINT8_FORMAT, out),
    ):
        with pytest.raises(OptionError, match="as many places"):
            render(arrays, out[:1])
        with pytest.raises(OptionError, match="contiguous and writable"):
            render(arrays, out[:, ::-1])
        for others in ([noise(8, 6), noise(8, 6, 1)], [noise(8, 6), noise(8, 6).astype("f4")]):
            with pytest.raises(OptionError, match="rendered together"):
                render(others, out)
        for wrong in (noise(8, 6)[:, :, 0], noise(8, 6, 2)):
            with pytest.raises(OptionError, match="channels"):
                render([wrong, wrong], out)
        with pytest.raises(OptionError, match="no images"):
            render([], out[:0])
    with pytest.raises(OptionError, match="output must be"):
        convert_arrays([noise(8, 6), noise(6, 8)], UINT8_FORMAT, out)
    assert (out == 7).all()


def test_arguments_out_of_range():
    geometry = Geometry(8, 6)
    for sides in ((2**62, 0, 2**62, 0), (1 << 24, 0, 0, 0), (0, 0, 0, (1 << 24) - 6)):
        with pytest.raises(OptionError, match="too large"):
            geometry.pad(*sides)
    for fill in ((), (1, 2, 3, 4, 5), (float("nan"),)):
        with pytest.raises(OptionError, match="numbers"):
            geometry.pad(1, 1, 1, 1, fill)
        with pytest.raises(OptionError, match="numbers"):
            OutputFormat("float32", False, fill)
        with pytest.raises(OptionError, match="numbers"):
            OutputFormat("float32", False, (1.0,), fill)
    assert (geometry.width, geometry.height) == (8, 6)
    for limit in (-1, 1 << 64, "a", 2.5):
        with pytest.raises(OptionTypeError, match="max_pixels"):
            Decoder(limit)
    assert Decoder(np.int64(7)).max_pixels == 7


# ---- values --------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
def test_convert_array(dtype, planar, channels, simd):
    array = noise(517, 5, channels)
    array[0, :256, 0] = np.arange(256)
    scale, bias = np.float32([0.017, 0.25, 3.0, 1e-6]), np.float32([-2.1, 1e-7, 0.5, 0.0])
    output_format = OutputFormat(dtype, planar, scale.tolist(), bias.tolist())
    expected = array
    if dtype != "uint8":
        expected = array.astype(np.float32) * scale[:channels] + bias[:channels]
    expected = expected.astype(dtype)
    expected = expected.transpose(2, 0, 1) if planar else expected
    out = np.empty(output_format.shape(5, 517, channels), dtype)
    convert_array(array, output_format, out)
    np.testing.assert_array_equal(out, expected)
    out[:] = 0
    Decoder().render_array(array, Geometry(517, 5), output_format, out)
    np.testing.assert_array_equal(out, expected)


def test_half_precision_rounds_as_numpy_does(simd):
    array = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    for scale, bias in ((1e-7, 1e-8), (300.0, 0.0), (1e-5, -1e-3), (0.333, -0.01), (2.4e-7, 0.0)):
        out = np.empty((1, 1, 256), np.float16)
        convert_array(array, OutputFormat("float16", True, (scale,), (bias,)), out)
        with np.errstate(over="ignore"):
            expected = array[:, :, 0] * np.float32(scale) + np.float32(bias)
            np.testing.assert_array_equal(out[0], expected.astype(np.float16))


# ---- JPEG ----------------------------------------------------------------------------------

KINDS = [
    {"mode": "RGB", "subsampling": "4:4:4"},
    {"mode": "RGB", "subsampling": "4:2:2"},
    {"mode": "RGB", "subsampling": "4:2:0"},
    {"mode": "L"},
    {"mode": "CMYK"},
]


@needs_jpeg
@settings(max_examples=200, deadline=None)
@given(
    SIDES, SIDES, st.sampled_from(KINDS), st.booleans(), st.integers(0, 2),
    st.tuples(*[st.floats(0, 1)] * 4), st.integers(0, 1000),
)  # fmt: skip
def test_a_region_is_cut_from_the_whole(width, height, kind, progressive, restart, part, seed):
    data = encode(
        photo(width, height, seed), progressive=progressive, restart_marker_rows=restart,
        quality=80, **kind,
    )  # fmt: skip
    whole = Decoder().decode(data)
    np.testing.assert_array_equal(whole, by_pillow(data))
    geometry = Geometry(width, height)
    expected = moved(geometry, whole, [("crop", *part)])
    np.testing.assert_array_equal(rendered(data, geometry), expected)
    # Resizing a part sees the same pixels as resizing the decoded array.
    geometry = Geometry(width, height)
    x, y = int(part[0] * (width - 1)), int(part[1] * (height - 1))
    box = (x, y, x + 1 + int(part[2] * (width - x - 1)), y + 1 + int(part[3] * (height - y - 1)))
    geometry.resize(29, 23, box)
    geometry.crop(3, 5, 20, 11)
    geometry.flip_x()
    expected = resampled(whole, (29, 23), "bilinear", box)[5:16, 3:23][:, ::-1]
    np.testing.assert_array_equal(rendered(data, geometry), expected)


@needs_jpeg
@pytest.mark.parametrize("path", JPEGS, ids=lambda path: path.stem)
def test_unusual_sampling(path):
    data = path.read_bytes()
    whole = Decoder().decode(data)
    assert abs(whole.astype(int) - by_pillow(data)).max() <= 1
    height, width = whole.shape[:2]
    rng = np.random.default_rng(0)
    for _ in range(60):
        geometry = Geometry(width, height)
        expected = moved(geometry, whole, [("crop", *rng.random(4))])
        np.testing.assert_array_equal(rendered(data, geometry), expected)


@needs_jpeg
def test_a_crop_that_lies_in_the_padding_decodes_nothing_and_is_fill():
    data = encode(photo(40, 30))
    geometry = Geometry(40, 30)
    geometry.pad(50, 0, 0, 0, (1, 2, 3))
    geometry.crop(5, 3, 20, 10)
    assert (rendered(data, geometry) == (1, 2, 3)).all()


@needs_jpeg
def test_every_truncation_is_an_error():
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
                decoder.render(data[:cut], geometry, UINT8_FORMAT, out)
        # The same decoder goes on.
        np.testing.assert_array_equal(decoder.decode(data), by_pillow(data))
        decoder.render(data, geometry, UINT8_FORMAT, out)
        np.testing.assert_array_equal(out, by_pillow(data)[:8])


@needs_jpeg
@pytest.mark.parametrize("progressive", [False, True])
def test_damage_is_an_error_or_what_pillow_sees(progressive):
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
            theirs = by_pillow(broken)
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
    np.testing.assert_array_equal(decoder.decode(data), by_pillow(data))


@needs_jpeg
def test_grey_fill_is_never_served():
    """Blocks replaced by an early end-of-image: Pillow goes on with grey, we do not."""
    data = encode(photo(200, 150), quality=85)
    cut = data[: len(data) // 2] + b"\xff\xd9"
    with pytest.raises(DecodeError, match="premature end"):
        Decoder().decode(cut)


@needs_jpeg
def test_bytes_between_and_after_are_harmless():
    data = encode(photo(64, 48))
    whole = by_pillow(data)
    np.testing.assert_array_equal(Decoder().decode(data + b"\0" * 100), whole)
    np.testing.assert_array_equal(Decoder().decode(data[:-2] + b"\0\0" + data[-2:]), whole)
    thumbnail = encode(photo(8, 8))
    comment = b"\xff\xfe" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    with_thumbnail = data[:2] + comment + data[2:]
    np.testing.assert_array_equal(Decoder().decode(with_thumbnail), whole)
    with pytest.raises(DecodeError):
        Decoder().decode(with_thumbnail[:-40])


@needs_jpeg
def test_limits():
    data = encode(photo(64, 48))
    with pytest.raises(LimitError, match="max_pixels"):
        Decoder(64 * 48 - 1).decode(data)
    with pytest.raises(LimitError, match="max_pixels"):
        out = np.empty((48, 64, 3), np.uint8)
        Decoder(64 * 48 - 1).render(data, Geometry(64, 48), UINT8_FORMAT, out)
    assert Decoder(64 * 48).decode(data).shape == (48, 64, 3)
    assert Decoder(None).decode(data).shape == (48, 64, 3)
    # A small file that claims to be huge allocates nothing.
    at = data.index(b"\xff\xc0") + 5
    huge = data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]
    with pytest.raises(LimitError):
        Decoder().decode(huge)
    with pytest.raises(DecodeError, match="contradicts"):
        Decoder().render(data, Geometry(63, 48), UINT8_FORMAT, np.empty((48, 63, 3), np.uint8))


@needs_jpeg
def test_a_progressive_file_of_thousands_of_scans_is_refused():
    data = encode(photo(32, 24), progressive=True)
    start = data.index(b"\xff\xda")
    end = data.index(b"\xff\xc4", start)
    assert start < end
    scan = data[start:end]
    with pytest.raises(DecodeError, match="scans"):
        Decoder().decode(data[:start] + scan * 2000 + data[end:])
    assert Decoder().decode(data[:start] + scan * 3 + data[end:]).shape == (24, 32, 3)


def test_headers():
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


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_headers_of_rubbish(rubbish):
    for data in (rubbish, b"\xff\xd8\xff\xe1\x00\x20Exif\0\0" + rubbish):
        try:
            found = jpeg_info(data)
        except DecodeError:
            continue
        assert found is None or (found[0] > 0 and found[1] > 0 and 1 <= found[3] <= 8)


def test_not_a_jpeg():
    with pytest.raises(DecodeError, match="not a JPEG"):
        Decoder().decode(b"GIF89a")


@needs_jpeg
def test_threads_with_their_own_decoders_agree_and_sharing_is_refused():
    files = [encode(photo(150 + i, 120, i)) for i in range(6)]
    expected = [by_pillow(data) for data in files]
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


@needs_jpeg
def test_scaled_decoding_only_where_asked():
    data = encode(photo(640, 480), quality=92)
    whole = Decoder().decode(data)
    expected = resampled(whole, (70, 50), "bilinear", None).astype(int)
    out = np.empty((50, 70, 3), np.uint8)
    for min_reduction, bound in ((0.0, 0.0), (3.0, 0.5), (1.0, 3.0)):
        geometry = Geometry(640, 480)
        geometry.resize(70, 50)
        geometry.min_reduction = min_reduction
        Decoder().render(data, geometry, UINT8_FORMAT, out)
        assert abs(out - expected).mean() <= bound


def test_version():
    assert bool(_pixels.JPEG_VERSION) == HAVE_JPEG


# ---- streams -------------------------------------------------------------------------------


def test_philox_known_answers():
    """The vectors published with Random123."""
    ones = 0xFFFFFFFF
    assert philox_block((0,) * 4, (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox_block((ones,) * 4, (ones,) * 2) == (
        0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD,
    )  # fmt: skip
    assert philox_block(
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    ) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


def test_streams_differ_in_every_part_of_the_key():
    keys = [
        (s, e, i, p) for s in (0, 1, 2**63) for e in (0, 1) for i in (0, 1, 2**40) for p in (0, 1)
    ]
    first = {Stream(*key).random() for key in keys}
    assert len(first) == len(keys)
    assert Stream(5, 6, 7, 8).random() == Stream(5, 6, 7, 8).random()


def test_distributions():
    stream = Stream(1, 2, 3, 4)
    numbers = np.array([stream.random() for _ in range(20000)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
    counts = np.bincount([stream.below(7) for _ in range(21000)], minlength=7)
    assert ((counts - 3000) ** 2 / 3000).sum() < 22.5  # chi-square, 6 degrees, p = 0.001
    assert len(counts) == 7
    normal = np.array([stream.normal() for _ in range(10000)])
    assert abs(normal.mean()) < 0.05
    assert abs(normal.std() - 1) < 0.05
    assert sorted(stream.permutation(9)) == list(range(9))
    assert stream.below(1) == 0
    for n in (0, 2**32, -1):
        with pytest.raises((OptionError, OverflowError)):
            stream.below(n)
    assert stream.generator().random() != stream.generator().random()
