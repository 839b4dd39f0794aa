"""Label files and index files of images."""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Hashable, Iterable
from typing import BinaryIO

from support.tar_cases import tarfile_archive, tarinfo

from fuzz.harness import Harness, check
from fuzz.harnesses.memory import put, url
from imagearchive.datasets.image_archive import ImageArchive

_NAMES = ("cat/1.png", "cat/2.png", "dog/a b.png", "dog/ü.png")


@functools.cache
def _archive() -> bytes:
    members = [(tarinfo(name, 3), b"png") for name in _NAMES]
    return tarfile_archive(members, tarfile.PAX_FORMAT)


def _read(file: BinaryIO) -> bytes:
    return file.read()


class LabelFiles(Harness):
    """Opens a fixed archive by a mutated file; the first byte of an input says of which kind."""

    name = "labels"
    smoke_runs = 8_000
    max_size = 1 << 13
    tokens = (
        b"\n", b"\r\n", b" ", b"\t", b"cat/1.png", b"dog/a b.png", b"../", b"\0", b"-1", b"1e999",
        b"nan", b"inf", b"1_0", b"\xef\xbb\xbf", b"\xff", "²".encode(), "٣".encode(), b"\x0b",
        b"\x85",
        b"99999999999999999999",
    )  # fmt: skip

    def seeds(self) -> Iterable[bytes]:
        """Return files of labels by number and by name, and a file of numbers and names."""
        yield b"\0" + b"".join(b"%d %d 0.5\n" % (i, i * 7) for i in range(4))
        yield b"\0" + "".join(f"{name} 1\n" for name in _NAMES if " " not in name).encode()
        yield b"\1" + "".join(f"{i + 5} {name}\n" for i, name in enumerate(_NAMES)).encode()
        yield b"\2" + b"17\n"
        yield b"\2" + b"1.5 2.5\n-3\n"

    def run(self, data: bytes) -> Hashable:
        """Open the archive, and ask for the labels of all samples."""
        kind, text = data[0] % 3 if data else 0, data[1:]
        options: dict[str, str] = {}
        archive = _archive()
        if kind == 0:
            options["label_file"] = url("labels.txt")
        elif kind == 1:
            options["index_file"] = url("labels.txt")
        else:
            archive = tarfile_archive(
                [(tarinfo("1.png", 3), b"png"), (tarinfo("1.cls", len(text)), text)],
                tarfile.USTAR_FORMAT,
            )
            options["label_extension"] = "cls"
            options["extensions"] = ".png"
        put(x_tar=archive, labels_txt=text)
        with ImageArchive(url("x.tar"), loader=_read, **options) as dataset:  # type: ignore[arg-type]
            labels = [dataset.labels(i).tolist() for i in range(len(dataset))]
            [dataset[i] for i in range(len(dataset))]
            targets = dataset.targets
            check(len(targets) == len(labels), "targets are not those of all samples")
        return kind, len(labels), frozenset(map(len, labels))
