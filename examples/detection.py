"""Train a small detector of colored digits, and print its average precision.

Run ``python examples/detection.py [ARCHIVE]``. It writes the archive with ``scenes.py`` if it does
not exist. The detector predicts a heatmap of the centers of objects, as CenterNet does.
"""

import argparse
from pathlib import Path

import torch
from scenes import COLORS, write_scenes
from torch import nn

from imagearchive import Boxes, DataLoader, SampleArchive, draw
from imagearchive.transforms import (
    ColorJitter,
    Compose,
    ImageNetNormalize,
    Letterbox,
    RandomHorizontalFlip,
    RandomIoUCrop,
    ToTensor,
)

SIDE, STRIDE = 64, 4
GRID = SIDE // STRIDE
FIELDS = {
    "image": "images/{key}.jpg",
    # The first number of each line is the class. It becomes the field "labels", whose rows are
    # dropped with their boxes.
    "boxes": Boxes(
        "boxes/{key}.txt",
        format="cxcywh",
        relative=True,
        labels="labels",
        min_visibility=0.5,
    ),
}
TRAIN = Compose([
    RandomIoUCrop((0.6, 1.0)),
    Letterbox(SIDE),
    RandomHorizontalFlip(),
    ColorJitter(0.2, 0.2),
    ImageNetNormalize(),
    ToTensor(),
])  # fmt: skip
TEST = Compose([Letterbox(SIDE), ImageNetNormalize(), ToTensor()])


def torchvision_targets(batch):
    """Return what the detectors of torchvision take: a list of images and a list of targets."""
    targets = [
        {"boxes": boxes, "labels": labels + 1}  # 0 is the background.
        for boxes, labels in zip(batch["boxes"], batch["labels"])
    ]
    return list(batch["image"]), targets


class Detector(nn.Module):
    """For each cell: a score for each class, the offset of the center, and the size."""

    def __init__(self, width=16):
        super().__init__()
        layers = []
        sizes = [(3, width, 2), (width, 2 * width, 2), (2 * width, 4 * width, 1)]
        for channels_in, channels_out, stride in [*sizes, (4 * width, 4 * width, 1)]:
            layers += [nn.Conv2d(channels_in, channels_out, 5, stride, 2, bias=False)]
            layers += [nn.BatchNorm2d(channels_out), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(4 * width, len(COLORS) + 4, 1))
        nn.init.constant_(self.body[-1].bias, -2.0)  # Most cells have no object.

    def forward(self, images):
        values = self.body(images)
        return values[:, : len(COLORS)], values[:, len(COLORS) :]

    def loss(self, images, targets):
        """Return the loss of a batch."""
        scores, places = self(torch.stack(images))
        heat = torch.zeros_like(scores)
        cells = torch.arange(GRID) + 0.5
        loss = 0.0
        for number, target in enumerate(targets):
            if not len(target["boxes"]):
                continue
            x, y, w, h = as_centers(target["boxes"] / STRIDE).T
            column, row = x.long().clamp(0, GRID - 1), y.long().clamp(0, GRID - 1)
            distance = (cells - (column + 0.5)[:, None])[:, None] ** 2
            distance = distance + (cells - (row + 0.5)[:, None])[:, :, None] ** 2
            for label, spot in zip(target["labels"] - 1, torch.exp(-distance / 2)):
                heat[number, label] = torch.maximum(heat[number, label], spot)
            truth = torch.stack([x - column, y - row, w / GRID, h / GRID])
            found = places[number, :, row, column].sigmoid()
            loss = loss + (found - truth).abs().sum()
        # The focal loss of CornerNet (H. Law and J. Deng, 2018).
        chance = scores.sigmoid().clamp(1e-4, 1 - 1e-4)
        hit = (heat == 1) * (1 - chance) ** 2 * chance.log()
        miss = (heat < 1) * (1 - heat) ** 4 * chance**2 * (1 - chance).log()
        count = max(1, sum(len(target["boxes"]) for target in targets))
        return (loss - hit.sum() - miss.sum()) / count

    @torch.no_grad()
    def detect(self, images, most=8):
        """Return for each image the dict of its boxes, labels, and scores."""
        scores, places = self(torch.stack(images))
        chance = scores.sigmoid()
        chance = chance * (chance == nn.functional.max_pool2d(chance, 5, 1, 2))
        results = []
        for chances, place in zip(chance, places.sigmoid()):
            best, where = chances.flatten().topk(most)
            label, cell = where // GRID**2, where % GRID**2
            row, column = cell // GRID, cell % GRID
            x, y, w, h = place[:, row, column]
            x, y, w, h = (column + x) * STRIDE, (row + y) * STRIDE, w * SIDE, h * SIDE
            boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
            results.append({"boxes": boxes, "labels": label + 1, "scores": best})
        return results


def as_centers(boxes):
    """Return the centers and sizes of boxes."""
    first, last = boxes[:, :2], boxes[:, 2:]
    return torch.cat([(first + last) / 2, last - first], 1)


def overlap(a, b):
    """Return the intersection over union of each box in `a` with each in `b`."""
    first = torch.maximum(a[:, None, :2], b[None, :, :2])
    last = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (last - first).clamp(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    return common / (areas[0][:, None] + areas[1] - common)


def average_precision(model, loader, threshold=0.5):
    """Return the area under the curve of precision over recall, of all classes together."""
    model.eval()
    found, count = [], 0
    for batch in loader:
        images, targets = torchvision_targets(batch)
        for result, target in zip(model.detect(images), targets):
            count += len(target["boxes"])
            free = torch.ones(len(target["boxes"]), dtype=torch.bool)
            ious = overlap(result["boxes"], target["boxes"])
            ious *= result["labels"][:, None] == target["labels"]
            for score, row in zip(result["scores"].tolist(), ious):
                row = row * free
                hit = bool(len(row)) and row.max().item() >= threshold
                if hit:
                    free[row.argmax()] = False
                found.append((score, hit))
    found.sort(reverse=True)
    hits = torch.tensor([hit for _, hit in found]).cumsum(0)
    precision = hits / torch.arange(1, len(hits) + 1)
    # At each recall, the best precision at this recall or a higher one.
    precision = precision.flip(0).cummax(0).values.flip(0)
    steps = torch.diff(hits, prepend=torch.zeros(1, dtype=hits.dtype))
    return ((precision * steps).sum() / count).item()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", nargs="?", default="scenes.tar", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--picture", type=Path, help="save a picture of a batch here")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    if not options.archive.exists():
        write_scenes(options.archive)

    train = SampleArchive(options.archive, fields=FIELDS, keys="train.txt")
    val = SampleArchive(options.archive, fields=FIELDS, keys="val.txt")
    batches = DataLoader(train, 16, shuffle=True, transform=TRAIN, num_workers=2, drop_last=True)
    held_out = DataLoader(val, 50, transform=TEST, num_workers=2)
    if options.picture:
        batch, names = next(iter(batches)), list(COLORS)
        picture = draw(batch, train.fields, size=128, classes=names, transform=TRAIN)
        picture.save(options.picture)

    model = Detector()
    optimizer = torch.optim.AdamW(model.parameters())
    steps = options.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for epoch in range(options.epochs):
        model.train()
        for batch in batches:
            loss = model.loss(*torchvision_targets(batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{options.epochs}: loss {loss.item():.3f}")
    precision = average_precision(model, held_out)
    print(f"average precision at IoU 0.5 on held-out scenes: {precision:.3f}")


if __name__ == "__main__":
    main()
