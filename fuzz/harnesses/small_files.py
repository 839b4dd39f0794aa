"""Native creation and reading of many files of a directory."""

from __future__ import annotations

import functools
import io
import os
import struct
import tarfile
from collections.abc import Hashable, Iterable
from random import Random

import numpy as np

from fuzz.harness import Harness, check
from fuzz.harnesses.memory import scratch_folder
from fuzz.mutation import INTERESTING, mutate
from imagearchive.archive.small_files import create_files, fill
from imagearchive.containers.tar.ustar import header

_RECORD = struct.Struct("<B7sQQHq")
_MOST_FILES = 16


class SmallFiles(Harness):
    """Creates files from ranges of the input, and reads them back as a TAR.

    The first byte of an input is the number of files; their names, ranges, modes, and times follow.
    """

    name = "small_files"
    smoke_runs = 60_000
    max_size = 1 << 12

    def seeds(self) -> Iterable[bytes]:
        """Return several files, equal names, and ranges at and behind the end of the input."""
        names = (b"a", b"b.txt", b"\xff\xfe", b"a", b"long.nam")
        for count in (1, 3, 5):
            records = b"".join(
                _RECORD.pack(len(name), name[:7], number * 10, 5 * number, 0o644, number * 10**9)
                for number, name in enumerate(names[:count])
            )
            yield bytes([count]) + records + bytes(range(200))

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change bytes, and often an offset, a size, or a time."""
        changed = bytearray(mutate(rng, data, other, self.tokens))
        if rng.random() < 0.5 and len(changed) > _RECORD.size:
            record = 1 + rng.randrange(_MOST_FILES) * _RECORD.size
            place = record + rng.choice((8, 16, 26))
            value = rng.choice((*INTERESTING, len(data), len(data) - 1)) & (1 << 64) - 1
            if place + 8 <= len(changed):
                changed[place : place + 8] = struct.pack("<Q", value)
        return bytes(changed)

    def run(self, data: bytes) -> Hashable:
        """Compare the files with the ranges, and the TAR of them with `tarfile`."""
        count = min(data[0] if data else 0, _MOST_FILES, (len(data) - 1) // _RECORD.size)
        records = [_RECORD.unpack_from(data, 1 + i * _RECORD.size) for i in range(max(count, 0))]
        # Names come without NUL and without a directory, as everything that calls it ensures.
        names = tuple(
            (name[:length].replace(b"\0", b"_").replace(b"/", b"_").strip(b".") or b"x")
            for length, name, *_ in records
        )
        offsets, sizes, modes, times = (
            np.array([record[place] for record in records], dtype)
            for place, dtype in ((2, np.uint64), (3, np.uint64), (4, np.uint32), (5, np.int64))
        )
        path, folder = _folder()
        created = create_files(folder, names, data, offsets, sizes, modes & 0o777 | 0o600, times)
        try:
            true = [data[int(o) : int(o) + int(s)] for o, s in zip(offsets, sizes)]
            for name, content in zip(names[:created], true):
                with open(os.path.join(path, name), "rb") as file:
                    check(file.read() == content, "another content")
            check(len(os.listdir(folder)) == created, "there are other files")
            if created < count:
                behind = int(offsets[created]) + int(sizes[created]) > len(data)
                check(behind or names[created] in names[:created], "a file was not created")
            self._read_back(folder, names[:created], true, data)
        finally:
            for name in os.listdir(folder):
                os.unlink(name, dir_fd=folder)
        return count, created

    def _read_back(
        self, folder: int, names: tuple[bytes, ...], true: list[bytes], data: bytes
    ) -> None:
        template = bytearray(header(b"", 0))
        template[148:156] = b" " * 8
        buffer = bytearray((data[-1] * 64 if data else 0) + 1024)
        done = 0
        while done < len(names):
            after, used, special = fill(
                folder, b"d/", names, done, bytes(template), True, 1 << 12, buffer
            )
            members = []
            if used:
                with tarfile.open(fileobj=io.BytesIO(buffer[:used] + bytes(1024))) as tar:
                    members = tar.getmembers()
                    found = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
                check(found == true[done:after], "another content in the TAR")
            check(len(members) == after - done, "another number of members")
            if after == done and not special:
                # It does not fit.
                check(len(true[done]) + 1024 >= len(buffer), "a file that fits was left out")
                break
            done = after + special


@functools.cache
def _folder() -> tuple[bytes, int]:
    path = scratch_folder()
    return os.fsencode(path), os.open(path, os.O_RDONLY | os.O_DIRECTORY)
