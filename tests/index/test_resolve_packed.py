"""Resolving packed rows gives what resolving the same rows as an array gives."""

import numpy as np
import pytest
from support import tar_cases as cases

from imagearchive.containers.tar import scan as tar
from imagearchive.index.resolve import resolve
from imagearchive.index.table import IndexTable
from imagearchive.storage.local import MemoryStorage, open_storage

COUNT = 9_000
ODD = {
    "plain": [],
    "directories": [cases.header(b"d0/", 0, b"5"), cases.header(b"empty/", 0, b"5")],
    "replaced": [cases.member(b"d1/000001", b"new"), cases.member(b"d1/000001", b"newer")],
    "devices": [cases.header(b"device", 0, b"3"), cases.member(b"./", b"1"), cases.member(b"/")],
    "names": [cases.member(b"./d0/../d0/x", b"2"), cases.member(b"a//b", b"3")],
    "links": [
        cases.header(b"hard", 0, b"1", link=b"d0/000000"),
        cases.header(b"soft", 0, b"2", link=b"d1"),
    ],
}


@pytest.fixture(scope="module")
def many():
    return [cases.member(b"d%d/%06d" % (i % 2, i), b"x" * (i % 3)) for i in range(COUNT)]


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("at", [0, 4_000, COUNT])
def test_resolve_packed_rows_gives_the_same(tmp_path, many, kind, at):
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join([*many[:at], *ODD[kind], *many[at:], cases.END]))
    expected = resolve(tar.scan(MemoryStorage(path.read_bytes())))
    with open_storage(path, "pread") as storage:
        found = resolve(tar.scan(storage), keep_packed=True)
    assert (found.packed is None) == (kind == "links")
    entries = found.entries if found.packed is None else found.packed.unpack()
    assert entries.tobytes() == expected.entries.tobytes()
    for name in ("names", "name_offsets", "name_order"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()
    assert found.directories == expected.directories
    assert found.left_out.to_metadata() == expected.left_out.to_metadata()
    # And as a whole: the index of this archive, saved and not.
    saved, unsaved = IndexTable.open(path), IndexTable.build(path)
    assert saved.path is not None
    assert saved.fingerprint() == unsaved.fingerprint()
    assert len(saved) == len(expected.entries)
    assert saved.entries.tobytes() == unsaved.entries.tobytes() == expected.entries.tobytes()
    assert np.array_equal(saved.label_values, unsaved.label_values)
    assert saved.meta["archives"] == unsaved.meta["archives"]
    saved.check()
