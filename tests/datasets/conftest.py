"""Archives whose samples have several fields."""

import json

import pytest
from support.archives import encoded, write_tar
from support.sample_archives import MASKS, palette_png
from support.samples import encoded_image


@pytest.fixture
def voc(tmp_path):
    """An archive laid out as VOC: images and masks in directories, lists of names."""
    members = {"VOC/ImageSets/train.txt": b"2007_3\n2007_1\n\n"}
    for i in range(4):
        members[f"VOC/JPEGImages/2007_{i}.jpg"] = encoded_image(i)
        members[f"VOC/Masks/2007_{i}.png"] = palette_png(MASKS[i])
    return write_tar(tmp_path / "voc.tar", members)


@pytest.fixture
def shards(tmp_path):
    """WebDataset shards that repeat keys; parts of a sample are not neighbors."""
    paths = []
    for number in range(2):
        members = {f"d/{i}.jpg": encoded_image(10 * number + i) for i in range(3)}
        members |= {f"d/{i}.txt": f"caption {number}/{i}".encode() for i in reversed(range(3))}
        members |= {f"d/{i}.json": json.dumps({"n": number, "i": i}).encode() for i in range(3)}
        members |= {
            "d/1.seg.png": encoded(MASKS[0]),
            "__meta__/x.jpg": b"no",
            "d/.hidden.jpg": b"no",
        }
        paths.append(write_tar(tmp_path / f"s-{number}.tar", members))
    return tmp_path / "s-{0..1}.tar"


@pytest.fixture
def one(tmp_path):
    """Writes an archive of one sample: its image, 40 x 30 pixels, and further members."""

    def write(**members):
        files = {"k.jpg": encoded_image(0)} | {
            f"k.{name.replace('_', '.')}": data for name, data in members.items()
        }
        return write_tar(tmp_path / "one.tar", files)

    return write
