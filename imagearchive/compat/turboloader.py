"""The names of TurboLoader that its PyTorch integration guide uses.

Replace ``import turboloader`` by ``from imagearchive.compat import turboloader``. A batch is a list
of dicts with ``image``, ``label``, ``labels``, ``filename``, and ``index``.
"""

from imagearchive.loader.data_loader import DataLoader
from imagearchive.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    GaussianBlur,
    Grayscale,
    ImageNetNormalize,
    Normalize,
    Pad,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
    TensorFormat,
    ToTensor,
)

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "DataLoader",
    "GaussianBlur",
    "Grayscale",
    "ImageNetNormalize",
    "Normalize",
    "Pad",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
    "TensorFormat",
    "ToTensor",
]
