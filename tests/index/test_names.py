"""Names as flat bytes, against sorted(), posixpath and plain loops."""

import posixpath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagearchive.containers.rows import (
    ENTRY_DTYPE,
    KIND_CONTINUATION,
    KIND_FILE,
    METHOD_DEFLATED,
    METHOD_STORED,
)
from imagearchive.errors import CorruptIndexError, SampleIndexError
from imagearchive.index.class_directories import class_directories
from imagearchive.index.lookup import Lookup
from imagearchive.index.name_order import (
    is_first_of_name,
    is_last_of_name,
    sort_and_compare_names,
    sort_names,
)
from imagearchive.index.names import (
    contains,
    ends_with,
    gather,
    normalize,
    normalize_all,
    take_parts,
)
from imagearchive.index.sample_keys import have_extension, key_ends

NAMES = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.text("ab./", max_size=12).map(str.encode),
        st.binary(max_size=3).map(lambda tail: b"a common prefix that is long" + tail),
    ),
    max_size=80,
)


def columns(names):
    offsets = np.zeros(len(names) + 1, np.uint64)
    offsets[1:] = np.cumsum([len(name) for name in names])
    return np.frombuffer(b"".join(names), np.uint8), offsets


def lookup_of(names):
    flat, offsets = columns(names)
    order = sort_names(flat, offsets)
    return Lookup(np.zeros(len(names), ENTRY_DTYPE), flat, offsets, order), order


@given(NAMES)
def test_sort_names_is_bytewise_and_stable(names):
    order = sort_names(*columns(names))
    assert order.tolist() == sorted(range(len(names)), key=lambda row: (names[row], row))


@pytest.mark.parametrize(
    "names",
    [
        # In order within each directory, but not as a whole.
        [b"c%d/%05d" % (row % 3, row) for row in range(100)],
        [b"c%d/%05d" % (row % 3, row // 9) for row in range(100)],
        [b"c%d/%05d" % (row % 3, row) for row in [*range(99), 0]],
        # Some begin with others, the longer ones first or last.
        [b"n" * (40 - row) for row in range(40)],
        [b"n" * row for row in range(40)] + [b"m"],
        # What they share is longer than what is compared at once.
        [b"d%d/" % (row % 2) + b"s" * size + b"%d" % (row // 4) for size in (60, 61, 70, 200)
         for row in range(80)],
    ],
)  # fmt: skip
def test_sort_names_partly_sorted_input_is_sorted(names):
    order = sort_names(*columns(names))
    assert order.tolist() == sorted(range(len(names)), key=lambda row: (names[row], row))


@pytest.mark.parametrize("count", [20, 5000])
def test_sort_names_hostile_input_is_sorted(count):
    names = [b"x" * 3000 + b"\0" * (row % 7) + b"%d" % (row % 50) for row in range(count)][::-1]
    order = sort_names(*columns(names))
    assert order.tolist() == sorted(range(count), key=lambda row: (names[row], row))


# Keys hold fewer bytes of a name where there are more names.
@pytest.mark.parametrize("count", [100, 300, 70_000])
@pytest.mark.parametrize("pattern", [b"%d", b"%d\0", b"class %d/x", b"%d/%%x"])
def test_sort_names_any_count_is_sorted(count, pattern):
    names = [pattern % (row * 7919 % (count - 40)) for row in range(count)]
    order = sort_names(*columns(names))
    assert order.tolist() == sorted(range(count), key=lambda row: (names[row], row))


@given(NAMES)
def test_sort_and_compare_names_finds_equal_names(names):
    order, distinct = sort_and_compare_names(*columns(names))
    assert order.tolist() == sort_names(*columns(names)).tolist()
    assert distinct == (len(set(names)) == len(names))


@pytest.mark.parametrize("last", [b"c0/00000", b"c0/0000", b"c0/00000\0", b"c1/00098", b""])
@pytest.mark.parametrize("long", [b"", b"x" * 200])
def test_sort_and_compare_names_one_more_name_decides(last, long):
    names = [long + b"c%d/%05d" % (row % 3, row) for row in range(100)] + [long + last]
    assert sort_and_compare_names(*columns(names))[1] == (len(set(names)) == len(names))


@given(NAMES)
def test_is_last_of_name_marks_the_last_of_equal_names(names):
    flat, offsets = columns(names)
    holds = is_last_of_name(flat, offsets, sort_names(flat, offsets))
    last = {name: row for row, name in enumerate(names)}
    assert holds.tolist() == [last[name] == row for row, name in enumerate(names)]


@given(NAMES, st.one_of(st.binary(max_size=4), st.text("ab./", max_size=5).map(str.encode)))
def test_lookup_find_returns_the_last_row(names, other):
    lookup, order = lookup_of(names)
    last = {name: row for row, name in enumerate(names)}
    for name in [*names, other]:
        assert lookup.find(name) == last.get(name, -1)
        low, high = lookup.bounds(name)
        found = [names[row] for row in order[low:high]]
        assert found == sorted(n for n in names if n.startswith(name))
        for limit in (0, 1, len(names) // 2):
            before = [row for row, n in enumerate(names[:limit]) if n == name]
            assert lookup.find(name, before=limit) == (before[-1] if before else -1)


@given(st.lists(st.text("ab-/", min_size=1, max_size=8).map(str.encode), max_size=60))
def test_lookup_children_lists_directories(names):
    names = sorted({posixpath.normpath(name.decode()).strip("/").encode() for name in names})
    names = [name for name in names if not name.startswith(b".")]
    lookup, _ = lookup_of(names)
    for prefix in (b"", b"a/", b"b/", b"a/a/"):
        low, high = lookup.bounds(prefix)
        places, flags = lookup.children(low, high, len(prefix))
        got = []
        for place, flag in zip(places.tolist(), flags.tolist()):
            got.append((lookup.sorted_name(place)[len(prefix) :].split(b"/")[0], flag))
        expected = []
        for name in names:
            if name.startswith(prefix):
                parts = name[len(prefix) :].split(b"/")
                if (parts[0], len(parts) > 1) not in expected:
                    expected.append((parts[0], len(parts) > 1))
        assert got == expected


@given(st.text("ab./", max_size=14))
def test_normalize_resolves_as_a_file_system(name):
    got = normalize(name.encode()).decode()
    expected = posixpath.normpath("/" + name).lstrip("/")
    depth = 0
    for part in name.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            # It leads out of the root, and so keeps its "..".
            assert got == "/".join(p for p in name.split("/") if p not in ("", "."))
            return
    assert got == expected


@given(NAMES, NAMES)
def test_normalize_all_drops_links(names, links):
    links = (links + [b""] * len(names))[: len(names)]
    flat = b"".join(name + link for name, link in zip(names, links))
    name_ends, link_ends, end = [], [], 0
    for name, link in zip(names, links):
        name_ends.append(end + len(name))
        end += len(name) + len(link)
        link_ends.append(end)
    out, offsets = normalize_all(
        np.frombuffer(flat, np.uint8),
        np.array(name_ends, np.uint64),
        np.array(link_ends, np.uint64),
    )
    got = [out[int(a) : int(b)].tobytes() for a, b in zip(offsets, offsets[1:])]
    assert got == [normalize(name) for name in names]


@pytest.mark.parametrize("odd", [b"", b"a//b", b"./a", b"a/../b", b"a/"])
@pytest.mark.parametrize("link", [b"", b"target"])
def test_normalize_all_many_names_give_those_of_normalize(odd, link):
    names = [b"folder/%050d" % row for row in range(20_000)]
    flat = b"".join(names)
    ends = np.arange(1, len(names) + 1, dtype=np.uint64) * len(names[0])
    out, offsets = normalize_all(np.frombuffer(flat, np.uint8), ends, ends)
    assert out.tobytes() == flat
    assert offsets.tolist() == [0, *ends.tolist()]
    flat += odd + link
    ends = np.append(ends, np.uint64(ends[-1] + len(odd)))
    link_ends = ends.copy()
    link_ends[-1] += len(link)
    out, offsets = normalize_all(np.frombuffer(flat, np.uint8), ends, link_ends)
    assert out[int(offsets[-2]) : int(offsets[-1])].tobytes() == normalize(odd)
    assert out[: int(offsets[-2])].tobytes() == b"".join(names)
    with pytest.raises(CorruptIndexError):
        normalize_all(np.frombuffer(flat, np.uint8), ends, link_ends + np.uint64(1))


@given(NAMES)
def test_ends_with_ignores_case(names):
    mask = ends_with(*columns(names), [b".A", b"b"])
    assert mask.tolist() == [name.lower().endswith((b".a", b"b")) for name in names]


@given(NAMES, st.data())
def test_gather_copies_rows(names, data):
    rows = data.draw(st.lists(st.integers(0, max(len(names) - 1, 0)), max_size=9 if names else 0))
    flat, offsets = gather(*columns(names), np.array(rows, np.uint64))
    got = [flat[int(a) : int(b)].tobytes() for a, b in zip(offsets, offsets[1:])]
    assert got == [names[row] for row in rows]


def key_of(name):
    folder, slash, base = name.rpartition(b"/")
    dot = base.find(b".", 1)
    return name if dot < 0 else folder + slash + base[:dot]


@given(NAMES)
def test_sample_keys_match_the_reference(names):
    flat, offsets = columns(names)
    ends = key_ends(flat, offsets)
    keys = [key_of(name) for name in names]
    assert [name[: int(end)] for name, end in zip(names, ends)] == keys
    extensions = [name[len(key) + 1 :].lower() for name, key in zip(names, keys)]
    assert have_extension(flat, offsets, ends, [b"a", b"b.a"]).tolist() == [
        extension in (b"a", b"b.a") for extension in extensions
    ]
    key_flat, key_offsets = take_parts(flat, offsets[:-1], offsets[:-1] + ends)
    first = is_first_of_name(key_flat, key_offsets, sort_names(key_flat, key_offsets))
    assert first.tolist() == [keys.index(key) == row for row, key in enumerate(keys)]


def test_class_directories_sort_without_their_slash():
    names = [b"a/1", b"a-b/1", b"readme", b"a/sub/2"]
    lookup, order = lookup_of(names)
    classes, numbers = class_directories(lookup, order, b"")
    assert classes == [b"a", b"a-b"]
    assert numbers.tolist() == [0, 1, -1, 0]


@pytest.mark.parametrize(
    "offsets", [[0, 5, 3, 6], [0, 2, 4, 99], [4, 2, 1, 0], [0, 2**63, 2**64 - 1, 6]]
)
def test_names_damaged_offsets_are_refused(offsets):
    flat = np.frombuffer(b"abcdef", np.uint8)
    bad = np.array(offsets, np.uint64)
    for function in (sort_names, key_ends):
        with pytest.raises(CorruptIndexError):
            function(flat, bad)
    with pytest.raises(CorruptIndexError):
        ends_with(flat, bad, [b"f"])
    lookup = Lookup(np.zeros(3, ENTRY_DTYPE), flat, bad, np.arange(3, dtype=np.uint64))
    with pytest.raises(CorruptIndexError):
        for name in (b"", b"a", b"abc", b"zz"):
            lookup.find(name)
            lookup.bounds(name)
            [lookup.name(row) for row in range(3)]


def test_lookup_failed_second_init_changes_nothing():
    flat, offsets = columns([b"a", b"b"])
    order = np.arange(2, dtype=np.uint64)
    lookup = Lookup(np.zeros(2, ENTRY_DTYPE), flat, offsets, order)
    with pytest.raises(CorruptIndexError):
        lookup.__init__(np.zeros(500, ENTRY_DTYPE), flat, offsets, order)
    assert lookup.name(1) == b"b"
    with pytest.raises(CorruptIndexError):
        is_last_of_name(flat, offsets, np.array([0, 9], np.uint64))
    with pytest.raises(CorruptIndexError):
        is_last_of_name(flat, offsets, np.array([0], np.uint64))


def test_names_damaged_order_is_refused():
    flat, offsets = columns([b"a", b"b"])
    lookup = Lookup(np.zeros(2, ENTRY_DTYPE), flat, offsets, np.array([7, 9], np.uint64))
    with pytest.raises(CorruptIndexError, match="delete the index"):
        lookup.find(b"a")
    with pytest.raises(CorruptIndexError):
        lookup.children(0, 2, 0)
    with pytest.raises(CorruptIndexError, match="do not fit together"):
        Lookup(np.zeros(3, ENTRY_DTYPE), flat, offsets, np.array([7, 9], np.uint64))


def test_lookup_positions_beyond_the_table_are_refused():
    lookup, _ = lookup_of([b"a", b"b"])
    assert lookup.row(-1) == lookup.row(1)
    for position in (2, -3, 2**62):
        with pytest.raises(SampleIndexError):
            lookup.row(position)
        with pytest.raises(SampleIndexError):
            lookup.stored_range(position)
        with pytest.raises(IndexError):
            lookup.name(position)


def test_lookup_stored_range_is_none_unless_the_file_is_stored_as_it_is():
    kinds = range(KIND_CONTINUATION + 1)
    entries = np.zeros(len(kinds) * 2, ENTRY_DTYPE)
    entries["kind"] = np.repeat(kinds, 2)
    entries["method"] = [METHOD_STORED, METHOD_DEFLATED] * len(kinds)
    entries["shard"], entries["offset"], entries["size"] = 3, 2**40 + 1, 2**33
    flat, offsets = columns([b"a"] * len(entries))
    lookup = Lookup(entries, flat, offsets, sort_names(flat, offsets))
    found = [lookup.stored_range(position) for position in range(len(entries))]
    expected = [None] * len(entries)
    expected[KIND_FILE * 2] = (3, 2**40 + 1, 2**33)
    assert found == expected


@given(NAMES, st.one_of(st.binary(max_size=3), st.text("aB./", max_size=4).map(str.encode)))
def test_contains_matches_as_the_operator_does(names, part):
    found = contains(*columns(names), part)
    assert found.tolist() == [part.lower() in name.lower() for name in names]


def test_contains_names_outside_the_buffer_are_refused():
    flat, offsets = columns([b"ab", b"cd"])
    with pytest.raises(CorruptIndexError):
        contains(flat, offsets + np.uint64(1), b"a")
