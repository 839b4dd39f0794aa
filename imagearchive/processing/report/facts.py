"""The numbers of a report, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

__all__ = [
    "ArchiveFacts",
    "ArrayFacts",
    "ClassFacts",
    "CommonImages",
    "DamagedImage",
    "Distribution",
    "Duplicates",
    "Example",
    "FieldFacts",
    "Histogram",
    "ImageFacts",
    "Report",
    "SampleFacts",
    "SizeGrid",
]


class Histogram(NamedTuple):
    """How many values are in each bin.

    Attributes
    ----------
    edges : list of float
        Ascending, one more than there are bins. The last bin includes its upper edge.
    counts : list of int
    """

    edges: list[float]
    counts: list[int]


class Distribution(NamedTuple):
    """How the values of one property are distributed.

    Attributes
    ----------
    minimum, median, mean, maximum : float
    histogram : Histogram
    """

    minimum: float
    median: float
    mean: float
    maximum: float
    histogram: Histogram


class SizeGrid(NamedTuple):
    """How many images have which width and height.

    Attributes
    ----------
    width_edges, height_edges : list of float
        In pixels.
    counts : list of list of int
        By height, then by width.
    """

    width_edges: list[float]
    height_edges: list[float]
    counts: list[list[int]]


class Example(NamedTuple):
    """An image that stands out.

    Attributes
    ----------
    position : int
        Position of the member in the archive.
    name : str
    value : float
        Of the property in which it stands out.
    """

    position: int
    name: str
    value: float


class DamagedImage(NamedTuple):
    """An image that is broken or truncated.

    Attributes
    ----------
    name : str
    problem : str
    decodes : bool
        Whether Pillow decodes part of it without an error.
    """

    name: str
    problem: str
    decodes: bool


@dataclass
class ClassFacts:
    """The classes of the images.

    Attributes
    ----------
    root : str
        The directory that contains the class directories.
    label_extension : str
        The extension of the members that name the classes, such as ``"cls"``; empty if directories
        do. These are read for the measured images only.
    counts : dict of str to int
        The number of images of each class; the largest class is first.
    outside : int
        How many images are in no class.
    """

    root: str
    label_extension: str
    counts: dict[str, int]
    outside: int


@dataclass
class Duplicates:
    """Groups of images that are the same, or look the same.

    Attributes
    ----------
    groups : int
        How many groups there are.
    images : int
        How many images they contain.
    listed : list of list of Example
        The largest groups. The value of an image is 0.
    """

    groups: int = 0
    images: int = 0
    listed: list[list[Example]] = field(default_factory=list)


@dataclass
class ImageFacts:
    """The images of an archive.

    Attributes
    ----------
    count : int
        All images.
    bytes : Distribution
        Of the sizes in bytes of all images.
    measured : int
        How many images were read. All that follows is about these.
    decoded : int
        How many of these could be decoded, at least in part.
    formats, modes, orientations : dict of str to int
        How many images have each format, color mode, and EXIF orientation.
    width, height, megapixels, aspect : Distribution or None
        Of the sizes in pixels, as stored. The aspect ratio is width / height.
    sizes : SizeGrid or None
    common_sizes : list of (int, int, int)
        Width, height, and count of the most common sizes.
    mean, std : list of float or None
        Of the red, green, and blue of the images, from 0 to 1, as `Normalize` takes them. Each
        image counts the same, whatever its size.
    extremes : dict of str to list of Example
    damaged : int
        How many images are broken or truncated.
    damaged_images : list of DamagedImage
        The first of them.
    identical, similar : Duplicates
        Files of the same bytes, and images of about the same difference hash.
    compared : int
        Among how many images identical files were looked for: among all where that is cheap,
        otherwise among the measured ones.
    """

    count: int
    bytes: Distribution
    measured: int
    decoded: int
    formats: dict[str, int]
    modes: dict[str, int]
    orientations: dict[str, int]
    width: Distribution | None
    height: Distribution | None
    megapixels: Distribution | None
    aspect: Distribution | None
    sizes: SizeGrid | None
    common_sizes: list[tuple[int, int, int]]
    mean: list[float] | None
    std: list[float] | None
    extremes: dict[str, list[Example]]
    damaged: int
    damaged_images: list[DamagedImage]
    identical: Duplicates
    similar: Duplicates
    compared: int


@dataclass
class ArrayFacts:
    """One array of an NPZ.

    Attributes
    ----------
    name : str
    dtype : str
    shape : list of int
    rows : int
        How many rows were read for what follows.
    minimum, maximum, mean : float or None
        Of the finite values; None if they are not numbers.
    nan, infinite : int
        How many values are not numbers, or are infinite.
    labels : dict of str to int
        How often each value occurs in an array of few different integers or texts.
    channel_mean, channel_std : list of float
        Of each channel from 0 to 1, as `Normalize` takes them, if the array may hold images: 8-bit
        integers of shape (N, H, W), (N, H, W, C), or (N, C, H, W). Otherwise empty.
    problem : str
        Why it could not be read; empty otherwise.
    """

    name: str
    dtype: str = ""
    shape: list[int] = field(default_factory=list)
    rows: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    nan: int = 0
    infinite: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    channel_mean: list[float] = field(default_factory=list)
    channel_std: list[float] = field(default_factory=list)
    problem: str = ""


@dataclass
class FieldFacts:
    """One field of samples of several fields.

    Attributes
    ----------
    name : str
    kind : str
        Such as ``"image"``, ``"mask"``, ``"boxes"``, ``"keypoints"``, ``"label"``, or ``"text"``.
    present : int
        How many of the samples that were read have it.
    amount : Distribution or None
        Of the number of boxes, or points, or characters in a sample.
    width, height : Distribution or None
        Of boxes, in pixels.
    area : Distribution or None
        Of boxes, as a part of the area of the image, from 0 to 1.
    labels : dict of str to int
        How many samples have each class in their mask, or how often each label occurs; the most
        frequent is first. At most 1,000.
    pixels : dict of str to float
        The part of all pixels of masks that is of each class, from 0 to 1.
    """

    name: str
    kind: str
    present: int = 0
    amount: Distribution | None = None
    width: Distribution | None = None
    height: Distribution | None = None
    area: Distribution | None = None
    labels: dict[str, int] = field(default_factory=dict)
    pixels: dict[str, float] = field(default_factory=dict)


@dataclass
class SampleFacts:
    """Samples of several files, as WebDataset groups them, or as `report` was told by `fields`.

    Attributes
    ----------
    count : int
    examined : int
        How many of them all that follows is about.
    extensions : dict of str to int
        How many samples have a file of each extension, or each field.
    incomplete : int
        How many samples lack an extension that most samples have, or any of the fields.
    missing : list of (str, str)
        The key of such a sample and the extension or the field, of the first of them.
    fields : list of FieldFacts
        What is in the fields; empty unless `report` was told them.
    broken : int
        How many samples have a field that cannot be decoded. Images are not decoded for this.
    broken_samples : list of (str, str)
        The key of such a sample and what is wrong, of the first of them.
    """

    count: int
    examined: int
    extensions: dict[str, int]
    incomplete: int
    missing: list[tuple[str, str]]
    fields: list[FieldFacts] = field(default_factory=list)
    broken: int = 0
    broken_samples: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class ArchiveFacts:
    """One archive.

    Attributes
    ----------
    path : str
    problem : str
        Why it cannot be opened; empty otherwise.
    container : dict of str to object
        As from ``imagearchive info --json``.
    classes : ClassFacts or None
    images : ImageFacts or None
    samples : SampleFacts or None
    arrays : list of ArrayFacts
    """

    path: str
    problem: str = ""
    container: dict[str, Any] = field(default_factory=dict)
    classes: ClassFacts | None = None
    images: ImageFacts | None = None
    samples: SampleFacts | None = None
    arrays: list[ArrayFacts] = field(default_factory=list)


@dataclass
class CommonImages:
    """Images that two archives have in common.

    Attributes
    ----------
    first, second : int
        Numbers of the archives in the report.
    identical, similar : int
        How many pairs have the same bytes, and how many others look the same.
    pairs : list of (Example, Example)
        The first pairs. The value is the number of bits by which the difference hashes differ, or
        -1 for files of the same bytes.
    """

    first: int
    second: int
    identical: int
    similar: int
    pairs: list[tuple[Example, Example]]


@dataclass
class Report:
    """What `report` found.

    Attributes
    ----------
    archives : list of ArchiveFacts
    common : list of CommonImages
        For each two archives that have images in common.
    """

    archives: list[ArchiveFacts]
    common: list[CommonImages]

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as dicts and lists."""
        return asdict(self)
