"""Annotation files: CSV, COCO and PTS."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable

from fuzz.harness import Harness, check
from fuzz.harnesses.memory import scratch_folder
from imagearchive.processing.coco import read_coco
from imagearchive.processing.csv_boxes import read_csv
from imagearchive.processing.pts import read_pts

_READERS = (read_csv, read_coco, read_pts)
_FILES = ("a_annotations.csv", "_annotations.coco.json", "a.pts")


class Annotations(Harness):
    """Reads a file; the first byte of an input chooses the format."""

    name = "annotations"
    smoke_runs = 100_000
    max_size = 1 << 13
    tokens = (
        b"\n", b",", b'"', b'""', b"filename,xmin,ymin,xmax,ymax,class\n", b"a.jpg", b"../a.jpg",
        b"/a", b"nan", b"inf", b"1e999", b"-5", b"1_0", b"\0", b"\xff", b"\xef\xbb\xbf", b"{", b"}",
        b"[", b"]",
        b'"images":', b'"annotations":', b'"categories":', b'"bbox":', b'"id":', b'"image_id":',
        b'"keypoints":', b'"file_name":', b"null", b"true", b"NaN", b"1e400", b"\\ud800",
        b"version: 1\n", b"n_points: ", b"{\n", b"1.5 2.5\n",
    )  # fmt: skip

    def __init__(self) -> None:
        self._folder = scratch_folder()
        with open(os.path.join(self._folder, "a.jpg"), "wb"):
            pass

    def seeds(self) -> Iterable[bytes]:
        """Return one file of each kind."""
        yield b'\0filename,xmin,ymin,xmax,ymax,class\na.jpg,1,2,3,4,cat\n"b,c.jpg",,,,,\n'
        yield b"\0image_path,x,y,w,h\r\na.jpg,1.5,2,3,4\r\na.jpg,0,0,1,1\r\n"
        coco = {
            "info": {"year": 2020},
            "images": [{"id": 1, "file_name": "a.jpg"}, {"id": "2", "file_name": "b.jpg"}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [
                {"image_id": 1, "bbox": [1, 2, 3.5, 4], "category_id": 1, "segmentation": [[1, 2]]},
                {"image_id": "2", "keypoints": [1, 2, 2, 3, 4, 1], "category_id": 9},
            ],
        }
        yield b"\1" + json.dumps(coco).encode()
        yield b"\1" + json.dumps(coco, indent=1).encode()
        yield b"\2version: 1\nn_points: 2\n{\n1.5 2.5\n3 4\n}\n"

    def run(self, data: bytes) -> Hashable:
        """Read the file."""
        kind, text = data[0] % 3 if data else 0, data[1:]
        path = os.path.join(self._folder, _FILES[kind])
        with open(path, "wb") as file:
            file.write(text)
        found = _READERS[kind](path)
        for record in found.records:
            check(record.boxes.shape == (len(record.labels), 4), "boxes without labels")
            inside = os.path.realpath(record.path).startswith(os.path.realpath(self._folder))
            check(inside, "an image is outside the folder")
        return kind, min(len(found.records), 4), min(len(found.problems), 4)
