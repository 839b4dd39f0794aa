"""decode_image: every format as RGB, orientation, damage, limits."""

import io
import os

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.images import encode, noise, photo

from imagearchive import transforms as T
from imagearchive.errors import DecodeError, LimitError
from imagearchive.images.decode import image_orientation
from imagearchive.images.pillow import ImageOptions, decode_with_pillow
from imagearchive.images.render import Decoder
from imagearchive.transforms import Compose, Key, compile_pipeline, decode_image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_decode_image_exif_transpose(orientation, fmt):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(30, 20), fmt, exif=exif)
    assert image_orientation(data) == orientation
    with Image.open(io.BytesIO(data)) as image:
        stored = np.asarray(image)
        turned = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode_image(data), stored)
    np.testing.assert_array_equal(decode_image(data, exif_transpose=True), turned)
    transform = Compose([T.Resize(12, 9), T.RandomCrop(8), T.ToTensor()])
    key = Key(1)
    for flag, array in ((False, stored), (True, turned)):
        pipeline = compile_pipeline(transform, exif_transpose=flag)
        np.testing.assert_array_equal(pipeline.render(data, key), transform(array, key))


def with_exif(data, fmt, exif):
    """The image file with other EXIF data, valid or not."""
    if fmt != "JPEG":
        with Image.open(io.BytesIO(data)) as image:
            buffer = io.BytesIO()
            image.save(buffer, fmt, exif=exif, **({"lossless": True} if fmt == "WEBP" else {}))
            return buffer.getvalue()
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize("exif_transpose", [False, True])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0MM\0*\0\0",
        b"Exif\0\0garbage!",
        b"Exif\0\0II*\0\xff\xff\xff\0",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0",
    ],
    ids=["cut-header", "no-tiff", "far-directory", "cut-entry"],
)
def test_decode_image_damaged_exif_is_ignored(fmt, exif, exif_transpose):
    options = {"lossless": True} if fmt == "WEBP" else {}
    plain = encode(photo(30, 20), fmt, **options)
    data = with_exif(plain, fmt, exif)
    np.testing.assert_array_equal(
        decode_image(data, exif_transpose=exif_transpose), decode_image(plain)
    )
    np.testing.assert_array_equal(
        decode_with_pillow(data, ImageOptions(exif_transpose=exif_transpose)),
        decode_with_pillow(plain),
    )


@pytest.mark.parametrize("length", [0, 1])
@pytest.mark.parametrize("marker", [0xE1, 0xED, 0xFE])
def test_decode_image_jpeg_metadata_of_impossible_length_is_skipped(marker, length):
    plain = encode(photo(30, 20))
    data = plain[:2] + bytes([0xFF, marker, 0, length]) + plain[2:]
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(decode_with_pillow(data), np.asarray(image))
    np.testing.assert_array_equal(decode_image(data), decode_image(plain))


def test_decode_image_of_every_mode_is_rgb():
    image = photo(30, 20)
    picture = Image.fromarray(image)
    for mode, fmt in (("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG"), ("P", "GIF"),
                      ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "BMP")):  # fmt: skip
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, fmt)
        data = buffer.getvalue()
        with Image.open(io.BytesIO(data)) as stored:
            expected = np.asarray(stored.convert("RGB"))
        np.testing.assert_array_equal(decode_image(data), expected)
        np.testing.assert_array_equal(compile_pipeline(None).render(data), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_decode_image_truncated(fmt):
    data = encode(photo(60, 50), fmt)
    pipeline = compile_pipeline(Compose([T.CenterCrop(8), T.ToTensor()]))
    out = np.empty((3, 8, 8), np.uint8)
    for cut in (0, 1, 10, len(data) // 3, len(data) * 2 // 3):
        with pytest.raises(DecodeError):
            decode_image(data[:cut])
        with pytest.raises(DecodeError):
            pipeline.render_into(data[:cut], None, out)


def test_decode_image_max_pixels():
    for fmt in ("JPEG", "PNG"):
        data = encode(photo(60, 50), fmt)
        with pytest.raises(LimitError):
            decode_image(data, Decoder(2999))
        assert decode_image(data, Decoder(3000)).shape == (50, 60, 3)


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_decode_image_16_bit_grayscale_keeps_the_high_byte():
    values = np.arange(0, 65536, 1366, np.uint16)[:48].reshape(6, 8)
    data = png(Image.fromarray(values))
    expected = np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, 2)
    np.testing.assert_array_equal(decode_image(data), expected)
    np.testing.assert_array_equal(compile_pipeline(None).render(data), expected)


def test_decode_image_palette_with_transparency_does_not_warn():
    image = Image.fromarray(noise(8, 6)).convert("P")
    expected = np.asarray(image.convert("RGB"))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(range(256)))
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), expected)


def test_decode_image_ignores_pillows_limit(monkeypatch):
    data = png(Image.new("L", (60, 50)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_image(data).shape == (50, 60, 3)
    assert decode_image(data, Decoder(None)).shape == (50, 60, 3)
    with pytest.raises(LimitError, match="max_pixels"):
        decode_image(data, Decoder(2999))


def test_decode_image_starts_no_program(tmp_path, monkeypatch):
    """Pillow hands EPS to Ghostscript, whatever the file's name says."""
    witness = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {witness}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    with pytest.raises(DecodeError):
        decode_image(data)
    with pytest.raises(DecodeError):
        compile_pipeline(T.Resize(8, 8)).render(data)
    assert not witness.exists()
