"""Transforms of images, plain and compiled.

Every transform is callable and has ``apply(image, key=None)``. Arrays in, arrays out: (H, W, C)
uint8 or float32; Pillow images are accepted; a torch tensor is taken to be (C, H, W) and comes
back as one.

Randomness is a function of a `Key` (seed, epoch, sample index) and of the position of the
transform in its `Compose`. Without a key each instance draws from a stream of its own.

What a loader needs::

    from imagearchive.images.render import Decoder
    from imagearchive.transforms import Key, compile_pipeline, decode_image

    pipeline = compile_pipeline(transform, layout="CHW", dtype="float32", exif_transpose=False)
    pipeline.shape          # (3, 224, 224), or None where it depends on the image or a callable
    pipeline.dtype          # numpy.dtype of the result, or None where a callable decides
    pipeline.compiled       # True: nothing but one native pass per image
    decoder = Decoder(max_pixels=178_956_970)       # one per thread, reused
    key = Key(seed, epoch, index)
    pipeline.render_into(encoded, key, out, decoder)    # out: one slot of the batch, `shape`
    pipeline.render(encoded, key, decoder)              # -> a new array (or what a callable gave)
    pipeline.apply_into(array, key, out, decoder)       # the same from decoded (H, W, C) arrays
    pipeline.apply(array, key, decoder)
    decode_image(encoded, decoder, exif_transpose=False)    # -> (H, W, 3) uint8 RGB

``transform`` may be None, any callable or a `Compose`; ``layout`` "CHW" or "HWC" and ``dtype``
("uint8", "float16", "float32") override what the pipeline ends in, values cast unscaled; None
keeps it. Undecodable input raises `DecodeError`. The GIL is released around all native work.
"""

from imagearchive.images.decode import decode_image
from imagearchive.images.random import Stream
from imagearchive.transforms.augment import RandAugment, RandomErasing, TrivialAugmentWide
from imagearchive.transforms.base import GeometricTransform, Transform
from imagearchive.transforms.compose import Compose, Lambda
from imagearchive.transforms.crop import CenterCrop, Pad, RandomCrop
from imagearchive.transforms.flip import RandomHorizontalFlip, RandomVerticalFlip
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
from imagearchive.transforms.resize import RandomResizedCrop, Resize
from imagearchive.transforms.values import (
    ImageNetNormalize,
    Normalize,
    TensorFormat,
    ToDtype,
    ToTensor,
)
from imagearchive.transforms.warp import RandomPerspective, RandomRotation

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "GaussianBlur",
    "GeometricTransform",
    "Grayscale",
    "ImageNetNormalize",
    "Key",
    "Lambda",
    "Normalize",
    "Pad",
    "Pipeline",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomPerspective",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
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
