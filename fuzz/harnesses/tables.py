"""Tables with labels, lists of members, and pickles and IDX files of arrays."""

from __future__ import annotations

import functools
import json
import pickle
import struct
import tarfile
from collections.abc import Hashable, Iterable
from typing import Any, BinaryIO, Final

import numpy as np
from support.tar_cases import tarfile_archive, tarinfo

from fuzz.harness import Harness, check
from fuzz.harnesses.memory import put, url
from imagearchive.codecs import decode
from imagearchive.datasets.image_archive import ImageArchive

_NAMES: Final = ("cat/1.png", "cat/2.png", "dog/a b.png", "dog/ü.png", "dog/1.txt")
_EXTENSIONS: Final = ("csv", "tsv", "txt", "json", "jsonl")
_COLUMNS: Final[tuple[tuple[Any, Any, Any], ...]] = (
    ("id", "label", None),
    (0, 1, None),
    ("id", ["x", "y"], None),
    ("id", None, "1"),
)


@functools.cache
def _archive() -> bytes:
    return tarfile_archive([(tarinfo(name, 3), b"png") for name in _NAMES], tarfile.PAX_FORMAT)


def _read(file: BinaryIO) -> bytes:
    return file.read()


class Tables(Harness):
    """Opens a fixed archive by a mutated table; the first two bytes say of which kind."""

    name = "tables"
    smoke_runs = 8_000
    max_size = 1 << 13
    tokens = (
        b"\n", b"\r", b",", b";", b"\t", b'"', b"'", b"id", b"label", b"split", b"cat/1", b"1.png",
        b"a b", b"\0", b"-1", b"1e999", b"nan", b"1_0", b"\xef\xbb\xbf", b"\xff", b"[", b"]", b"{",
        b"}", b"null", b"true", b"9" * 30, b"\\ud800", b":",
    )  # fmt: skip

    def seeds(self) -> Iterable[bytes]:
        """Return a table of each kind for each choice of columns, and lists of members."""
        rows = [("cat/1", 1, 2.5, "1"), ("a b.png", 3, 4.0, "0"), ("dog/ü", 0, 1.5, "1")]
        names = ("id", "label", "x", "split")
        records = [dict(zip(names, row), y=row[1]) for row in rows]
        for columns in range(len(_COLUMNS)):
            for number, separator in enumerate(",\t "):
                lines = [names, *rows] if columns != 1 else rows
                text = "\n".join(separator.join(map(str, line)) for line in lines)
                yield bytes([number, columns]) + text.encode()
            yield bytes([3, columns]) + json.dumps(records).encode()
            yield bytes([3, columns]) + json.dumps({"id": ["1", "2"], "label": ["a", "b"]}).encode()
            yield bytes([4, columns]) + "\n".join(map(json.dumps, records)).encode()
        yield bytes([5, 2]) + b"cat/1\ndog/a b.png\n"
        yield bytes([5, 3]) + json.dumps({"1": ["cat/1"], "2": ["2"]}).encode()

    def run(self, data: bytes) -> Hashable:
        """Open the archive, and ask for the labels of all samples."""
        kind, choice, text = data[:1], data[1:2], data[2:]
        number = kind[0] % 6 if kind else 0
        image, label, split = _COLUMNS[choice[0] % 4 if choice else 0]
        options: dict[str, Any] = {"missing": "drop"}
        if number == 5:
            extension = "txt" if label == ["x", "y"] else "json"
            options |= {"members": url(f"table.{extension}"), "split": split}
        else:
            extension = _EXTENSIONS[number]
            options |= {"table": url(f"table.{extension}"), "image": image, "label": label}
            options["split"] = split
        put(x_tar=_archive(), **{f"table_{extension}": text})
        with ImageArchive(url("x.tar"), loader=_read, **options) as dataset:
            labels = [dataset.label(i) for i in range(len(dataset))]
            targets = dataset.targets
            check(len(targets) == len(labels), "targets are not those of all samples")
            check(
                all(np.array_equal(a, b) for a, b in zip(targets, labels)),
                "targets are not the labels",
            )
            if dataset.classes:
                check(
                    all(-1 <= value < len(dataset.classes) for value in labels),
                    "a label is not the number of a class",
                )
        return number, extension, len(labels) > 0, str(targets.dtype), targets.ndim


class PlainPickles(Harness):
    """Decodes a pickle of plain data or an IDX file; the first byte chooses the format."""

    name = "pickles"
    smoke_runs = 60_000
    max_size = 1 << 12
    tokens = (
        b"\x80\x02", b"\x80\x04", b"}", b"]", b"(", b"u", b"e", b"a", b"s", b"q\x01", b"h\x01",
        b"\x94", b"cnumpy\nndarray\n", b"R", b"b", b".", b"K\x05", b"U\x01x", b"\x85", b"\x86",
        b"\x87", b"N", b"\x88", b"\0\0\x08\x01\0\0\0\1",
    )  # fmt: skip

    def seeds(self) -> Iterable[bytes]:
        """Return pickles of each protocol, and IDX files of each type."""
        array = np.arange(6, dtype=np.uint8).reshape(2, 3)
        shared = ["x", 1.5, None, b"y"]
        value = {"data": array, "labels": [1, 2], "t": (shared, shared, True), "s": {3, 4}}
        for protocol in range(2, 6):
            yield b"\0" + pickle.dumps(value, protocol)
        for code, size in ((8, 1), (9, 1), (11, 2), (12, 4), (13, 4), (14, 8)):
            yield b"\1\0\0" + struct.pack(">BBII", code, 2, 2, 1) + bytes(2 * size)

    def run(self, data: bytes) -> Hashable:
        """Decode the input."""
        number, data = data[0] % 2 if data else 0, data[1:]
        value = decode("x.idx" if number else "x.pkl", data)
        if number:
            check(data[4 + 4 * data[3] :] == value.astype(_big(value)).tobytes(), "other elements")
            return number, str(value.dtype), value.ndim
        return number, type(value).__name__, len(value) > 0 if hasattr(value, "__len__") else None


def _big(array: np.ndarray[Any, Any]) -> np.dtype[Any]:
    return array.dtype.newbyteorder(">")
