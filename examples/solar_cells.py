"""Predict defects of solar cells from photographs in a TAR archive, with labels from a text file.

The ``elpv-dataset`` package (``pip install elpv-dataset``) holds 2,624 electroluminescence images
of solar cells, each with a defect probability (0, 1/3, 2/3 or 1) and a type: mono- or
polycrystalline. This example packs the images into a TAR archive, writes their labels to a text
file, and trains a regression model on them.

Sources: Deitsch et al., "Automatic classification of defective photovoltaic module cells in
electroluminescence images", Solar Energy 185 (2019); Buerhop-Lutz et al. (2018).
"""

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from imagearchive import ImageArchive, TarWriter
from imagearchive.errors import ImageArchiveError

TYPES = {"mono": 0, "poly": 1}


def pack(folder, limit=None):
    """Write the images to cells.tar and their labels to cells.txt in `folder`."""
    spec = find_spec("elpv_dataset")
    if spec is None:
        raise SystemExit("this example needs the elpv-dataset package: pip install elpv-dataset")
    data = Path(spec.submodule_search_locations[0]) / "data"
    lines = (data / "labels.csv").read_text().splitlines()[:limit]
    archive, labels = folder / "cells.tar", folder / "cells.txt"
    with TarWriter(archive, overwrite=True) as tar, labels.open("w") as text:
        for line in tqdm(lines, desc="packing", unit="image"):
            name, probability, kind = line.split()
            tar.add(name, (data / name).read_bytes())
            text.write(f"{name} {float(probability)} {TYPES[kind]}\n")
    return archive, labels


def to_tensor(image):
    """Return gray levels centered on zero, shape (1, 96, 96)."""
    gray = image.convert("L").resize((96, 96), 2)
    return torch.from_numpy(np.asarray(gray, np.float32) / 128 - 1).unsqueeze(0)


def network():
    """Map an image to the logit of its defect probability."""
    layers, width = [], 1
    for channels in (16, 32, 64, 96):
        layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
        width = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("solar_cells"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--limit", type=int, help="use the first images only")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    options.folder.mkdir(parents=True, exist_ok=True)
    archive, labels = pack(options.folder, options.limit)

    common = {
        "apath": archive,
        "label_file": labels,
        "transform": to_tensor,
        "open_after_fork": True,
    }
    count = len(ImageArchive(**common))
    held_out = np.random.default_rng(0).permutation(count) < count // 4
    train = ImageArchive(**common, split_mask=~held_out)
    test = ImageArchive(**common, split_mask=held_out)
    print(f"{archive}: {count} images, labels of shape {train.targets.shape[1:]} each")

    def loader(dataset, shuffle):
        return DataLoader(
            dataset,
            batch_size=32,
            shuffle=shuffle,
            num_workers=options.workers,
            worker_init_fn=dataset.worker_open_archive,
        )

    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    start = time.perf_counter()
    for epoch in range(options.epochs):
        model.train()
        for images, values in tqdm(loader(train, True), desc=f"epoch {epoch + 1}", unit="batch"):
            target = values[:, :1].float()
            loss = nn.functional.binary_cross_entropy_with_logits(model(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    print(f"trained on {options.epochs * len(train) / seconds:,.0f} samples/s")

    model.eval()
    errors = []
    with torch.no_grad():
        for images, values in loader(test, False):
            errors.append((model(images).sigmoid() - values[:, :1]).abs())
    error = torch.cat(errors).mean().item()
    baseline = float(np.abs(test.targets[:, 0] - train.targets[:, 0].mean()).mean())
    print(
        f"mean error of the defect probability: {error:.3f} (predicting the mean: {baseline:.3f})"
    )
    return error, baseline


if __name__ == "__main__":
    try:
        main()
    except (ImageArchiveError, ValueError) as error:
        # PyTorch's loader raises ValueError for an invalid batch size.
        sys.exit(f"{type(error).__name__}: {error}")
