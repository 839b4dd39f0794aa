"""Batches for training: read, decoded, transformed and collated by threads, ahead of the loop."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final, Literal, get_args

import numpy as np

from imagearchive.errors import ClosedError, MissingDependencyError, OptionError, OptionTypeError
from imagearchive.errors.arguments import check_callable, check_choice, check_integer
from imagearchive.images.render import Decoder
from imagearchive.loader.batches import BadSample, Epoch, Options
from imagearchive.loader.buffers import Buffers
from imagearchive.loader.open_source import open_source
from imagearchive.loader.order import (
    MAX_BATCH,
    ORDER_VERSION,
    EpochOrder,
    check_state,
    find_rank,
)
from imagearchive.loader.thread_pool import PATIENCE, Pool
from imagearchive.transforms import Compose, Pipeline, Resize, ToTensor, compile_pipeline

__all__ = ["BadSample", "DataLoader"]

logger = logging.getLogger(__name__)

Output = Literal["torch", "numpy"]
OnError = Literal["raise", "skip", "replace"]
DTypeName = Literal["float32", "float16", "uint8"]

DEFAULT_MAX_PIXELS: Final = 178_956_970
MAX_WORKERS: Final = 1024

STATE_HINTS: Final = {
    "dataset": "load it with the data set it was saved with, unchanged",
    "seed": "pass the same seed= to the loader",
    "shuffle": "pass the same shuffle= to the loader",
    "order_version": "this release orders epochs differently; finish the epoch with the old one",
}


class DataLoader:
    """Yields batches of images and labels from an archive or data set.

    Without a transform a batch is a list of sample dicts; with one, ``(images, labels)``. Reading,
    decoding, transforming and collating happen in threads of this process, which release the GIL
    while they work; where the transform can be compiled, a JPEG is decoded only where its crop
    needs it and written, normalised, into its place in the batch.

    Parameters
    ----------
    source : path-like, ImageArchive, LazyNPZDataset or any object with ``len`` and ``[i]``
        A path, a pattern or a list of them is opened as `LazyNPZDataset` where the files are NPZ or
        ``.npy`` by their content, otherwise as `ImageArchive`. Samples of other objects are
        ``(image, label)`` pairs, dicts, or images.
    batch_size : int
        Samples per batch (of this rank).
    shuffle : bool
        A new order in every epoch, a function of (seed, epoch) alone.
    num_workers : int, optional
        Threads. Default: as many as this process may use CPUs. 0: the calling thread does the
        work, when it asks for a batch. The batches are the same for any number.
    transform : callable, optional
        A `Compose` or any function of an (H, W, 3) uint8 array.
    image_size : int or (width, height), optional
        Short for ``transform=Compose([Resize(width, height), ToTensor()])``.
    output : {"torch", "numpy"}, optional
        What images and labels are. Default: torch tensors where torch is installed. Sample dicts
        hold arrays always.
    dtype : {"float32", "float16", "uint8"}, optional
        Type of the images; values are converted, never scaled. None keeps the transform's.
    channels_last : bool
        Tensors in torch's channels-last memory format, of shape (N, C, H, W) as always; arrays
        of shape (N, H, W, C).
    pin_memory : bool
        Batches in page-locked memory, for ``.to(device, non_blocking=True)``, but for what a
        `collate_fn` returns. Ignored, with a log message, where torch finds no such device.
    return_indices : bool
        Batches are ``(images, labels, indices)``, the last int64.
    drop_last : bool
        Whole batches only, equally many on every rank.
    seed : int
        Chooses the orders and everything random in the transforms.
    prefetch_batches : int
        Batches prepared ahead of the one that the consumer has.
    collate_fn : callable, optional
        Called, in a worker thread, with the list of sample dicts, or of ``(image, label)`` pairs
        where there is a transform, ``(image, label, index)`` with `return_indices`; its result is
        the batch.
    enable_distributed : bool
        This rank's part of every epoch: `rank` and `world_size` as `find_rank` finds them when
        the iteration begins.
    rank, world_size : int, optional
        The same, said explicitly.
    on_error : {"raise", "skip", "replace"}
        What to do about a sample that cannot be read or decoded: end with an error that names
        it; leave it out; or take the next one of the epoch's order, which keeps the size of the
        batch. `errors` lists them.
    exif_transpose : bool
        Turn images as their EXIF orientation says. Off, as in torchvision.
    max_pixels : int
        Images of more pixels are refused as broken, before memory is taken for them.
    columns : (str, str or None), optional
        Which entries of dict samples, or columns of arrays, are image and label. Default: the
        first of ``image``, ``images``, ``img``, ``x``; of ``label``, ``labels``, ``target``,
        ``targets``, ``y``, ``bboxes``, ``boxes``, ``keypoints``, ``landmarks``.
    split_torch_workers : bool
        Inside a worker process of torch's ``DataLoader``, yield only that worker's part of the
        epoch, so that an ``IterableDataset`` around this loader gives every sample once.

    Attributes
    ----------
    dataset : object
        What is read from.
    epoch : int
        The epoch that the next iteration will be.
    errors : list of BadSample
        The broken samples met so far, once each: (index, member, reason).

    Raises
    ------
    OptionError, OptionTypeError
        An argument cannot be used.

    Notes
    -----
    Every iteration is the next epoch, from its first batch on. Iterators are independent: several
    may run at once, in any threads. Leaving one early (``break``, an exception) stops its threads;
    `close` stops all.
    A loader that is forked, even while it iterates, works in parent and child; a pickle holds
    the data set's pickle and the options.

    A batch belongs to who received it. Its memory is used again only when no array, tensor or
    view of it is left.
    """

    def __init__(
        self,
        source: Any,
        batch_size: int = 1,
        *,
        shuffle: bool = False,
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
        prefetch_batches: int = 2,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        enable_distributed: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        on_error: OnError = "raise",
        exif_transpose: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        columns: tuple[str, str | None] | None = None,
        split_torch_workers: bool = True,
    ) -> None:
        if num_workers is None:
            num_workers = usable_cpus()
        num_workers = check_integer("num_workers", num_workers, 0, MAX_WORKERS)
        prefetch_batches = check_integer("prefetch_batches", prefetch_batches, 1, 1 << 16)
        max_pixels = check_integer("max_pixels", max_pixels, 1, 1 << 62)
        # As Python's own integers, since states and pickles hold them.
        batch_size = check_integer("batch_size", batch_size, 1, MAX_BATCH)
        seed = check_integer("seed", seed)
        check_choice("output", output, (None, *get_args(Output)))
        dtype = _dtype_name(dtype)
        check_choice("dtype", dtype, (None, *get_args(DTypeName)))
        check_choice("on_error", on_error, get_args(OnError))
        if image_size is not None:
            if transform is not None:
                raise OptionError("image_size and transform exclude each other; pass one of them")
            transform = _resized(image_size)
        if transform is not None and (not callable(transform) or isinstance(transform, type)):
            raise OptionTypeError(
                f"transform must be a Compose([...]) or a function of an array, got {transform!r}"
            )
        if collate_fn is not None:
            check_callable("collate_fn", collate_fn)
        if rank is not None or world_size is not None:
            find_rank(rank, world_size)
        self._options: dict[str, Any] = {
            "batch_size": batch_size,
            "shuffle": bool(shuffle),
            "num_workers": num_workers,
            "transform": transform,
            "output": output,
            "dtype": dtype,
            "channels_last": bool(channels_last),
            "pin_memory": bool(pin_memory),
            "return_indices": bool(return_indices),
            "drop_last": bool(drop_last),
            "seed": seed,
            "prefetch_batches": prefetch_batches,
            "collate_fn": collate_fn,
            "enable_distributed": bool(enable_distributed),
            "rank": rank,
            "world_size": world_size,
            "on_error": on_error,
            "exif_transpose": bool(exif_transpose),
            "max_pixels": max_pixels,
            "columns": columns,
            "split_torch_workers": bool(split_torch_workers),
        }
        self._given = source
        self._source, self._owned = open_source(
            source, columns, bool(exif_transpose), transformed=transform is not None
        )
        self._pipeline = self._compiled()
        self._buffers = Buffers(prefetch_batches + 2)
        self._next_epoch = 0
        self._start = 0
        self._progress: _Progress | None = None
        self._errors: dict[int, BadSample] = {}
        self._iterators: weakref.WeakSet[_Batches] = weakref.WeakSet()
        self._closed = False
        # Reentrant: a signal's handler may close the loader that its own thread is beginning on.
        self._lock = threading.RLock()
        _loaders.add(self)
        if enable_distributed:
            self._place()

    def _compiled(self) -> Pipeline | None:
        options = self._options
        if options["transform"] is None:
            return None
        return compile_pipeline(
            options["transform"],
            layout="HWC" if options["channels_last"] else "CHW",
            dtype=options["dtype"],
            exif_transpose=options["exif_transpose"],
        )

    @cached_property
    def _fingerprint(self) -> str:
        return self._source.fingerprint()

    @property
    def batch_size(self) -> int:
        """Samples of a batch, of this rank."""
        return int(self._options["batch_size"])

    @property
    def num_workers(self) -> int:
        """Threads."""
        return int(self._options["num_workers"])

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that is not full is left out."""
        return bool(self._options["drop_last"])

    @property
    def transform(self) -> Callable[[Any], Any] | None:
        """What becomes of an image."""
        transform: Callable[[Any], Any] | None = self._options["transform"]
        return transform

    @property
    def dataset(self) -> Any:
        """The data set that is read from."""
        return self._source.dataset

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration will be."""
        return self._next_epoch

    @property
    def errors(self) -> list[BadSample]:
        """The broken samples met so far, once each, as (index, member, reason)."""
        return list(self._errors.values())

    def __len__(self) -> int:
        """Return how many batches a whole epoch has, on this rank."""
        return len(self._order(0, 0))

    def _place(self) -> tuple[int, int]:
        options = self._options
        if options["enable_distributed"] or options["rank"] is not None:
            rank, world_size = find_rank(options["rank"], options["world_size"])
        else:
            rank, world_size = 0, 1
        data = sys.modules.get("torch.utils.data")
        worker = data.get_worker_info() if data and options["split_torch_workers"] else None
        if worker is not None:
            return rank * worker.num_workers + worker.id, world_size * worker.num_workers
        return rank, world_size

    def _order(self, epoch: int, start: int) -> EpochOrder:
        rank, world_size = self._place()
        options = self._options
        return EpochOrder(
            len(self._source),
            seed=options["seed"],
            epoch=epoch,
            shuffle=options["shuffle"],
            rank=rank,
            world_size=world_size,
            batch_size=options["batch_size"],
            drop_last=options["drop_last"],
            start=start,
        )

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over the next epoch, which begins when its first batch is asked for.

        One that is never asked for a batch uses up no epoch, and no saved position: training
        frameworks make such iterators.
        """
        iterator = _Batches(self)
        with self._lock:
            if self._closed:
                raise ClosedError("the loader is closed; make a new one to iterate again")
            self._iterators.add(iterator)
        return iterator

    def _begin(self) -> _Progress:
        """Take the next epoch."""
        with self._lock:
            order = self._order(self._next_epoch, self._start)
            self._next_epoch, self._start = order.epoch + 1, 0
            self._progress = _Progress(order)
            return self._progress

    def _give_back(self, progress: _Progress) -> None:
        """Undo `_begin` where nothing came of it, unless another iterator has begun since."""
        with self._lock:
            if self._progress is progress:
                self._next_epoch, self._start = progress.order.epoch, progress.order.start
                self._progress = None

    def _epoch_of(self, order: EpochOrder, first: int) -> Epoch:
        options = self._options
        output = _chosen_output(options["output"], self._pipeline)
        # Small parts share a batch evenly among threads; large ones save hand-overs.
        share = -(-order.batch_size // (2 * max(1, self.num_workers)))
        return Epoch(
            self._source,
            self._pipeline,
            order,
            Options(
                output=output,
                dtype=options["dtype"],
                channels_last=options["channels_last"],
                pin_memory=options["pin_memory"] and output == "torch" and _can_pin(),
                return_indices=options["return_indices"],
                collate_fn=options["collate_fn"],
                on_error=options["on_error"],
                part_size=max(1, min(16, share)),
            ),
            self._buffers,
            first,
        )

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that epoch, from its beginning; epochs go on from there."""
        self._next_epoch, self._start, self._progress = check_integer("epoch", epoch), 0, None

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands: the batches that the consumer has received so far.

        What was prefetched does not count. Of several iterators, the one begun last counts. The
        state is the same on all ranks that have received equally many batches, or all come to the
        end of the epoch, and consists of plain integers and strings.
        """
        epoch, position = self._next_epoch, self._start
        if self._progress is not None:
            order = self._progress.order
            after = order.position_after(self._progress.received)
            # Where other ranks have one batch more, this one may be through before the position.
            if after < order.end and not self._progress.ended:
                epoch, position = order.epoch, after
        return {
            "order_version": ORDER_VERSION,
            "n": len(self._source),
            "dataset": self._fingerprint,
            "seed": self._options["seed"],
            "shuffle": self._options["shuffle"],
            "epoch": epoch,
            "position": position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state: the next iteration yields the rest of its epoch.

        The number of ranks, the batch size and the number of workers may differ from when it was
        saved; every sample that was not yet received comes once.

        Raises
        ------
        StateMismatchError
            The state is of other data or another order; the message names what differs.
        """
        epoch, position = check_state(state, self.state_dict(), STATE_HINTS)
        self._next_epoch, self._start, self._progress = epoch, position, None

    def close(self) -> None:
        """Stop all iterators, and close the data set if the loader opened it."""
        self._close(None)

    def _close(self, patience: float | None) -> None:
        with self._lock:
            self._closed = True
            iterators = list(self._iterators)
        for iterator in iterators:
            iterator.close(patience)
        if self._owned:
            self._source.dataset.close()

    def __enter__(self) -> DataLoader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Whoever pressed Ctrl-C does not want to wait for the largest image.
        self._close(None if kind is None else PATIENCE)

    def __getstate__(self) -> dict[str, Any]:
        # The copy begins where this loader's next iteration would begin; `state_dict` is for more.
        return {
            "source": self._given,
            "options": self._options,
            "next": (self._next_epoch, self._start),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["source"], **state["options"])  # type: ignore[misc]
        self._next_epoch, self._start = state["next"]

    def __repr__(self) -> str:
        options = self._options
        shown = ("batch_size", "shuffle", "num_workers", "transform", "drop_last", "seed")
        listed = ", ".join(f"{name}={options[name]!r}" for name in shown)
        return f"DataLoader({self._given!r}, {listed})"


_loaders: weakref.WeakSet[DataLoader] = weakref.WeakSet()


def _renew_locks() -> None:
    # Another thread of the parent may have held them; it does not exist in the child.
    for loader in list(_loaders):
        loader._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class _Progress:
    """How far the consumer of one iterator has come."""

    __slots__ = ("ended", "order", "received")

    def __init__(self, order: EpochOrder) -> None:
        self.order = order
        self.received = 0
        self.ended = False


class _Batches(Iterator[Any]):
    """One pass over an epoch. Its threads do not know it, so dropping it ends them."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        self._progress: _Progress | None = None
        self._pool: Pool | None = None
        self._closed = False
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def _started(self, progress: _Progress) -> Pool:
        loader = self._loader
        max_pixels = loader._options["max_pixels"]
        return Pool(
            min(loader.num_workers, max(1, progress.order.samples)),
            loader._options["prefetch_batches"],
            loader._epoch_of(progress.order, progress.received).next_job,
            lambda: Decoder(max_pixels=max_pixels),
            name="imagearchive-loader",
        )

    def _running(self) -> tuple[Pool, _Progress]:
        """The threads, which are started for the first batch, and anew in a forked child."""
        pool, progress = self._pool, self._progress
        if progress is None:
            begun = self._loader._begin()
            try:
                pool = self._started(begun)
            except BaseException:
                self._loader._give_back(begun)
                raise
            progress = self._progress = begun
        elif pool is None:
            pool = self._started(progress)
        self._pool = pool
        if self._closed:
            # By another thread meanwhile, which has not seen the pool.
            self.close()
        return pool, progress

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Any:
        if self._pid != os.getpid():
            # A fork left the threads, and perhaps held locks, in the parent.
            self._pid, self._lock, self._pool = os.getpid(), threading.Lock(), None
        if self._closed:
            raise StopIteration
        try:
            with self._lock:
                # Another thread may have come to the end while this one waited.
                while not self._closed:
                    pool, progress = self._running()
                    more, batch = pool.take()
                    if not more:
                        progress.ended = not self._closed
                        break
                    progress.received += 1
                    for bad in batch.bad:
                        self._report(bad)
                    if not batch.empty:
                        return batch.value
        except BaseException:
            # The traceback keeps this frame alive, in notebooks for long.
            self.close(PATIENCE)
            raise
        self.close()
        raise StopIteration

    def _report(self, bad: BadSample) -> None:
        if bad.index not in self._loader._errors:
            self._loader._errors[bad.index] = bad
            logger.warning("sample %d (%s): %s", *bad)

    def close(self, patience: float | None = None) -> None:
        """Stop the threads; further calls of ``next`` find the end. As `Pool.close`."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close(patience)

    def __del__(self) -> None:
        pool = getattr(self, "_pool", None)
        if pool is not None:
            # The cycle collector may be in a thread that holds what the workers wait for.
            pool.close(PATIENCE)


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _resized(image_size: int | tuple[int, int]) -> Compose:
    if isinstance(image_size, (int, np.integer)):
        return Compose([Resize(image_size, image_size), ToTensor()])
    if not isinstance(image_size, (tuple, list)) or len(image_size) != 2:
        raise OptionTypeError(
            f"image_size must be an integer or a pair (width, height), got {image_size!r}"
        )
    return Compose([Resize(*image_size), ToTensor()])


def _chosen_output(output: Output | None, pipeline: Pipeline | None) -> Output:
    if pipeline is None:
        return "numpy"
    # Asking the import system what is already imported is free, and finds stand-ins.
    installed = "torch" in sys.modules or importlib.util.find_spec("torch") is not None
    if output == "torch" and not installed:
        raise MissingDependencyError(
            "output='torch' needs torch: pip install 'imagearchive[torch]', or pass output='numpy'"
        )
    chosen = output or ("torch" if installed else "numpy")
    if chosen == "torch":
        # Here and not in the workers, who would meet a module that is half imported.
        import torch  # noqa: F401
    return chosen


def _can_pin() -> bool:
    import torch

    if torch.cuda.is_available():
        return True
    logger.info("pin_memory=True has no effect: torch finds no CUDA device")
    return False


def _dtype_name(dtype: Any) -> Any:
    """The name of a dtype of NumPy or torch; what is none is left to the check of names."""
    text = str(dtype)
    if text.startswith("torch."):
        return text.removeprefix("torch.")
    if isinstance(dtype, (type, np.dtype)):
        try:
            return np.dtype(dtype).name
        except TypeError:
            pass
    return dtype
