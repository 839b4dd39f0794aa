"""Mirroring."""

from __future__ import annotations

from imagearchive.images.geometry import Geometry
from imagearchive.images.random import Stream
from imagearchive.transforms.base import GeometricTransform, Operation, require_stream
from imagearchive.transforms.image_arguments import check_probability
from imagearchive.transforms.moves import GeometryMove

__all__ = ["RandomHorizontalFlip", "RandomVerticalFlip"]


class _Flip(GeometricTransform):
    is_random = True
    flips = True
    arguments = ("p",)

    def __init__(self, p: float = 0.5, *, seed: int | None = None) -> None:
        super().__init__(seed=seed)
        self.p = check_probability("p", p)

    def _flips(self, stream: Stream | None) -> bool:
        return require_stream(stream).random() < self.p


class RandomHorizontalFlip(_Flip):
    """Mirror left to right with probability `p`.

    Parameters
    ----------
    p : float
        Probability that the image changes.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    def add_to(self, geometry: Geometry | GeometryMove, stream: Stream | None) -> None:
        """Add this transform to a native step."""
        if self._flips(stream):
            geometry.flip_x()

    def operations(self) -> tuple[Operation, ...] | None:
        """Return what `add_to` does; see `GeometricTransform.operations`."""
        return (("flip_x", self.p),)


class RandomVerticalFlip(_Flip):
    """Mirror top to bottom with probability `p`.

    Parameters
    ----------
    p : float
        Probability that the image changes.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    def add_to(self, geometry: Geometry | GeometryMove, stream: Stream | None) -> None:
        """Add this transform to a native step."""
        if self._flips(stream):
            geometry.flip_y()

    def operations(self) -> tuple[Operation, ...] | None:
        """Return what `add_to` does; see `GeometricTransform.operations`."""
        return (("flip_y", self.p),)
