"""How a pipeline is cut into stages: what becomes one native step, and what becomes arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from imagearchive.images.geometry import Geometry
from imagearchive.images.geometry_plan import GeometryPlan
from imagearchive.transforms.base import GeometricTransform, Layout, Operation, Transform
from imagearchive.transforms.random_keys import Key
from imagearchive.transforms.values import Normalize, ToDtype, ToTensor

__all__ = ["GeometricStage", "OutputStage", "SingleStage", "Step", "output_stage", "split_stages"]

Step = Callable[..., Any]


class GeometricStage(NamedTuple):
    """Neighboring geometric transforms that are one native step."""

    first: int
    steps: tuple[GeometricTransform, ...]

    def fits_channels(self, channels: int) -> bool:
        """Whether every step can fill images of that many channels."""
        return all(step.fits_channels(channels) for step in self.steps)

    def geometry(self, width: int, height: int, key: Key | None) -> Geometry:
        """Combine the steps for an image of that size."""
        geometry = Geometry(width, height)
        for position, step in enumerate(self.steps, self.first):
            stream = None
            if step.is_random:
                stream = step._streams.next() if key is None else key.at(position).stream()
            step.add_to(geometry, stream)
        return geometry

    def plan(self) -> GeometryPlan | None:
        """Return a plan that makes the same geometries, or None if a step cannot be part of it."""
        operations: list[tuple[int, Operation]] = []
        for position, step in enumerate(self.steps, self.first):
            # A subclass may override `add_to`.
            own = step.operations() if "operations" in vars(type(step)) else None
            if own is None:
                return None
            operations += [(position, operation) for operation in own]
        return GeometryPlan(operations)


class SingleStage(NamedTuple):
    """Any other step."""

    position: int
    step: Step


class OutputStage(NamedTuple):
    """The end of a pipeline as one formula for (H, W, C) uint8 input: value * scale + bias."""

    first: int
    steps: tuple[Step, ...]
    scale: tuple[float, ...]
    bias: tuple[float, ...]
    dtype: str
    layout: Layout


def split_stages(steps: list[Step]) -> list[GeometricStage | SingleStage]:
    """Group steps: as many neighboring geometric transforms as one native step can take.

    One step crops, resizes once, then crops, flips and pads with one color.
    """
    stages: list[GeometricStage | SingleStage] = []
    group: list[GeometricTransform] = []
    cannot_resize, fill = False, None
    for position, step in enumerate(steps):
        if not (isinstance(step, GeometricTransform) and step.is_native):
            if group:
                stages.append(GeometricStage(position - len(group), tuple(group)))
            stages.append(SingleStage(position, step))
            group, cannot_resize, fill = [], False, None
            continue
        step_fill = step.fill_value
        other_fill = fill is not None and step_fill is not None and step_fill != fill
        if (cannot_resize and step.resizes) or other_fill:
            stages.append(GeometricStage(position - len(group), tuple(group)))
            group, cannot_resize, fill = [], False, None
        group.append(step)
        cannot_resize = cannot_resize or step.resizes or step.flips or step_fill is not None
        fill = step_fill if step_fill is not None else fill
    if group:
        stages.append(GeometricStage(len(steps) - len(group), tuple(group)))
    return stages


def output_stage(steps: list[Step]) -> OutputStage:
    """Return the longest end of the pipeline that is one formula; it may have no steps."""
    first = len(steps)
    while first and isinstance(steps[first - 1], (Normalize, ToDtype, ToTensor)):
        first -= 1
    while True:
        stage = _combine(first, steps[first:])
        if stage is not None:
            return stage
        first += 1


def _combine(first: int, steps: list[Step]) -> OutputStage | None:
    scale: tuple[float, ...] = (1.0,)
    bias: tuple[float, ...] = (0.0,)
    dtype: str = "uint8"
    layout: Layout = "HWC"
    for step in steps:
        if isinstance(step, ToTensor):
            layout = step.format.value
            if step.normalize and dtype == "uint8":
                scale, dtype = tuple(v / 255.0 for v in scale), "float32"
        elif dtype == "float16":
            return None
        elif isinstance(step, Normalize):
            unit = 1.0 / 255.0 if dtype == "uint8" else 1.0
            n = len(step.std)
            if len(scale) not in (1, n) and n != 1:
                return None
            count = max(n, len(scale))
            factors, offsets = step.scale() * (count // n), step.bias() * (count // n)
            scale, bias = scale * (count // len(scale)), bias * (count // len(bias))
            scale = tuple(a * unit * factor for a, factor in zip(scale, factors))
            bias = tuple(
                b * unit * factor + offset for b, factor, offset in zip(bias, factors, offsets)
            )
            dtype = "float32"
        elif isinstance(step, ToDtype) and step.dtype != dtype:
            if step.dtype == "uint8":
                return None
            if dtype == "uint8" and step.scale:
                scale = tuple(v / 255.0 for v in scale)
            dtype = step.dtype
    return OutputStage(first, tuple(steps), scale, bias, dtype, layout)


def run_step(
    step: Callable[..., Any], image: Any, layout: Layout | None, key: Key | None, position: int
) -> tuple[Any, Layout | None]:
    """Apply one step; return the image and its layout, or None if only the shape tells."""
    if isinstance(step, Transform):
        return step.step(image, layout, None if key is None else key.at(position))
    result = step(image)
    # We assume that a function which keeps the number of axes keeps their order.
    keeps = isinstance(result, np.ndarray) and result.ndim == getattr(image, "ndim", 0)
    return result, layout if keeps else None
