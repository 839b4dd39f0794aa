"""Links of an archive: chains, loops, linked directories, and the work a target may cause."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from imagearchive.containers.rows import (
    KIND_DIRECTORY,
    KIND_FILE,
    KIND_HARDLINK,
    KIND_OTHER,
    KIND_SYMLINK,
    RowBuffer,
)
from imagearchive.index import links as links_module
from imagearchive.index.lookup import Lookup
from imagearchive.index.resolve import resolve


def served(*members: tuple[bytes, bytes, int]) -> dict[bytes, int]:
    """By name, which of the members holds the bytes."""
    rows = RowBuffer(16)
    for position, (name, link, kind) in enumerate(members):
        rows.append(name, link, kind=kind, offset=position, size=1)
    table = resolve(rows)
    ends = table.name_offsets.tolist()
    return {
        table.names[start:end].tobytes(): int(offset)
        for start, end, offset in zip(ends, ends[1:], table.entries["offset"])
    }


def file(name: bytes) -> tuple[bytes, bytes, int]:
    return name, b"", KIND_FILE


def hard(name: bytes, link: bytes) -> tuple[bytes, bytes, int]:
    return name, link, KIND_HARDLINK


def symbolic(name: bytes, link: bytes) -> tuple[bytes, bytes, int]:
    return name, link, KIND_SYMLINK


def chain(kind: int, length: int) -> list[tuple[bytes, bytes, int]]:
    return [(b"%d" % (number + 1), b"%d" % number, kind) for number in range(length)]


@pytest.mark.parametrize("length", [100, 20_000])
def test_resolve_chain_of_hard_links_serves_all(length):
    found = served(file(b"0"), *chain(KIND_HARDLINK, length))
    assert len(found) == length + 1
    assert set(found.values()) == {0}


def test_resolve_hard_link_takes_the_member_before_it():
    found = served(file(b"a"), hard(b"b", b"a"), file(b"a"), hard(b"c", b"a"), hard(b"d", b"e"))
    assert found == {b"b": 0, b"a": 2, b"c": 2}


def test_resolve_hard_link_to_itself_is_left_out():
    assert served(hard(b"a", b"a"), file(b"b")) == {b"b": 1}


@pytest.mark.parametrize("backwards", [False, True])
def test_resolve_chain_of_symbolic_links_ends_after_40(backwards):
    members = chain(KIND_SYMLINK, 60)
    found = served(file(b"0"), *(members[::-1] if backwards else members))
    assert sorted(found) == sorted(b"%d" % number for number in range(41))
    assert set(found.values()) == {0}


def test_resolve_symbolic_links_in_a_loop_are_left_out():
    found = served(
        symbolic(b"a", b"b"),
        symbolic(b"b", b"c/x"),
        symbolic(b"c", b"a"),
        symbolic(b"d", b"d"),
        symbolic(b"e", b"e/x"),
        symbolic(b"f", b"a"),
        file(b"g"),
    )
    assert found == {b"g": 6}


def test_resolve_symbolic_link_through_linked_directories_serves_the_file():
    found = served(
        file(b"raw/deep/f"),
        symbolic(b"one", b"raw"),
        symbolic(b"raw/two", b"./deep/"),
        symbolic(b"here", b"."),
        symbolic(b"x/three", b"../one"),
        symbolic(b"link", b"here/here/x/three/two/f"),
        symbolic(b"y/link", b"../link"),
        hard(b"hard", b"link"),
    )
    assert found == dict.fromkeys(
        [
            *(b"raw/deep/f", b"link", b"y/link", b"hard"),
            *(b"one/deep/f", b"one/two/f", b"raw/two/f", b"x/three/deep/f", b"x/three/two/f"),
        ],
        0,
    )


def test_resolve_symbolic_link_to_listed_directory_leads_on():
    found = served(
        (b"d/", b"", KIND_DIRECTORY), symbolic(b"l", b"d"), file(b"d/f"), symbolic(b"m", b"l/f")
    )
    assert found == {b"d/f": 2, b"m": 2, b"l/f": 2}


@pytest.mark.parametrize(
    "target", [b"/f", b"../f", b"x/../../f", b"f/", b"f/x", b"g", b"", b"./" * 2100 + b"f"]
)
def test_resolve_symbolic_link_that_leads_to_no_file_is_left_out(target):
    expected = {b"f": 0, b"l": 0} if target == b"f/" else {b"f": 0}
    assert served(file(b"f"), symbolic(b"l", target)) == expected


def resolved(*members: tuple[bytes, bytes, int]):
    rows = RowBuffer(16)
    for position, (name, link, kind) in enumerate(members):
        rows.append(name, link, kind=kind, offset=position, size=1)
    return resolve(rows)


def test_resolve_linked_directory_comes_at_the_place_of_its_link():
    table = resolved(
        file(b"raw/b"),
        file(b"raw/a"),
        symbolic(b"data/cat", b"../raw"),
        file(b"data/dog/1"),
        (b"raw/empty/", b"", KIND_DIRECTORY),
    )
    assert table.entries["offset"].tolist() == [0, 1, 0, 1, 3]
    names = table.names.tobytes()
    ends = table.name_offsets.tolist()
    assert [names[start:end] for start, end in zip(ends, ends[1:])] == [
        *(b"raw/b", b"raw/a", b"data/cat/b", b"data/cat/a", b"data/dog/1")
    ]
    assert table.directories == [b"data/cat/empty", b"raw/empty"]
    assert not table.left_out


def test_resolve_member_stored_below_a_link_replaces_the_linked_one():
    found = served(file(b"raw/f"), symbolic(b"l", b"raw"), file(b"l/f"))
    assert found == {b"raw/f": 0, b"l/f": 2}


def test_resolve_links_to_directories_above_them_are_left_out():
    table = resolved(
        file(b"a/b/f"),
        symbolic(b"a/up", b"."),
        symbolic(b"a/b/top", b"../.."),
        symbolic(b"c", b"a"),
        symbolic(b"a/b/other", b"../../d"),
        symbolic(b"d/back", b"../a/b"),
    )
    # A loop is entered once, as by pack: d/back leads on, d/back/other would lead back.
    names = table.names.tobytes()
    ends = table.name_offsets.tolist()
    found = {names[start:end] for start, end in zip(ends, ends[1:])}
    assert found == {b"a/b/f", b"c/b/f", b"d/back/f"}
    assert table.left_out.counts == {"looping_link": 2}


def test_resolve_links_that_multiply_the_files_are_left_out():
    members = [file(b"d0/f%d" % number) for number in range(100)]
    for level in range(1, 40):
        target = b"../d%d" % (level - 1)
        members += [symbolic(b"d%d/%c" % (level, side), target) for side in b"ab"]
    table = resolved(*members)
    assert len(table.entries) <= 100 + 16 * len(members) + (1 << 16)
    assert table.left_out.counts["link_limit"] > 40
    # Each link is there with all its files, or not at all.
    names = table.names.tobytes()
    ends = table.name_offsets.tolist()
    found = [names[start:end].rpartition(b"/")[0] for start, end in zip(ends, ends[1:])]
    assert set(np.unique(np.array(found), return_counts=True)[1].tolist()) == {100}


def test_resolve_links_below_a_link_with_a_long_name_take_bounded_memory():
    members = [file(b"e/f"), *(symbolic(b"d/%d" % number, b"../e") for number in range(2000))]
    long_name = b"n" * 100_000
    tracemalloc.start()
    try:
        table = resolved(*members, symbolic(long_name, b"d"))
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert table.left_out.counts == {"link_limit": 1}


def test_resolve_says_why_members_are_left_out():
    table = resolved(
        *(file(b"f"), file(b"f"), (b"dev", b"", KIND_OTHER), hard(b"fifo", b"dev")),
        *(symbolic(b"no", b"nothing"), symbolic(b"out", b"../f"), symbolic(b"abs", b"/f")),
        *(symbolic(b"loop", b"loop"), hard(b"later", b"no such")),
    )
    assert {one.name: one.reason for one in table.left_out.members} == {
        **{"f": "replaced", "dev": "special", "fifo": "special", "no": "dangling_link"},
        **{"out": "outside_link", "abs": "outside_link", "loop": "looping_link"},
        "later": "dangling_link",
    }
    assert len(table.left_out) == 8


def test_resolve_lists_the_first_hundred_and_counts_all():
    table = resolved(*(symbolic(b"%d" % number, b"nothing") for number in range(250)))
    assert table.left_out.counts == {"dangling_link": 250}
    assert [one.name for one in table.left_out.members] == [str(number) for number in range(100)]


class CountingLookup:
    """Counts what is looked up, in calls and bytes."""

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.calls = 0
        self.bytes = 0

    def __getattr__(self, name):
        def call(*arguments, **keywords):
            self.calls += 1
            self.bytes += sum(len(one) for one in arguments if isinstance(one, bytes))
            return getattr(self.lookup, name)(*arguments, **keywords)

        return call


@pytest.mark.parametrize(
    "members",
    [
        [symbolic(b"l%d" % number, b"x/" * 32_000) for number in range(4)],
        [symbolic(b"l%d" % number, b"x/" * 2_000 + b"f") for number in range(40)],
        [file(b"x/" * 2_000 + b"f"), symbolic(b"l", b"x/" * 2_000 + b"g")],
        chain(KIND_SYMLINK, 5_000),
        chain(KIND_SYMLINK, 5_000)[::-1],
        chain(KIND_HARDLINK, 5_000),
        [symbolic(b"a/" * number + b"z", b".") for number in range(38)]
        + [symbolic(b"l%d" % number, b"z/a/" * 37 + b"f%d" % number) for number in range(500)],
    ],
    ids=["long", "deep", "missing", "chain", "reversed", "hard", "directories"],
)
def test_link_targets_work_grows_with_what_was_read(members):
    rows = RowBuffer(16)
    for name, link, kind in members:
        rows.append(name, link, kind=kind)
    table_names = [name.rstrip(b"/") for name, _, _ in members]
    offsets = np.cumsum([0, *map(len, table_names)]).astype(np.uint64)
    order = np.array(sorted(range(len(members)), key=table_names.__getitem__), np.uint64)
    names = np.frombuffer(b"".join(table_names), np.uint8)
    lookup = CountingLookup(Lookup(rows.entries[: rows.rows], names, offsets, order))
    rows_of_links = np.flatnonzero(rows.entries["kind"][: rows.rows] != KIND_FILE)
    links_module.link_targets(rows, lookup, rows_of_links)  # type: ignore[arg-type]
    # Each link on a path costs at most two calls.
    assert lookup.calls <= 2 * 41 * len(members)
    assert lookup.bytes <= 2 * 41 * rows.name_bytes
