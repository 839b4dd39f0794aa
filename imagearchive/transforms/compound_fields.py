"""The kinds of fields whose files hold several fields of a sample: `Npz` and `Coco`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imagearchive.errors import OptionTypeError
from imagearchive.errors.arguments import check_flag, check_path
from imagearchive.transforms.fields import Boxes, Field, Keypoints, Label, Mask

__all__ = ["Coco", "Npz"]


class Npz(Field):
    """An NPZ file, whose arrays become fields of the sample under their own names.

    Parameters
    ----------
    *source, decoder
        As for `Field`.
    kinds : mapping of str to Field
        The kinds of its arrays, such as ``{"boxes": Boxes(format="xywh")}``; without a pattern. The
        others are of the kind `Array`. If given, exactly these arrays are read.
    """

    arguments = ("decoder", "kinds")
    kinds: Mapping[str, Field] | None

    def __init__(
        self,
        *source: Any,
        decoder: Callable[[Any], Any] | None = None,
        kinds: Mapping[str, Field] | None = None,
    ) -> None:
        super().__init__(*source, decoder=decoder)
        if kinds is not None and not (
            isinstance(kinds, Mapping) and all(isinstance(kind, Field) for kind in kinds.values())
        ):
            raise OptionTypeError(
                f"kinds must map names of arrays to fields such as Boxes(), got {kinds!r}"
            )
        self._set("kinds", None if kinds is None else dict(kinds))


class Coco(Field):
    """The annotations of a COCO file, which become fields of the sample.

    These are ``boxes`` (as of `Boxes`), ``classes`` (int64 of shape (n,), numbers from 0 in the
    order of the ids of the categories), and, if asked for, ``masks`` (uint8 of shape (n, H, W))
    and ``keypoints`` (float32 of shape (n, k, 3); zeros for objects that have none). Transforms
    that drop a box drop its entries in the others.

    Parameters
    ----------
    path : str
        The JSON file, inside the archive or on disk. Its images are matched by ``file_name`` with
        the first field of the kind `Image`; the name may lack the first directories of its pattern.
    masks : bool
        Whether to read the outlines, polygons or run lengths, and make a mask for each object. A
        pixel belongs to a polygon if its center is inside.
    keypoints : bool
        Whether to read the keypoints.
    crowd : bool
        Whether to keep annotations with ``iscrowd``, whose boxes are around groups of objects.
    flip_pairs : sequence of (int, int)
        As for `Keypoints`.
    min_visibility, min_size : float
        As for `Boxes`.
    """

    arguments = ("masks", "keypoints", "crowd", "flip_pairs", "min_visibility", "min_size")

    masks: bool
    keypoints: bool
    crowd: bool
    flip_pairs: tuple[tuple[int, int], ...]
    min_visibility: float
    min_size: float

    def __init__(
        self,
        path: str,
        *,
        masks: bool = False,
        keypoints: bool = False,
        crowd: bool = False,
        flip_pairs: Sequence[tuple[int, int]] = (),
        min_visibility: float = 0.0,
        min_size: float = 1.0,
    ) -> None:
        super().__init__(check_path("path", path))
        self._set("masks", check_flag("masks", masks))
        self._set("keypoints", check_flag("keypoints", keypoints))
        self._set("crowd", check_flag("crowd", crowd))
        self._set("flip_pairs", Keypoints(flip_pairs=flip_pairs).flip_pairs)
        boxes = Boxes(min_visibility=min_visibility, min_size=min_size)
        self._set("min_visibility", boxes.min_visibility)
        self._set("min_size", boxes.min_size)

    def entries(self) -> dict[str, Field]:
        """Return the kinds of the entries of a sample that come from the file."""
        entries: dict[str, Field] = {"classes": Label(ragged=True)}
        if self.masks:
            entries["masks"] = Mask()
        if self.keypoints:
            entries["keypoints"] = Keypoints(visibility=True, flip_pairs=self.flip_pairs)
        boxes = Boxes(
            labels=tuple(entries), min_visibility=self.min_visibility, min_size=self.min_size
        )
        return {"boxes": boxes, **entries}
