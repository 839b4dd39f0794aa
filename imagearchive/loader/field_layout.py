"""Which fields the samples of a dataset have, and what becomes of each in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from PIL import Image as PillowImage

from imagearchive.errors import OptionError
from imagearchive.transforms.base import is_tensor
from imagearchive.transforms.fields import (
    KEY,
    Array,
    Boxes,
    Bytes,
    Field,
    Image,
    Json,
    Keypoints,
    Label,
    Text,
)

__all__ = ["PAIR_LAYOUT", "FieldLayout", "common_layout", "infer_kind", "ragged_fields"]


@dataclass(frozen=True)
class FieldLayout:
    """The fields of the samples of a dataset.

    Attributes
    ----------
    kinds : mapping of str to Field
        In the order of a batch.
    form : {"dict", "tuple"}
        Whether a batch is a dict of columns or a tuple of them.
    has_keys : bool
        Whether samples have a key, which is the entry ``__key__`` of a batch.
    optional : frozenset of str
        Fields that may be None.
    examples : mapping of str to object
        The values of one sample, by which the type of a column is decided; images may be lacking.
    """

    kinds: Mapping[str, Field]
    form: Literal["dict", "tuple"]
    has_keys: bool
    optional: frozenset[str]
    examples: Mapping[str, Any]

    @property
    def images(self) -> tuple[str, ...]:
        """The fields that are images."""
        return tuple(name for name, kind in self.kinds.items() if isinstance(kind, Image))

    @property
    def places(self) -> tuple[str, ...]:
        """The fields that geometric transforms must move with the images."""
        return tuple(name for name, kind in self.kinds.items() if kind.is_place)

    def check_sample(self, sample: Mapping[str, Any], where: str) -> None:
        """Raise OptionError unless a sample has exactly these fields."""
        if sample.keys() - {KEY} == self.kinds.keys():
            return
        raise OptionError(
            f"{where} has the fields {_names(sample)}, but the first sample has "
            f"{_names(self.kinds)}; give all samples the same fields, with None where there is "
            f"nothing, or read them with torch's DataLoader"
        )


#: Images and labels as samples of two fields.
PAIR_LAYOUT: Final = FieldLayout(
    {"image": Image(), "label": Label()}, "tuple", False, frozenset(), {}
)


def common_layout(layouts: Sequence[FieldLayout | None]) -> FieldLayout | None:
    """Return the layout of samples of several datasets; None if they are all pairs.

    Raises
    ------
    OptionError
        They differ.
    """
    first = layouts[0]
    for number, layout in enumerate(layouts):
        if (first is None) != (layout is None):
            raise OptionError(
                "some of the datasets have pairs of an image and a label, and others have samples "
                "of several fields; read them by loaders of their own"
            )
        if first is None or layout is None:
            continue
        kinds = {name: type(kind) for name, kind in first.kinds.items()}
        others = {name: type(kind) for name, kind in layout.kinds.items()}
        if kinds != others or first.form != layout.form:
            raise OptionError(
                f"datasets 0 and {number} have samples of different fields, {_described(kinds)} "
                f"and {_described(others)}; choose common ones with fields="
            )
    if first is None:
        return None
    optional = frozenset(name for one in layouts if one is not None for name in one.optional)
    return replace(first, optional=optional)


def _described(kinds: Mapping[str, type[Field]]) -> str:
    return ", ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(str(name) for name in fields if name != KEY) or "none"


def ragged_fields(kinds: Mapping[str, Field]) -> frozenset[str]:
    """Return the fields whose values may have another length in each sample."""
    ragged = {name for name, kind in kinds.items() if kind.ragged}
    for kind in kinds.values():
        if isinstance(kind, (Boxes, Keypoints)):
            # One entry for each box, or for each object that has points.
            ragged.update(name for name in kind.labels if name in kinds)
    return frozenset(ragged)


def infer_kind(name: str, value: Any) -> Field:
    """Return the kind of a value of a dataset that does not tell it.

    Raises
    ------
    OptionError
        It may be an image or a mask.
    """
    if isinstance(value, str):
        return Text()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Bytes()
    if isinstance(value, (bool, int, float, np.number, np.bool_)):
        return Label()
    if isinstance(value, np.ndarray) or is_tensor(value):
        return Array()
    if isinstance(value, PillowImage.Image):
        raise OptionError(
            f"the entry {name!r} of the samples is a Pillow image, which may be an image or a "
            f"mask; say which with fields={{{name!r}: Mask(), ...}}, or return an array"
        )
    return Json()
