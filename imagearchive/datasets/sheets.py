"""Draws samples of a dataset or of a batch as one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image as PillowImage

from imagearchive.datasets.shown_samples import (
    choose_samples,
    class_names,
    count_samples,
    load_sample,
    locate_sample,
)
from imagearchive.errors import OptionTypeError
from imagearchive.errors.arguments import check_integer
from imagearchive.transforms.compose import flat
from imagearchive.transforms.drawing import draw_message, draw_sample, images_of, tile
from imagearchive.transforms.fields import Field
from imagearchive.transforms.values import Normalize

__all__ = ["draw_sheet"]


def draw_sheet(
    data: Any,
    columns: int,
    n: int,
    classes: Sequence[str | int] | None,
    seed: int,
    size: int,
    transform: Callable[..., Any] | None,
    fields: Mapping[str, Field] | None,
) -> PillowImage.Image:
    """Draw samples in rows; the parameters are those of `contact_sheet`."""
    columns = check_integer("columns", columns, 1, 1000)
    n = check_integer("n", n, 1, 10_000)
    seed = check_integer("seed", seed)
    size = check_integer("size", size, 16, 1024)
    if isinstance(classes, (str, int)):
        raise OptionTypeError(f"classes must be a list of classes, such as [{classes!r}]")
    flat(transform)
    wanted = None if classes is None else list(classes)
    chosen = choose_samples(data, count_samples(data), n, seed, wanted, fields)
    if not chosen:
        return draw_message("no samples", size)
    pictures = [_draw_one(data, index, size, transform, fields) for index in chosen]
    return tile(pictures, min(columns, len(pictures)))


def _draw_one(
    data: Any,
    index: int,
    size: int,
    transform: Callable[..., Any] | None,
    fields: Mapping[str, Field] | None,
) -> PillowImage.Image:
    part, inner = locate_sample(data, index)
    own = transform if transform is not None else getattr(part, "transform", None)
    try:
        normalized = [step for step in flat(own) if isinstance(step, Normalize)]
        sample = load_sample(part, inner, size, fields)
        names = images_of(sample)
        if not names:
            return draw_message(f"sample {index} has no image", size)
        classes = class_names(part)
        return tile([draw_sample(sample, name, size, classes, normalized) for name in names], 2)
    except Exception as error:  # noqa: BLE001
        return draw_message(f"sample {index}: {type(error).__name__}: {error}", size)
