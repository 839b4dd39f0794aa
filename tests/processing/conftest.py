"""What is repacked: a folder of images in classes, and samples of several fields."""

import numpy as np
import pytest
from support.archives import encoded, write_tar
from support.files import fill
from support.repacked import picture

from imagearchive import Boxes, Keypoints, Mask, SampleArchive


@pytest.fixture
def folder(tmp_path):
    files = {
        f"{'cat' if number % 2 else 'dog'}/{number:02}.jpg": picture(number) for number in range(10)
    }
    fill(tmp_path / "data", files)
    return tmp_path / "data"


@pytest.fixture
def pairs(tmp_path):
    members = {}
    for number in range(5):
        mask = np.zeros((30, 40), np.uint8)
        mask[10:20, 8:24] = 3
        members |= {
            f"img/{number}.v1.jpg": picture(number),
            f"seg/{number}.v1.png": encoded(mask, "PNG"),
            f"box/{number}.v1.txt": b"1 8 10 24 20",
            f"pts/{number}.v1.json": b"[[8, 10, 2]]",
        }
    write_tar(tmp_path / "pairs.tar", members)
    return SampleArchive(
        tmp_path / "pairs.tar",
        fields={
            "image": "img/{key}.jpg",
            "mask": Mask("seg/{key}.png"),
            "boxes": Boxes("box/{key}.txt", labels="classes", min_size=2),
            "points": Keypoints("pts/{key}.json"),
        },
        first_dot=False,
    )
