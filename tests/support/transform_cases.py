"""Every transform at least once, for what all of them promise."""

import numpy as np

from imagearchive import transforms as T
from imagearchive.transforms import Compose, TensorFormat


def double(image):
    """Twice as bright. Defined in a module, so that it can be pickled."""
    return np.clip(image.astype(int) * 2, 0, 255).astype(np.uint8)


# Those whose repr can be evaluated.
TRANSFORMS = [
    T.Resize(31, 17),
    T.Resize(40, interpolation="bicubic"),
    T.RandomResizedCrop(24, scale=(0.2, 0.9)),
    T.RandomResizedCrop((24, 30)),
    T.RandomCrop(20, 10),
    T.RandomCrop(64, padding=(3, 4), pad_if_needed=True, fill=(1, 2, 3)),
    T.CenterCrop(20),
    T.CenterCrop(70, 5, pad_if_needed=True),
    T.RandomHorizontalFlip(),
    T.RandomVerticalFlip(0.3),
    T.Pad(3),
    T.Pad((1, 2, 3, 4), mode="reflect"),
    T.Letterbox(40, 30),
    T.Letterbox(70, fill=(1, 2, 3), enlarge=False),
    T.LongestMaxSize(33),
    T.ScaleJitter(30, 20, (0.5, 1.5)),
    T.ColorJitter(0.4, 0.4, 0.4, 0.1),
    T.RandomAffine(20),
    T.RandomAffine((5, 30), (0.1, 0.2), (0.5, 2), (-5, 5, 0, 8), "bilinear", (3, 4, 5)),
    T.RandomRotation(30),
    T.RandomRotation((10, 20), interpolation="bilinear", expand=True, fill=7),
    T.RandomPerspective(0.4, 1.0),
    T.RandomErasing(1.0),
    T.RandomErasing(p=0.9, value="random"),
    T.GaussianBlur(5),
    T.Grayscale(),
    T.Grayscale(3),
    T.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
    T.ImageNetNormalize(),
    T.ToTensor(),
    T.ToTensor(TensorFormat.TENSORFLOW_HWC),
    T.ToTensor(normalize=True),
    T.ToDtype("float32", scale=True),
    T.ToDtype("float16"),
    T.RandAugment(),
    T.RandAugment(3, 20, fill=(9, 9, 9)),
    T.TrivialAugmentWide(),
]
# Those that take samples of several fields only.
FOR_SAMPLES = [
    T.RandomIoUCrop(trials=10),
    T.Mosaic(32, fill=(1, 2, 3)),
    T.MixUp(0.4, num_classes=5),
    T.CutMix(0.4, label="class", p=0.5),
]
COMPOSED = Compose(
    [T.Resize(30, 30), Compose([T.RandomCrop(20), T.ImageNetNormalize()]), T.ToTensor()]
)
ALL = [*TRANSFORMS, T.Lambda(double), COMPOSED]

# Those that take any image: uint8 and float32 of 1, 3 or 4 channels, of at least 16 x 16 pixels.
ANY_IMAGE = [
    T.Resize(7, 9),
    T.RandomResizedCrop(8, (0.3, 0.9)),
    T.RandomCrop(8, padding=2, fill=3),
    T.CenterCrop(5),
    T.RandomHorizontalFlip(1.0),
    T.RandomVerticalFlip(1.0),
    T.Pad(2, mode="reflect"),
    T.Pad(2, fill=9),
    T.Letterbox(9, 12),
    T.LongestMaxSize(12),
    T.ScaleJitter(12),
    T.ColorJitter(0.4, 0.4, 0.4, 0.2),
    T.RandomRotation(30, "bilinear", fill=2),
    T.RandomPerspective(0.5, 1.0, fill=2),
    T.RandomAffine(30, (0.1, 0.1), (0.8, 1.2), 5, "bilinear", 2),
    T.RandomErasing(1.0),
    T.GaussianBlur(3, 1.0),
    T.Grayscale(),
    T.Normalize(0.5, 0.25),
    T.ToTensor(),
    T.ToDtype("float32", scale=True),
    T.adjust_contrast,
]


def run(transform, image, key):
    """Call a transform, or a function that adjusts images, at a fixed factor."""
    return transform(image, 1.5) if transform is T.adjust_contrast else transform(image, key)


def name_of(transform):
    """The name of a transform's class, for the ids of parametrized tests."""
    return getattr(transform, "__name__", type(transform).__name__)
