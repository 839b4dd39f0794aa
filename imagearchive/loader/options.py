"""The arguments of `DataLoader`, checked."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.label_guard import LabelKind
from imagearchive.errors import MissingDependencyError, OptionError, OptionTypeError
from imagearchive.errors.arguments import (
    check_callable,
    check_choice,
    check_flag,
    check_integer,
    check_number,
    shorten,
)
from imagearchive.index.nesting import Nested
from imagearchive.loader.order import MAX_BATCH, BlockShuffle, EpochOrder, find_rank
from imagearchive.storage.checksums import Verify, check_verify
from imagearchive.transforms import Compose, Resize, TensorFormat, ToTensor
from imagearchive.transforms.base import Layout
from imagearchive.transforms.compose import flat
from imagearchive.transforms.fields import Field

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "MAX_PART",
    "BatchOptions",
    "DTypeName",
    "LoaderOptions",
    "OnError",
    "Output",
    "Ragged",
    "choose_transform",
    "unsupported_argument",
    "usable_cpus",
]

logger = logging.getLogger(__name__)

Output = Literal["torch", "numpy"]
Ragged = Literal["list", "nested", "pad"]
OnError = Literal["raise", "skip", "replace"]
DTypeName = Literal["float32", "float16", "uint8"]

DEFAULT_MAX_PIXELS: Final = 178_956_970
MAX_WORKERS: Final = 1024
_FLAGS: Final = (
    "channels_last",
    "pin_memory",
    "return_indices",
    "drop_last",
    "enable_distributed",
    "exif_transpose",
    "split_torch_workers",
)
#: Most samples that a thread loads at a time, unless they are small. Large enough parts save
#: hand-overs between threads.
MAX_PART: Final = 16
#: How many batches are prepared ahead, at least and at most, and how many bytes they may take.
#: While threads keep all processors busy, the consumer waits for milliseconds until it may go on,
#: and they finish several small batches.
BATCHES_AHEAD: Final = 2
MAX_BATCHES_AHEAD: Final = 8
SMALL_BATCHES: Final = 32 << 20


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is made, apart from the order of the samples."""

    output: Output
    dtype: DTypeName | None
    channels_last: bool
    pin_memory: bool
    return_indices: bool
    collate_fn: Callable[[list[Any]], Any] | None
    on_error: OnError
    ragged: Ragged
    prefetch_batches: int | None
    share: int
    """Most samples that a thread may load at a time, so that all threads have work."""

    def batches_ahead(self, batch_bytes: int | None) -> int:
        """Return how many batches to prepare ahead, if one takes so many bytes; None: unknown."""
        if self.prefetch_batches is not None:
            return self.prefetch_batches
        small = 0 if batch_bytes is None else SMALL_BATCHES // max(1, batch_bytes)
        return min(max(BATCHES_AHEAD, small), MAX_BATCHES_AHEAD)


@dataclass(frozen=True)
class LoaderOptions:
    """The arguments of `DataLoader` but for the source; see there.

    Integers become Python's own, since saved states and pickles hold them.

    Raises
    ------
    OptionError, OptionTypeError
        An argument cannot be used.
    """

    batch_size: int
    shuffle: bool | BlockShuffle
    num_workers: int
    transform: Callable[[Any], Any] | None
    output: Output | None
    dtype: DTypeName | None
    channels_last: bool
    pin_memory: bool
    return_indices: bool
    drop_last: bool
    seed: int
    prefetch_batches: int | None
    collate_fn: Callable[[list[Any]], Any] | None
    enable_distributed: bool
    rank: int | None
    world_size: int | None
    on_error: OnError
    exif_transpose: bool
    reducing_gap: float | None
    max_pixels: int
    columns: tuple[str, str | None] | None
    split_torch_workers: bool
    label_kind: LabelKind | None
    verify: Verify | None
    decompress_to: str | None
    prefetch_bytes: int | str | None
    fields: Mapping[str, Field] | None
    ragged: Ragged
    nested: Nested | None

    def __post_init__(self) -> None:
        dtype = _dtype_name(self.dtype)
        checked = {
            "num_workers": check_integer("num_workers", self.num_workers, 0, MAX_WORKERS),
            "prefetch_batches": None
            if self.prefetch_batches is None
            else check_integer("prefetch_batches", self.prefetch_batches, 1, 1 << 16),
            "reducing_gap": self._check_reducing_gap(),
            "max_pixels": check_integer("max_pixels", self.max_pixels, 1, 1 << 62),
            "batch_size": check_integer("batch_size", self.batch_size, 1, MAX_BATCH),
            "seed": check_integer("seed", self.seed),
            "output": check_choice("output", self.output, (None, *get_args(Output))),
            "dtype": check_choice("dtype", dtype, (None, *get_args(DTypeName))),
            "verify": None if self.verify is None else check_verify(self.verify),
            "on_error": check_choice("on_error", self.on_error, get_args(OnError)),
            "ragged": check_choice("ragged", self.ragged, get_args(Ragged)),
            "fields": _check_fields(self.fields, self.columns),
        }
        checked |= {name: check_flag(name, getattr(self, name)) for name in _FLAGS}
        for name, value in checked.items():
            # How a frozen dataclass sets its own fields.
            object.__setattr__(self, name, value)
        if self.transform is None:
            self._refuse_options_of_columns()
        if self.collate_fn is not None:
            check_callable("collate_fn", self.collate_fn)
        if self.rank is not None or self.world_size is not None:
            find_rank(self.rank, self.world_size)

    def _refuse_options_of_columns(self) -> None:
        """Raise if an option would be ignored, since there is no transform."""
        given = {
            "channels_last=True": self.channels_last,
            "fields=": self.fields is not None,
            "ragged='pad'": self.ragged == "pad",
        }
        for name, is_given in given.items():
            if is_given:
                raise OptionError(
                    f"{name} matters to batches of columns, but without a transform a batch is a "
                    f"list of sample dicts; pass transform= or image_size="
                )

    def _check_reducing_gap(self) -> float | None:
        if self.reducing_gap is None:
            return None
        if self.transform is None:
            raise OptionError(
                "reducing_gap= matters to transforms that resize; pass transform= or image_size="
            )
        return check_number("reducing_gap", self.reducing_gap, 1)

    def image_layout(self) -> Layout:
        """Return the layout in which images are written to a batch."""
        tensors = [step for step in flat(self.transform) if isinstance(step, ToTensor)]
        chosen = tensors[-1].format if tensors else None
        if chosen is TensorFormat.TENSORFLOW_HWC and self.channels_last:
            raise OptionError(
                "channels_last=True is not for a transform with ToTensor(TENSORFLOW_HWC), whose "
                "batches are (N, H, W, C) already; leave out one of them"
            )
        last = self.channels_last or chosen is TensorFormat.TENSORFLOW_HWC
        return "HWC" if last else "CHW"

    def find_rank(self) -> tuple[int, int]:
        """Return which part of the epoch to yield, and of how many parts."""
        rank, world_size = 0, 1
        if self.enable_distributed or self.rank is not None:
            rank, world_size = find_rank(self.rank, self.world_size)
        data = sys.modules.get("torch.utils.data")
        worker = data.get_worker_info() if data and self.split_torch_workers else None
        if worker is not None:
            return rank * worker.num_workers + worker.id, world_size * worker.num_workers
        return rank, world_size

    def order(
        self, n: int, epoch: int, start: int, data_order: npt.NDArray[np.int64] | None
    ) -> EpochOrder:
        """Return the order of `n` samples in an epoch, for this rank."""
        rank, world_size = self.find_rank()
        return EpochOrder(
            n,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            rank=rank,
            world_size=world_size,
            batch_size=self.batch_size,
            drop_last=self.drop_last,
            start=start,
            data_order=data_order,
        )

    def nearby_reads(self, world_size: int) -> tuple[int, int]:
        """Return within how many samples the threads read at a time, and at how many places."""
        shuffle = self.shuffle
        if isinstance(shuffle, BlockShuffle):
            # Some threads are in the next window already.
            return shuffle.window + shuffle.window // 4, shuffle.blocks_per_window
        if shuffle or self.num_workers < 2:
            # A single thread that reads in order goes on where it stopped.
            return 0, 1
        return self.num_workers * MAX_PART * world_size, self.num_workers

    def for_batches(self) -> BatchOptions:
        """Return what the threads need, for this machine: whether torch and CUDA are there."""
        output = self._choose_output()
        # Small parts share a batch evenly among the threads.
        share = -(-self.batch_size // (2 * max(1, self.num_workers)))
        return BatchOptions(
            output=output,
            dtype=self.dtype,
            channels_last=self.channels_last,
            pin_memory=self.pin_memory and output == "torch" and can_pin(),
            return_indices=self.return_indices,
            collate_fn=self.collate_fn,
            on_error=self.on_error,
            ragged=self.ragged,
            prefetch_batches=self.prefetch_batches,
            share=max(1, share),
        )

    def _choose_output(self) -> Output:
        if self.ragged == "nested" and (self.output == "numpy" or self.transform is None):
            raise OptionError("ragged='nested' makes tensors of torch; pass output='torch'")
        if self.transform is None:
            return "numpy"
        # The import system tells what is imported already for free, and knows stand-ins.
        installed = "torch" in sys.modules or importlib.util.find_spec("torch") is not None
        if self.output == "torch" and not installed:
            raise MissingDependencyError(
                "output='torch' needs torch: pip install 'imagearchive[torch]', or pass "
                "output='numpy'"
            )
        chosen: Output = self.output or ("torch" if installed else "numpy")
        if chosen == "torch":
            # Here, since the threads would meet a module that is only half imported.
            import torch  # noqa: F401
        return chosen


def _check_fields(
    fields: Any, columns: tuple[str, str | None] | None
) -> Mapping[str, Field] | None:
    if fields is None:
        return None
    if columns is not None:
        raise OptionError("columns= makes pairs and fields= makes dicts; pass one of them")
    if not isinstance(fields, Mapping) or not all(
        isinstance(name, str) and isinstance(kind, Field) for name, kind in fields.items()
    ):
        raise OptionTypeError(
            f"fields must map names to kinds such as {{'image': Image(), 'boxes': Boxes()}}, "
            f"got {shorten(fields)}"
        )
    return dict(fields)


# Arguments of torch's DataLoader that ours does not have, and what takes their place.
_UNSUPPORTED: Final = {
    "batch_sampler": "batch_size=, shuffle=, and drop_last= decide which samples are in a batch",
    "dataset": "the dataset or its path is the first argument",
    "generator": "seed= determines the order and everything random",
    "in_order": "batches always come in the order of the epoch",
    "multiprocessing_context": "threads prepare the batches, not processes",
    "persistent_workers": "the workers are threads, which start in no time",
    "pin_memory_device": "pin_memory=True pins memory for CUDA, whichever device it is copied to",
    "prefetch_factor": "prefetch_batches= is the number of batches to prepare ahead",
    "sampler": "shuffle= and seed= determine the order, and enable_distributed= or rank= and "
    "world_size= each rank's part; for some samples only pass a torch.utils.data.Subset, and for "
    "weighted sampling use torch's DataLoader with the same dataset",
    "timeout": "a worker is a thread of this process, which cannot die unnoticed",
    "worker_init_fn": "the workers are threads of this process, so files are open already and "
    "random numbers depend on seed= only",
}


def unsupported_argument(name: str) -> OptionTypeError:
    """Return the error for an argument that `DataLoader` does not have."""
    reason = _UNSUPPORTED.get(name)
    if reason is not None:
        return OptionTypeError(f"{name}= is not needed here, because {reason}")
    # Imported here, since only this error needs them.
    import inspect

    from imagearchive.datasets.image_archive import ImageArchive

    if name in inspect.signature(ImageArchive).parameters:
        return OptionTypeError(
            f"DataLoader has no argument {name}=; pass it to the dataset, as in "
            f"DataLoader(ImageArchive(path, {name}=...))"
        )
    names = [field.name for field in fields(LoaderOptions)]
    names += ["image_size", "block_size", "blocks_per_window"]
    close = get_close_matches(name, names, 1)
    hint = f"; did you mean {close[0]}=?" if close else ""
    return OptionTypeError(f"DataLoader has no argument {name}={hint}")


def choose_transform(
    transform: Callable[[Any], Any] | None, image_size: int | tuple[int, int] | None
) -> Callable[[Any], Any] | None:
    """Return the transform that `transform` or `image_size` asks for."""
    if image_size is None:
        if transform is not None and (not callable(transform) or isinstance(transform, type)):
            raise OptionTypeError(
                f"transform must be a Compose([...]) or a function of an array, got {transform!r}"
            )
        return transform
    if transform is not None:
        raise OptionError("image_size and transform exclude each other; pass one of them")
    if isinstance(image_size, (int, np.integer)):
        return Compose([Resize(image_size, image_size), ToTensor()])
    if not isinstance(image_size, (tuple, list)) or len(image_size) != 2:
        raise OptionTypeError(
            f"image_size must be an integer or a pair (width, height), got {image_size!r}"
        )
    return Compose([Resize(*image_size), ToTensor()])


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def can_pin() -> bool:
    """Whether torch can page-lock memory; logs a message where it cannot."""
    import torch

    if torch.cuda.is_available():
        return True
    logger.info("pin_memory=True has no effect: torch finds no CUDA device")
    return False


def _dtype_name(dtype: Any) -> Any:
    """Return the name of a dtype of NumPy or torch, and anything else unchanged."""
    text = str(dtype)
    if text.startswith("torch."):
        return text.removeprefix("torch.")
    if isinstance(dtype, (type, np.dtype)):
        try:
            return np.dtype(dtype).name
        except TypeError:
            pass
    return dtype
