"""The same members in every container."""

import zipfile

import numpy as np

from support.ar import write_ar
from support.archives import encoded, write_tar

PICTURE = encoded(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
MEMBERS = {
    "README": b"read me\nplease\n",
    "images/cat/0.png": PICTURE,
    "images/cat/1.jpg": b"x" * 70_000,
    "images/cat-b/a b.png": b"blank",
    "images/dog/é.png": b"accent",
    "images/.hidden/1.png": b"hidden",
    "images/.dot.png": b"dot",
    "labels.json": b'{"a": 1}',
    "deep/er/and/deeper/x.npy": b"",
}


def make_directory(folder, members=MEMBERS):
    for name, data in members.items():
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / "tree"


def make_zip(folder, method):
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in MEMBERS.items():
            archive.writestr(name, data)
    return path


def make_barecat(folder):
    import barecat

    path = folder / "data.barecat"
    with barecat.Barecat(str(path), readonly=False) as archive:
        for name, data in MEMBERS.items():
            archive[name] = data
    return path


def make_shards(folder):
    names = list(MEMBERS)
    for number in range(3):
        write_tar(folder / f"s-{number}.tar", {name: MEMBERS[name] for name in names[number::3]})
    return str(folder / "s-{0..2}.tar")


CONTAINERS = {
    "tar": lambda folder: write_tar(folder / "data.tar", MEMBERS),
    "tar with dots": lambda folder: write_tar(
        folder / "dots.tar", {"./" + name: data for name, data in MEMBERS.items()}
    ),
    "stored zip": lambda folder: make_zip(folder, zipfile.ZIP_STORED),
    "deflated zip": lambda folder: make_zip(folder, zipfile.ZIP_DEFLATED),
    "barecat": make_barecat,
    "unix ar": lambda folder: write_ar(folder / "data.a", MEMBERS),
    "directory": make_directory,
    "shards": make_shards,
    "mixed list": lambda folder: [
        write_tar(folder / "a.tar", dict(list(MEMBERS.items())[:4])),
        make_directory(folder, dict(list(MEMBERS.items())[4:])),
    ],
}
