"""Draws one sample: its image, and masks, boxes, keypoints and text with it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from imagearchive.transforms.base import is_tensor
from imagearchive.transforms.fields import (
    KEY,
    Boxes,
    Field,
    Image,
    Keypoints,
    Label,
    Mask,
    Sample,
    Text,
)
from imagearchive.transforms.values import Normalize

__all__ = ["as_numpy", "as_pixels", "draw_message", "draw_sample", "images_of", "tile"]

#: Colors that are told apart, also by most people who see red and green alike
#: (M. Okabe and K. Ito, "Color universal design", 2002), and two more.
_COLORS: Final = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167), (148, 103, 189), (140, 86, 75),
)  # fmt: skip
_FONT_SIZE: Final = 12
#: Float images whose values are all below are in the range 0 to 1, not 0 to 255.
_WHITE: Final = 1.5
_MARGIN: Final = 4


def images_of(sample: Sample) -> list[str]:
    """Return the names of the images that a sample has."""
    names = [name for name, kind in sample.fields.items() if isinstance(kind, Image)]
    return [name for name in names if sample.get(name) is not None]


def draw_sample(
    sample: Sample,
    name: str,
    size: int,
    classes: Sequence[str] | None = None,
    normalized: Sequence[Normalize] = (),
) -> PillowImage.Image:
    """Draw one image of a sample, with what is known of it.

    Parameters
    ----------
    sample : Sample
    name : str
        The field of the image.
    size : int
        Length of the longer side in pixels.
    classes : sequence of str, optional
        Names of the class numbers in labels.
    normalized : sequence of Normalize
        What was done to the image, in this order.
    """
    pixels = as_pixels(sample[name], normalized)
    height, width = pixels.shape[:2]
    scale = size / max(width, height)
    sides = max(1, round(width * scale)), max(1, round(height * scale))
    fitting = [
        (kind, value)
        for field, kind in sample.fields.items()
        if (value := sample.get(field)) is not None and _is_in(kind, name, sample)
    ]
    for kind, value in fitting:
        if isinstance(kind, Mask):
            pixels = _paint_mask(pixels, as_numpy(value), kind)
    enlarged = PillowImage.Resampling.NEAREST if scale > 2 else PillowImage.Resampling.BILINEAR
    picture = PillowImage.fromarray(pixels).resize(sides, enlarged)
    factor = np.array(picture.size) / (width, height)
    pen = ImageDraw.Draw(picture)
    for kind, value in fitting:
        if isinstance(kind, Boxes):
            _draw_boxes(pen, kind, as_numpy(value), factor, sample, classes)
        elif isinstance(kind, Keypoints):
            _draw_points(pen, kind, as_numpy(value), factor)
    return _with_caption(picture, _caption(sample, classes))


def _is_in(kind: Field, image: str, sample: Sample) -> bool:
    """Whether a field says where something is in that image."""
    own = getattr(kind, "image", None)
    first = next(name for name, other in sample.fields.items() if isinstance(other, Image))
    return kind.is_place and image == (own or first)


def as_numpy(value: Any) -> npt.NDArray[Any]:
    """Return an array or a tensor as an array."""
    return value.detach().cpu().numpy() if is_tensor(value) else np.asarray(value)


def as_pixels(value: Any, normalized: Sequence[Normalize] = ()) -> npt.NDArray[np.uint8]:
    """Return an image of any kind as an (H, W, 3) array of colors to show.

    Parameters
    ----------
    value : PIL.Image.Image, ndarray, or tensor
    normalized : sequence of Normalize
        What was done to it, in this order, if it is not of uint8.
    """
    if isinstance(value, PillowImage.Image):
        return np.array(value.convert("RGB"))
    array = as_numpy(value)
    if array.shape[0] in (1, 3, 4) and (is_tensor(value) or array.shape[2] not in (1, 3, 4)):
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8:
        array = np.nan_to_num(array.astype(np.float32))
        for step in reversed(normalized):
            array = step.undo(array, "HWC")
        if normalized:
            # Rounding leads a little beyond the range.
            array = np.clip(array, 0, 1 if float(array.max(initial=0)) < _WHITE else 255)
        low, high = float(array.min(initial=0)), float(array.max(initial=0))
        if low < 0 or high > 255:
            array = (array - low) * (255 / (high - low))
        elif high <= 1:
            array = array * 255
        array = np.rint(array).astype(np.uint8)
    array = array[:, :, :3]
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array)


def _paint_mask(
    pixels: npt.NDArray[np.uint8], mask: npt.NDArray[Any], kind: Mask
) -> npt.NDArray[np.uint8]:
    """Return an image whose mask is painted half transparent; 0 and its fill are left out."""
    if mask.ndim == 3:
        numbers = np.arange(1, len(mask) + 1).reshape(-1, 1, 1)
        mask = ((mask != 0) * numbers).max(axis=0, initial=0)
    if mask.shape != pixels.shape[:2]:
        return pixels
    shown = (mask != 0) & ((mask != kind.fill) | (kind.fill == 0))
    colors = np.array(_COLORS, np.float32)[(mask.astype(np.int64) - 1) % len(_COLORS)]
    blended = np.where(shown[:, :, None], (pixels + colors) / 2, pixels)
    return np.rint(blended).astype(np.uint8)


def _draw_boxes(
    pen: ImageDraw.ImageDraw,
    kind: Boxes,
    boxes: npt.NDArray[Any],
    factor: npt.NDArray[np.float64],
    sample: Sample,
    classes: Sequence[str] | None,
) -> None:
    labels = next((sample[name] for name in kind.labels if sample.get(name) is not None), None)
    for number, box in enumerate(boxes.reshape(-1, 4) * np.tile(factor, 2)):
        label = None if labels is None else labels[number]
        color = _COLORS[_color_of(number if label is None else label)]
        x0, y0, x1, y1 = (float(v) for v in box)
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=color, width=2)
        if label is not None:
            _write(pen, (x0 + 2, y0 + 2), _named(label, classes), color)


def _draw_points(
    pen: ImageDraw.ImageDraw,
    kind: Keypoints,
    points: npt.NDArray[Any],
    factor: npt.NDArray[np.float64],
) -> None:
    labeled = points.shape[-1] == 3 and kind.visibility is not False
    for number, point in enumerate(points.reshape(-1, points.shape[-1])):
        if (labeled and point[2] <= 0) or not np.isfinite(point[:2]).all():
            continue
        x, y = ((point[:2] + 0.5) * factor).tolist()
        color = _COLORS[number % points.shape[-2] % len(_COLORS)]
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=color, outline=(0, 0, 0))


def _color_of(label: Any) -> int:
    if isinstance(label, str):
        return sum(label.encode()) % len(_COLORS)
    return int(as_numpy(label).ravel()[0]) % len(_COLORS)


def _named(label: Any, classes: Sequence[str] | None) -> str:
    if isinstance(label, str):
        return label
    array = as_numpy(label)
    if array.ndim == 0 and classes is not None and float(array).is_integer():
        number = int(array)
        if 0 <= number < len(classes):
            return str(classes[number])
    return str(label if array.ndim == 0 and not is_tensor(label) else array.tolist())


def _caption(sample: Sample, classes: Sequence[str] | None) -> str:
    parts = [str(sample[KEY])] if KEY in sample else []
    rows = {name for kind in sample.fields.values() for name in getattr(kind, "labels", ())}
    for name, kind in sample.fields.items():
        value = sample.get(name)
        if value is None or name in rows or not isinstance(kind, (Label, Text)):
            continue
        parts.append(_named(value, classes))
    return " · ".join(parts)


def _font() -> Any:
    return ImageFont.load_default(_FONT_SIZE)


def _write(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, color: Any) -> None:
    font = _font()
    pen.rectangle(pen.textbbox(at, text, font), fill=color)
    pen.text(at, text, (0, 0, 0), font)


def _with_caption(picture: PillowImage.Image, text: str) -> PillowImage.Image:
    """Return the picture with one line of text below, cut to its width."""
    if not text:
        return picture
    font, text = _font(), " ".join(text.split())
    while len(text) > 1 and font.getlength(text) > picture.width - 2:
        text = text.removesuffix("…")[:-1] + "…"
    taller = PillowImage.new("RGB", (picture.width, picture.height + _FONT_SIZE + 6), "white")
    taller.paste(picture, (0, 0))
    ImageDraw.Draw(taller).text((1, picture.height + 2), text, (0, 0, 0), font)
    return taller


def draw_message(text: str, size: int) -> PillowImage.Image:
    """Draw a gray square with a text, in place of an image that cannot be shown."""
    picture = PillowImage.new("RGB", (size, size), (224, 224, 224))
    font, pen = _font(), ImageDraw.Draw(picture)
    # The widest letters would fit; more text than the square holds is cut.
    per_line = max(1, int((size - 8) / font.getlength("n")))
    lines = textwrap.wrap(text, per_line)[: max(1, (size - 8) // (_FONT_SIZE + 3))]
    for number, line in enumerate(lines):
        pen.text((4, 4 + number * (_FONT_SIZE + 3)), line, (64, 64, 64), font)
    return picture


def tile(pictures: Sequence[PillowImage.Image], columns: int) -> PillowImage.Image:
    """Return one picture of several, in rows of so many."""
    if len(pictures) == 1:
        return pictures[0]
    width = max((picture.width for picture in pictures), default=1) + _MARGIN
    height = max((picture.height for picture in pictures), default=1) + _MARGIN
    rows = -(-len(pictures) // columns)
    sides = columns * width - _MARGIN, max(1, rows * height - _MARGIN)
    sheet = PillowImage.new("RGB", sides, "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return sheet
