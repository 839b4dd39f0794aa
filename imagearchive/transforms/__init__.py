"""Transforms of images, plain and compiled.

A transform is called with an image and, optionally, a key: ``transform(image, key)``. An image is
an (H, W, C) array of uint8 or float32, a Pillow image or a (C, H, W) torch tensor. A tensor gives a
tensor, anything else an array.

Random choices depend only on the `Key` (seed, epoch, sample index) and on the position of the
transform in its `Compose`. Without a key, each instance draws from a stream of its own.

A loader compiles a transform and renders images into its batches::

    from imagearchive.images.render import Decoder
    from imagearchive.transforms import Key, compile_pipeline

    pipeline = compile_pipeline(transform, layout="CHW", dtype="float32")
    batch = np.empty((batch_size, *pipeline.shape), pipeline.dtype)
    decoder = Decoder()  # one per thread
    pipeline.render_into(encoded, Key(seed, epoch, index), batch[0], decoder)

``pipeline.shape`` is None if it depends on the image or a function, ``pipeline.dtype`` if it
depends on a function. ``pipeline.compiled`` says whether one native pass does everything. Native
work releases the GIL.
"""

from imagearchive.images.decode import decode_image
from imagearchive.images.random import Stream
from imagearchive.transforms.augment import RandAugment, RandomErasing, TrivialAugmentWide
from imagearchive.transforms.base import GeometricTransform, Transform
from imagearchive.transforms.compose import Compose, Lambda
from imagearchive.transforms.crop import CenterCrop, Pad, RandomCrop, RandomIoUCrop
from imagearchive.transforms.flip import RandomHorizontalFlip, RandomVerticalFlip
from imagearchive.transforms.mixing import CutMix, MixUp, Mosaic
from imagearchive.transforms.photometric import (
    ColorJitter,
    GaussianBlur,
    Grayscale,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)
from imagearchive.transforms.pipeline import Pipeline, compile_pipeline
from imagearchive.transforms.random_keys import Key
from imagearchive.transforms.resize import (
    Letterbox,
    LongestMaxSize,
    RandomResizedCrop,
    Resize,
    ScaleJitter,
)
from imagearchive.transforms.values import (
    ImageNetNormalize,
    Normalize,
    TensorFormat,
    ToDtype,
    ToTensor,
)
from imagearchive.transforms.warp import RandomAffine, RandomPerspective, RandomRotation

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "CutMix",
    "GaussianBlur",
    "GeometricTransform",
    "Grayscale",
    "ImageNetNormalize",
    "Key",
    "Lambda",
    "Letterbox",
    "LongestMaxSize",
    "MixUp",
    "Mosaic",
    "Normalize",
    "Pad",
    "Pipeline",
    "RandAugment",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomIoUCrop",
    "RandomPerspective",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
    "ScaleJitter",
    "Stream",
    "TensorFormat",
    "ToDtype",
    "ToTensor",
    "Transform",
    "TrivialAugmentWide",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "compile_pipeline",
    "decode_image",
]
