"""Transforms that mix a sample with others of the same epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.arguments import check_choice, check_integer, check_number
from imagearchive.images.geometry import FILTERS
from imagearchive.images.random import Stream
from imagearchive.transforms.base import Shape, as_array
from imagearchive.transforms.fields import Boxes, Keypoints, Mask
from imagearchive.transforms.image_arguments import (
    Fill,
    check_channel_values,
    check_interval,
    check_probability,
    check_side,
    expand_channels,
    round_to_bytes,
)
from imagearchive.transforms.joint import Array, JointImage, JointPass, MixingTransform
from imagearchive.transforms.moves import GeometryMove
from imagearchive.transforms.resize import fitted

__all__ = ["CutMix", "MixUp", "Mosaic"]


class Mosaic(MixingTransform):
    """Put the sample and three others around a random point, as YOLOv4 does, with probability `p`.

    Each image is resized to fit into the result, keeping its proportions, and a corner of it lies
    at the point: the sample fills the upper left, the others the upper right, the lower left and
    the lower right. Masks and boxes go along, with the rows of the boxes' labels, and keypoints of
    several objects. Other fields stay those of the sample. The four differ if there are as many.

    It works on samples in a `DataLoader`; see `Compose.apply`.

    Parameters
    ----------
    width, height : int
        Size of the result in pixels. By default, `height` is `width`.
    center : (float, float)
        Bounds of the point, as fractions of the width and height.
    fill : float or sequence of float
        Value of pixels that no image covers, one number for all channels or one for each.
    interpolation : str
        The filter, as for `Resize`.
    p : float
        Probability that the sample changes. Follow with `Resize` or `Letterbox` if it is below 1.
    seed : int, optional
        Not used with a loader's keys.
    """

    arguments = ("width", "height", "center", "fill", "interpolation", "p")
    partners = 3

    def __init__(
        self,
        width: int,
        height: int | None = None,
        center: Sequence[float] = (0.25, 0.75),
        fill: Fill = 114,
        interpolation: str = "bilinear",
        p: float = 1.0,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.width = check_side("width", width)
        self.height = self.width if height is None else check_side("height", height)
        self.center = check_interval("center", center, 0.0, 1.0)
        self.fill = check_channel_values("fill", fill)
        self.interpolation = check_choice("interpolation", interpolation, FILTERS)
        self.p = check_probability("p", p)

    def mix(self, sample: JointPass, partners: Sequence[JointPass], stream: Stream) -> None:
        """Change `sample` by its partners; see `MixingTransform.mix`."""
        x = min(self.width - 1, max(1, round(stream.uniform(*self.center) * self.width)))
        y = min(self.height - 1, max(1, round(stream.uniform(*self.center) * self.height)))
        parts = [sample, *partners]
        placed = [
            {name: self._place(part, name, quarter, x, y) for name in part.images}
            for quarter, part in enumerate(parts)
        ]
        for part, places in zip(parts, placed):
            part.apply_moves({name: move for name, (move, _, _) in places.items()})
        _check_same_fields(self, sample, partners)
        for name in sample.images:
            sample.images[name] = self._assemble(name, parts, placed)
        for name in sample.masks:
            canvas = self._canvas(sample, name)
            for part, places in zip(parts, placed):
                _, left, top = places[part.primary_image(part.sample.fields[name], name)]
                mask = part.mask(name)
                canvas[..., top : top + mask.shape[-2], left : left + mask.shape[-1]] = mask
            sample.masks[name] = canvas
        _join_places(self, parts, placed)

    def _place(
        self, part: JointPass, name: str, quarter: int, x: int, y: int
    ) -> tuple[GeometryMove, int, int]:
        """Return the move of one image, and where the result lies."""
        width, height = part.size(name)
        w, h = fitted(width, height, self.width, self.height)
        move = GeometryMove(width, height)
        move.resize(w, h, None, self.interpolation)
        right, lower = quarter % 2, quarter // 2
        seen_w = min(w, self.width - x if right else x)
        seen_h = min(h, self.height - y if lower else y)
        move.crop(0 if right else w - seen_w, 0 if lower else h - seen_h, seen_w, seen_h)
        return move, x if right else x - seen_w, y if lower else y - seen_h

    def _assemble(
        self,
        name: str,
        parts: Sequence[JointPass],
        placed: Sequence[dict[str, tuple[GeometryMove, int, int]]],
    ) -> JointImage:
        arrays = [_hwc(part, name) for part in parts]
        channels = max(array.shape[2] for array in arrays)
        dtype = arrays[0].dtype
        fill = expand_channels("fill", self.fill, channels)
        canvas = np.empty((self.height, self.width, channels), dtype)
        canvas[:] = round_to_bytes(fill) if dtype == np.uint8 else fill
        for array, places in zip(arrays, placed):
            _, left, top = places[name]
            canvas[top : top + array.shape[0], left : left + array.shape[1]] = array
        return JointImage(canvas, "HWC")

    def _canvas(self, sample: JointPass, name: str) -> Array:
        mask = sample.mask(name)
        if mask.ndim == 3:
            raise OptionError(
                f"Mosaic cannot join the masks {name!r} of several objects; pass one mask for each "
                f"sample"
            )
        field = sample.sample.fields[name]
        assert isinstance(field, Mask)
        return np.full((self.height, self.width), field.fill, mask.dtype)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        if self.p < 1 and shape[:2] != (self.height, self.width):
            return None, None, shape[2]
        return self.height, self.width, shape[2]


class _Blend(MixingTransform):
    """Mixes two samples of one image size and their labels by a random share."""

    arguments = ("alpha", "num_classes", "label", "p")

    def __init__(
        self,
        alpha: float = 1.0,
        num_classes: int | None = None,
        label: str = "label",
        p: float = 1.0,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.alpha = float(check_number("alpha", alpha, 0))
        if self.alpha == 0.0:
            raise OptionError(f"alpha must be greater than 0, got {alpha!r}")
        if num_classes is not None:
            num_classes = check_integer("num_classes", num_classes, 1)
        self.num_classes = num_classes
        self.label = label
        self.p = check_probability("p", p)

    def mix(self, sample: JointPass, partners: Sequence[JointPass], stream: Stream) -> None:
        """Change `sample` by its partner; see `MixingTransform.mix`."""
        partner = partners[0]
        if sample.has_places:
            raise OptionError(
                f"{type(self).__name__} cannot mix masks, boxes or keypoints; use Mosaic for them"
            )
        _check_same_fields(self, sample, partners)
        share = float(stream.generator().beta(self.alpha, self.alpha))
        for name in sample.images:
            own, other = _hwc(sample, name), _hwc(partner, name)
            if own.shape != other.shape:
                raise OptionError(
                    f"{type(self).__name__} needs images of one size, but {name!r} has the shape "
                    f"{own.shape} here and {other.shape} in another sample; put a crop or "
                    f"Resize(width, height) before it"
                )
            mixed, share = self._blend(own, other, share, stream)
            sample.images[name] = JointImage(mixed, "HWC")
        sample.sample[self.label] = self._label(sample, share) + self._label(partner, 1.0 - share)

    def _blend(self, own: Array, other: Array, share: float, stream: Stream) -> tuple[Array, float]:
        """Return the mixed image, and the share that is the sample's own."""
        raise NotImplementedError

    def _label(self, part: JointPass, share: float) -> Array:
        """Return a label as a probability of each class, times a share."""
        if self.label not in part.sample:
            raise OptionError(
                f"{type(self).__name__} needs the field {self.label!r}; pass label= the name of "
                f"the class, among {sorted(map(str, part.sample))}"
            )
        value = np.asarray(part.sample[self.label])
        if value.ndim == 1 and value.dtype.kind == "f":
            return value.astype(np.float32) * np.float32(share)
        if value.ndim or value.dtype.kind not in "ui" or self.num_classes is None:
            raise OptionTypeError(
                f"{type(self).__name__} needs num_classes= and class numbers in {self.label!r}, or "
                f"a vector of probabilities, got {part.sample[self.label]!r}"
            )
        if not 0 <= value < self.num_classes:
            raise OptionError(
                f"the class {int(value)} in {self.label!r} is not below num_classes="
                f"{self.num_classes}"
            )
        result = np.zeros(self.num_classes, np.float32)
        result[int(value)] = share
        return result


class MixUp(_Blend):
    """Blend the image with that of another sample, and the labels likewise, with probability `p`.

    The share of the sample is drawn from Beta(alpha, alpha) (Zhang et al., "mixup", 2018). Class
    numbers become probabilities, float32 of shape (num_classes,), whether or not another label has
    the same class; with ``p`` below 1, samples that stay whole keep their class numbers, so end
    with a ``p`` of 1 where batches need one type.

    It works on samples in a `DataLoader`, whose images have one size; see `Compose.apply`.

    Parameters
    ----------
    alpha : float
        Small values keep most images nearly whole.
    num_classes : int, optional
        Number of classes. Not needed if labels are probabilities already.
    label : str
        The field of the class.
    p : float
        Probability that the sample changes.
    seed : int, optional
        Not used with a loader's keys.
    """

    def _blend(self, own: Array, other: Array, share: float, stream: Stream) -> tuple[Array, float]:
        mixed = own.astype(np.float32) * np.float32(share)
        mixed += other.astype(np.float32) * np.float32(1.0 - share)
        return (np.rint(mixed) if own.dtype == np.uint8 else mixed).astype(own.dtype), share


class CutMix(_Blend):
    """Overwrite a random rectangle by that of another sample, and mix the labels by area.

    The rectangle's share of the area is drawn from Beta(alpha, alpha) (Yun et al., "CutMix", 2019);
    where it is cut at the edges, labels follow what is visible. Labels are those of `MixUp`.

    It works on samples in a `DataLoader`, whose images have one size; see `Compose.apply`.

    Parameters
    ----------
    alpha, num_classes, label, p, seed
        As for `MixUp`.
    """

    def _blend(self, own: Array, other: Array, share: float, stream: Stream) -> tuple[Array, float]:
        height, width = own.shape[:2]
        x, y = stream.below(width), stream.below(height)
        half = 0.5 * (1.0 - share) ** 0.5
        left, right = max(0, int(x - half * width)), min(width, int(x + half * width))
        top, bottom = max(0, int(y - half * height)), min(height, int(y + half * height))
        mixed = own.copy()
        mixed[top:bottom, left:right] = other[top:bottom, left:right]
        return mixed, 1.0 - (right - left) * (bottom - top) / (width * height)


def _hwc(part: JointPass, name: str) -> Array:
    value, layout = part.array(name)
    array, layout = as_array(value, layout)
    return array if layout == "HWC" else array.transpose(1, 2, 0)


def _check_same_fields(
    step: MixingTransform, sample: JointPass, partners: Sequence[JointPass]
) -> None:
    for kind in ("images", "masks", "boxes", "points"):
        for partner in partners:
            if getattr(sample, kind).keys() != getattr(partner, kind).keys():
                raise OptionError(
                    f"{type(step).__name__} needs the same fields in all samples, but one has "
                    f"{sorted(getattr(sample, kind))} and another {sorted(getattr(partner, kind))}"
                )


def _join_places(
    step: MixingTransform,
    parts: Sequence[JointPass],
    placed: Sequence[dict[str, tuple[GeometryMove, int, int]]],
) -> None:
    """Append the boxes and keypoints of the others, with their labels."""
    sample = parts[0]
    for name, field in sample.sample.fields.items():
        if not isinstance(field, (Boxes, Keypoints)) or sample.sample.get(name) is None:
            continue
        offsets = [
            places[part.primary_image(field, name)][1:] for part, places in zip(parts, placed)
        ]
        if isinstance(field, Boxes):
            sample.join_boxes(name, parts, offsets)
        elif np.ndim(sample.sample[name]) == 3:
            sample.join_points(name, parts, offsets)
        else:
            raise OptionError(
                f"{type(step).__name__} cannot join the keypoints {name!r} of single objects; use "
                f"the shape (m, n, 2) or (m, n, 3) for m objects"
            )
