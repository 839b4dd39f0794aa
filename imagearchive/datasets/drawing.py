"""Pictures of samples, with what is known about them drawn in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from imagearchive.errors import OptionError
from imagearchive.errors.arguments import check_integer
from imagearchive.transforms.base import is_tensor
from imagearchive.transforms.compose import as_sample, flat
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

__all__ = ["as_pixels", "draw"]

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


def draw(
    sample: Mapping[str, Any],
    fields: Mapping[str, Field] | None = None,
    *,
    columns: int | None = None,
    size: int = 256,
    classes: Sequence[str] | None = None,
    transform: Callable[..., Any] | None = None,
) -> PillowImage.Image:
    """Draw a sample, or a batch of samples, with its masks, boxes and keypoints.

    Parameters
    ----------
    sample : Sample or mapping
        A sample of a `SampleArchive`, what a transform made of it, or a batch of a `DataLoader`.
    fields : mapping of str to Field, optional
        What the values of a plain dict are, such as ``{"image": Image(), "boxes": Boxes()}``.
    columns : int, optional
        How many samples of a batch lie side by side. By default, as many as make a square.
    size : int
        Length in pixels of the longer side of each image in the picture.
    classes : sequence of str, optional
        Names of the class numbers in labels.
    transform : callable, optional
        The transform that made the sample, such as a `Compose`. The `Normalize` in it is undone, so
        that colors are those of the image. ``Normalize(mean, std)`` itself will do, too.

    Returns
    -------
    PIL.Image.Image
        An RGB image. Float images are shown from 0 to 1 or from 0 to 255. Normalized images are
        stretched from their least to their greatest value if `transform` is not given, and then
        their colors are not those of the image.

    Raises
    ------
    OptionError
        The sample has no image, or an argument is out of range.
    """
    known = as_sample(sample, fields)
    size = check_integer("size", size, 16, 4096)
    names = [name for name, kind in known.fields.items() if isinstance(kind, Image)]
    names = [name for name in names if known.get(name) is not None]
    if not names:
        raise OptionError("there is nothing to draw: the sample has no field of kind Image")
    single = np.ndim(known[names[0]]) == 3 or isinstance(known[names[0]], PillowImage.Image)
    samples = [known] if single else _split(known, len(known[names[0]]))
    normalized = [step for step in flat(transform) if isinstance(step, Normalize)]
    pictures = [
        _draw_one(one, name, size, classes, normalized) for one in samples for name in names
    ]
    if columns is None:
        columns = len(names) if single else max(1, round(len(pictures) ** 0.5))
    columns = check_integer("columns", columns, 1)
    return _tile(pictures, min(columns, max(1, len(pictures))))


def _split(batch: Sample, count: int) -> list[Sample]:
    """Return the samples of a batch."""
    return [
        Sample(
            {
                name: value[i]
                for name, value in batch.items()
                if hasattr(value, "__len__") and len(value) == count
            },
            batch.fields,
        )
        for i in range(count)
    ]


def _draw_one(
    sample: Sample,
    name: str,
    size: int,
    classes: Sequence[str] | None,
    normalized: Sequence[Normalize],
) -> PillowImage.Image:
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
            pixels = _paint_mask(pixels, _as_array(value), kind)
    enlarged = PillowImage.Resampling.NEAREST if scale > 2 else PillowImage.Resampling.BILINEAR
    picture = PillowImage.fromarray(pixels).resize(sides, enlarged)
    factor = np.array(picture.size) / (width, height)
    pen = ImageDraw.Draw(picture)
    for kind, value in fitting:
        if isinstance(kind, Boxes):
            _draw_boxes(pen, kind, _as_array(value), factor, sample, classes)
        elif isinstance(kind, Keypoints):
            _draw_points(pen, kind, _as_array(value), factor)
    return _with_caption(picture, _caption(sample, classes))


def _is_in(kind: Field, image: str, sample: Sample) -> bool:
    """Whether a field says where something is in that image."""
    own = getattr(kind, "image", None)
    first = next(name for name, other in sample.fields.items() if isinstance(other, Image))
    return kind.is_place and image == (own or first)


def _as_array(value: Any) -> npt.NDArray[Any]:
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
    array = _as_array(value)
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
    return int(_as_array(label).ravel()[0]) % len(_COLORS)


def _named(label: Any, classes: Sequence[str] | None) -> str:
    if isinstance(label, str):
        return label
    array = _as_array(label)
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


def _tile(pictures: Sequence[PillowImage.Image], columns: int) -> PillowImage.Image:
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
