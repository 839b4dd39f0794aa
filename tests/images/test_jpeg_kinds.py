"""Rare kinds of JPEG: compiled pipelines, plain transforms and Pillow give the same pixels."""

import io

import numpy as np
import pytest
from PIL import Image
from support.images import decode_by_pillow, encode, photo
from support.rendering import needs_jpeg

from imagearchive import transforms as T
from imagearchive.errors import DecodeError, LimitError
from imagearchive.images.render import HAVE_JPEG, jpeg_info
from imagearchive.transforms import Compose, Key, compile_pipeline, decode_image

TRAIN = Compose([T.RandomResizedCrop(20, (0.05, 1)), T.RandomHorizontalFlip(), T.ToTensor()])


def ycck():
    """CMYK whose marker of Adobe's says that it is stored as YCCK."""
    data = bytearray(encode(photo(61, 47), mode="CMYK"))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def without_adobe(data):
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 16 :]


KINDS = {
    "YCCK": ycck,
    "CMYK without a marker": lambda: without_adobe(encode(photo(61, 47), mode="CMYK")),
    "two files in a row": lambda: encode(photo(61, 47)) + encode(photo(9, 8)),
    "rubbish behind": lambda: encode(photo(61, 47)) + b"\0rubbish\xff" * 99,
    "very wide": lambda: encode(photo(65500, 2)),
    "very tall": lambda: encode(photo(2, 65500)),
    "wide line": lambda: encode(photo(40000, 1), subsampling="4:4:4"),
    "a pixel": lambda: encode(photo(1, 1)),
    "restarts": lambda: encode(photo(61, 47), restart_marker_blocks=1),
    "4:2:0 of odd size": lambda: encode(photo(61, 47), subsampling="4:2:0", progressive=True),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
def test_pipeline_equals_plain_transform(make):
    data = make()
    whole = decode_image(data)
    np.testing.assert_array_equal(whole, decode_by_pillow(data))
    pipeline = compile_pipeline(TRAIN)
    assert pipeline.compiled
    for index in range(40):
        key = Key(0, 0, index)
        np.testing.assert_array_equal(pipeline.render(data, key), TRAIN(whole, key))


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF])
def test_unsupported_process_raises(marker):
    data = bytearray(encode(photo(61, 47)))
    data[data.index(b"\xff\xc0") + 1] = marker
    with pytest.raises(DecodeError):
        decode_image(bytes(data))
    with pytest.raises(DecodeError):
        compile_pipeline(TRAIN).render(bytes(data), Key(0))


def test_12_bits_raises():
    data = bytearray(encode(photo(61, 47)))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(DecodeError, match="precision 12" if HAVE_JPEG else None):
        compile_pipeline(TRAIN).render(bytes(data), Key(0))


def test_header_of_the_largest_size_allocates_nothing():
    data = bytearray(encode(photo(61, 47)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xdc\xff\xdc"
    for call in (decode_image, lambda d: compile_pipeline(T.CenterCrop(8)).render(d)):
        with pytest.raises(LimitError, match="65500"):
            call(bytes(data))


@needs_jpeg
@pytest.mark.parametrize("kind", ["4:2:0", "4:4:4", "L", "CMYK", "progressive", "restarts"])
def test_file_cut_at_any_byte_raises(kind):
    options = {
        "4:2:0": {"subsampling": "4:2:0"},
        "4:4:4": {"subsampling": "4:4:4"},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 1},
    }.get(kind, {"mode": kind})
    data = encode(photo(24, 17), quality=70, **options)
    whole = decode_image(data)
    pipeline = compile_pipeline(TRAIN)
    out = np.empty(pipeline.shape, np.uint8)
    for cut in range(len(data)):
        with pytest.raises(DecodeError):
            decode_image(data[:cut])
        with pytest.raises(DecodeError):
            pipeline.render_into(data[:cut], Key(0, 0, cut), out)
    np.testing.assert_array_equal(decode_image(data), whole)


def with_exif(data, tiff):
    return (
        data[:2] + b"\xff\xe1" + (len(tiff) + 8).to_bytes(2, "big") + b"Exif\0\0" + tiff + data[2:]
    )


def entry(order, kind, value, count=1):
    """A TIFF header and one entry, the orientation."""
    size = 2 if kind == 3 else 4
    number = value.to_bytes(size, order).ljust(4, b"\0")
    parts = [(42, 2), (8, 4), (1, 2), (0x0112, 2), (kind, 2), (count, 4)]
    head = b"II" if order == "little" else b"MM"
    return head + b"".join(v.to_bytes(n, order) for v, n in parts) + number + bytes(4)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("kind", [3, 4], ids=["SHORT", "LONG"])
def test_orientation_equals_pillow(order, kind):
    data = encode(photo(20, 10))
    for value in (0, 1, 3, 6, 8, 9, 0xFFFF):
        turned = with_exif(data, entry(order, kind, value))
        assert jpeg_info(turned)[3] == (value if 1 <= value <= 8 else 1)
        with Image.open(io.BytesIO(turned)) as image:
            assert image.getexif()[0x0112] == value
    assert jpeg_info(with_exif(data, entry(order, kind, 6, count=2)))[3] == 1
    sixth = with_exif(data, entry(order, kind, 6))
    assert decode_image(sixth, exif_transpose=True).shape == (20, 10, 3)
    for cut in range(26):
        assert jpeg_info(with_exif(data, entry(order, kind, 6)[:cut]))[3] in (1, 6)
