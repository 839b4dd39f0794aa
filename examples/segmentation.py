"""Train a small U-Net to segment colored digits, and print its mean intersection over union.

Run ``python examples/segmentation.py [ARCHIVE]``. It writes the archive with ``scenes.py`` if it
does not exist.
"""

import argparse
from pathlib import Path

import torch
from scenes import COLORS, write_scenes
from torch import nn

from imagearchive import DataLoader, Mask, SampleArchive, draw
from imagearchive.transforms import (
    ColorJitter,
    Compose,
    ImageNetNormalize,
    RandomAffine,
    RandomHorizontalFlip,
    ToTensor,
)

FIELDS = {"image": "images/{key}.jpg", "mask": Mask("masks/{key}.png")}
# Geometry moves image and mask alike; color changes the image only.
TRAIN = Compose([
    RandomAffine(10, (0.1, 0.1), (0.9, 1.2), interpolation="bilinear"),
    RandomHorizontalFlip(),
    ColorJitter(0.2, 0.2),
    ImageNetNormalize(),
    ToTensor(),
])  # fmt: skip
TEST = Compose([ImageNetNormalize(), ToTensor()])
CLASSES = 1 + len(COLORS)


def block(channels_in, channels_out):
    """Return a convolution, batch normalization, and ReLU."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


class UNet(nn.Module):
    """A U-Net of three levels."""

    def __init__(self, width=8):
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList(
            [block(3, widths[0]), block(widths[0], widths[1]), block(widths[1], widths[2])]
        )
        self.up = nn.ModuleList(
            [block(widths[2] + widths[1], widths[1]), block(widths[1] + widths[0], widths[0])]
        )
        self.last = nn.Conv2d(width, CLASSES, 1)

    def forward(self, images):
        levels = []
        for i, level in enumerate(self.down):
            images = level(nn.functional.max_pool2d(images, 2) if i else images)
            levels.append(images)
        for level, skip in zip(self.up, levels[-2::-1]):
            images = nn.functional.interpolate(images, scale_factor=2)
            images = level(torch.cat([images, skip], 1))
        return self.last(images)


@torch.no_grad()
def mean_iou(model, loader):
    """Return the mean over the colors of intersection over union."""
    model.eval()
    common = torch.zeros(CLASSES)
    either = torch.zeros(CLASSES)
    for batch in loader:
        found, truth = model(batch["image"]).argmax(1), batch["mask"]
        for number in range(CLASSES):
            a, b = found == number, truth == number
            common[number] += (a & b).sum()
            either[number] += (a | b).sum()
    return (common / either)[1:].mean().item()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", nargs="?", default="scenes.tar", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
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
        picture = draw(next(iter(batches)), train.fields, size=128, transform=TRAIN)
        picture.save(options.picture)

    model = UNet()
    optimizer = torch.optim.AdamW(model.parameters())
    steps = options.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for epoch in range(options.epochs):
        model.train()
        for batch in batches:
            loss = nn.functional.cross_entropy(model(batch["image"]), batch["mask"].long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{options.epochs}: loss {loss.item():.3f}")
    print(f"mean IoU of the colors on held-out scenes: {mean_iou(model, held_out):.3f}")


if __name__ == "__main__":
    main()
