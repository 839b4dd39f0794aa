"""The samples that ``--field`` describes: which members belong together, drawn as one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from imagearchive.images.pillow import save_image
from imagearchive.transforms.fields import Label

if TYPE_CHECKING:
    from imagearchive.datasets.samples.dataset import SampleArchive

__all__ = ["FieldSamples"]

DRAWN_SIDE: Final = 480


class FieldSamples:
    """Finds the sample of a member, and the other members of it. Safe for threads.

    Parameters
    ----------
    dataset : SampleArchive
        All of its fields are in one archive.
    """

    def __init__(self, dataset: SampleArchive) -> None:
        self._dataset = dataset
        self._positions = {name: dataset.member_positions(name)[1] for name in dataset.parts}
        self._sample_of = np.full(len(dataset.archives[0].table), -1, np.int64)
        numbers = np.arange(len(dataset))
        for positions in self._positions.values():
            present = positions >= 0
            self._sample_of[positions[present]] = numbers[present]

    def __len__(self) -> int:
        return len(self._dataset)

    def number(self, position: int) -> int | None:
        """Return the sample that a member belongs to, if any."""
        number = int(self._sample_of[position])
        return number if number >= 0 else None

    def members(self, number: int) -> list[tuple[str, int]]:
        """Return the fields that a sample has, and the positions of their members."""
        found = ((name, int(one[number])) for name, one in self._positions.items())
        return [(name, position) for name, position in found if position >= 0]

    def label_positions(self) -> list[npt.NDArray[np.int64]]:
        """Return, for each field that is a label, its member in each sample; -1 for none."""
        fields = self._dataset.fields
        return [of for name, of in self._positions.items() if isinstance(fields[name], Label)]

    def draw(self, number: int) -> bytes:
        """Return a sample as a JPEG: its image, with masks, boxes, keypoints, and text.

        Raises
        ------
        ImageArchiveError
            It has no image, or one of its fields cannot be decoded.
        """
        from imagearchive.datasets.drawing import draw

        sample = self._dataset.load(number)
        classes = self._dataset.classes or None
        picture = draw(sample, size=DRAWN_SIDE, classes=classes)
        pixels: npt.NDArray[np.uint8] = np.asarray(picture)
        return save_image("jpg", pixels, quality=90)
