"""The jobs that make the batches of an epoch."""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.selection import IMAGE_EXTENSIONS
from imagearchive.errors import (
    DecodeError,
    ImageArchiveError,
    OptionError,
)
from imagearchive.errors.hints import Hint
from imagearchive.images.render import Decoder
from imagearchive.loader.buffers import Buffers
from imagearchive.loader.options import BatchOptions
from imagearchive.loader.order import BlockShuffle, EpochOrder
from imagearchive.loader.sources import BROKEN, Source, is_damage
from imagearchive.storage.changes import changes_first
from imagearchive.transforms import Key, Pipeline
from imagearchive.transforms.base import is_tensor

__all__ = ["BadSample", "Epoch"]

MAX_REPLACEMENTS: Final = 1000

_Array = npt.NDArray[Any]


class BadSample(NamedTuple):
    """A sample that could not be read, or whose image is damaged.

    Attributes
    ----------
    index : int
        Its index in the dataset.
    member : str
        Its name in the archive.
    reason : str
        What is wrong with it.
    """

    index: int  # type: ignore[assignment]  # hides the method of tuples
    member: str
    reason: str


class Epoch:
    """Hands out the jobs of one epoch, a batch each. All of its threads share it.

    Parameters
    ----------
    source, pipeline
        Where the samples come from, and how they are transformed. Without a pipeline, batches are
        lists of sample dicts.
    order : EpochOrder
    options : BatchOptions
    buffers : Buffers
    first : int
        Number of the batch to begin at.
    known_damaged : container of int
        Indices of samples with damaged images that need not be reported again.
    """

    def __init__(
        self,
        source: Source,
        pipeline: Pipeline | None,
        order: EpochOrder,
        options: BatchOptions,
        buffers: Buffers,
        first: int = 0,
        known_damaged: Container[int] = (),
    ) -> None:
        self.source = source
        self.known_damaged = known_damaged
        self.pipeline = pipeline
        self.order = order
        self.options = options
        self.buffers = buffers
        self.shape = None if pipeline is None else pipeline.shape_for(*source.image_shape())
        self._numbers = itertools.count(first)
        self._windows: set[int] = set()

    def next_job(self) -> BatchJob | None:
        """Return the job of the next batch, or None after the last."""
        number = next(self._numbers)
        if number >= len(self.order):
            return None
        pipeline = self.pipeline
        positions = self.order.positions(number)
        job: BatchJob
        if pipeline is None:
            job = SampleJob(self, positions)
        elif self.shape is None or pipeline.dtype is None or self.options.collate_fn is not None:
            job = PairJob(self, positions, pipeline)
        else:
            job = TensorJob(self, positions, pipeline, self.shape, pipeline.dtype)
        # Reads ahead while the threads still work on the batches before.
        if isinstance(self.order.shuffle, BlockShuffle):
            for indices in self.order.begin_windows(positions, self._windows):
                self.source.prefetch(indices.tolist())
        else:
            self.source.prefetch(job.indices)
        return job


@dataclass
class Batch:
    """The result of a job: the value for the consumer, and its broken and damaged samples."""

    value: Any
    bad: list[BadSample]
    damaged: list[BadSample]
    empty: bool = False


class BatchJob:
    """A batch being made. Subclasses define what becomes of a sample."""

    def __init__(self, epoch: Epoch, positions: npt.NDArray[np.int64]) -> None:
        self.epoch = epoch
        self.positions = positions
        self.indices: list[int] = epoch.order.indices(positions).tolist()
        self.size = len(self.indices)
        self.part_size = epoch.options.part_size
        self.parts = -(-self.size // self.part_size)
        self.kept = [True] * self.size
        self.bad: list[BadSample] = []
        self.damaged: list[BadSample] = []

    def run(self, part: int, decoder: Decoder) -> None:
        """Read and transform the samples of one part."""
        first = part * self.part_size
        indices = self.indices[first : first + self.part_size]
        before = decoder.damaged_images
        try:
            with changes_first(self.epoch.source):
                self.load(first, indices, decoder)
            known = self.epoch.known_damaged
            if decoder.damaged_images - before > sum(index in known for index in indices):
                # Load them one by one to find the damaged ones, unless the archive was overwritten.
                self.epoch.source.check_unchanged()
                for slot, index in enumerate(indices, first):
                    self._load_one(slot, index, decoder)
        except BROKEN as error:
            if not is_damage(error):
                raise
            # Load them one by one to find the broken ones.
            for slot, index in enumerate(indices, first):
                self._load_or_report(slot, index, decoder)
        except Exception as error:
            self._add_note(error, first, indices, decoder)
            raise

    def _add_note(self, error: Exception, first: int, indices: list[int], decoder: Decoder) -> None:
        """Add a note to an error in the user's code: which sample it is about."""
        if not hasattr(error, "add_note"):
            return
        for slot, index in enumerate(indices, first):
            try:
                self.load(slot, [index], decoder)
            except Exception as again:  # noqa: BLE001 - the first one is raised
                if type(again) is type(error):
                    name = self.epoch.source.name(index)
                    error.add_note(f"raised for sample {index}" + (f" ({name})" if name else ""))
                    break
        pipeline = self.epoch.pipeline
        if pipeline is not None and not pipeline.compiled:
            error.add_note(
                "a function passed as transform gets an (H, W, 3) array, not a Pillow image; "
                "PIL.Image.fromarray makes an image of it"
            )

    def _load_one(self, slot: int, index: int, decoder: Decoder) -> None:
        """Load a sample, and note if its image is damaged."""
        before = decoder.damaged_images
        self.load(slot, [index], decoder)
        if decoder.damaged_images > before and index not in self.epoch.known_damaged:
            self.epoch.source.check_unchanged()
            name, reason = self.epoch.source.name(index), str(decoder.damage)
            self.damaged.append(BadSample(index, name, reason))

    def _load_or_report(self, slot: int, index: int, decoder: Decoder) -> None:
        order = self.epoch.order
        on_error = self.epoch.options.on_error
        position = int(self.positions[slot])
        bad: list[BadSample] = []
        for _ in range(min(order.n, MAX_REPLACEMENTS)):
            try:
                with changes_first(self.epoch.source):
                    self._load_one(slot, index, decoder)
            except BROKEN as error:
                if not is_damage(error):
                    raise
                if on_error == "raise":
                    self._raise(index, error)
                reason = f"{type(error).__name__}: {error}"
            else:
                self.indices[slot] = index
                return
            bad.append(BadSample(index, self.epoch.source.name(index), reason))
            self.bad.append(bad[-1])
            if on_error == "skip":
                self.kept[slot] = False
                return
            # The next sample in the order of the epoch, whichever rank it belongs to.
            position = (position + 1) % order.n
            index = int(order.indices(np.array([position]))[0])
        raise DecodeError(
            f"sample {bad[0].index} and all that follow it in the order of the epoch are broken: "
            f"{bad[0].reason}"
        )

    def _raise(self, index: int, error: BaseException) -> NoReturn:
        name = self.epoch.source.name(index)
        where = f"sample {index} ({name})" if name else f"sample {index}"
        hints = [Hint("on_error='skip' or 'replace'", "to go on without such samples")]
        if isinstance(error, DecodeError) and name and not _has_image_extension(name):
            hints.append(
                Hint(
                    "an ImageArchive with extensions=...",
                    "to leave out files that are not images",
                )
            )
        if isinstance(error, ImageArchiveError):
            raise type(error)(f"{where}: {error.message}", hints=[*error.hints, *hints]) from error
        raise DecodeError(f"{where}: {error}", hints=hints) from error

    def load(self, first: int, indices: list[int], decoder: Decoder) -> None:
        """Load the samples of these indices into the slots from `first` on."""
        raise NotImplementedError

    def finish(self) -> Batch:
        """Return the batch."""
        raise NotImplementedError

    def key(self, index: int) -> Key:
        """Return the key that the random numbers of a sample are derived from."""
        return Key(self.epoch.order.seed, self.epoch.order.epoch, index)

    def make_batch(self, value: Any) -> Batch:
        """Return the batch, with its broken samples in an order that does not depend on threads."""
        bad, damaged = sorted(set(self.bad)), sorted(set(self.damaged))
        return Batch(value, bad, damaged, empty=not any(self.kept))

    def drop_skipped(self, values: Sequence[Any]) -> list[Any]:
        """Return the values of all samples that were not skipped."""
        return list(itertools.compress(values, self.kept))


class SampleJob(BatchJob):
    """A list of sample dicts."""

    def __init__(self, epoch: Epoch, positions: npt.NDArray[np.int64]) -> None:
        super().__init__(epoch, positions)
        self.samples: list[Any] = [None] * self.size

    def load(self, first: int, indices: list[int], decoder: Decoder) -> None:
        chunk = self.epoch.source.chunk(indices)
        for k in range(len(indices)):
            self.samples[first + k] = chunk.sample(k, decoder)

    def finish(self) -> Batch:
        samples = self.drop_skipped(self.samples)
        collate = self.epoch.options.collate_fn
        return self.make_batch(samples if collate is None or not samples else collate(samples))


class PairJob(BatchJob):
    """Images of unknown shape, or for a `collate_fn` of the user."""

    def __init__(self, epoch: Epoch, positions: npt.NDArray[np.int64], pipeline: Pipeline) -> None:
        super().__init__(epoch, positions)
        self.pipeline = pipeline
        self.images: list[Any] = [None] * self.size
        self.labels: list[Any] = [None] * self.size

    def load(self, first: int, indices: list[int], decoder: Decoder) -> None:
        chunk = self.epoch.source.chunk(indices)
        for k, index in enumerate(indices):
            image, label = chunk.render(k, self.pipeline, self.key(index), decoder)
            self.images[first + k], self.labels[first + k] = image, label

    def finish(self) -> Batch:
        options = self.epoch.options
        images, labels = self.drop_skipped(self.images), self.drop_skipped(self.labels)
        if not images:
            return self.make_batch(None)
        if options.collate_fn is not None:
            columns = [[as_output(image, options) for image in images], labels]
            if options.return_indices:
                columns.append(self.drop_skipped(self.indices))
            return self.make_batch(options.collate_fn(list(zip(*columns))))
        images = _stack([as_image(image, options) for image in images])
        return self.make_batch(_assemble(images, labels, self))


class TensorJob(BatchJob):
    """Images of one known shape, rendered into their slots of one array."""

    def __init__(
        self,
        epoch: Epoch,
        positions: npt.NDArray[np.int64],
        pipeline: Pipeline,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
    ) -> None:
        super().__init__(epoch, positions)
        self.pipeline = pipeline
        self.labels: list[Any] = [None] * self.size
        full = (min(epoch.order.batch_size, epoch.order.samples), *shape)
        self.pinned: Any = None
        if epoch.options.pin_memory:
            # Torch itself reuses pinned memory, once copies to the device have ended.
            self.pinned = _empty_pinned((self.size, *shape), dtype)
            self.images = self.pinned.numpy()
        else:
            self.images = epoch.buffers.take(full, dtype)[: self.size]

    def load(self, first: int, indices: list[int], decoder: Decoder) -> None:
        chunk, slots = self.epoch.source.chunk(indices), slice(first, first + len(indices))
        self.labels[slots] = chunk.render_into(
            self.pipeline, [self.key(index) for index in indices], self.images[slots], decoder
        )

    def finish(self) -> Batch:
        images: Any = self.images
        if not all(self.kept):
            images = images[np.array(self.kept)]
            if not len(images):
                return self.make_batch(None)
        elif self.pinned is not None:
            images = self.pinned
        images = as_output(images, self.epoch.options)
        return self.make_batch(_assemble(images, self.drop_skipped(self.labels), self))


def _has_image_extension(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def _assemble(images: Any, labels: list[Any], job: BatchJob) -> tuple[Any, ...]:
    options = job.epoch.options
    # This costs nothing if they are in page-locked memory already.
    images = _pin(images, options)
    if options.channels_last and options.output == "torch" and images.ndim == 4:
        # Stored as (N, H, W, C), seen as (N, C, H, W): torch's channels-last format.
        images = images.permute(0, 3, 1, 2)
    batch = (images, labels_as_output(labels, options))
    if not options.return_indices:
        return batch
    indices = np.array(job.drop_skipped(job.indices), np.int64)
    return (*batch, _pin(as_output(indices, options), options))


def labels_as_output(labels: list[Any], options: BatchOptions) -> Any:
    """Return labels as one array: of int64 if all are integers, otherwise of their own type.

    Labels of different shapes, and those that are not numbers, stay a list. Arrays in the list
    become tensors if the output is torch, so that a loop over the labels of a batch finds the same
    types whether or not they have one shape.
    """
    if type(labels[0]) is int:
        # By far the most common case, and much faster than the code below.
        try:
            array = np.array(labels)
        except ValueError:
            return labels
        return _pin(as_output(array, options), options) if array.dtype == np.int64 else labels
    try:
        stacked = np.stack([np.asarray(label) for label in labels])
    except ValueError:
        return [_as_numbers(label, options, label) for label in labels]
    return _as_numbers(stacked, options, labels)


def _as_numbers(value: Any, options: BatchOptions, otherwise: Any) -> Any:
    """Return an array of numbers as a batch holds it, integers as int64; else `otherwise`."""
    if not isinstance(value, np.ndarray):
        return otherwise
    if value.dtype.kind in "iu" and value.dtype != np.uint64:
        value = value.astype(np.int64)
    elif value.dtype.kind not in "bf":
        return otherwise
    return _pin(as_output(value, options), options)


def _stack(images: list[Any]) -> Any:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise OptionError(
            f"the images of a batch have different shapes, such as {sorted(shapes)[:3]}: end the "
            f"transform with a Resize or crop of fixed size, or pass a collate_fn"
        )
    if isinstance(images[0], np.ndarray):
        return np.stack(images)
    import torch

    return torch.stack(images)


def as_image(value: Any, options: BatchOptions) -> Any:
    """Convert the result of the user's function to the type and layout of the batch."""
    if isinstance(value, np.ndarray):
        # The pipeline has converted it already.
        return as_output(value, options)
    if not is_tensor(value):
        raise OptionError(
            f"the transform returned {type(value).__name__}, which cannot be put in a batch; "
            f"return an array or a tensor, or pass a collate_fn"
        )
    if options.dtype is not None and str(value.dtype) != f"torch.{options.dtype}":
        if options.dtype == "uint8":
            raise OptionError(
                f"the transform returns {value.dtype}, which uint8 would cut; use a float dtype"
            )
        value = value.float() if options.dtype == "float32" else value.half()
    if options.channels_last and value.ndim == 3:
        value = value.permute(1, 2, 0)
    return value.detach().cpu().numpy() if options.output == "numpy" else value


def as_output(value: Any, options: BatchOptions) -> Any:
    """Return an array, or a torch tensor that shares its memory if the output is torch."""
    if options.output == "numpy" or not isinstance(value, np.ndarray):
        return value
    import torch

    return torch.from_numpy(value if value.flags.writeable else value.copy())


def _pin(value: Any, options: BatchOptions) -> Any:
    return value.pin_memory() if options.pin_memory and hasattr(value, "pin_memory") else value


def _empty_pinned(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
    import torch

    kind = getattr(torch, np.dtype(dtype).name)
    # The device is passed since the user may have set another default.
    return torch.empty(shape, dtype=kind, device="cpu", pin_memory=True)
