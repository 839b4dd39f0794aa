"""The same members in every container."""

import gzip
import zipfile

import numpy as np

from support.ar import write_ar
from support.archives import encoded, tar_bytes, write_tar, zip_bytes

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


def nested_members(pack_images, pack_deep, suffixes):
    """Return the members with two of their directories as archives."""
    images, deep = (
        {name.removeprefix(top): data for name, data in MEMBERS.items() if name.startswith(top)}
        for top in ("images/", "deep/")
    )
    return {
        "README": MEMBERS["README"],
        f"images{suffixes[0]}": pack_images(images),
        "labels.json": MEMBERS["labels.json"],
        f"deep{suffixes[1]}": pack_deep(deep),
    }


def tar_gz_bytes(members):
    return gzip.compress(tar_bytes(members))


def make_nested_tar(folder):
    return write_tar(folder / "nested.tar", nested_members(tar_bytes, zip_bytes, (".tar", ".zip")))


def make_nested_zip(folder):
    """Write a deflated ZIP with a TAR, and with a compressed TAR in an archive of its own."""

    def twice(members):
        return zip_bytes({"er.tgz": tar_gz_bytes({n[3:]: data for n, data in members.items()})})

    path = folder / "nested.zip"
    members = nested_members(tar_bytes, twice, (".TAR", ".tar"))
    path.write_bytes(zip_bytes(members, zipfile.ZIP_DEFLATED))
    return path


#: How the containers are opened, where that takes more than a path.
OPTIONS = {
    "archives in a tar": {"nested": True},
    "archives in a deflated zip": {"nested": True},
}

CONTAINERS = {
    "tar": lambda folder: write_tar(folder / "data.tar", MEMBERS),
    "tar with dots": lambda folder: write_tar(
        folder / "dots.tar", {"./" + name: data for name, data in MEMBERS.items()}
    ),
    "stored zip": lambda folder: make_zip(folder, zipfile.ZIP_STORED),
    "deflated zip": lambda folder: make_zip(folder, zipfile.ZIP_DEFLATED),
    "archives in a tar": make_nested_tar,
    "archives in a deflated zip": make_nested_zip,
    "barecat": make_barecat,
    "unix ar": lambda folder: write_ar(folder / "data.a", MEMBERS),
    "directory": make_directory,
    "shards": make_shards,
    "mixed list": lambda folder: [
        write_tar(folder / "a.tar", dict(list(MEMBERS.items())[:4])),
        make_directory(folder, dict(list(MEMBERS.items())[4:])),
    ],
}
