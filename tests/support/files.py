"""Files, trees, and TAR archives for the tests, and limits that stand for a full disk."""

import contextlib
import io
import os
import resource
import tarfile

from imagearchive.storage.temporary import LOCK_NAME


def tar_names(path):
    """Names of the members of a TAR, as tarfile reads them."""
    with tarfile.open(path) as archive:
        return archive.getnames()


def fill(folder, files):
    """Write files, ``name -> bytes``, below a folder; return the folder."""
    for name, data in files.items():
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    return folder


def samples(count):
    """Files of samples that have three files each."""
    files = {}
    for number in range(count):
        for extension in ("cls", "jpg", "seg.png"):
            files[f"{number:04d}.{extension}"] = bytes(100 * (number % 7))
    return files


def make_tar(path, members, **fields):
    """A TAR of ``name -> bytes`` or ``name -> (type, link)``, as tarfile writes it."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(member, key, value)
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content
                archive.addfile(member)
    return path


def tree(folder):
    """All files below a folder, ``name -> bytes``."""
    found = {}
    for base, _, files in os.walk(os.fsencode(folder)):
        for name in files:
            path = os.path.join(base, name)
            key = os.path.relpath(path, os.fsencode(folder)).decode("utf-8", "surrogateescape")
            with open(path, "rb") as file:
                found[key] = file.read()
    return found


def unfinished(folder, name):
    """Return the files of an extraction that ended early, from its temporary directory or not."""
    (found,) = [path for path in os.listdir(folder) if path.startswith(name)]
    files = tree(os.path.join(folder, found))
    files.pop(LOCK_NAME, None)
    return files


@contextlib.contextmanager
def limited(what, size):
    """Lower a limit of the process; one on the size of files stands for a full disk."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


def bytes_read():
    """How many bytes this process has read from files since it started."""
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])
