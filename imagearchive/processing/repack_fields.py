"""The samples of a `SampleArchive`, as `repack` reads and writes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from imagearchive.codecs.codec_registry import encode_member
from imagearchive.datasets.samples.dataset import SampleArchive
from imagearchive.errors import OptionError, UnsupportedMemberError
from imagearchive.errors.hints import Hint
from imagearchive.images.pillow import FORMATS, image_format
from imagearchive.processing.repack_recipe import Recipe
from imagearchive.processing.repack_source import (
    ENDS,
    RepackSource,
    Row,
    Written,
    some_samples,
    without_dots,
)
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
    Mask,
    Text,
)
from imagearchive.transforms.random_keys import Key

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["field_source"]

_KEY: Final = Key(0)
_NOT_OF_THE_FILE: Final = ("decoder", "format", "relative")
# Formats that are copied only, by Pillow's name.
_COPIED: Final = {"JPEG2000": "jp2", "AVIF": "avif"}
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


def field_source(dataset: SampleArchive) -> RepackSource:
    """Return the samples of a dataset, each with its fields as members."""
    return _Fields(dataset)


class _Fields(RepackSource):
    """The samples of a `SampleArchive`, whose fields become members ``KEY.FIELD.EXTENSION``."""

    def __init__(self, dataset: SampleArchive) -> None:
        self._dataset = dataset
        self._images = [
            name
            for name, kind in dataset.fields.items()
            if isinstance(kind, Image) and kind.decoder is None
        ]

    def __len__(self) -> int:
        return len(self._dataset)

    def key(self, index: int) -> str:
        folder, slash, last = self._dataset.key(index).rpartition("/")
        return folder + slash + without_dots(last)

    @property
    def is_remote(self) -> bool:
        return self._dataset.requests_ahead > 0

    def origin(self, index: int) -> str:
        return f"sample {index}, {self._dataset.key(index)!r},"

    def fingerprint(self) -> str:
        archives = [archive.table.fingerprint() for archive in self._dataset.archives]
        # A function is at another address in each process.
        fields = [(name, _ADDRESS.sub("", repr(f))) for name, f in self._dataset.fields.items()]
        keys = [self._dataset.key(index) for index in some_samples(len(self))]
        return f"{archives} {fields} {keys}"

    def write(self, index: int, recipe: Recipe) -> Written:
        sample = self._dataset.load(index, encoded=self._images)
        present = [name for name in self._images if sample[name] is not None]
        kept = [name for name in present if recipe.keeps(sample[name])]
        moved = sample
        if len(kept) < len(present):
            moved = recipe.pipeline.render_sample(sample, _KEY)
        key = self.key(index)
        members: list[tuple[str, Buffer]] = []
        stored = 0
        for name, kind in sample.fields.items():
            value = moved[name]
            if value is None:
                continue
            if name not in self._images:
                end, data = _encode_field(name, kind, value)
                stored += memoryview(data).nbytes
            else:
                stored += memoryview(sample[name]).nbytes
                if name in kept:
                    end, data = _extension_of_format(sample[name]), sample[name]
                else:
                    end, data = recipe.encode(value, sample[name])
            members.append((f"{key}.{name}.{end}", data))
        return Written(key, members, len(present), len(present) - len(kept), stored)

    def row(self, index: int, recipe: Recipe) -> Row:
        sample = self._dataset.load(index, encoded=self._images)
        for name in sample.fields:
            if sample[name] is None:
                raise OptionError(
                    f"the sample {sample[KEY]!r} lacks {name!r}, and every row of an NPZ has all "
                    f"columns; SampleArchive can leave such samples out",
                    hints=[Hint("missing='skip'", "to do so")],
                )
        moved = recipe.fixed_pipeline.render_sample(sample, _KEY)
        stored = sum(memoryview(sample[name]).nbytes for name in self._images)
        return Row({"keys": sample[KEY], **{name: moved[name] for name in sample.fields}}, stored)

    def image(self, index: int) -> Buffer | None:
        if not self._images:
            return None
        data: Buffer | None = self._dataset.load(index, encoded=self._images)[self._images[0]]
        return data

    def fields(self) -> dict[str, Field]:
        kinds = self._dataset.fields
        # One for each box, so that their number differs.
        labels = {label for kind in kinds.values() for label in getattr(kind, "labels", ())}
        result = {}
        for name, kind in kinds.items():
            arguments = {
                argument: getattr(kind, argument)
                for argument in kind.arguments
                if argument not in _NOT_OF_THE_FILE
            }
            if name in labels:
                arguments["ragged"] = True
            result[name] = type(kind)(f"{{key}}.{name}." + "|".join(_ends_of(kind)), **arguments)
        return result


def _extension_of_format(encoded: Buffer) -> str:
    name = image_format(encoded)
    known = (end for end, other in FORMATS.items() if other == name)
    return next(known, _COPIED.get(name or "", "img"))


def _ends_of(kind: Field) -> list[str]:
    """Return the extensions that members of a kind of field may have."""
    return next((ends for one, ends in ENDS.items() if isinstance(kind, one)), ["npy"])


def _encode_field(name: str, kind: Field, value: Any) -> tuple[str, Buffer]:
    """Return the extension and the content of a field that is not an encoded image."""
    if isinstance(kind, Bytes):
        return "bin", value
    if isinstance(kind, Mask):
        # A PNG holds one channel of 8 or 16 bits.
        end = "png" if value.ndim == 2 and value.dtype in (np.uint8, np.uint16) else "npy"
    elif isinstance(kind, Text):
        end = "txt"
    elif isinstance(kind, Json):
        end = "json"
    elif isinstance(kind, Label) and isinstance(value, int):
        end = "cls"
    elif isinstance(kind, Image):
        end = "png"
    elif isinstance(kind, (Array, Boxes, Keypoints, Label)):
        end, value = "npy", np.asarray(value)
    else:
        raise UnsupportedMemberError(
            f"the field {name!r} has a decoder or codec of its own, so it is not known how to "
            f"write it; use Bytes to copy it"
        )
    return end, encode_member(f"x.{end}", value, False, {})
