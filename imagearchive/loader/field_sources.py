"""Sources of samples of several fields."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import cached_property
from typing import Any

from imagearchive.datasets.label_guard import LabelGuard
from imagearchive.datasets.protocols import EncodedSamples
from imagearchive.images.render import Decoder
from imagearchive.loader.field_layout import FieldLayout
from imagearchive.loader.sources import (
    first_readable,
    make_fingerprint,
    requests_ahead,
    spread_indices,
)
from imagearchive.transforms.fields import Image, Sample

__all__ = ["FieldSource"]


class FieldSource:
    """A dataset of samples of several fields, of which images are read as they are stored."""

    def __init__(self, dataset: Any, samples: EncodedSamples, guard: LabelGuard) -> None:
        self.dataset = dataset
        self.guard = guard
        self.samples = samples
        self.prefetch = samples.prefetch
        self.requests_ahead = requests_ahead(samples)
        self.check_unchanged = samples.check_unchanged

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def _layout(self) -> FieldLayout:
        samples = self.samples
        kinds = dict(samples.fields)
        images = {name for name, kind in kinds.items() if isinstance(kind, Image)}
        if len(self):
            # The parts of a sample on a server arrive together.
            samples.prefetch([0])
        example = first_readable(len(self), lambda index: samples.load(index, images))
        examples: dict[str, Any] = {}
        if example is not None:
            # The arrays of an NPZ are known only when one is read.
            kinds = {name: kind for name, kind in example.fields.items() if name in example}
            examples = {name: example[name] for name in kinds if name not in images}
        return FieldLayout(
            kinds, samples.form, samples.has_keys, samples.optional_fields(), examples
        )

    def layout(self) -> FieldLayout:
        """Return the fields of the samples."""
        return self._layout

    def ragged_labels(self) -> bool:
        """Return False: the layout says which fields are ragged."""
        return False

    def load_fields(self, index: int, encoded: Container[str], decoder: Decoder) -> Sample:
        """Return a sample; these fields may be as they are stored."""
        return self.samples.load(index, encoded, decoder)

    def chunk(self, indices: Sequence[int]) -> Any:
        """Return some samples, read when they are asked for."""
        return _FieldChunk(self, indices)

    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        """Return height, width and channels of the images."""
        return None, None, 3

    def name(self, index: int) -> str:
        """Return the key of a sample."""
        return self.samples.key(index)

    def fingerprint(self) -> str:
        """Return a short text that depends on the data."""
        names = sorted(self.samples.fields)
        keys: Iterable[str] = (f"{self.name(i)}\0{names}" for i in spread_indices(len(self)))
        return make_fingerprint(len(self), keys)


class _FieldChunk:
    """Some samples without transforms."""

    def __init__(self, source: FieldSource, indices: Sequence[int]) -> None:
        self._source = source
        self._indices = indices

    def sample(self, k: int, decoder: Decoder) -> dict[str, Any]:
        index = self._indices[k]
        return {"index": index, **self._source.load_fields(index, (), decoder)}
