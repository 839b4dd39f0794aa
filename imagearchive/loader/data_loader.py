"""`DataLoader`: batches for training, prepared by threads ahead of the loop."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.dataset_base import OptionsDataset, warn_if_empty
from imagearchive.datasets.label_guard import LabelKind
from imagearchive.errors import ClosedError, OptionError, OptionTypeError
from imagearchive.errors.arguments import check_integer, check_size, shorten
from imagearchive.images.render import Decoder
from imagearchive.index.nesting import Nested
from imagearchive.loader.bad_samples import BadSample, BadSampleLog
from imagearchive.loader.batch_iterator import BatchIterator
from imagearchive.loader.batches import Epoch
from imagearchive.loader.buffers import Buffers
from imagearchive.loader.epoch_counter import EpochCounter, Progress
from imagearchive.loader.jobs import next_job
from imagearchive.loader.locality import expect_nearby_reads, find_data_order
from imagearchive.loader.open_source import open_source
from imagearchive.loader.options import (
    BATCHES_AHEAD,
    DEFAULT_MAX_PIXELS,
    DTypeName,
    LoaderOptions,
    OnError,
    Output,
    Ragged,
    choose_transform,
    unsupported_argument,
    usable_cpus,
)
from imagearchive.loader.order import (
    ORDER_VERSION,
    BlockShuffle,
    EpochOrder,
    Shuffle,
    check_shuffle,
)
from imagearchive.loader.saved_state import STATE_HINTS, check_state, shuffle_state
from imagearchive.loader.thread_pool import JOIN_TIMEOUT, Pool
from imagearchive.storage.checksums import Verify, check_verify
from imagearchive.storage.closing import Closable, live_objects
from imagearchive.storage.fork_lock import ForkSafeLock
from imagearchive.storage.location import locate
from imagearchive.storage.path_options import add_options
from imagearchive.storage.remote.prefetcher import set_prefetch_bytes
from imagearchive.transforms import Pipeline, compile_pipeline
from imagearchive.transforms.fields import Field

__all__ = ["DataLoader"]

logger = logging.getLogger(__name__)


def _reachable(source: Any, **access: Any) -> Any:
    """Return a source with the options for its URLs."""
    if not isinstance(source, (str, bytes, os.PathLike, list, tuple)):
        name = next((name for name, value in access.items() if value is not None), None)
        if name is None:
            return source
        raise OptionError(f"{name}= is for paths; pass it where the dataset is opened")
    return add_options(source, **access)


class DataLoader(Closable):
    """Yields batches of images and labels, or of any other fields, from an archive or a dataset.

    Without a transform, a batch is a list of sample dicts. With one, it is ``(images, labels)``, or
    for samples of other fields, a dict of columns; the transform is applied to each image.
    Threads of this process read, decode, transform, and collate, and release the GIL while they
    work. If the transform can be compiled, only the part of a JPEG that its crop needs is decoded,
    and the normalized pixels are written straight into the batch.

    Parameters
    ----------
    source : path-like, ImageArchive, LazyNPZDataset or any object with ``len`` and ``[i]``
        A path, a pattern, or a list of them is opened as `LazyNPZDataset` if the content of the
        files is NPZ or ``.npy``, otherwise as `ImageArchive`. Samples of other objects may be
        ``(image, label)`` pairs, dicts, or images.
    batch_size : int
        Samples per batch of this rank.
    shuffle : bool or "blocks"
        Whether each epoch has an order of its own, which depends on seed and epoch only. With
        "blocks", samples that are stored near each other stay near each other, which saves most of
        the work of reading compressed archives and hard disks; see `block_size`.
    num_workers : int, optional
        Number of threads. By default as many as the CPUs that this process may use. With 0 the
        calling thread does the work when it asks for a batch. The batches are the same for any
        number.
    transform : callable, optional
        A `Compose`, or any function of an (H, W, 3) uint8 array. Images of a batch are (C, H, W),
        unless it ends with ``ToTensor(TensorFormat.TENSORFLOW_HWC)``.
    image_size : int or (width, height), optional
        Short for ``transform=Compose([Resize(width, height), ToTensor()])``.
    output : {"torch", "numpy"}, optional
        Type of images and labels. By default torch tensors if torch is installed. Sample dicts
        always hold arrays.
    dtype : {"float32", "float16", "uint8"} or dtype of NumPy or torch, optional
        Type of the images. Values are converted, never scaled. None keeps the type that the
        transform returns.
    channels_last : bool
        Return tensors of shape (N, C, H, W) in torch's channels-last memory format, and arrays of
        shape (N, H, W, C).
    pin_memory : bool
        Put batches in page-locked memory, for ``.to(device, non_blocking=True)``, except for what
        `collate_fn` returns. Ignored, with a log message, if torch finds no CUDA device.
    return_indices : bool
        Make batches ``(images, labels, indices)``, with int64 indices; in a dict, they are the
        entry ``__index__``.
    drop_last : bool
        Yield full batches only, the same number on every rank.
    seed : int
        Determines the orders and everything random in the transforms.
    prefetch_batches : int, optional
        Number of batches to prepare ahead. By default 2, or of batches of small images from local
        archives, as many as take 32 MiB, but at most 8.
    block_size : int, optional
        For ``shuffle="blocks"``: how many samples that are neighbors in the archive are read
        together; 64 by default. The blocks are shuffled, and then the samples within every window
        of `blocks_per_window` blocks.
    blocks_per_window : int, optional
        For ``shuffle="blocks"``: how many blocks are mixed with each other; 16 by default. The
        stored data of so many blocks should fit into memory.
    collate_fn : callable, optional
        Called in a worker thread with a list of sample dicts, or with a transform, of
        ``(image, label)`` pairs, or ``(image, label, index)`` with `return_indices`. Its result is
        the batch.
    enable_distributed : bool
        Yield this rank's part of every epoch. `find_rank` finds the rank when an iteration begins.
    rank, world_size : int, optional
        Use these instead.
    on_error : {"raise", "skip", "replace"}
        For a sample that cannot be read or decoded: raise an error that names it, leave it out, or
        take the next sample in the order of the epoch, which keeps the size of the batch. `errors`
        lists these samples.
    exif_transpose : bool
        Whether to rotate and flip images as their EXIF orientation says, and masks, boxes, and
        keypoints with them. Off, as in torchvision. A TIFF is always turned, as by Pillow.
    reducing_gap : float, optional
        Decode a JPEG at 1/2, 1/4 or 1/8 of its size if the resize that follows still reduces it by
        at least this factor, 1 or more. It is faster for photographs much larger than the result,
        and not exact: 3 changes values by less than half a gray level in the mean. By default,
        JPEGs are decoded at full size.
    max_pixels : int
        Images with more pixels count as broken, and no memory is allocated for them.
    columns : (str, str or None), optional
        Names of the image and the label in dict samples, or of their columns in an NPZ. By default
        the two ``keys=`` of a `LazyNPZDataset`, or else
        the first of ``image``, ``images``, ``img``, ``x``, and the first of ``label``, ``labels``,
        ``target``, ``targets``, ``y``, ``bboxes``, ``boxes``, ``keypoints``, ``landmarks``.
        Without a transform, sample dicts hold only the entries that are named here, and
        ``index``.
    split_torch_workers : bool
        In a worker process of torch's ``DataLoader``, yield only that worker's part of the epoch,
        so that an ``IterableDataset`` around this loader yields every sample once.
    fields : mapping of str to Field, optional
        The kinds of the entries of samples that are dicts, such as ``{"image": Image(), "boxes":
        Boxes()}``, where the dataset does not say them; batches are then dicts. By default a dict
        of an image, as `columns` names it, and a label is a pair, and of any other entries, text
        gives lists, numbers and arrays of one shape are stacked, and what is neither is a list.
    ragged : {"list", "nested", "pad"}
        What becomes of boxes, and other fields whose length differs among samples: a list of
        tensors, a nested tensor of torch, or a tensor padded with zeros, or with -1 where it holds
        integers, beside the entry ``NAME_lengths``. It depends on the kind of the field only, also
        where all samples of a batch have the same length.
    label_kind : {"places", "values"}, optional
        Whether labels say where something is in the image, as boxes, keypoints, and masks do, or
        not, as classes do; by default, what the dataset says. Transforms do not move labels: with
        "places", those that move pixels are refused, with "values" they are allowed. Where nothing
        is said, they are refused if labels are certainly places, and a warning is logged once if
        they may be.
    verify : {"first", "always", "never"} or bool, optional
        For a path: when a member is compared with the checksum that a ZIP or Barecat has of it. By
        default at its first read for encoded images, as `ImageArchive` does, and never for the
        arrays of an NPZ; see `LazyNPZDataset`.
    decompress_to : path-like, optional
        For a path: a directory in which compressed archives are decompressed once; see
        `imagearchive.Archive`.
    nested : bool, int, "auto", or "keep", optional
        For a path: which members that are archives themselves are opened in place, by default as
        `ImageArchive` does.
    storage_options, filesystem, cache_dir, cache_bytes : optional
        For a path: how to reach URLs, and where to cache what was read; see
        `imagearchive.Archive`.
    prefetch_bytes : int or str, optional
        For archives on servers: how many bytes this process fetches before they are used, such as
        ``"1GB"``; 256 MiB by default. It counts for all loaders of the process together.

    Attributes
    ----------
    dataset : object
        The dataset that is read.
    epoch : int
        The number of the epoch that the next iteration begins.
    errors : list of BadSample
        The broken samples found so far, each once, as (index, member, reason).
    damaged : list of BadSample
        The samples found so far whose JPEG is damaged, but which Pillow decodes, usually with a
        part in gray or in stripes. They are in the batches, with the pixels that Pillow gives, and
        each is logged once, as far as the first 100.

    Raises
    ------
    OptionError, OptionTypeError
        An argument cannot be used. For an argument of other loaders, such as ``sampler=``, the
        message says what takes its place here.

    Notes
    -----
    Every iteration takes the next epoch when its first batch is asked for. Iterators are
    independent: several may run at once, in any threads. Leaving a loop early, by ``break`` or an
    exception, stops the iterator's threads; `close` stops those of all iterators.

    A loader that is forked, even during an iteration, works in parent and child. A pickle holds the
    options and the pickle of the dataset.

    A batch belongs to the consumer. Its memory is used again only when no array, tensor, or view of
    it is left.
    """

    def __init__(
        self,
        source: Any,
        batch_size: int = 1,
        *,
        shuffle: Shuffle = False,
        num_workers: int | None = None,
        transform: Callable[[Any], Any] | None = None,
        image_size: int | tuple[int, int] | None = None,
        output: Output | None = None,
        dtype: DTypeName | Any | None = "float32",
        channels_last: bool = False,
        pin_memory: bool = False,
        return_indices: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        prefetch_batches: int | None = None,
        block_size: int | None = None,
        blocks_per_window: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        enable_distributed: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        on_error: OnError = "raise",
        exif_transpose: bool = False,
        reducing_gap: float | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        columns: tuple[str, str | None] | None = None,
        split_torch_workers: bool = True,
        label_kind: LabelKind | None = None,
        verify: Verify | bool | None = None,
        decompress_to: str | os.PathLike[str] | None = None,
        fields: Mapping[str, Field] | None = None,
        ragged: Ragged = "list",
        nested: Nested | None = None,
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | str | None = None,
        prefetch_bytes: int | str | None = None,
        **unsupported: NoReturn,
    ) -> None:
        if unsupported:
            raise unsupported_argument(next(iter(unsupported)))
        options = LoaderOptions(
            batch_size=batch_size,
            shuffle=check_shuffle(shuffle, block_size, blocks_per_window),
            num_workers=usable_cpus() if num_workers is None else num_workers,
            transform=choose_transform(transform, image_size),
            output=output,
            dtype=dtype,
            channels_last=channels_last,
            pin_memory=pin_memory,
            return_indices=return_indices,
            drop_last=drop_last,
            seed=seed,
            prefetch_batches=prefetch_batches,
            collate_fn=collate_fn,
            enable_distributed=enable_distributed,
            rank=rank,
            world_size=world_size,
            on_error=on_error,
            exif_transpose=exif_transpose,
            reducing_gap=reducing_gap,
            max_pixels=max_pixels,
            columns=columns,
            split_torch_workers=split_torch_workers,
            label_kind=label_kind,
            verify=check_verify(verify) if isinstance(verify, bool) else verify,
            decompress_to=None if decompress_to is None else locate(decompress_to).path,
            prefetch_bytes=prefetch_bytes,
            fields=fields,
            ragged=ragged,
            nested=nested,
        )
        source = _reachable(
            source,
            storage_options=storage_options,
            filesystem=filesystem,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
        )
        self._open(source, options)

    def _open(self, source: Any, options: LoaderOptions) -> None:
        self._options = options
        if options.prefetch_bytes is not None:
            set_prefetch_bytes(check_size("prefetch_bytes", options.prefetch_bytes, 1))
        self._source_argument = source
        self._source, self._owns_dataset = open_source(
            source,
            options.columns,
            options.exif_transpose,
            options.transform,
            options.label_kind,
            options.verify,
            options.decompress_to,
            options.fields,
            options.nested,
        )
        self._pipeline: Pipeline | None = None
        if options.transform is not None:
            self._pipeline = compile_pipeline(
                options.transform,
                layout=options.image_layout(),
                dtype=options.dtype,
                exif_transpose=options.exif_transpose,
                reducing_gap=options.reducing_gap,
            )
        self._buffers = Buffers(BATCHES_AHEAD + 2)
        self._epochs = EpochCounter(self._order)
        self._bad_samples = BadSampleLog()
        self._warned_of_empty = False
        self._iterators: weakref.WeakSet[BatchIterator] = weakref.WeakSet()
        self._lock = ForkSafeLock(reentrant=True)
        if options.enable_distributed:
            # An error is better now than when the iteration begins.
            options.find_rank()

    @cached_property
    def _fingerprint(self) -> str:
        return self._source.fingerprint()

    @cached_property
    def _data_order(self) -> npt.NDArray[np.int64] | None:
        """The order of the data of the samples, which only blocks depend on."""
        blocks = isinstance(self._options.shuffle, BlockShuffle)
        return find_data_order(self.dataset) if blocks else None

    @property
    def batch_size(self) -> int:
        """Samples per batch of this rank."""
        return self._options.batch_size

    @property
    def num_workers(self) -> int:
        """Number of threads."""
        return self._options.num_workers

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that is not full is left out."""
        return self._options.drop_last

    @property
    def transform(self) -> Callable[[Any], Any] | None:
        """The transform of the images."""
        return self._options.transform

    @property
    def dataset(self) -> Any:
        """The dataset that is read."""
        return self._source.dataset

    @property
    def epoch(self) -> int:
        """The number of the epoch that the next iteration begins."""
        return self._epochs.next_epoch

    @property
    def errors(self) -> list[BadSample]:
        """The broken samples found so far, each once."""
        return self._bad_samples.errors

    @property
    def damaged(self) -> list[BadSample]:
        """The samples found so far with a damaged image that Pillow decodes, each once."""
        return self._bad_samples.damaged

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch of this rank."""
        return len(self._order(0, 0))

    def _order(self, epoch: int, start: int) -> EpochOrder:
        return self._options.order(len(self._source), epoch, start, self._data_order)

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over the next epoch, which begins when its first batch is asked for.

        An iterator that is never used takes no epoch and no saved position: training frameworks
        make such iterators.
        """
        iterator = BatchIterator(self._epochs, self._start_threads, self._bad_samples)
        with self._lock.of_process():
            if self._closed:
                raise ClosedError("the loader is closed; make a new one to iterate again")
            self._iterators.add(iterator)
        return iterator

    def __next__(self) -> NoReturn:
        raise OptionTypeError(
            "a DataLoader is not an iterator, because every epoch has one of its own; use "
            "'for batch in loader', or next(iter(loader)) for the first batch"
        )

    def __getitem__(self, index: object) -> NoReturn:
        raise OptionTypeError(
            "batches have no index; use 'for batch in loader', next(iter(loader)) for the first "
            "batch, or loader.dataset[i] for a sample"
        )

    def _start_threads(self, progress: Progress) -> Pool:
        options, order = self._options, progress.order
        if not order.start and not len(order):
            self._warn_of_empty(order)
        epoch = Epoch(
            self._source,
            self._pipeline,
            order,
            options.for_batches(),
            self._buffers,
            first=progress.received,
            known_damaged=self._bad_samples.known_damaged,
        )
        self._buffers.keep(epoch.batches_ahead + 2)
        expect_nearby_reads(self.dataset, *options.nearby_reads(order.world_size))
        max_pixels = options.max_pixels
        return Pool(
            min(options.num_workers, max(1, order.samples)),
            epoch.batches_ahead,
            lambda: next_job(epoch),
            lambda: Decoder(max_pixels=max_pixels),
            name="imagearchive-loader",
        )

    def _warn_of_empty(self, order: EpochOrder) -> None:
        """Log once why an epoch has no batches, unless the dataset has done so."""
        if self._warned_of_empty or (not order.n and isinstance(self.dataset, OptionsDataset)):
            return
        self._warned_of_empty = True
        if not order.n:
            warn_if_empty(type(self.dataset).__name__, 0)
        elif order.drop_last:
            logger.warning(
                "the epoch is empty: with drop_last=True, one batch on every rank takes %d "
                "samples, and the dataset has %d; use drop_last=False or a smaller batch_size",
                order.batch_size * order.world_size,
                order.n,
            )

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration begin this epoch; later ones count on from there."""
        self._epochs.set_next(check_integer("epoch", epoch))

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the training loop: the batches that it has received so far.

        Batches prepared ahead do not count. Of several iterators, the one begun last counts. The
        state is the same on all ranks that have received equally many batches, or have all come to
        the end of the epoch. It consists of plain integers and strings.
        """
        epoch, position = self._epochs.position()
        return {
            "order_version": ORDER_VERSION,
            "n": len(self._source),
            "dataset": self._fingerprint,
            "seed": self._options.seed,
            **shuffle_state(self._options.shuffle, self._data_order),
            "epoch": epoch,
            "position": position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state: the next iteration yields the rest of its epoch.

        The number of ranks, the batch size and the number of workers may differ from those at the
        time of saving. Every sample that was not received yet comes once.

        Raises
        ------
        StateMismatchError
            The state belongs to other data or another order; the message names the difference.
        """
        self._epochs.set_next(*check_state(state, self.state_dict(), STATE_HINTS))

    def close(self) -> None:
        """Stop all iterators, and close the dataset if the loader opened it."""
        self._close(None)

    def _close(self, timeout: float | None) -> None:
        with self._lock.of_process():
            self._closed = True
            iterators = live_objects(self._iterators)
        for iterator in iterators:
            iterator.close(timeout)
        if self._owns_dataset:
            self._source.dataset.close()

    def __exit__(self, *error: object) -> None:
        # After Ctrl-C nobody wants to wait for the largest image.
        self._close(None if error[0] is None else JOIN_TIMEOUT)

    def __getstate__(self) -> dict[str, Any]:
        # The copy begins where the next iteration would begin; `state_dict` tells more.
        return {
            "source": self._source_argument,
            "options": self._options,
            "next": self._epochs.next_start(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._open(state["source"], state["options"])
        self._epochs.set_next(*state["next"])

    def __repr__(self) -> str:
        options = vars(self._options)
        shown = ("batch_size", "shuffle", "num_workers", "transform", "drop_last", "seed")
        listed = ", ".join(f"{name}={options[name]!r}" for name in shown)
        return f"DataLoader({shorten(self._source_argument)}, {listed})"
