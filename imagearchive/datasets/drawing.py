"""`draw`: pictures of samples and batches of several fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from imagearchive.errors import OptionError
from imagearchive.errors.arguments import check_integer
from imagearchive.transforms.compose import as_sample, flat
from imagearchive.transforms.drawing import draw_sample, images_of, tile
from imagearchive.transforms.fields import Field, Sample
from imagearchive.transforms.values import Normalize

__all__ = ["draw"]


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
    names = images_of(known)
    if not names:
        raise OptionError("there is nothing to draw: the sample has no field of kind Image")
    single = np.ndim(known[names[0]]) == 3 or isinstance(known[names[0]], PillowImage.Image)
    samples = [known] if single else _split(known, len(known[names[0]]))
    normalized = [step for step in flat(transform) if isinstance(step, Normalize)]
    pictures = [
        draw_sample(one, name, size, classes, normalized) for one in samples for name in names
    ]
    if columns is None:
        columns = len(names) if single else max(1, round(len(pictures) ** 0.5))
    columns = check_integer("columns", columns, 1)
    return tile(pictures, min(columns, max(1, len(pictures))))


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
