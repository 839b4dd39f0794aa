"""Transforms of whole samples: all fields move by the same random choices.

Geometry moves images, masks, boxes and keypoints alike; everything else changes images only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from imagearchive.errors import DecodeError, OptionError, OptionTypeError
from imagearchive.images.decode import (
    decode_image,
    decode_refused,
    image_orientation,
    local_decoder,
)
from imagearchive.images.geometry import OutputFormat
from imagearchive.images.masks import decode_mask
from imagearchive.images.render import Decoder, native_info
from imagearchive.transforms.base import Layout, Transform, as_array, convert_and_apply, is_tensor
from imagearchive.transforms.fields import Boxes, Field, Image, Keypoints, Mask, Sample
from imagearchive.transforms.moves import (
    UINT8_FORMAT,
    GeometryMove,
    Move,
    apply_geometry,
    map_mask,
    map_points,
    orientation_move,
)
from imagearchive.transforms.places import (
    PlacedBoxes,
    as_boxes,
    as_points,
    concatenate,
    take_rows,
)
from imagearchive.transforms.random_keys import Key
from imagearchive.transforms.stages import GeometricStage, SingleStage, Step, run_step

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["GROUP", "JointImage", "JointPass", "MixingTransform", "Others"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
#: The k-th other sample of the epoch for this one, and its key.
Others = Callable[[int], tuple[Sample, Key]]

_ENCODED: Final = (bytes, bytearray, memoryview)
#: The partners of one step have numbers with the same ``number // GROUP``, and are to differ.
GROUP: Final = 4
#: How many others a sample and its others may ask for without asking for the same.
_FAN_OUT: Final = 64 * GROUP


class JointImage(NamedTuple):
    """An image on its way: encoded, or an array, a Pillow image or a tensor, and its layout."""

    value: Any
    layout: Layout | None


class JointPass:
    """One sample on its way through the stages of a pipeline.

    Parameters
    ----------
    sample : Sample
        Values of images and masks may be encoded. It is not modified.
    key : Key
    decoder : Decoder, optional
    exif_transpose : bool
        Turn images by their EXIF orientation, and all places in them.
    min_reduction : float
        As for `Geometry`.
    others : callable, optional
        Gives other samples, for transforms that mix samples.
    """

    def __init__(
        self,
        sample: Sample,
        key: Key,
        decoder: Decoder | None = None,
        exif_transpose: bool = False,
        min_reduction: float = 0.0,
        others: Others | None = None,
    ) -> None:
        self.sample, self.key, self.others = sample.copy(), key, others
        self.decoder = decoder or local_decoder()
        self._exif_transpose, self._min_reduction = exif_transpose, min_reduction
        self.images: dict[str, JointImage] = {}
        self.masks: dict[str, Any] = {}
        self.boxes: dict[str, PlacedBoxes] = {}
        self.points: dict[str, Floats] = {}
        self._moved = False
        for name, field in sample.fields.items():
            value = sample.get(name)
            if value is None:
                continue
            if isinstance(field, Image):
                self.images[name] = JointImage(value, None)
            elif isinstance(field, Mask):
                self.masks[name] = value
            elif isinstance(field, Boxes):
                self.boxes[name] = PlacedBoxes(as_boxes(name, value))
            elif isinstance(field, Keypoints):
                # The center of a pixel is at .5 here.
                self.points[name] = as_points(name, value)[..., :2] + 0.5
        if exif_transpose:
            self._turn_upright()

    @property
    def has_places(self) -> bool:
        """Whether it has masks, boxes or keypoints."""
        return bool(self.masks or self.boxes or self.points)

    # -- sizes ---------------------------------------------------------------------------------

    def size(self, name: str) -> tuple[int, int]:
        """Return the width and height of an image as it is now."""
        value, layout = self.images[name]
        if isinstance(value, _ENCODED):
            info = _native_info(value)
            if info is not None:
                return info[0], info[1]
            value, layout = self.array(name)
        if isinstance(value, PillowImage.Image):
            return value.size
        array, layout = as_array(value, layout)
        height, width = array.shape[:2] if layout == "HWC" else array.shape[1:]
        return width, height

    def array(self, name: str) -> JointImage:
        """Decode an image if it is still encoded, and return it."""
        image = self.images[name]
        if isinstance(image.value, _ENCODED):
            image = JointImage(decode_image(image.value, self.decoder), "HWC")
            self.images[name] = image
        return image

    def _check_places(self) -> None:
        """Raise if something is to be moved in an image that is not there."""
        for name in (*self.masks, *self.boxes, *self.points):
            self.primary_image(self.sample.fields[name], name)

    def primary_image(self, field: Field, name: str) -> str:
        """Return the image that places are in, or an empty string if this sample lacks it."""
        wanted = getattr(field, "image", None)
        if wanted is not None and wanted not in self.images:
            if wanted in self.sample.fields:
                return ""
            raise OptionError(f"{name!r} names the image {wanted!r}, which the sample lacks")
        if not self.images:
            raise OptionError(
                f"{name!r} says where something is in an image, but the sample has no image"
            )
        return wanted or next(iter(self.images))

    def mask(self, name: str) -> Array:
        """Return a mask, decoded and checked."""
        value = self.masks[name]
        if isinstance(value, _ENCODED):
            value = decode_mask(value, self.decoder)
        elif is_tensor(value):
            value = value.detach().cpu().numpy()
        if not isinstance(value, np.ndarray) or value.ndim not in (2, 3):
            raise OptionTypeError(
                f"the mask {name!r} must be an array of shape (H, W) or (N, H, W), got "
                f"{getattr(value, 'shape', type(value).__name__)}"
            )
        self.masks[name] = value
        return value

    # -- moving --------------------------------------------------------------------------------

    def run(self, stages: Sequence[GeometricStage | SingleStage]) -> None:
        """Run stages, one after the other."""
        for number, stage in enumerate(stages):
            if isinstance(stage, GeometricStage):
                self.apply_moves(self.geometric_moves(stage))
            elif isinstance(stage.step, MixingTransform):
                self._mix(stage.step, stage.position, stages[:number])
            elif isinstance(stage.step, Transform) and self._must_follow(stage.step):
                self.apply_moves(self._single_moves(stage.step, stage.position))
            else:
                self._change_images(stage.step, stage.position)

    def _must_follow(self, step: Transform) -> bool:
        return step.moves_pixels and self.has_places

    def geometric_moves(self, stage: GeometricStage) -> dict[str, GeometryMove]:
        """Draw the move of each image. Images of one size move alike."""
        self._check_places()
        moves: dict[tuple[int, int], GeometryMove] = {}
        result = {}
        for name in self.images:
            size = self.size(name)
            if size not in moves:
                moves[size] = self._geometry_move(stage, name, size)
            result[name] = moves[size]
        return result

    def _geometry_move(
        self, stage: GeometricStage, name: str, size: tuple[int, int]
    ) -> GeometryMove:
        owned = [
            boxes
            for field, boxes in self.boxes.items()
            if self.primary_image(self.sample.fields[field], field) == name
        ]
        corners = np.concatenate([boxes.corners for boxes in owned]) if owned else None
        move = GeometryMove(*size, corners)
        for position, step in enumerate(stage.steps, stage.first):
            step.add_to(move, self.key.at(position).stream() if step.is_random else None)
        if move.kept is not None:
            ends = np.cumsum([len(boxes.kept) for boxes in owned])
            for boxes, kept in zip(owned, np.split(move.kept, ends[:-1])):
                boxes.kept &= kept
        return move

    def _single_moves(self, step: Transform, position: int) -> dict[str, Move]:
        self._check_places()
        moves = {}
        for name in self.images:
            width, height = self.size(name)
            value, layout = self.array(name)
            array, layout = as_array(value, layout)
            channels = array.shape[2 if layout == "HWC" else 0]
            stream = self.key.at(position).stream() if step.is_random else None
            move = step.move(width, height, channels, stream)
            if move is not None:
                moves[name] = move
        return moves

    def apply_moves(
        self, moves: Mapping[str, Move], output: Callable[[str, Move], Any] | None = None
    ) -> None:
        """Move images and everything that is in them.

        Parameters
        ----------
        moves : mapping of str to Move
            For each image; those that it lacks do not move.
        output : callable, optional
            Called with the name of an image and its move to render the final image.
        """
        if not moves:
            return
        self._moved = True
        for name in self.masks:
            image = self.primary_image(self.sample.fields[name], name)
            if image in moves:
                mask = self.mask(name)
                width, height = self.size(image)
                if mask.shape[-2:] != (height, width):
                    raise OptionError(
                        f"the mask {name!r} has {mask.shape[-1]} x {mask.shape[-2]} pixels, but "
                        f"the image {image!r} has {width} x {height}"
                    )
                field = self.sample.fields[name]
                assert isinstance(field, Mask)
                self.masks[name] = map_mask(moves[image], mask, field.fill, name)
        for name, boxes in self.boxes.items():
            image = self.primary_image(self.sample.fields[name], name)
            if image in moves:
                boxes.move(moves[image])
        for name in self.points:
            field = self.sample.fields[name]
            image = self.primary_image(field, name)
            if image in moves:
                assert isinstance(field, Keypoints)
                self._move_points(name, field, moves[image])
        for name, move in moves.items():
            if output is not None:
                self.images[name] = JointImage(output(name, move), None)
            else:
                self.images[name] = self.moved(name, move)

    def is_native(self, name: str) -> bool:
        """Whether an image is still encoded and can be decoded by regions."""
        value = self.images[name].value
        return isinstance(value, _ENCODED) and _native_info(value) is not None

    def moved(self, name: str, move: Move) -> JointImage:
        """Return an image moved."""
        value, layout = self.images[name]
        if isinstance(value, _ENCODED):
            if isinstance(move, GeometryMove) and self.is_native(name):
                out = np.empty((move.height, move.width, 3), np.uint8)
                return JointImage(self.render(value, move, UINT8_FORMAT, out), "HWC")
            value, layout = self.array(name)

        def apply(array: Array, layout: Layout) -> tuple[Array, Layout]:
            if isinstance(move, GeometryMove):
                return apply_geometry(array, move.geometry, self.decoder), layout
            return move.image(array), layout

        return JointImage(*convert_and_apply(value, layout, apply))

    def render(
        self, encoded: Buffer, move: GeometryMove, output_format: OutputFormat, out: Array
    ) -> Array:
        """Render an encoded image into `out`, decoding only the region that is needed.

        Raises
        ------
        DecodeError
            Only if Pillow refuses the image, too, and `output_format` is 8-bit (H, W, C).
        """
        move.geometry.min_reduction = self._min_reduction
        try:
            self.decoder.render(encoded, move.geometry, output_format, out)
        except DecodeError as error:
            if output_format is not UINT8_FORMAT:
                raise
            array = decode_refused(encoded, self.decoder, error)
            return apply_geometry(array, move.geometry, self.decoder)
        return out

    def _move_points(self, name: str, field: Keypoints, move: Move) -> None:
        points = self.points[name]
        if not points.size:
            return
        labeled = self._labeled(name)
        moved = map_points(move.matrix, points)
        if labeled is not None:
            moved = np.where(labeled[..., None], moved, points)
        if np.linalg.det(move.matrix[:2, :2]) < 0 and field.flip_pairs:
            order = np.arange(points.shape[-2])
            for a, b in field.flip_pairs:
                if max(a, b) >= len(order):
                    raise OptionError(
                        f"flip_pairs of {name!r} names the point {max(a, b)}, but there are "
                        f"{len(order)}"
                    )
                order[a], order[b] = b, a
            moved = moved[..., order, :]
            self.sample[name] = np.asarray(self.sample[name])[..., order, :]
        self.points[name] = moved

    def _labeled(self, name: str) -> npt.NDArray[np.bool_] | None:
        field, values = self.sample.fields[name], np.asarray(self.sample[name])
        assert isinstance(field, Keypoints)
        if values.shape[-1] == 2 or field.visibility is False:
            return None
        labeled: npt.NDArray[np.bool_] = values[..., 2] > 0
        return labeled

    def _change_images(self, step: Step, position: int) -> None:
        for name in self.images:
            value, layout = self.array(name)
            self.images[name] = JointImage(*run_step(step, value, layout, self.key, position))

    def _turn_upright(self) -> None:
        moves: dict[str, Move] = {}
        for name, (value, _) in self.images.items():
            turned = image_orientation(value, self.decoder) if isinstance(value, _ENCODED) else 1
            if turned > 1:
                moves[name] = orientation_move(turned, *self.size(name))
        self.apply_moves(moves)

    def _mix(
        self, step: MixingTransform, position: int, before: Sequence[GeometricStage | SingleStage]
    ) -> None:
        stream = self.key.at(position).stream()
        if stream.random() >= step.p:
            return
        if self.others is None:
            raise OptionError(
                f"{type(step).__name__} mixes samples, so it works only in a DataLoader of samples"
            )
        partners = []
        for i in range(step.partners):
            number = position * GROUP + i
            partners.append(self._partner(number, before))
        step.mix(self, partners, stream)
        self._moved = True

    def _partner(self, number: int, before: Sequence[GeometricStage | SingleStage]) -> JointPass:
        others = self.others
        assert others is not None
        sample, key = others(number % _FAN_OUT)
        partner = JointPass(
            sample,
            key,
            self.decoder,
            self._exif_transpose,
            self._min_reduction,
            lambda k: others((number + 1) * _FAN_OUT + k),
        )
        partner.run(before)
        return partner

    def join_boxes(
        self, name: str, parts: Sequence[JointPass], offsets: Sequence[tuple[int, int]]
    ) -> None:
        """Replace boxes by those of several samples, this one the first, each moved."""
        field = self.sample.fields[name]
        assert isinstance(field, Boxes)
        lists = [part.boxes[name] for part in parts]
        counts = [len(boxes.corners) for boxes in lists]
        moved = [boxes.corners + np.tile(at, 2) for boxes, at in zip(lists, offsets)]
        joined = PlacedBoxes(np.concatenate(moved))
        joined.visible = np.concatenate([boxes.visible for boxes in lists])
        joined.kept = np.concatenate([boxes.kept for boxes in lists])
        self.boxes[name] = joined
        for label in field.labels:
            if label in self.points or self.sample.get(label) is None:
                continue
            values = [part.sample.get(label) for part in parts]
            for value, count in zip(values, counts):
                take_rows(label, value, np.ones(count, np.bool_), name)
            self.sample[label] = concatenate(values)

    def join_points(
        self, name: str, parts: Sequence[JointPass], offsets: Sequence[tuple[int, int]]
    ) -> None:
        """Replace keypoints by those of several samples, this one the first, each moved."""
        moved = [part.points[name] + at for part, at in zip(parts, offsets)]
        values = [np.asarray(part.sample[name]) for part in parts]
        self.points[name] = np.concatenate(moved)
        self.sample[name] = np.concatenate(values)

    # -- results -------------------------------------------------------------------------------

    def result(self) -> Sample:
        """Return the sample with its fields as they are now."""
        sample = self.sample
        for name in self.images:
            sample[name] = self.array(name).value
        for name in self.masks:
            sample[name] = self.mask(name)
        if self._moved:
            for name in self.points:
                sample[name] = self._finished_points(name)
            for name in self.boxes:
                self._finish_boxes(name)
        return sample

    def _finished_points(self, name: str) -> Array:
        field, points = self.sample.fields[name], self.points[name]
        values = np.array(self.sample[name], np.float32)
        values[..., :2] = points - 0.5
        labeled = self._labeled(name)
        if labeled is not None and points.size:
            width, height = self.size(self.primary_image(field, name))
            with np.errstate(invalid="ignore"):
                inside = ((points >= 0) & (points < (width, height))).all(-1)
            values[..., 2] = np.where(labeled & ~inside, 0, values[..., 2])
        return np.nan_to_num(values, nan=0.0) if labeled is not None else values

    def _finish_boxes(self, name: str) -> None:
        field, boxes = self.sample.fields[name], self.boxes[name]
        assert isinstance(field, Boxes)
        rows = boxes.rows(field)
        self.sample[name] = boxes.corners[rows].astype(np.float32)
        for label in field.labels:
            if self.sample.get(label) is None:
                continue
            self.sample[label] = take_rows(label, self.sample[label], rows, name)


class MixingTransform(Transform):
    """A transform that mixes a sample with others of the epoch. Base class.

    It acts on samples in a `DataLoader` only, since an image alone has no others.
    """

    is_random = True
    moves_pixels = True
    #: How many other samples it takes.
    partners: int = 1
    p: float = 1.0

    def mix(self, sample: JointPass, partners: Sequence[JointPass], stream: Any) -> None:
        """Change `sample` by its partners, which went through the same steps before."""
        raise NotImplementedError

    def apply_array(self, array: Array, layout: Layout, stream: Any) -> tuple[Array, Layout]:
        """Raise: an image alone cannot be mixed."""
        raise OptionError(
            f"{type(self).__name__} mixes samples, so it works only in a DataLoader of samples "
            f"with fields, such as a SampleArchive"
        )


def _native_info(encoded: Buffer) -> tuple[int, int, int, int] | None:
    """Return what the header of an image says, or None if it is not decoded by regions.

    It is not if it is damaged, or of another format than JPEG and PNG.
    """
    try:
        return native_info(encoded)
    except DecodeError:
        return None
