"""Writes the files of layouts."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

LAYOUTS = {}


def layout(title):
    """Add a function to `LAYOUTS`."""

    def add(function):
        LAYOUTS[title] = function
        return function

    return add


def picture(number, kind="JPEG", size=(12, 9)):
    """The bytes of image number `number`, at most 31."""
    file = io.BytesIO()
    Image.new("RGB", size, (8 * number,) * 3).save(file, kind)
    return file.getvalue()


def jpegs(names, first=0):
    """JPEG images of these names, numbered from `first`."""
    return {name: picture(number) for number, name in enumerate(names, first)}


def mask(*values, palette=True, size=(12, 9)):
    """A PNG of class numbers, the first value on the left, the second on the right."""
    pixels = np.zeros(size[::-1], np.uint8)
    for place, part in enumerate(np.array_split(np.arange(size[0]), len(values))):
        pixels[:, part] = values[place]
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(list(range(256)) * 3)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_tar(path, members, compression=""):
    """Write a TAR, optionally compressed, with an entry for each directory as `tar` writes it."""
    with tarfile.open(path, f"w:{compression}") as archive:
        directories = {""}
        for name, data in members.items():
            for end in [i for i, character in enumerate(name) if character == "/"]:
                if name[:end] not in directories:
                    directories.add(name[:end])
                    entry = tarfile.TarInfo(name[:end])
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def tar_bytes(members):
    """The bytes of a TAR that is a member of another archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def lines(rows):
    return "".join(f"{row}\n" for row in rows).encode()


def mat(**variables):
    """The bytes of a MATLAB file."""
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, variables)
    return file.getvalue()


def cells(values):
    """A column of a MATLAB cell array."""
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


def struct_array(rows, names, shape):
    """A MATLAB array of structs."""
    array = np.empty(len(rows), [(name, object) for name in names])
    array[:] = [tuple(row) for row in rows]
    return array.reshape(shape)
