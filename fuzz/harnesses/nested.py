"""Archives inside an archive, against the same archives opened on their own."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Hashable, Iterable, Mapping
from random import Random
from typing import Final

from support.archives import tar_bytes, zip_bytes
from support.nested import SMALL, deflated

from fuzz.harness import Harness, check
from fuzz.harnesses.memory import put, url
from fuzz.harnesses.tar import Tar
from fuzz.harnesses.zip import Zip
from fuzz.mutation import mutate
from imagearchive.archive.archive import Archive
from imagearchive.errors import ImageArchiveError

_PACK: Final[tuple[Callable[[Mapping[str, bytes]], bytes], ...]] = (
    tar_bytes,
    zip_bytes,
    deflated,
    lambda members: gzip.compress(tar_bytes(members), 1, mtime=0),
)
_INTACT: Final = tar_bytes(SMALL)


class NestedArchives(Harness):
    """Opens a mutated archive inside an intact one; the first byte says in which kind."""

    name = "nested"
    smoke_runs = 4_000
    tokens = (*Zip.tokens, *Tar.tokens)

    def __init__(self) -> None:
        self._tar, self._zip = Tar(), Zip()

    def seeds(self) -> Iterable[bytes]:
        """Return TAR and ZIP archives, compressed ones, and archives of archives."""
        inner = [*self._tar.seeds(), *self._zip.seeds()]
        inner += [pack({"x.tar": _INTACT, "y": b"y"}) for pack in _PACK]
        for number, data in enumerate(inner):
            yield bytes([number % len(_PACK)]) + data

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change the inner archive according to its format."""
        outer = bytes([rng.randrange(len(_PACK))]) if rng.random() < 0.1 else data[:1]
        if data[1:3] == b"\x1f\x8b":
            return outer + mutate(rng, data[1:], other[1:], self.tokens)
        harness = self._zip if b"PK\5\6" in data else self._tar
        return outer + harness.mutate(rng, data[1:], other[1:])

    def run(self, data: bytes) -> Hashable:
        """Read the inner archive in place; the archives beside it must not suffer."""
        number, inner = data[0] % len(_PACK) if data else 0, data[1:]
        outer = _PACK[number]({"a": _INTACT, "b": inner, "c": _INTACT})
        try:
            found = _members(outer, strict=True)
        except ImageArchiveError:
            found = _members(outer, strict=False)
            _check_intact(found)
            raise
        _check_intact(found)
        if "b" in found:
            check(found["b"] == inner, "the archive as a file has another content")
            return number, "a file"
        below = {name[2:]: content for name, content in found.items() if name.startswith("b/")}
        alone = _members(inner, strict=True)
        check(list(below) == list(alone), "it has other members on its own")
        check(below == alone, "a member has another content on its own")
        refused = sum(content is None for content in below.values())
        return number, inner[:2], min(len(below), 4), min(refused, 2)


def _members(data: bytes, strict: bool) -> dict[str, bytes | None]:
    """Return the content of members by position; None for those that cannot be read."""
    put(x_bin=data)
    with Archive(url("x.bin"), storage="memory", nested="keep", strict=strict) as archive:
        found: dict[str, bytes | None] = {}
        for position, name in enumerate(archive):
            try:
                small = archive.info(position).size < 1 << 18
                found[name] = archive.read(position) if small else b"large"
            except ImageArchiveError:
                found[name] = None
        return found


def _check_intact(found: dict[str, bytes | None]) -> None:
    for name, content in SMALL.items():
        check(found.get(f"a/{name}") == content, "an archive before the changed one suffers")
        check(found.get(f"c/{name}") == content, "an archive after the changed one suffers")
