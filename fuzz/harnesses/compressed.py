"""TAR archives that are compressed as a whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Hashable, Iterable
from random import Random

import zstandard

from fuzz.harness import Harness, check
from fuzz.harnesses.memory import put, url
from fuzz.mutation import mutate
from imagearchive.archive.archive import Archive
from imagearchive.codecs.compression import compress
from imagearchive.errors import ImageArchiveError

_MOST_MEMBERS = 20
_DECOMPRESS = {
    b"\x1f\x8b": gzip.decompress,
    b"BZ": bz2.decompress,
    b"\xfd7": lzma.decompress,
}


class CompressedArchives(Harness):
    """Opens a compressed TAR and reads its members from the last to the first."""

    name = "compressed"
    smoke_runs = 6_000
    tokens = (b"\x1f\x8b\x08\0", b"\xfd7zXZ\0", b"BZh9", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18")

    def seeds(self) -> Iterable[bytes]:
        """Return archives of one and two streams in every format, and one with checkpoints."""
        content = _tar({"a.txt": b"alpha", "d/b.bin": bytes(range(256)) * 20, "c": b""})
        for kind in ("gz", "bz2", "xz", "zst"):
            yield compress(kind, content)
            half = len(content) // 2
            yield compress(kind, content[:half]) + compress(kind, content[half:])
        numbers = b"".join(b"%d, " % (i % 3000) for i in range(300_000))
        yield gzip.compress(_tar({"first": numbers, "last": numbers[:100_000]}), 9, mtime=0)

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change bytes, and sometimes those of the TAR before it is compressed again."""
        if rng.random() < 0.3 and data[:2] == b"\x1f\x8b":
            decoder = zlib.decompressobj(31)
            try:
                inner = decoder.decompress(data, 1 << 17)
            except zlib.error:
                inner = b""
            return gzip.compress(mutate(rng, inner, other, (bytes(512),)), 1, mtime=0)
        return mutate(rng, data, other, self.tokens)

    def run(self, data: bytes) -> Hashable:
        """Read the members; of what the standard library decompresses, all of them."""
        put(x_bin=data)
        with Archive(url("x.bin"), storage="memory") as archive:
            names = list(archive)
            found: dict[str, bytes | None] = {}
            for position in reversed(range(min(len(names), _MOST_MEMBERS))):
                try:
                    found[names[position]] = archive.read(position)
                except ImageArchiveError:
                    found[names[position]] = None
        plain = _plain(data)
        if plain is not None and any(plain):
            put(y_bin=plain)
            with Archive(url("y.bin"), storage="memory") as archive:
                check(list(archive) == names, "the decompressed archive has other members")
                for name, content in found.items():
                    check(content == _read(archive, name), "a member has another content")
        refused = sum(content is None for content in found.values())
        return data[:1], min(len(names), 4), refused, plain is None


def _tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _read(archive: Archive, name: str) -> bytes | None:
    try:
        return archive[name]
    except ImageArchiveError:
        return None


def _plain(data: bytes) -> bytes | None:
    """Return what other decoders make of an input, if they accept it."""
    decompress = _DECOMPRESS.get(data[:2])
    try:
        if decompress is not None:
            return decompress(data)
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            return reader.read()
    except (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError):
        return None
