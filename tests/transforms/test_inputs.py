"""Which Pillow images a transform accepts."""

import numpy as np
import pytest
from PIL import Image
from support.images import noise

from imagearchive import transforms as T
from imagearchive.errors import OptionTypeError

MODES = {
    "1": 1, "L": 1, "LA": 4, "La": 4, "P": 3, "PA": 4, "RGB": 3, "RGBA": 4, "RGBa": 4,
    "RGBX": 3, "CMYK": 3, "YCbCr": 3, "LAB": 3, "HSV": 3, "F": 1, "I;16": 1, "I;16B": 1,
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_pillow_image_of_every_mode(mode):
    if mode in ("I;16", "I;16B"):
        values = np.arange(0, 65536, 1366, np.uint16)[:48].reshape(6, 8)
        data = values.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
        image = Image.frombytes(mode, (8, 6), data)
        expected = (values >> 8).astype(np.uint8)[:, :, None]
    elif mode == "F":
        expected = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8, 1)
        image = Image.fromarray(expected[:, :, 0])
    else:
        rgb = Image.fromarray(noise(8, 6))
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


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_pillow_image_with_alpha_resizes_as_by_pillow(mode):
    image = Image.fromarray(noise(64, 48, 4)).convert(mode)
    for name in ("box", "bilinear", "bicubic", "lanczos", "nearest"):
        method = Image.Resampling[name.upper()]
        # Rows first, as we do; newer Pillows turn the order round where it is cheaper.
        theirs = image.resize((20, 48), method).convert("RGBA")
        np.testing.assert_array_equal(T.Resize(20, 48, name)(image), np.asarray(theirs))


def test_pillow_palette_with_transparency_does_not_warn():
    image = Image.fromarray(noise(8, 6)).convert("P")
    expected = np.asarray(image.convert("RGB"))
    image.info["transparency"] = bytes(range(256))
    np.testing.assert_array_equal(T.RandomHorizontalFlip(0.0)(image), expected)


def test_pillow_image_of_32_bit_integers_is_refused():
    with pytest.raises(OptionTypeError, match="mode I"):
        T.Resize(3)(Image.new("I", (8, 6)))
