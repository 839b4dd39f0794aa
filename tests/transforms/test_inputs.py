"""What transforms take: arrays of every kind, Pillow images of every mode, tensors, files."""

import io
import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from imagearchive import transforms as T
from imagearchive.errors import DecodeError, LimitError, OptionError, OptionTypeError
from imagearchive.images.render import Decoder
from imagearchive.transforms import Compose, Key, compile_pipeline, decode_image
from imagearchive.transforms.base import with_contiguous_rows

KEY = Key(5, 1, 2)
MOST = [
    T.Resize(7, 9),
    T.RandomResizedCrop(8, (0.3, 0.9)),
    T.RandomCrop(8, padding=2, fill=3),
    T.CenterCrop(5),
    T.RandomHorizontalFlip(1.0),
    T.RandomVerticalFlip(1.0),
    T.Pad(2, mode="reflect"),
    T.Pad(2, fill=9),
    T.ColorJitter(0.4, 0.4, 0.4, 0.2),
    T.RandomRotation(30, "bilinear", fill=2),
    T.RandomPerspective(0.5, 1.0, fill=2),
    T.RandomErasing(1.0),
    T.GaussianBlur(3, 1.0),
    T.Grayscale(),
    T.Normalize(0.5, 0.25),
    T.ToTensor(),
    T.ToDtype("float32", scale=True),
    T.adjust_contrast,
]


def run(transform, image):
    return transform(image, 1.5) if transform is T.adjust_contrast else transform(image, KEY)


def pixels(height, width, channels, dtype=np.uint8, seed=0):
    array = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return array if dtype == np.uint8 else array.astype(dtype) / dtype(255)


def name(transform):
    return getattr(transform, "__name__", type(transform).__name__)


@pytest.mark.parametrize("transform", MOST, ids=name)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32], ids=["uint8", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_memory_layout_does_not_matter(transform, dtype, channels):
    array = pixels(16, 20, channels, dtype)
    expected = run(transform, array)
    bytes_ = np.zeros(array.nbytes + 1, np.uint8)
    unaligned = bytes_[1:].view(dtype).reshape(array.shape)
    unaligned[...] = array
    wide = np.zeros((32, 60, channels + 2), dtype)
    wide[::2, ::3, 1:-1] = array
    views = [
        np.asfortranarray(array),
        np.ascontiguousarray(array[::-1])[::-1],
        np.ascontiguousarray(array[:, ::-1])[:, ::-1],
        np.ascontiguousarray(array[:, :, ::-1])[:, :, ::-1],
        np.ascontiguousarray(array.transpose(2, 0, 1)).transpose(1, 2, 0),
        wide[::2, ::3, 1:-1],
        unaligned,
    ]
    # Compilers may count on it that a float32 lies where one belongs.
    assert with_contiguous_rows(unaligned).flags.aligned
    for view in views:
        view.setflags(write=False)
        np.testing.assert_array_equal(run(transform, view), expected)
    if channels == 1:
        np.testing.assert_array_equal(run(transform, array[:, :, 0]), expected)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 5, 3), (5, 5, 0), (5,), (2, 3, 5, 6), ()])
@pytest.mark.parametrize("transform", MOST, ids=name)
def test_what_is_no_image_is_refused(transform, shape):
    for empty in (np.zeros(shape, np.uint8), torch.zeros(shape)):
        with pytest.raises(OptionError):
            run(transform, empty)


@pytest.mark.parametrize("transform", MOST, ids=name)
def test_numbers_that_are_none_stay_where_they_are(transform):
    """NaN and infinity in one pixel: no error, no warning, and the other corner is as before."""
    array = pixels(40, 40, 3, np.float32)
    broken = array.copy()
    broken[0, 0] = (np.nan, np.inf, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = run(transform, broken)
    # Contrast depends on the mean of all pixels.
    if not isinstance(transform, T.ColorJitter) and transform is not T.adjust_contrast:
        assert np.isnan(result).sum() < np.isnan(result).size / 2
        np.testing.assert_array_equal(np.isfinite(run(transform, array)), True)


# ---- Pillow images -------------------------------------------------------------------------

MODES = {
    "1": 1, "L": 1, "LA": 3, "La": 3, "P": 3, "PA": 3, "RGB": 3, "RGBA": 4, "RGBa": 3,
    "RGBX": 3, "CMYK": 3, "YCbCr": 3, "LAB": 3, "HSV": 3, "F": 1, "I;16": 1, "I;16B": 1,
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_pillow(mode):
    if mode in ("I;16", "I;16B"):
        values = np.arange(0, 65536, 1366, np.uint16)[:48].reshape(6, 8)
        data = values.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
        image = Image.frombytes(mode, (8, 6), data)
        expected = (values >> 8).astype(np.uint8)[:, :, None]
    elif mode == "F":
        expected = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8, 1)
        image = Image.fromarray(expected[:, :, 0])
    else:
        rgb = Image.fromarray(pixels(6, 8, 3))
        steps = {"La": ["LA", "La"], "RGBa": ["RGBA", "RGBa"], "LAB": [], "PA": ["P", "PA"]}
        image = Image.new("LAB", (8, 6), (120, 3, 9)) if mode == "LAB" else rgb
        for step in steps.get(mode, [mode]):
            image = image.convert(step)
        expected = None
    result = T.RandomHorizontalFlip(0.0)(image)
    assert result.shape == (6, 8, MODES[mode])
    if expected is not None:
        np.testing.assert_array_equal(result, expected)
    assert result.dtype == (np.float32 if mode == "F" else np.uint8)
    assert T.Resize(3, 2)(image).shape == (2, 3, MODES[mode])


def test_a_palette_with_transparency_does_not_warn():
    image = Image.fromarray(pixels(6, 8, 3)).convert("P")
    expected = np.asarray(image.convert("RGB"))
    image.info["transparency"] = bytes(range(256))
    np.testing.assert_array_equal(T.RandomHorizontalFlip(0.0)(image), expected)


def test_32_bit_integers_have_no_range():
    with pytest.raises(OptionTypeError, match="mode I"):
        T.Resize(3)(Image.new("I", (8, 6)))


# ---- tensors -------------------------------------------------------------------------------


def test_a_tensor_is_channels_first_by_declaration():
    array = pixels(6, 8, 3)
    tensor = torch.from_numpy(array.transpose(2, 0, 1))
    result = T.Resize(4, 3)(tensor)
    np.testing.assert_array_equal(result.numpy().transpose(1, 2, 0), T.Resize(4, 3)(array))
    # A shape that would fit both ways.
    both = torch.arange(27, dtype=torch.uint8).reshape(3, 3, 3)
    flipped = T.RandomHorizontalFlip(1.0)(both)
    np.testing.assert_array_equal(flipped.numpy(), both.numpy()[:, :, ::-1])
    # Two axes are one channel.
    grey = T.Resize(4, 3)(torch.zeros(6, 8, dtype=torch.uint8))
    assert grey.shape == (1, 3, 4)
    with pytest.raises(OptionError, match=r"permute\(2, 0, 1\)"):
        T.Resize(4, 3)(torch.zeros(50, 60, 3))
    layouts = Compose([T.ToTensor(T.TensorFormat.TENSORFLOW_HWC), T.Normalize(0.5, 0.5)])
    assert layouts(tensor).shape == (6, 8, 3)


def test_kinds_of_tensors():
    for tensor in (
        torch.rand(3, 6, 8, requires_grad=True),
        torch.rand(3, 6, 8, dtype=torch.float64),
        torch.rand(8, 6, 3).permute(2, 1, 0),
        torch.rand(3, 6, 8).to(torch.float16),
    ):
        result = T.Resize(4, 3)(tensor)
        assert result.shape == (3, 3, 4)
        assert result.dtype == torch.float32
        assert not result.requires_grad
    for dtype in (torch.bfloat16, torch.int64, torch.bool):
        with pytest.raises(OptionTypeError, match="uint8 or float32"):
            T.Resize(4, 3)(torch.zeros(3, 6, 8).to(dtype))


# ---- files ---------------------------------------------------------------------------------


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_16_bit_grey_is_not_white():
    values = np.arange(0, 65536, 1366, np.uint16)[:48].reshape(6, 8)
    data = png(Image.fromarray(values))
    expected = np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, 2)
    np.testing.assert_array_equal(decode_image(data), expected)
    np.testing.assert_array_equal(compile_pipeline(None).render(data), expected)


def test_files_that_pillow_warns_about_decode_quietly():
    image = Image.fromarray(pixels(6, 8, 3)).convert("P")
    expected = np.asarray(image.convert("RGB"))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(range(256)))
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), expected)


def test_the_limit_of_pixels_is_ours_alone(monkeypatch):
    data = png(Image.new("L", (60, 50)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_image(data).shape == (50, 60, 3)
    assert decode_image(data, Decoder(None)).shape == (50, 60, 3)
    with pytest.raises(LimitError, match="max_pixels"):
        decode_image(data, Decoder(2999))


def test_no_file_starts_another_program(tmp_path, monkeypatch):
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


# ---- streams without a key -----------------------------------------------------------------


def draws(transform):
    image = np.arange(200, dtype=np.uint8).reshape(10, 20)
    return tuple(int(transform(image)[0, 0, 0]) for _ in range(40))


def test_one_seed_for_all_transforms_does_not_tie_them_together():
    across, down = T.RandomHorizontalFlip(seed=1), T.RandomVerticalFlip(seed=1)
    assert draws(across) == draws(T.RandomHorizontalFlip(seed=1))
    across, down = T.RandomHorizontalFlip(seed=1), T.RandomVerticalFlip(seed=1)
    flips = [(across != 0, down != 0) for across, down in zip(draws(across), draws(down))]
    assert len(set(flips)) == 4
