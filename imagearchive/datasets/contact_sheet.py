"""`contact_sheet`: samples of any dataset or batch in one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image as PillowImage

from imagearchive.archive.samples import Samples
from imagearchive.datasets.samples.extension_samples import ExtensionSamples
from imagearchive.datasets.sheets import draw_sheet
from imagearchive.transforms.fields import Field

__all__ = ["contact_sheet"]


def contact_sheet(
    data: Any,
    *,
    columns: int = 8,
    n: int = 32,
    classes: Sequence[str | int] | None = None,
    seed: int = 0,
    size: int = 128,
    transform: Callable[..., Any] | None = None,
    fields: Mapping[str, Field] | None = None,
) -> PillowImage.Image:
    """Draw samples of a dataset or of a batch in rows, with their labels.

    Masks, boxes, keypoints, and text are drawn as `draw` does. An image that cannot be read is a
    gray square with the error in it.

    Parameters
    ----------
    data : dataset or batch
        Anything with ``len`` and ``[i]``, such as an `ImageArchive`, or a batch of a loader: a
        tuple of images and labels, a dict of columns, or a list of samples.
    columns : int
        How many images are in a row.
    n : int
        How many samples are shown, or all, if there are fewer.
    classes : sequence of str or int, optional
        Show samples of these classes, equally many of each. By default, all samples are equally
        likely. A dataset that does not have its labels at hand is read until there are enough.
    seed : int
        Which samples are chosen. Equal arguments give equal pictures.
    size : int
        Length in pixels of the longer side of each image.
    transform : callable, optional
        The transform that made the samples. The `Normalize` in it is undone. By default, that of
        the dataset.
    fields : mapping of str to Field, optional
        What the values of samples are; see `draw`. Samples of a `SampleArchive` say it themselves.
        By default, names such as ``image``, ``mask``, ``boxes``, and ``label`` are known.

    Returns
    -------
    PIL.Image.Image
        An RGB image.

    Raises
    ------
    OptionError
        There is no such class, or an argument is out of range.
    OptionTypeError
        `data` is neither a dataset nor a batch.

    Examples
    --------
    >>> contact_sheet(dataset, classes=["cat", "dog"]).save("pets.png")  # doctest: +SKIP
    """
    if isinstance(data, Samples):
        data = ExtensionSamples(data)
    return draw_sheet(data, columns, n, classes, seed, size, transform, fields)
