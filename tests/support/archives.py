"""Small archives for the tests."""

import contextlib
import io
import os
import resource
import tarfile
import zipfile

from PIL import Image


@contextlib.contextmanager
def files_left(count):
    """Let this process open no more than `count` further files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    # The limit is on the numbers of descriptors, and there may be gaps among them.
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(held[0], 50 + len(os.listdir("/dev/fd"))), hard)
    )
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for fd in held[len(held) - count :]:
            os.close(fd)
        del held[len(held) - count :]
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)


def encoded(pixels, kind="PNG"):
    """Encode an array as an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def tar_bytes(members, **options):
    """Return a TAR of ``{name: bytes}``."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zip_bytes(members, method=zipfile.ZIP_STORED):
    """Return a ZIP of ``{name: bytes}``, the same at any time."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


def write_tar(path, members, **options):
    """Write ``{name: bytes}`` with tarfile."""
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
