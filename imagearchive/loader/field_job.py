"""The job that makes a batch of samples of several fields."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from imagearchive.errors import DecodeError, ImageArchiveError, OptionError
from imagearchive.images.decode import image_size
from imagearchive.images.render import Decoder
from imagearchive.loader.array_sources import image_array
from imagearchive.loader.batch_output import (
    as_image,
    as_output,
    empty_pinned,
    images_as_output,
    pin,
    stack_images,
)
from imagearchive.loader.batches import Batch, BatchJob, Epoch
from imagearchive.loader.columns import make_columns
from imagearchive.loader.field_layout import FieldLayout, ragged_fields
from imagearchive.transforms import Key, Pipeline
from imagearchive.transforms.fields import KEY, Array, Json, Label, Sample
from imagearchive.transforms.joint import GROUP
from imagearchive.transforms.random_keys import SampleKeys

__all__ = ["INDEX", "FieldJob"]

#: The entry of a batch that holds the indices of its samples.
INDEX = "__index__"

_Array = npt.NDArray[Any]


class FieldJob(BatchJob):
    """A dict or a tuple of columns, one for each field."""

    def __init__(
        self,
        epoch: Epoch,
        number: int,
        pipeline: Pipeline,
        layout: FieldLayout,
    ) -> None:
        super().__init__(epoch, number)
        self.pipeline = pipeline
        self.layout = layout
        self.reader = epoch.source
        moves_places = bool(layout.places) and epoch.source.guard.kind != "values"
        self.is_joint = moves_places or pipeline.needs_others
        if pipeline.needs_others:
            # Mixed labels are probabilities, whatever those of the samples are.
            kept = {
                k: v for k, v in layout.examples.items() if not isinstance(layout.kinds[k], Label)
            }
            self.layout = replace(layout, examples=kept)
        self.images = layout.images
        #: Among them the classes of boxes, which are no places.
        self.ragged = ragged_fields(layout.kinds)
        self.keys: list[str] = [""] * self.size
        self.values: dict[str, list[Any]] = {name: [None] * self.size for name in layout.kinds}
        self.samples: list[Sample | None] = [None] * self.size
        self.slots: dict[str, _Array] = {}
        self.pinned: dict[str, Any] = {}
        shape, options = epoch.shape, epoch.options
        if shape is None or pipeline.dtype is None or options.collate_fn is not None:
            return
        full = (min(epoch.order.batch_size, epoch.order.samples), *shape)
        for name in self.images:
            if name in layout.optional:
                continue
            if options.pin_memory:
                self.pinned[name] = empty_pinned((self.size, *shape), pipeline.dtype)
                self.slots[name] = self.pinned[name].numpy()
            else:
                self.slots[name] = epoch.buffers.take(full, pipeline.dtype)[: self.size]

    def load(self, first: int, indices: list[int], decoder: Decoder) -> None:
        """Load the samples of these indices into the slots from `first` on."""
        layout, guard = self.layout, self.epoch.source.guard
        samples = []
        for slot, index in enumerate(indices, first):
            sample = self.reader.load_fields(index, self.images, decoder)
            layout.check_sample(sample, f"sample {index}")
            if guard.active:
                self._check_labels(sample)
            self.keys[slot] = sample.get(KEY, "")
            for name in layout.kinds:
                self.values[name][slot] = sample[name]
            samples.append(sample)
        if self.is_joint:
            for slot, (index, sample) in enumerate(zip(indices, samples), first):
                self._render_sample(slot, index, sample, decoder)
            return
        for name in self.images:
            self._render(name, first, indices, [sample[name] for sample in samples], decoder)

    def _render_sample(self, slot: int, index: int, sample: Sample, decoder: Decoder) -> None:
        """Transform all fields of a sample together."""
        out = {name: images[slot] for name, images in self.slots.items()}
        with self._named(self.images):
            result = self.pipeline.render_sample(
                sample, self.key(index), decoder, out, lambda k: self._other(index, k, decoder)
            )
        for name in self.layout.kinds:
            self.values[name][slot] = result[name]

    def _other(self, index: int, k: int, decoder: Decoder) -> tuple[Sample, Key]:
        """Return the k-th sample to mix with a sample, which depends on its key and k only.

        Those of one `GROUP` differ from each other, and from the sample, if there are enough.
        """
        key, count = self.key(index), len(self.epoch.source)
        group, place = divmod(k, GROUP)
        taken: list[int] = []
        other = index
        for number in range(place + 1):
            taken = sorted({*taken, other}) if len(taken) + 1 < count else [index][: count - 1]
            text = f"{key.seed} {key.epoch} {key.index} {group * GROUP + number}".encode()
            other = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
            other %= count - len(taken)
            for lower in taken:
                other += other >= lower
        return self.reader.load_fields(other, self.images, decoder), self.key(other)

    @contextlib.contextmanager
    def _named(self, names: Sequence[str]) -> Iterator[None]:
        """Name the fields in errors about their content."""
        try:
            yield
        except OptionError:
            raise
        except ImageArchiveError as error:
            fields = " or ".join(repr(name) for name in names)
            raise type(error)(f"field {fields}: {error.message}", hints=error.hints) from error

    def _check_labels(self, sample: Sample) -> None:
        """Refuse arrays that are certainly places in an image, which is about to be moved."""
        guard = self.epoch.source.guard
        for name, kind in self.layout.kinds.items():
            value = sample[name]
            if not isinstance(kind, (Array, Json)) or name in self.ragged:
                continue
            guard.check_column(value, name)
            for image in self.images:
                guard.check(value, _shape_of(sample[image]))

    def _render(
        self, name: str, first: int, indices: list[int], images: list[Any], decoder: Decoder
    ) -> None:
        """Transform one image of each of some samples."""
        pipeline, values = self.pipeline, self.values[name]
        order = self.epoch.order
        keys = SampleKeys(order.seed, order.epoch, indices)
        with self._named([name]):
            if name in self.slots:
                out = self.slots[name][first : first + len(indices)]
                if all(isinstance(image, (bytes, memoryview)) for image in images):
                    pipeline.render_all_into(images, keys, out, decoder)
                else:
                    arrays = [image_array(image, decoder) for image in images]
                    pipeline.apply_all_into(arrays, keys, out, decoder)
                return
            for slot, (image, key) in enumerate(zip(images, keys), first):
                if image is None:
                    continue
                if isinstance(image, (bytes, memoryview)):
                    values[slot] = pipeline.render(image, key, decoder)
                else:
                    values[slot] = pipeline.apply(image_array(image, decoder), key, decoder)

    def finish(self) -> Batch:
        """Return the batch."""
        options, layout = self.epoch.options, self.layout
        if not any(self.kept):
            return self.make_batch(None)
        if options.collate_fn is not None:
            return self.make_batch(options.collate_fn(self._samples()))
        others = {
            name: self.drop_skipped(column)
            for name, column in self.values.items()
            if name not in self.images
        }
        columns = make_columns(
            layout, others, options.ragged, lambda array: pin(as_output(array, options), options)
        )
        batch: dict[str, Any] = {KEY: self.drop_skipped(self.keys)} if layout.has_keys else {}
        for name in layout.kinds:
            if name in self.images:
                batch[name] = self._image_column(name)
            else:
                batch[name] = columns.pop(name)
        # The lengths of padded columns.
        batch.update(columns)
        if options.return_indices:
            indices = np.array(self.drop_skipped(self.indices), np.int64)
            batch[INDEX] = pin(as_output(indices, options), options)
        return self.make_batch(batch if layout.form == "dict" else tuple(batch.values()))

    def _image_column(self, name: str) -> Any:
        options = self.epoch.options
        if name not in self.slots:
            values = self.drop_skipped(self.values[name])
            if name in self.layout.optional:
                return [None if image is None else as_image(image, options) for image in values]
            stacked = stack_images([as_image(image, options) for image in values])
            return images_as_output(stacked, options)
        images: Any = self.slots[name]
        if not all(self.kept):
            images = images[np.array(self.kept)]
        elif name in self.pinned:
            images = self.pinned[name]
        return images_as_output(as_output(images, options), options)

    def _samples(self) -> list[Any]:
        """Return the transformed samples for the function of the user."""
        options, layout = self.epoch.options, self.layout
        samples = []
        for slot in itertools.compress(range(self.size), self.kept):
            values = {name: column[slot] for name, column in self.values.items()}
            for name in self.images:
                values[name] = as_output(values[name], options)
            if layout.has_keys:
                values = {KEY: self.keys[slot], **values}
            if options.return_indices:
                values[INDEX] = self.indices[slot]
            samples.append(
                Sample(values, layout.kinds) if layout.form == "dict" else tuple(values.values())
            )
        return samples


def _shape_of(image: Any) -> tuple[int, ...] | None:
    """Return the shape of an image; None if it cannot be read, which decoding will report."""
    if isinstance(image, (bytes, memoryview)):
        try:
            return image_size(image)[::-1]
        except DecodeError:
            return None
    return image.shape if isinstance(image, np.ndarray) else None
