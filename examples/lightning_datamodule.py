"""A Lightning data module whose loaders are `imagearchive.DataLoader` objects.

    python examples/lightning_datamodule.py train.tar val.tar

Lightning asks the module for its loaders after it has set up the process group, so each process
gets its part of every epoch with ``enable_distributed=True``. Pass
``use_distributed_sampler=False`` to the ``Trainer``, because the loader has no sampler that
Lightning could replace.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from imagearchive import DataLoader
from imagearchive.errors import ImageArchiveError
from imagearchive.transforms import (
    CenterCrop,
    Compose,
    ImageNetNormalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)

try:
    import lightning as pl
except ImportError:
    try:
        import pytorch_lightning as pl
    except ImportError:
        sys.exit("this example needs Lightning: pip install lightning")


class ArchiveDataModule(pl.LightningDataModule):
    """Training and validation loaders for two archives.

    Parameters
    ----------
    train, val : str
        Archives of images in one directory per class.
    batch_size : int
        Per process.
    size : int
        Side of the images.
    num_workers : int, optional
        Threads of each loader.
    """

    def __init__(
        self,
        train: str,
        val: str,
        batch_size: int = 256,
        size: int = 224,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        self.paths = train, val
        self.size = size
        self.options: dict[str, Any] = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "enable_distributed": True,
        }
        self.train_loader: DataLoader | None = None
        self._state: dict[str, Any] | None = None

    def train_dataloader(self) -> DataLoader:
        """Return the training loader; it resumes from the checkpoint if one was loaded."""
        self.train_loader = DataLoader(
            self.paths[0],
            transform=Compose(
                [
                    RandomResizedCrop(self.size),
                    RandomHorizontalFlip(),
                    ImageNetNormalize(),
                    ToTensor(),
                ]
            ),
            shuffle=True,
            drop_last=True,
            **self.options,
        )
        if self._state is not None:
            self.train_loader.load_state_dict(self._state)
            self._state = None
        return self.train_loader

    def val_dataloader(self) -> DataLoader:
        """Return the validation loader: every image once, in order."""
        return DataLoader(
            self.paths[1],
            transform=Compose(
                [
                    Resize(self.size * 8 // 7),
                    CenterCrop(self.size, self.size),
                    ImageNetNormalize(),
                    ToTensor(),
                ]
            ),
            **self.options,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state for Lightning's checkpoint."""
        return {} if self.train_loader is None else {"loader": self.train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from Lightning's checkpoint."""
        self._state = state_dict.get("loader")


def main() -> None:
    """Print the shape of the first batch of each loader."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("val")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    module = ArchiveDataModule(options.train, options.val, options.batch_size, options.size)
    for name, loader in (("train", module.train_dataloader()), ("val", module.val_dataloader())):
        images, labels = next(iter(loader))
        print(f"{name}: {len(loader)} batches, {tuple(images.shape)} and {tuple(labels.shape)}")


if __name__ == "__main__":
    try:
        main()
    except ImageArchiveError as error:
        sys.exit(f"{type(error).__name__}: {error}")
