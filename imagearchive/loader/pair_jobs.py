"""The jobs that make batches of images and labels, or of sample dicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from imagearchive.images.render import Decoder
from imagearchive.loader.batch_output import (
    as_image,
    as_output,
    empty_pinned,
    images_as_output,
    labels_as_output,
    pin,
    stack_images,
)
from imagearchive.loader.batches import Batch, BatchJob, Epoch
from imagearchive.transforms import Pipeline
from imagearchive.transforms.random_keys import SampleKeys

__all__ = ["PairJob", "SampleJob", "TensorJob"]


class SampleJob(BatchJob):
    """A list of sample dicts."""

    def __init__(self, epoch: Epoch, number: int) -> None:
        super().__init__(epoch, number)
        self.samples: list[Any] = [None] * self.size

    def load(self, first: int, indices: list[int], decoder: Decoder) -> None:
        """Load the samples of these indices into the slots from `first` on."""
        chunk = self.epoch.source.chunk(indices)
        for k in range(len(indices)):
            self.samples[first + k] = chunk.sample(k, decoder)

    def finish(self) -> Batch:
        """Return the batch."""
        samples = self.drop_skipped(self.samples)
        collate = self.epoch.options.collate_fn
        return self.make_batch(samples if collate is None or not samples else collate(samples))


class PairJob(BatchJob):
    """Images of unknown shape, or for a `collate_fn` of the user."""

    def __init__(self, epoch: Epoch, number: int, pipeline: Pipeline) -> None:
        super().__init__(epoch, number)
        self.pipeline = pipeline
        self.images: list[Any] = [None] * self.size
        self.labels: list[Any] = [None] * self.size

    def load(self, first: int, indices: list[int], decoder: Decoder) -> None:
        """Load the samples of these indices into the slots from `first` on."""
        chunk = self.epoch.source.chunk(indices)
        for k, index in enumerate(indices):
            image, label = chunk.render(k, self.pipeline, self.key(index), decoder)
            self.images[first + k], self.labels[first + k] = image, label

    def finish(self) -> Batch:
        """Return the batch."""
        options = self.epoch.options
        images, labels = self.drop_skipped(self.images), self.drop_skipped(self.labels)
        if not images:
            return self.make_batch(None)
        if options.collate_fn is not None:
            columns = [[as_output(image, options) for image in images], labels]
            if options.return_indices:
                columns.append(self.drop_skipped(self.indices))
            return self.make_batch(options.collate_fn(list(zip(*columns))))
        images = stack_images([as_image(image, options) for image in images])
        return self.make_batch(_assemble(images, labels, self))


class TensorJob(BatchJob):
    """Images of one known shape, rendered into their slots of one array."""

    def __init__(
        self,
        epoch: Epoch,
        number: int,
        pipeline: Pipeline,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
    ) -> None:
        super().__init__(epoch, number)
        self.pipeline = pipeline
        self.labels: list[Any] = [None] * self.size
        full = (min(epoch.order.batch_size, epoch.order.samples), *shape)
        self.pinned: Any = None
        if epoch.options.pin_memory:
            # Torch itself reuses pinned memory, once copies to the device have ended.
            self.pinned = empty_pinned((self.size, *shape), dtype)
            self.images = self.pinned.numpy()
        else:
            self.images = epoch.buffers.take(full, dtype)[: self.size]

    def load(self, first: int, indices: list[int], decoder: Decoder) -> None:
        """Load the samples of these indices into the slots from `first` on."""
        chunk, slots = self.epoch.source.chunk(indices), slice(first, first + len(indices))
        order = self.epoch.order
        keys = SampleKeys(order.seed, order.epoch, indices)
        self.labels[slots] = chunk.render_into(self.pipeline, keys, self.images[slots], decoder)

    def finish(self) -> Batch:
        """Return the batch."""
        images: Any = self.images
        if not all(self.kept):
            images = images[np.array(self.kept)]
            if not len(images):
                return self.make_batch(None)
        elif self.pinned is not None:
            images = self.pinned
        images = as_output(images, self.epoch.options)
        return self.make_batch(_assemble(images, self.drop_skipped(self.labels), self))


def _assemble(images: Any, labels: list[Any], job: BatchJob) -> tuple[Any, ...]:
    options = job.epoch.options
    ragged = job.epoch.ragged_labels
    batch = (images_as_output(images, options), labels_as_output(labels, options, ragged))
    if not options.return_indices:
        return batch
    indices = np.array(job.drop_skipped(job.indices), np.int64)
    return (*batch, pin(as_output(indices, options), options))
