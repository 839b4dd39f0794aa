"""Small archives for the tests."""

import io
import tarfile

from PIL import Image


def encoded(pixels, kind="PNG"):
    """Encode an array as an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_tar(path, members, **options):
    """Write ``{name: bytes}`` with tarfile."""
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
