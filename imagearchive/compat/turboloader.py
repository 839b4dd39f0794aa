"""The names of TurboLoader for the loader and the transforms of this library.

Replace ``import turboloader`` by ``from imagearchive.compat import turboloader``. A batch is a list
of dicts with ``image``, ``label``, ``labels``, ``filename``, and ``index``.

`ToTensor` does not divide by 255, as the PyTorch integration guide expects, which divides
afterwards. The current release of TurboLoader does; pass ``normalize=True`` for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from imagearchive.errors import OptionError
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
    TensorFormat,
    ToTensor,
)
from imagearchive.transforms import GaussianBlur as _GaussianBlur
from imagearchive.transforms import Pad as _Pad
from imagearchive.transforms import RandomCrop as _RandomCrop

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
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
]

_FORMATS: Final = {
    "pytorch": TensorFormat.PYTORCH_CHW,
    "numpy_chw": TensorFormat.PYTORCH_CHW,
    "numpy": TensorFormat.TENSORFLOW_HWC,
    "tensorflow": TensorFormat.TENSORFLOW_HWC,
}
_NOT_OFFERED: Final = {
    "FastDataLoader": "use DataLoader(..., output_format='numpy')",
    "MemoryEfficientDataLoader": "use DataLoader, whose memory prefetch_batches= limits",
    "create_loader": "use DataLoader",
    "Loader": "use DataLoader",
    "TblReaderV2": "use imagearchive.open() for TAR, ZIP, NPZ, and Barecat archives",
    "TblWriterV2": "use imagearchive.pack() or TarWriter to write archives",
    "AutoAugment": "use RandAugment or TrivialAugmentWide",
    "RandomAffine": "use RandomRotation, RandomPerspective, or RandAugment",
    "RandomPosterize": "use RandAugment, which posterizes, too",
    "RandomSolarize": "use RandAugment, which solarizes, too",
    "MixUp": "mix the images of a batch in collate_fn=",
    "CutMix": "mix the images of a batch in collate_fn=",
}


def __getattr__(name: str) -> Any:
    if name in _NOT_OFFERED:
        raise AttributeError(f"turboloader.{name} is not offered: {_NOT_OFFERED[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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


class DataLoader(data_loader.DataLoader):
    """`imagearchive.DataLoader` with TurboLoader's arguments.

    Arguments of `imagearchive.DataLoader` are accepted, too. Those of TurboLoader that only affect
    its own caches and other kinds of data raise an error.

    Parameters
    ----------
    data_path : path-like or dataset
    batch_size, num_workers, shuffle
        As for `imagearchive.DataLoader`.
    transform : callable, optional
        With "dict", applied to the image of every sample.
    image_size : int or (height, width), optional
        Size to resize images to. Not with "dict".
    output_format : {"dict", "pytorch", "numpy", "numpy_chw", "tensorflow"}
        "dict": batches are lists of sample dicts. Otherwise ``(images, labels)``, with float32
        images between 0 and 1 unless the transform normalizes them: tensors of shape (N, C, H, W)
        with "pytorch", otherwise arrays, (N, C, H, W) with "numpy_chw", (N, H, W, C) with "numpy"
        and "tensorflow".
    world_rank, world_size : int, optional
        By default, those of ``torch.distributed``.
    """

    def __init__(
        self,
        data_path: Any,
        batch_size: int = 32,
        num_workers: int = 4,
        shuffle: bool = False,
        transform: Callable[[Any], Any] | None = None,
        image_size: int | tuple[int, int] | None = None,
        output_format: str = "dict",
        *,
        world_rank: int | None = None,
        world_size: int | None = None,
        **options: Any,
    ) -> None:
        check_choice("output_format", output_format, ("dict", *_FORMATS))
        if world_rank is not None:
            options["rank"] = world_rank
        if world_size is not None:
            options["world_size"] = world_size
        if output_format == "dict":
            if image_size is not None:
                raise OptionError(
                    "image_size= needs output_format='pytorch', 'numpy', or 'tensorflow'"
                )
            if transform is not None:
                if options.get("collate_fn") is not None:
                    raise OptionError("pass either transform= or collate_fn= with dicts")
                options["collate_fn"] = _TransformImages(transform)
        else:
            steps: list[Callable[..., Any]] = []
            if image_size is not None:
                both = (image_size, image_size) if isinstance(image_size, int) else image_size
                steps.append(Resize(both[1], both[0]))
            steps += [] if transform is None else [transform]
            options["transform"] = Compose([*steps, ToTensor(_FORMATS[output_format], True)])
            options.setdefault("output", "torch" if output_format == "pytorch" else "numpy")
        super().__init__(data_path, batch_size, shuffle=shuffle, num_workers=num_workers, **options)
        self._current: Any = None

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

    def stop(self) -> None:
        """Stop the loader; same as `close`."""
        self.close()
