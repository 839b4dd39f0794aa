"""The jobs that make the batches of an epoch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from imagearchive.archive.member_reader import BYTES_AHEAD
from imagearchive.datasets.selection import IMAGE_EXTENSIONS
from imagearchive.errors import (
    DecodeError,
    ImageArchiveError,
    OptionError,
)
from imagearchive.errors.hints import Hint
from imagearchive.images.render import Decoder
from imagearchive.loader.bad_samples import BadSample
from imagearchive.loader.buffers import Buffers
from imagearchive.loader.field_layout import PAIR_LAYOUT, FieldLayout
from imagearchive.loader.options import MAX_PART, BatchOptions
from imagearchive.loader.order import BlockShuffle, EpochOrder
from imagearchive.loader.sources import BROKEN, Source, is_damage, part_samples, requests_ahead
from imagearchive.storage.changes import changes_first
from imagearchive.storage.remote.prefetcher import prefetcher
from imagearchive.transforms import Key, Pipeline

__all__ = ["Batch", "BatchJob", "Epoch"]

MAX_REPLACEMENTS: Final = 1000
# The first batch should not share the bandwidth with all that follow. So at first, at most so many
# samples after it are requested from a server, and at most this part of what is requested later.
FIRST_AHEAD: Final = 128
FIRST_PART: Final = 8
# NumPy computes the order of so many samples in about the time that it takes for a small batch.
RUN_SAMPLES: Final = 4096


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
        #: The fields of the samples; None for images and labels, and without a pipeline.
        self.layout = None if pipeline is None else source.layout()
        if self.layout is not None:
            self._check_images(self.layout)
        elif pipeline is not None and pipeline.needs_others:
            self.layout = PAIR_LAYOUT
        self.ragged_labels = source.ragged_labels()
        # Of small images, a thread takes more at a time, so that Python's part stays small.
        self.part_size = min(options.share, MAX_PART if self.layout else part_samples(source))
        self.shape = None if pipeline is None else pipeline.shape_for(*source.image_shape())
        ahead = requests_ahead(source)
        #: How many batches are prepared before the consumer asks for them.
        self.batches_ahead = options.batches_ahead(None if ahead else self._batch_bytes())
        self._numbers = itertools.count(first)
        self._run: dict[int, tuple[npt.NDArray[np.int64], list[int]]] = {}
        self._begun = 0
        self._windows: set[int] = set()
        # How many batches after a job's own are requested from a server, once the epoch is under
        # way, and at its beginning; and the next batch to request.
        self._windows_ahead = _windows_ahead(order, ahead)
        self._batches_ahead = -(-ahead // order.batch_size)
        # At least one, which can be doubled.
        self._first_ahead = -(-min(-(-ahead // FIRST_PART), FIRST_AHEAD) // order.batch_size)
        self._announced = self._first = first

    def _batch_bytes(self) -> int | None:
        """Return how much memory the images of a batch take, if they are of one shape."""
        pipeline = self.pipeline
        if self.layout or self.shape is None or pipeline is None or pipeline.dtype is None:
            return None
        count = min(self.order.batch_size, self.order.n)
        return count * math.prod(self.shape) * np.dtype(pipeline.dtype).itemsize

    def _check_images(self, layout: FieldLayout) -> None:
        """Refuse a transform for samples without an image."""
        if not layout.images:
            raise OptionError(
                f"the samples have the fields {', '.join(layout.kinds)}, and none of them is an "
                f"image that the transform could be applied to; name it with fields={{NAME: "
                f"Image(), ...}}, or leave out the transform"
            )

    def take_number(self) -> int | None:
        """Return the number of the next batch, or None after the last."""
        number = next(self._numbers)
        return number if number < len(self.order) else None

    def batch(self, number: int) -> tuple[npt.NDArray[np.int64], list[int]]:
        """Return positions and sample indices of a batch; called once for each, in order."""
        if number not in self._run:
            size, left = self.order.batch_size, len(self.order) - number
            # The first batch alone, since no thread has work before it.
            count = 1 if number == self._first else min(max(1, RUN_SAMPLES // size), left)
            positions = self.order.positions(number, count)
            indices = self.order.indices(positions).tolist()
            self._run = {
                number + k: (
                    positions[k * size : (k + 1) * size],
                    indices[k * size : (k + 1) * size],
                )
                for k in range(count)
            }
        return self._run.pop(number)

    def read_ahead(self, job: BatchJob) -> None:
        """Start reading what a job needs, while the threads still work on the batches before."""
        self._begun += 1
        if self._windows_ahead:
            # The first batch, which needs a part of each block, does not wait for others.
            begun = self._begun > self.batches_ahead
            following = self._windows_ahead if begun else 0
            for indices in self.order.begin_windows(job.positions, self._windows, following):
                self.source.prefetch(indices.tolist())
        elif self._batches_ahead:
            # Twice as many with each batch after the first ones.
            doublings = min(max(0, self._begun - 1 - self.batches_ahead), 16)
            ahead = min(self._first_ahead << doublings, self._batches_ahead)
            self._announce(self._first + self._begun + ahead)
        else:
            self.source.prefetch(job.indices)

    def _announce(self, stop: int) -> None:
        """Request the batches before `stop` that have not been requested yet."""
        for number in range(self._announced, min(stop, len(self.order))):
            positions = self.order.positions(number)
            self.source.prefetch(self.order.indices(positions).tolist())
            self._announced = number + 1


def _windows_ahead(order: EpochOrder, ahead: int) -> int:
    """Return how many windows of blocks are read ahead as a whole; 0 to read batches ahead.

    The requests of a window run at the same time as those of the next one, so a third window must
    be announced before they end. A window that does not fit into memory is not announced as a
    whole: its first samples would be dropped before they are read.
    """
    if not isinstance(order.shuffle, BlockShuffle):
        return 0
    if not ahead:
        return 1
    window = -(-order.shuffle.window // order.world_size)
    room = ahead * prefetcher().limit // BYTES_AHEAD
    return max(0, min(-(-ahead // window), room // window - 1))


@dataclass
class Batch:
    """The result of a job: the value for the consumer, and its broken and damaged samples."""

    value: Any
    bad: list[BadSample]
    damaged: list[BadSample]
    empty: bool = False


class BatchJob:
    """A batch being made. Subclasses define what becomes of a sample."""

    def __init__(self, epoch: Epoch, number: int) -> None:
        self.epoch = epoch
        self.positions, self.indices = epoch.batch(number)
        self.size = len(self.indices)
        self.part_size = epoch.part_size
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
            damaged, known = decoder.damaged_images - before, self.epoch.known_damaged
            if damaged and damaged > sum(index in known for index in indices):
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


def _has_image_extension(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS
