"""Read training data straight from archives.

Each public name is imported when it is first used, so ``import imagearchive`` itself loads very
little. `docs/reference/index.md` says what is public.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive as Archive
    from imagearchive.archive.archive import open_archive as open  # noqa: F401
    from imagearchive.archive.convert import convert as convert
    from imagearchive.archive.extract import extract as extract
    from imagearchive.archive.pack import pack as pack
    from imagearchive.archive.shard_writer import ShardWriter as ShardWriter
    from imagearchive.archive.verify import verify as verify
    from imagearchive.archive.writers import TarWriter as TarWriter
    from imagearchive.archive.writers import ZipWriter as ZipWriter
    from imagearchive.codecs.codec_registry import register_codec as register_codec
    from imagearchive.codecs.view import DecodedView as DecodedView
    from imagearchive.containers.bins.writer import write_split_data as write_split_data
    from imagearchive.containers.npz.writer import NpzWriter as NpzWriter
    from imagearchive.datasets.bins import SplitDataLoader as SplitDataLoader
    from imagearchive.datasets.combined import CombinedLazyDataset as CombinedLazyDataset
    from imagearchive.datasets.contact_sheet import contact_sheet as contact_sheet
    from imagearchive.datasets.drawing import draw as draw
    from imagearchive.datasets.image_archive import ImageArchive as ImageArchive
    from imagearchive.datasets.mixture import Mixture as Mixture
    from imagearchive.datasets.npz.dataset import LazyNPZDataset as LazyNPZDataset
    from imagearchive.datasets.pil_loader import pil_loader as pil_loader
    from imagearchive.datasets.samples.dataset import SampleArchive as SampleArchive
    from imagearchive.index.build_indexes import build_indexes as build_indexes
    from imagearchive.index.table import IndexTable as IndexTable
    from imagearchive.loader.data_loader import DataLoader as DataLoader
    from imagearchive.loader.generator_process import MpQItr as MpQItr
    from imagearchive.loader.sharded_sampler import ShardedSampler as ShardedSampler
    from imagearchive.processing.processor import DataProcessor as DataProcessor
    from imagearchive.processing.repack import repack as repack
    from imagearchive.processing.report.report import report as report
    from imagearchive.transforms import CenterCrop as CenterCrop
    from imagearchive.transforms import ColorJitter as ColorJitter
    from imagearchive.transforms import Compose as Compose
    from imagearchive.transforms import CutMix as CutMix
    from imagearchive.transforms import GaussianBlur as GaussianBlur
    from imagearchive.transforms import Grayscale as Grayscale
    from imagearchive.transforms import ImageNetNormalize as ImageNetNormalize
    from imagearchive.transforms import Lambda as Lambda
    from imagearchive.transforms import Letterbox as Letterbox
    from imagearchive.transforms import LongestMaxSize as LongestMaxSize
    from imagearchive.transforms import MixUp as MixUp
    from imagearchive.transforms import Mosaic as Mosaic
    from imagearchive.transforms import Normalize as Normalize
    from imagearchive.transforms import Pad as Pad
    from imagearchive.transforms import RandAugment as RandAugment
    from imagearchive.transforms import RandomAffine as RandomAffine
    from imagearchive.transforms import RandomCrop as RandomCrop
    from imagearchive.transforms import RandomErasing as RandomErasing
    from imagearchive.transforms import RandomHorizontalFlip as RandomHorizontalFlip
    from imagearchive.transforms import RandomIoUCrop as RandomIoUCrop
    from imagearchive.transforms import RandomPerspective as RandomPerspective
    from imagearchive.transforms import RandomResizedCrop as RandomResizedCrop
    from imagearchive.transforms import RandomRotation as RandomRotation
    from imagearchive.transforms import RandomVerticalFlip as RandomVerticalFlip
    from imagearchive.transforms import Resize as Resize
    from imagearchive.transforms import ScaleJitter as ScaleJitter
    from imagearchive.transforms import TensorFormat as TensorFormat
    from imagearchive.transforms import ToDtype as ToDtype
    from imagearchive.transforms import ToTensor as ToTensor
    from imagearchive.transforms import TrivialAugmentWide as TrivialAugmentWide
    from imagearchive.transforms.compound_fields import Coco as Coco
    from imagearchive.transforms.compound_fields import Npz as Npz
    from imagearchive.transforms.fields import Array as Array
    from imagearchive.transforms.fields import Boxes as Boxes
    from imagearchive.transforms.fields import Bytes as Bytes
    from imagearchive.transforms.fields import Field as Field
    from imagearchive.transforms.fields import Image as Image
    from imagearchive.transforms.fields import Json as Json
    from imagearchive.transforms.fields import Keypoints as Keypoints
    from imagearchive.transforms.fields import Label as Label
    from imagearchive.transforms.fields import Mask as Mask
    from imagearchive.transforms.fields import Sample as Sample
    from imagearchive.transforms.fields import Text as Text

# Where each public name is defined, below `imagearchive`.
_HOME = {
    "Archive": "archive.archive",
    "Array": "transforms.fields",
    "Boxes": "transforms.fields",
    "Bytes": "transforms.fields",
    "CenterCrop": "transforms",
    "Coco": "transforms.compound_fields",
    "ColorJitter": "transforms",
    "CombinedLazyDataset": "datasets.combined",
    "Compose": "transforms",
    "CutMix": "transforms",
    "DataLoader": "loader.data_loader",
    "DataProcessor": "processing.processor",
    "DecodedView": "codecs.view",
    "Field": "transforms.fields",
    "GaussianBlur": "transforms",
    "Grayscale": "transforms",
    "Image": "transforms.fields",
    "ImageArchive": "datasets.image_archive",
    "ImageNetNormalize": "transforms",
    "IndexTable": "index.table",
    "Json": "transforms.fields",
    "Keypoints": "transforms.fields",
    "Label": "transforms.fields",
    "Lambda": "transforms",
    "LazyNPZDataset": "datasets.npz.dataset",
    "Letterbox": "transforms",
    "LongestMaxSize": "transforms",
    "Mask": "transforms.fields",
    "MixUp": "transforms",
    "Mixture": "datasets.mixture",
    "Mosaic": "transforms",
    "MpQItr": "loader.generator_process",
    "Normalize": "transforms",
    "Npz": "transforms.compound_fields",
    "NpzWriter": "containers.npz.writer",
    "Pad": "transforms",
    "RandAugment": "transforms",
    "RandomAffine": "transforms",
    "RandomCrop": "transforms",
    "RandomErasing": "transforms",
    "RandomHorizontalFlip": "transforms",
    "RandomIoUCrop": "transforms",
    "RandomPerspective": "transforms",
    "RandomResizedCrop": "transforms",
    "RandomRotation": "transforms",
    "RandomVerticalFlip": "transforms",
    "Resize": "transforms",
    "Sample": "transforms.fields",
    "SampleArchive": "datasets.samples.dataset",
    "ScaleJitter": "transforms",
    "ShardWriter": "archive.shard_writer",
    "ShardedSampler": "loader.sharded_sampler",
    "SplitDataLoader": "datasets.bins",
    "TarWriter": "archive.writers",
    "TensorFormat": "transforms",
    "Text": "transforms.fields",
    "ToDtype": "transforms",
    "ToTensor": "transforms",
    "TrivialAugmentWide": "transforms",
    "ZipWriter": "archive.writers",
    "build_indexes": "index.build_indexes",
    "contact_sheet": "datasets.contact_sheet",
    "convert": "archive.convert",
    "extract": "archive.extract",
    "open": "archive.archive",
    "pack": "archive.pack",
    "draw": "datasets.drawing",
    "pil_loader": "datasets.pil_loader",
    "repack": "processing.repack",
    "report": "processing.report.report",
    "register_codec": "codecs.codec_registry",
    "verify": "archive.verify",
    "write_split_data": "containers.bins.writer",
}

# Without `open`: a star import must not replace the built-in.
__all__ = sorted(_HOME.keys() - {"open"})  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Slower to import than all the rest, so not before somebody asks.
        from importlib.metadata import version

        return version("imagearchive")
    if name not in _HOME:
        raise AttributeError(f"module 'imagearchive' has no attribute {name!r}")
    try:
        module = import_module(f"imagearchive.{_HOME[name]}")
    except ModuleNotFoundError as error:
        raise _explained(error) from error
    value = getattr(module, "open_archive" if name == "open" else name)
    globals()[name] = value
    return value


def _explained(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Say what to do where native modules are missing: the source tree hides what is installed."""
    if not str(error.name).startswith("imagearchive."):
        return error
    folder = __file__.rpartition("/imagearchive/")[0] or "."
    return ModuleNotFoundError(
        f"{error}: this is the source tree in {folder}, whose native modules are not built, and "
        f"not the package that may be installed; leave the directory, or build them by "
        f"'pip install -e .'",
        name=error.name,
    )


def load_ipython_extension(shell: Any) -> None:
    """Have notebooks show batches as thumbnails; ``%load_ext imagearchive`` calls this."""
    from imagearchive.datasets.notebook import batch_html

    for kind in (tuple, list, dict):
        shell.display_formatter.formatters["text/html"].for_type(kind, batch_html)


def unload_ipython_extension(shell: Any) -> None:
    """Undo `load_ipython_extension`."""
    for kind in (tuple, list, dict):
        shell.display_formatter.formatters["text/html"].pop(kind, None)


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", "open"})
