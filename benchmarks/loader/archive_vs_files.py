"""Claim: reading images from an archive is as fast as reading the extracted files, and faster cold.

torch's `DataLoader` runs over an archive and over the same files extracted from it. Cold means
that the kernel is asked to drop the files from the page cache before each round
(``posix_fadvise``), which needs no privileges.

    python -m benchmarks.loader.archive_vs_files [--count 4000] [--photos DIR]
"""

import argparse
import os
import tempfile

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness.interleave import compare, report
from benchmarks.harness.jpegs import add_options, jpeg_tar
from imagearchive import Archive, ImageArchive
from imagearchive.archive.extract import extract


class Folder(Dataset):
    """Does what torchvision's ImageFolder does: lists the paths and opens them one by one."""

    def __init__(self, root):
        self.classes = sorted(entry.name for entry in os.scandir(root))
        self.samples = [
            (os.path.join(root, name, file), number)
            for number, name in enumerate(self.classes)
            for file in sorted(os.listdir(os.path.join(root, name)))
        ]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        path, label = self.samples[index]
        with open(path, "rb") as file:
            return consume(Image.open(file)), label


def consume(image):
    """Decode at an eighth of the size, which reads every byte."""
    image.draft("RGB", (image.width // 8, image.height // 8))
    return image.convert("RGB").size[0]


def drop(paths):
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    path = jpeg_tar(options)
    with tempfile.TemporaryDirectory() as folder:
        with Archive(path) as packed:
            extract(packed, folder)
        os.sync()
        files = Folder(folder)
        archive = ImageArchive(path, loader=Image.open, transform=consume)
        paths = [name for name, _ in files.samples]

        def epoch(dataset):
            loader = DataLoader(
                dataset, batch_size=64, shuffle=True, num_workers=2,
                worker_init_fn=getattr(dataset, "worker_open_archive", None),
            )  # fmt: skip
            for _ in loader:
                pass

        def cold(dataset, dropped):
            drop(dropped)
            epoch(dataset)

        warm_epochs = {"archive": lambda: epoch(archive), "files": lambda: epoch(files)}
        cold_epochs = {
            "archive": lambda: cold(archive, [path]),
            "files": lambda: cold(files, paths),
        }
        for title, contestants in (("warm", warm_epochs), ("cold", cold_epochs)):
            times = compare(contestants, options.rounds)
            report(title, times, "archive", options.count, "image")


if __name__ == "__main__":
    main()
