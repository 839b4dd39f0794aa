"""Write an archive of scenes with colored digits: images, masks, boxes, and captions.

``segmentation.py``, ``detection.py``, and ``clip.py`` train on it. Run ``python examples/scenes.py
[ARCHIVE]`` to write it and look at it.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from imagearchive import Boxes, DataLoader, ImageArchive, Mask, SampleArchive, TarWriter, draw
from imagearchive.transforms import Compose, RandomAffine, RandomHorizontalFlip

DIGITS = Path(__file__).parent / "data" / "digits.tar"
WIDTH, HEIGHT = 64, 48
COLORS = {
    "red": (230, 60, 50), "green": (60, 200, 80), "blue": (70, 90, 240), "white": (240, 240, 240),
}  # fmt: skip


def write_scenes(path, count=1000, seed=0):
    """Write `count` scenes of one to three digits, each in one of the four colors.

    A scene is ``images/KEY.jpg``; ``masks/KEY.png``, 0 for the background and the number of the
    color plus 1; ``boxes/KEY.txt`` in YOLO's format, with the number of the color as the class;
    and ``captions/KEY.txt``. ``train.txt`` lists the keys of the first four fifths, and
    ``val.txt`` the others.
    """
    rng = np.random.default_rng(seed)
    keys = [f"{number:05}" for number in range(count)]
    with ImageArchive(DIGITS) as digits, TarWriter(path) as writer:
        for key in keys:
            image, mask, boxes, caption = draw_scene(digits, rng)
            writer.add(f"images/{key}.jpg", encode(image, "JPEG", quality=92, subsampling=0))
            writer.add(f"masks/{key}.png", encode(mask, "PNG"))
            writer.add(f"boxes/{key}.txt", "".join(boxes).encode())
            writer.add(f"captions/{key}.txt", caption.encode())
        split = count * 4 // 5
        writer.add("train.txt", "\n".join(keys[:split]).encode())
        writer.add("val.txt", "\n".join(keys[split:]).encode())


def draw_scene(digits, rng):
    """Return an image, its mask, the lines of its boxes, and its caption."""
    across, down = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    shade = 30 + 60 * (rng.random() * across + rng.random() * down)
    image = shade[:, :, None] + rng.normal(0, 8, (HEIGHT, WIDTH, 3))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    boxes, words = [], []
    for _ in range(rng.integers(1, 4)):
        picture, digit = digits[int(rng.integers(len(digits)))]
        side = int(rng.integers(18, 27))
        x, y = int(rng.integers(0, WIDTH - side + 1)), int(rng.integers(0, HEIGHT - side + 1))
        if mask[y : y + side, x : x + side].any():
            continue
        gray = np.asarray(picture.convert("L").resize((side, side), Image.Resampling.BICUBIC))
        ink = gray.astype(np.float32) / 255
        number = int(rng.integers(len(COLORS)))
        name = list(COLORS)[number]
        part = image[y : y + side, x : x + side]
        part += ink[:, :, None] * (np.array(COLORS[name]) - part)
        mask[y : y + side, x : x + side][ink > 0.4] = number + 1
        rows, columns = np.nonzero(ink > 0.4)
        left, right = x + columns.min(), x + columns.max() + 1
        top, bottom = y + rows.min(), y + rows.max() + 1
        center = (left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT
        size = (right - left) / WIDTH, (bottom - top) / HEIGHT
        boxes.append(" ".join(f"{v:.6g}" for v in (number, *center, *size)) + "\n")
        corner = ("top" if center[1] < 0.5 else "bottom", "left" if center[0] < 0.5 else "right")
        words.append(f"a {name} {int(digit)} at the {' '.join(corner)}")
    return np.clip(image, 0, 255).astype(np.uint8), mask, boxes, " and ".join(words)


def encode(array, kind, **options):
    """Return the bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def draw_batch(path):
    """Return a picture of a batch, with masks and boxes, after the same random transforms."""
    fields = {
        "image": "images/{key}.jpg",
        "mask": Mask("masks/{key}.png"),
        "boxes": Boxes(
            "boxes/{key}.txt", format="cxcywh", relative=True, labels="classes", min_visibility=0.5
        ),
    }
    scenes = SampleArchive(path, fields=fields)
    transform = Compose([RandomAffine(15, (0.1, 0.1), (0.8, 1.2)), RandomHorizontalFlip()])
    batch = next(iter(DataLoader(scenes, 8, shuffle=True, transform=transform)))
    return draw(batch, scenes.fields, columns=4, size=160, classes=list(COLORS))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", nargs="?", default="scenes.tar", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--picture", type=Path, help="save a picture of a batch here")
    options = parser.parse_args()
    write_scenes(options.archive, options.count)
    if options.picture:
        draw_batch(options.archive).save(options.picture, optimize=True)
    print(f"{options.archive}: {options.count} scenes")
