"""TAR archives, against `tarfile`."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Hashable, Iterable
from random import Random

from oracles.tar_scanner import tar_rows
from support import tar_cases as cases

from fuzz.harness import Harness, check
from fuzz.harnesses.members import read_members, sometimes
from fuzz.mutation import INTERESTING, mutate
from imagearchive.containers.rows import KIND_SPARSE, RowBuffer
from imagearchive.containers.tar.parallel_scan import Plan, scan_segments
from imagearchive.containers.tar.scan import Cursor, scan
from imagearchive.containers.tar.tar_container import TarContainer
from imagearchive.errors import CorruptArchiveError
from imagearchive.storage.local import MemoryStorage
from imagearchive.storage.protocol import Storage

BLOCK = cases.BLOCK
# Offset and width of the fields of a header.
FIELDS = (
    (0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (157, 100),
    (257, 8), (345, 155), (386, 12), (398, 12), (482, 1), (483, 12),
)  # fmt: skip
NUMBERS = (100, 108, 116, 124, 136, 386, 398, 483)
FLAGS = b"\x000123457DKLMNSVXgxAZ\xff"


class Tar(Harness):
    """Scans, resolves links, and reads all members."""

    name = "tar"
    smoke_runs = 60_000
    tokens = (
        *(cases.record(key, value) for key, value in (
            (b"path", b"a/b"), (b"path", b"/../x"), (b"linkpath", b"a.txt"), (b"size", b"5"),
            (b"size", b"9223372036854775808"), (b"mtime", b"1.5"), (b"mtime", b"-1e9"),
            (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.map", b"0,5,9,1"), (b"GNU.sparse.realsize", b"100"),
            (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.offset", b"0"),
            (b"GNU.sparse.numbytes", b"5"), (b"GNU.sparse.name", b"n"), (b"hdrcharset", b"BINARY"),
        )),
        b"../", b"./", b"//", b"\0", bytes(BLOCK),
    )  # fmt: skip

    def seeds(self) -> Iterable[bytes]:
        """Return archives of every format."""
        files = (
            (cases.tarinfo("a.txt", 5), b"alpha"),
            (cases.tarinfo("d/b.bin", 700), bytes(range(256)) * 2 + bytes(188)),
            (cases.tarinfo("d", kind=tarfile.DIRTYPE), b""),
            (cases.tarinfo("s", kind=tarfile.SYMTYPE, linkname="d/b.bin"), b""),
            (cases.tarinfo("h", kind=tarfile.LNKTYPE, linkname="a.txt"), b""),
            (cases.tarinfo("t/" + "n" * 95, 3), b"abc"),
        )
        for tar_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            yield cases.tarfile_archive(files, tar_format)
        yield cases.tarfile_archive(files, tarfile.PAX_FORMAT, {"comment": "all"})
        parts, data = [(0, 5), (1000, 7), (5000, 0)], b"abcdefghijkl"
        yield cases.old_sparse(b"old", parts, 5000, data) + cases.END
        many = [(100 * i, 1) for i in range(30)]
        yield cases.old_sparse(b"old", many, 9000, bytes(30)) + cases.END
        for version in cases.SPARSE_VERSIONS:
            yield cases.pax_sparse(b"new", parts, 5000, data, version) + cases.END
        yield cases.long_name(b"long/" * 60) + cases.member(b"cut", b"data") + cases.END
        yield cases.long_name(b"t/" * 90, b"K") + cases.header(b"l", 0, b"2", link=b"t") + cases.END
        yield (
            cases.pax([(b"path", b"p/q"), (b"size", b"3")]) + cases.member(b"x", b"abc") + cases.END
        )
        yield cases.pax([(b"linkpath", b"x")], b"g") + cases.header(b"l", 0, b"2") + cases.END
        yield cases.member(b"one", b"1") + cases.END + cases.member(b"two", b"2") + cases.END

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change blocks, fields or bytes, and mostly correct the checksums."""
        blocks = bytearray(data)
        kind = rng.random()
        if kind < 0.3 and len(blocks) >= BLOCK:
            for _ in range(rng.choice((1, 1, 2, 3))):
                _change_field(rng, blocks)
        elif kind < 0.5:
            _change_blocks(rng, blocks, other)
        else:
            blocks = bytearray(mutate(rng, data, other, self.tokens))
        if rng.random() < 0.9:
            _seal_all(blocks)
        return bytes(blocks)

    def run(self, data: bytes) -> Hashable:
        """Scan, and read all members; what is accepted must be what `tarfile` finds."""
        storage = MemoryStorage(data, "x.tar")
        container = TarContainer()
        container.sniff(data[:BLOCK], storage)
        if sometimes(data, 8):
            _compare_segments(data, storage)
        try:
            rows = container.scan(storage)
        except CorruptArchiveError:
            # The part before the damage, which a user may ask for.
            read_members(container, storage, container.scan(storage, strict=False))
            raise
        outcome = read_members(container, storage, rows)
        if sometimes(data, 4):
            _compare(data, rows)
        return outcome


def _compare_segments(data: bytes, storage: MemoryStorage) -> None:
    """Compare a scan in threads with one from start to end."""
    plan = Plan(threads=2, segment=BLOCK * (1 + len(data) % 7), search=len(data), rows=4)

    def first(storage: Storage, rows: RowBuffer, cursor: Cursor) -> None:
        scan_segments(storage, rows, cursor, plan)

    one, other = scan(storage, strict=False), scan(storage, strict=False, first=first)
    check(one.rows == other.rows, f"threads find {other.rows} members, not {one.rows}")
    for name in ("entries", "name_ends", "link_ends"):
        same = getattr(one, name)[: one.rows] == getattr(other, name)[: one.rows]
        check(bool(same.all()), f"threads find other {name}")
    same = one.names[: one.name_bytes] == other.names[: other.name_bytes]
    check(bool(same.all()), "threads find other names")


def _compare(data: bytes, rows: RowBuffer) -> None:
    """Compare names, kinds and ranges with what `tarfile` finds, which may stop before the end."""
    start = 0
    has_global = b"g" in data[156::BLOCK]
    for i, expected in enumerate(tar_rows(io.BytesIO(data))):
        check(i < rows.rows, f"tarfile finds more members: {expected}")
        row = rows.entries[i]
        name = bytes(rows.names[start : int(rows.name_ends[i])]).rstrip(b"/")
        start = int(rows.link_ends[i])
        if KIND_SPARSE in (expected.kind, row["kind"]):
            # `tarfile` ignores the extended headers of some of them, unlike GNU tar.
            continue
        found = (int(row["kind"]), int(row["offset"]), int(row["size"]))
        wanted = (expected.kind, expected.offset, expected.size)
        # A trailing slash makes a directory of old headers, also after a change by another header.
        check(found[1:] == wanted[1:], f"tarfile finds another range: {expected}, not {found}")
        if has_global or not expected.name:
            # To `tarfile`, an empty PAX path is a name, and GNU's long names win over all others.
            continue
        # `tarfile` reads the long names of GNU to the end of their block, whatever their size.
        check(
            expected.name.startswith(name), f"tarfile finds another name: {expected}, not {name!r}"
        )


def _change_field(rng: Random, data: bytearray) -> None:
    at = BLOCK * rng.randrange(len(data) // BLOCK)
    offset, width = rng.choice(FIELDS)
    if offset in NUMBERS:
        number = rng.choice(INTERESTING)
        if rng.random() < 0.3:
            number = rng.choice((0, 1, 511, 512, 513, 1024, len(data)))
        kind = rng.random()
        if kind < 0.6:
            new = (b"%0*o" % (width - 1, number))[:width].ljust(width, b"\0")
        elif kind < 0.9:
            new = cases.base_256(number % 256 ** (width - 1), width)
        else:
            new = cases.base_256(-(number % 256 ** (width - 2)), width)
    elif offset == 156:
        new = bytes([rng.choice(FLAGS)])
    elif offset == 257:
        new = rng.choice((cases.USTAR_MAGIC, cases.GNU_MAGIC, cases.V7_MAGIC))
    elif offset == 482:
        new = bytes([rng.randrange(2)])
    else:
        name = rng.choice(
            (b"a.txt", b"d/b.bin", b"../x", b"/", b".", b"", b"d/", b"s", b"h", b"\xff")
        )
        new = (name * rng.choice((1, 1, 1, 20)))[:width].ljust(width, b"\0")
    data[at + offset : at + offset + width] = new


def _change_blocks(rng: Random, data: bytearray, other: bytes) -> None:
    count = len(data) // BLOCK
    start = BLOCK * rng.randrange(count + 1)
    end = min(len(data), start + BLOCK * rng.choice((1, 1, 2, 3)))
    kind = rng.randrange(4)
    if kind == 0:
        del data[start:end]
    elif kind == 1:
        at = BLOCK * rng.randrange(count + 1)
        data[at:at] = data[start:end] * rng.choice((1, 1, 2, 40))
    elif kind == 2 and len(other) >= BLOCK:
        source = BLOCK * rng.randrange(len(other) // BLOCK)
        data[start:start] = other[source : source + BLOCK * rng.choice((1, 2, 3))]
    else:
        extra = (b"L", b"K", b"x", b"g")
        flag = rng.choice(extra)
        text = cases.record(b"path", b"p" * rng.choice((1, 10, 700))) if flag in b"xg" else b"name"
        data[start:start] = cases.member(b"extra", text, flag)


def _seal_all(data: bytearray) -> None:
    for at in range(0, min(len(data), 40 * BLOCK) - BLOCK + 1, BLOCK):
        # What looks like a header: it had a checksum.
        if (
            data[at + 154] in b"\0 "
            and data[at + 155] in b"\0 "
            and data[at + 148 : at + 154].isdigit()
        ):
            total = 256 + sum(data[at : at + 148]) + sum(data[at + 156 : at + BLOCK])
            data[at + 148 : at + 156] = b"%06o\0 " % total
