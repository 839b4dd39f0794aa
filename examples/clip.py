"""Train images and captions to match, as CLIP does, and print how often the right caption is found.

Run ``python examples/clip.py [ARCHIVE]``. It writes the archive with ``scenes.py`` if it does not
exist.
"""

import argparse
from pathlib import Path

import torch
from scenes import HEIGHT, WIDTH, write_scenes
from torch import nn

from imagearchive import DataLoader, SampleArchive
from imagearchive.transforms import Compose, ImageNetNormalize, RandomCrop, Resize, ToTensor

FIELDS = {"image": "images/{key}.jpg", "caption": "captions/{key}.txt"}
# No flip: the captions say what is on the left.
TRAIN = Compose([
    Resize(WIDTH + 4, HEIGHT + 4),
    RandomCrop(WIDTH, HEIGHT),
    ImageNetNormalize(),
    ToTensor(),
])  # fmt: skip
TEST = Compose([ImageNetNormalize(), ToTensor()])


class ImageEncoder(nn.Module):
    """Four convolutions and a linear layer, to a vector of length 1."""

    def __init__(self, width=16, features=64):
        super().__init__()
        layers = []
        channels_in = 3
        for channels in (width, 2 * width, 4 * width, 4 * width):
            layers += [nn.Conv2d(channels_in, channels, 3, 2, 1, bias=False)]
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            channels_in = channels
        cells = (HEIGHT // 16) * (WIDTH // 16)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * cells, features))

    def forward(self, images):
        return nn.functional.normalize(self.layers(images), dim=1)


class TextEncoder(nn.Module):
    """The mean of the vectors of a caption's phrases, such as ``a red 3 at the top left``.

    The vector of a phrase comes from its words, through two linear layers.
    """

    def __init__(self, captions, features=64):
        super().__init__()
        words = sorted({word for caption in captions for word in caption.split()})
        self.numbers = {word: number for number, word in enumerate(words)}
        self.words = nn.EmbeddingBag(len(words), features, mode="sum")
        self.phrase = nn.Sequential(nn.Linear(features, features), nn.ReLU())
        self.last = nn.Linear(features, features)

    def forward(self, captions):
        phrases = [caption.split(" and ") for caption in captions]
        words = [phrase.split() for caption in phrases for phrase in caption]
        numbers = torch.tensor([self.numbers[word] for phrase in words for word in phrase])
        starts = torch.tensor([0, *map(len, words[:-1])]).cumsum(0)
        vectors = self.phrase(self.words(numbers, starts))
        means = [part.mean(0) for part in vectors.split([len(caption) for caption in phrases])]
        return nn.functional.normalize(self.last(torch.stack(means)), dim=1)


@torch.no_grad()
def retrieval(images, texts, loader):
    """Return how often the caption of an image is the nearest one of its batch."""
    images.eval()
    texts.eval()
    right = total = 0
    for batch in loader:
        near = (images(batch["image"]) @ texts(batch["caption"]).T).argmax(1)
        # Two scenes may have the same caption.
        right += sum(batch["caption"][i] == batch["caption"][j] for i, j in enumerate(near))
        total += len(near)
    return right / total


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", nargs="?", default="scenes.tar", type=Path)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    if not options.archive.exists():
        write_scenes(options.archive)

    train = SampleArchive(options.archive, fields=FIELDS, keys="train.txt")
    val = SampleArchive(options.archive, fields=FIELDS, keys="val.txt")
    batches = DataLoader(train, 32, shuffle=True, transform=TRAIN, num_workers=2, drop_last=True)
    held_out = DataLoader(val, 20, transform=TEST, num_workers=2)

    images = ImageEncoder()
    # The words of the captions, without reading the images.
    captions = SampleArchive(options.archive, fields={"caption": FIELDS["caption"]})
    texts = TextEncoder([captions[i]["caption"] for i in range(len(captions))])
    parameters = [*images.parameters(), *texts.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.1)
    steps = options.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for epoch in range(options.epochs):
        images.train()
        for batch in batches:
            scores = 14 * images(batch["image"]) @ texts(batch["caption"]).T
            target = torch.arange(len(scores))
            loss = nn.functional.cross_entropy(scores, target)
            loss = (loss + nn.functional.cross_entropy(scores.T, target)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{options.epochs}: loss {loss.item():.3f}")
    accuracy = retrieval(images, texts, held_out)
    print(f"right caption of 20 on held-out scenes: {accuracy:.1%}")


if __name__ == "__main__":
    main()
