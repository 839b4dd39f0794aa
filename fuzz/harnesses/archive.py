"""Whole archives of any format, through `Archive`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from random import Random

import numpy as np

from fuzz.harness import Harness, check
from fuzz.harnesses.memory import put, url
from fuzz.harnesses.tar import Tar
from fuzz.harnesses.zip import Zip
from imagearchive.archive.archive import Archive
from imagearchive.archive.verify import verify
from imagearchive.codecs.view import DecodedView
from imagearchive.errors import CorruptArchiveError, ImageArchiveError

# Of one input.
MOST_MEMBERS = 30


class WholeArchive(Harness):
    """Opens, lists, reads, decodes and verifies."""

    name = "archive"
    smoke_runs = 8_000
    tokens = (*Zip.tokens, *Tar.tokens)

    def __init__(self) -> None:
        self._tar, self._zip = Tar(), Zip()

    def seeds(self) -> Iterable[bytes]:
        """Return TAR and ZIP archives."""
        yield from self._tar.seeds()
        yield from self._zip.seeds()

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change an archive according to its format."""
        return (self._zip if b"PK\5\6" in data else self._tar).mutate(rng, data, other)

    def run(self, data: bytes) -> Hashable:
        """Use an archive as a user would; its parts must agree with each other."""
        put(x_bin=data)
        try:
            archive = Archive(url("x.bin"), storage="memory")
        except CorruptArchiveError:
            with Archive(url("x.bin"), storage="memory", strict=False) as archive:
                _read(archive)
            raise
        with archive:
            refused = _read(archive)
            found = verify(archive, decode=True, threads=1)
            check(found.files + len(found.failures) >= len(archive), "members were not verified")
        return min(len(archive), 8), refused, len(found.failures) > 0


def _read(archive: Archive) -> frozenset[str]:
    names = list(archive)
    refused = set()
    for name in names[:MOST_MEMBERS]:
        check(name in archive, "a listed name is not there")
        position = archive.position(name)
        check(archive.name(position) == name, "a position has another name")
        try:
            with archive.open(position) as file:
                head = file.read(50)
            if archive.info(position).size < 1 << 20:
                check(archive[name][:50] == head, "open and read differ")
        except ImageArchiveError as error:
            refused.add(type(error).__name__)
    walked = [
        f"{folder}/{name}" if folder else name
        for folder, _, files in archive.walk()
        for name in files
    ]
    # A file called "/" has no name, so no directory lists it.
    check(sorted(walked) == sorted(filter(None, names)), "walk lists other names")
    archive.glob("**", recursive=True, include_hidden=True)
    archive.glob("*/[a-z]*")
    try:
        samples = archive.samples()
        if len(samples):
            samples[0]
    except ImageArchiveError as error:
        refused.add(type(error).__name__)
    view = DecodedView(archive)
    for name in names[:MOST_MEMBERS]:
        if view.knows(name):
            try:
                np.asarray(view[name])
            except ImageArchiveError as error:
                refused.add(type(error).__name__)
    return frozenset(refused)
