"""Names in tables and lists, matched with members."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.archives import write_tar

import imagearchive
from imagearchive.datasets.match_names import MISSING, match_names

PREFERRED = [b".jpg", b".png"]


def keys_of(name):
    """What a member may be called, best first, each with whether it has the extension."""
    stem, dot, extension = name.rpartition(".")
    whole = [(name, True)]
    if dot and stem and not stem.endswith("/") and "/" not in extension:
        whole.append((stem, False))
    return whole


def expected(members, name):
    """The result for one name, by comparing it with every member."""

    def fits(member, whole, with_extension):
        return any(
            key == name or (not whole and key.endswith("/" + name))
            for key, has_extension in keys_of(member)
            if has_extension == with_extension or (len(keys_of(member)) == 1)
        )

    for whole in (True, False):
        for with_extension in (True, False):
            images = [m for m in members if m.lower().endswith((".jpg", ".png"))]
            others = [m for m in members if m not in images]
            for part in [members] if with_extension else [images, others]:
                found = [m for m in part if fits(m, whole, with_extension)]
                if found:
                    place = members.index(found[0])
                    return place if len(found) == 1 else -2 - place
    return MISSING


PATHS = st.lists(st.sampled_from(["a", "b", "a.b"]), min_size=1, max_size=3).map("/".join)
MEMBERS = st.lists(
    st.tuples(PATHS, st.sampled_from(["", ".jpg", ".png", ".PNG", ".txt", "/.x"])).map("".join),
    unique=True,
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("names")


@given(members=MEMBERS, names=st.lists(st.one_of(PATHS, MEMBERS.map(lambda m: m[0])), max_size=5))
def test_match_names_finds_what_comparing_all_names_finds(folder, members, names):
    path = write_tar(folder / "x.tar", dict.fromkeys(members, b""))
    with imagearchive.open(path, overwrite_index=True) as archive:
        assert list(archive.files()) == members
        found = match_names(archive.table, b"", None, names, PREFERRED)
        assert found.tolist() == [expected(members, name) for name in names]


def test_match_names_below_a_root_and_among_candidates(tmp_path):
    names = ["a/1.jpg", "b/1.jpg", "b/1.txt", "b/c/2.jpg", "b/d/2.jpg"]
    path = write_tar(tmp_path / "x.tar", dict.fromkeys(names, b""))
    with imagearchive.open(path) as archive:
        below = np.array([1, 2, 3, 4])
        found = match_names(archive.table, b"b/", below, ["1", "1.txt", "c/2", "2", "3"], PREFERRED)
        assert found.tolist() == [1, 2, 3, -2 - 3, MISSING]
        found = match_names(archive.table, b"b/", np.array([2, 4]), ["1", "2"], PREFERRED)
        assert found.tolist() == [2, 4]
        assert match_names(archive.table, b"", np.array([], int), ["1"], PREFERRED).tolist() == [-1]


def test_match_names_normalizes_and_takes_any_text(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"ä/ö.jpg": b"", "b.jpg": b""})
    with imagearchive.open(path) as archive:
        names = ["./ä//ö.jpg", "/b", "ö", "", ".", "..", "\ud800", "x" * 5000, "/" * 5000]
        found = match_names(archive.table, b"", None, names, PREFERRED)
        assert found.tolist() == [0, 1, 0, -1, -1, -1, -1, -1, -1]


def test_match_names_of_equal_members_in_several_archives_are_ambiguous(tmp_path):
    paths = [write_tar(tmp_path / f"{i}.tar", {"a.jpg": b"", f"{i}.jpg": b""}) for i in range(2)]
    with imagearchive.open(paths) as archive:
        found = match_names(archive.table, b"", None, ["a", "a.jpg", "1"], PREFERRED)
        assert found.tolist() == [-2, -2, 3]
