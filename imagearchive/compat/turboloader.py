"""The names of TurboLoader for the loader and the transforms of this library.

Replace ``import turboloader`` by ``from imagearchive.compat import turboloader``. A batch is a list
of dicts with ``image``, ``label``, ``labels``, ``filename``, and ``index``. With another
``output_format=`` than "dict", it is a pair of images and metadata, in which ``indices`` says which
samples of the archive they are.

`ToTensor` does not divide by 255, as the PyTorch integration guide expects, which divides
afterwards. The current release of TurboLoader does; pass ``normalize=True`` for that.
"""

from __future__ import annotations

import opcode
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import imagearchive
from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.arguments import check_choice
from imagearchive.loader import data_loader
from imagearchive.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    Grayscale,
    ImageNetNormalize,
    Normalize,
    RandAugment,
    RandomErasing,
    RandomHorizontalFlip,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
    ToTensor,
)
from imagearchive.transforms import GaussianBlur as _GaussianBlur
from imagearchive.transforms import Pad as _Pad
from imagearchive.transforms import RandomCrop as _RandomCrop
from imagearchive.transforms import TensorFormat as _TensorFormat
from imagearchive.transforms.compose import flat

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "ComposedTransforms",
    "DataLoader",
    "GaussianBlur",
    "Grayscale",
    "ImageNetNormalize",
    "InterpolationMode",
    "Normalize",
    "Pad",
    "PaddingMode",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomPerspective",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
    "TensorFormat",
    "ToTensor",
    "features",
    "version",
]

ComposedTransforms = Compose

_FORMATS: Final = {
    "pytorch": _TensorFormat.PYTORCH_CHW,
    "numpy_chw": _TensorFormat.PYTORCH_CHW,
    "numpy": _TensorFormat.TENSORFLOW_HWC,
    "tensorflow": _TensorFormat.TENSORFLOW_HWC,
}
_LABELS: Final = "use imagearchive.DataLoader, which yields (images, labels)"
_IN_COLLATE: Final = "mix the images of a batch in collate_fn="
_LOGGING: Final = "use logging.getLogger('imagearchive')"
_DECODE_ONCE: Final = "store decoded images once with NpzWriter, and load the NPZ"
_DECODE: Final = "use ImageArchive, which decodes; its image_size= and RandomResizedCrop are fast"
_KERNEL: Final = "pass a transform such as Compose([RandomCrop(...), Normalize(...)]) to DataLoader"
_ARRAYS: Final = "use DataLoader with a LazyNPZDataset or any object with len and [i]"
_NOT_OFFERED: Final = {
    "FastDataLoader": "use DataLoader(..., output_format='numpy')",
    "MemoryEfficientDataLoader": "use DataLoader, whose memory prefetch_batches= limits",
    "create_loader": "use DataLoader",
    "Loader": "use DataLoader",
    "SmartBatchConfig": "use image_size=, which gives all images one size",
    "MapDataLoader": "use DataLoader, which takes any object with len and [i]",
    "ArrayDataLoader": _ARRAYS,
    "TokenDataLoader": _ARRAYS,
    "WebDatasetLoader": "use imagearchive.open(...).samples()",
    "VideoDatasetLoader": "unpack the frames into an archive",
    "PyTorchCompatibleLoader": _LABELS,
    "LabelExtractor": _LABELS,
    "FolderLabelExtractor": _LABELS,
    "FilenamePatternExtractor": _LABELS,
    "MetadataLabelExtractor": _LABELS,
    "JSONSidecarExtractor": _LABELS,
    "CallableLabelExtractor": _LABELS,
    "ImageFolderConverter": "use imagearchive.pack()",
    "TransformAdapter": "pass a function of an array as transform=",
    "read_files": "use ImageArchive.read_many()",
    "decode_jpeg": _DECODE,
    "decode_jpeg_region": _DECODE,
    "decode_jpeg_scaled": _DECODE,
    "crop_resize_normalize_u8_gather": _KERNEL,
    "normalize_u8_batch": _KERNEL,
    "normalize_u8_gather": _KERNEL,
    "TblReaderV2": "use imagearchive.open() for TAR, ZIP, NPZ, and Barecat archives",
    "TblWriterV2": "use imagearchive.pack() or TarWriter to write archives",
    "TblRawImageLoader": _DECODE_ONCE,
    "preprocess_to_tbl": _DECODE_ONCE,
    "AutoAugment": "use RandAugment or TrivialAugmentWide",
    "AutoAugmentPolicy": "use RandAugment or TrivialAugmentWide",
    "RandomAffine": "use RandomRotation, RandomPerspective, or RandAugment",
    "RandomPosterize": "use RandAugment, which posterizes, too",
    "RandomSolarize": "use RandAugment, which solarizes, too",
    "GridMask": "use RandomErasing",
    "MixUp": _IN_COLLATE,
    "CutMix": _IN_COLLATE,
    "Mosaic": _IN_COLLATE,
    "LogLevel": _LOGGING,
    "enable_logging": _LOGGING,
    "disable_logging": _LOGGING,
    "set_log_level": _LOGGING,
    "set_log_output": _LOGGING,
}
_KERNEL_CACHES: Final = "the operating system caches the archive in memory"
_MODALITY: Final = "pass a path or a dataset as data_path=, whose content decides"
#: Arguments that are not offered: the value that turns them off, and our way.
_UNUSED_ARGUMENTS: Final = {
    "modality": ("image", _MODALITY),
    "seq_len": (None, _MODALITY),
    "token_dtype": ("uint16", _MODALITY),
    "arrays": (None, _MODALITY),
    "dataset": (None, "pass the dataset as data_path="),
    "distributed_seed": (42, "seed= determines the order on all ranks"),
    "cache_decoded": (False, _DECODE_ONCE),
    "enable_cache": (False, _KERNEL_CACHES),
    "cache_l1_mb": (512, _KERNEL_CACHES),
    "cache_l2_gb": (0, _KERNEL_CACHES),
    "cache_dir": ("/tmp/turboloader_cache", _KERNEL_CACHES),
    "auto_smart_batching": (False, "image_size= gives all images one size"),
    "enable_smart_batching": (False, "image_size= gives all images one size"),
}


def __getattr__(name: str) -> Any:
    if name.lower().startswith(("cuda", "metal", "gpu", "jax")):
        our_way = "use DataLoader(..., pin_memory=True) and copy its batches to the device"
    else:
        our_way = _NOT_OFFERED.get(name, "")
    if our_way:
        message = f"turboloader.{name} is not offered: {our_way}"
        caller = sys._getframe(1)
        if opcode.opname[caller.f_code.co_code[caller.f_lasti]] == "IMPORT_FROM":
            # ``from ... import`` would replace an AttributeError by an error without our message.
            raise ImportError(message, name=__name__)
        raise AttributeError(message)
    if name == "__version__":
        return imagearchive.__version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def version() -> str:
    """Return the version of this library."""
    return str(imagearchive.__version__)


def features() -> dict[str, Any]:
    """Return what this library offers of what TurboLoader lists, by name."""
    return {
        "version": imagearchive.__version__,
        "tar_support": True,
        "jpeg_decode": True,
        "png_decode": True,
        "webp_decode": True,
        "cuda": False,
    }


class TensorFormat:
    """The layouts of `ToTensor`; with NONE, images stay (H, W, C)."""

    NONE = _TensorFormat.TENSORFLOW_HWC
    PYTORCH_CHW = _TensorFormat.PYTORCH_CHW
    TENSORFLOW_HWC = _TensorFormat.TENSORFLOW_HWC


class InterpolationMode:
    """The interpolations of `Resize`."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class PaddingMode:
    """The modes of `Pad`."""

    CONSTANT = "constant"
    EDGE = "edge"
    REFLECT = "reflect"


class GaussianBlur(_GaussianBlur):
    """Blur with a kernel of fixed width; without `sigma`, the width follows from the size."""

    def __init__(self, kernel_size: int, sigma: float = 0.0) -> None:
        super().__init__(kernel_size, sigma or 0.3 * ((kernel_size - 1) * 0.5 - 1) + 0.8)


class Pad(_Pad):
    """Add a border; the arguments come in TurboLoader's order."""

    def __init__(self, padding: int, mode: Any = PaddingMode.CONSTANT, value: float = 0) -> None:
        super().__init__(padding, value, mode)


class RandomCrop(_RandomCrop):
    """Crop at a random position, after padding with one value."""

    def __init__(
        self,
        width: int,
        height: int,
        padding: int = 0,
        pad_mode: str = PaddingMode.CONSTANT,
        pad_value: float = 0,
        seed: int | None = None,
    ) -> None:
        if padding and pad_mode != PaddingMode.CONSTANT:
            raise OptionError(
                f"RandomCrop pads with one value only; for pad_mode={pad_mode!r}, put "
                f"Pad({padding}, {pad_mode!r}) before it"
            )
        super().__init__(width, height, padding or None, fill=pad_value, seed=seed)


class _TransformImages:
    """Transforms the images of a list of sample dicts."""

    def __init__(self, transform: Callable[[Any], Any]) -> None:
        self.transform = transform

    def __call__(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**sample, "image": self.transform(sample["image"])} for sample in samples]


def _with_metadata(batch: tuple[Any, Any, Any]) -> tuple[Any, dict[str, Any]]:
    images, labels, indices = batch
    listed = indices.tolist()
    return images, {"indices": listed, "batch_size": len(listed), "labels": labels}


def _fixed_size(
    image_size: int | tuple[int, int] | None, steps: list[Callable[..., Any]]
) -> tuple[int, int] | None:
    """Return the height and the width that `image_size` or a `Resize` demands."""
    resize = next((step for step in steps if isinstance(step, Resize)), None)
    resized = None
    if resize is not None and resize.width is not None and resize.height is not None:
        resized = (resize.height, resize.width)
    if image_size is None:
        return resized
    both = (image_size, image_size) if isinstance(image_size, int) else image_size
    if resize is not None and resized != tuple(both):
        raise OptionError(f"image_size={image_size!r} conflicts with {resize!r}; pass one of them")
    return both


def _array_steps(
    transform: Callable[[Any], Any] | None,
    image_size: int | tuple[int, int] | None,
    train_aug: bool,
    hflip_prob: float,
) -> list[Callable[..., Any]]:
    steps = flat(transform)
    size = _fixed_size(image_size, steps)
    if train_aug:
        if size is None:
            raise OptionError("train_aug=True needs image_size= or a Resize for its crop")
        rest = [step for step in steps if not isinstance(step, Resize)]
        return [RandomResizedCrop((size[1], size[0])), RandomHorizontalFlip(hflip_prob), *rest]
    if image_size is None or size is None or any(isinstance(step, Resize) for step in steps):
        return steps
    return [Resize(size[1], size[0]), *steps]


class DataLoader(data_loader.DataLoader):
    """`imagearchive.DataLoader` with TurboLoader's arguments.

    Arguments of `imagearchive.DataLoader` are accepted, too. Those of TurboLoader that only affect
    its own caches and other kinds of data raise an error, unless they are at their default.

    Parameters
    ----------
    data_path : path-like or dataset
    batch_size, num_workers, shuffle
        As for `imagearchive.DataLoader`.
    transform : callable, optional
        With "dict", applied to the image of every sample; random transforms then draw from their
        own streams (``seed=`` of the transform), not from one of the loader's seed.
    image_size : int or (height, width), optional
        Size to resize images to. Not with "dict".
    output_format : {"dict", "pytorch", "numpy", "numpy_chw", "tensorflow"}
        "dict": batches are lists of sample dicts. Otherwise ``(images, meta)``, with float32
        images between 0 and 1 unless the transform normalizes them: arrays of shape (N, H, W, C)
        with "numpy" and "tensorflow", otherwise (N, C, H, W). The dict ``meta`` holds ``indices``,
        the positions of the samples in the archive, ``batch_size``, and ``labels``.
    train_aug : bool
        Crop and flip at random: `RandomResizedCrop` to the image size, and `RandomHorizontalFlip`
        with the probability `hflip_prob`. Not with "dict".
    antialias : bool
        Ignored: resizing always antialiases.
    pin_memory : bool
        With "pytorch", images and labels are tensors, in page-locked memory if there is a GPU.
    prefetch_batches : int
        With 0, the calling thread prepares the batches.
    world_rank, world_size : int, optional
        By default, those of ``torch.distributed``.

    Notes
    -----
    `close` stops the threads; another iteration opens the loader again, at its next epoch. A broken
    image raises an error; with ``on_error="replace"``, another takes its place, and `errors` lists
    it. `state_dict` has the entries of `imagearchive.DataLoader.state_dict`.
    """

    def __init__(
        self,
        data_path: Any = None,
        batch_size: int = 32,
        num_workers: int = 4,
        shuffle: bool = False,
        transform: Callable[[Any], Any] | None = None,
        image_size: int | tuple[int, int] | None = None,
        output_format: str = "dict",
        *,
        world_rank: int | None = None,
        world_size: int | None = None,
        train_aug: bool = False,
        hflip_prob: float = 0.5,
        antialias: bool = True,
        **options: Any,
    ) -> None:
        check_choice("output_format", output_format, ("dict", *_FORMATS))
        for name, (off, our_way) in _UNUSED_ARGUMENTS.items():
            if name in options and options.pop(name) != off:
                raise OptionTypeError(f"DataLoader has no argument {name}=: {our_way}")
        if data_path is None:
            raise OptionTypeError("DataLoader needs data_path=, a path or a dataset")
        if world_rank is not None:
            options["rank"] = world_rank
        if world_size is not None:
            options["world_size"] = world_size
        if options.get("prefetch_batches") == 0:
            del options["prefetch_batches"]
            num_workers = 0
        self._has_metadata = False
        if output_format == "dict":
            if image_size is not None or train_aug:
                raise OptionError(
                    f"{'train_aug' if image_size is None else 'image_size'}= needs "
                    f"output_format='pytorch', 'numpy', or 'tensorflow'"
                )
            if transform is not None:
                if options.get("collate_fn") is not None:
                    raise OptionError("pass either transform= or collate_fn= with dicts")
                options["collate_fn"] = _TransformImages(transform)
        else:
            steps = _array_steps(transform, image_size, train_aug, hflip_prob)
            options["transform"] = Compose([*steps, ToTensor(_FORMATS[output_format], True)])
            tensors = output_format == "pytorch" and options.get("pin_memory", False)
            options.setdefault("output", "torch" if tensors else "numpy")
            if options.get("collate_fn") is None:
                options["return_indices"] = self._has_metadata = True
        super().__init__(data_path, batch_size, shuffle=shuffle, num_workers=num_workers, **options)
        self._current: Any = None

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over the next epoch; a loader that was closed opens again."""
        if self._closed:
            self._open_again()
        batches = super().__iter__()
        return map(_with_metadata, batches) if self._has_metadata else batches

    def _open_again(self) -> None:
        following = self._epochs.next_start()
        self._open(self._source_argument, self._options)
        self._epochs.set_next(*following)
        self._closed = False

    def next_batch(self) -> Any:
        """Return the next batch, of the next epoch once an epoch has ended.

        Raises
        ------
        StopIteration
            Once after the last batch of each epoch.
        """
        if self._current is None:
            self._current = iter(self)
        try:
            return next(self._current)
        except StopIteration:
            self._current = None
            raise

    def is_finished(self) -> bool:
        """Return whether all batches of the epoch begun last have been received."""
        return self._epochs.is_finished()

    def close(self) -> None:
        """Stop all iterators, and close the dataset if the loader opened it."""
        self._current = None
        super().close()

    def __exit__(self, *error: object) -> None:
        self._current = None
        super().__exit__(*error)

    def stop(self) -> None:
        """Stop the loader; same as `close`."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "has_metadata": self._has_metadata}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._has_metadata = state["has_metadata"]
        self._current = None
