"""An index that came with the data: nothing in it may lead outside of the archive."""

import json
import os
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.archives import write_tar

from imagearchive.archive.archive import Archive
from imagearchive.cli import main
from imagearchive.errors import CorruptIndexError, ImageArchiveError
from imagearchive.index import file_format
from imagearchive.index.column_checks import COLUMNS, check_columns
from imagearchive.index.table import IndexTable
from imagearchive.storage.location import locate

MEMBERS = {f"{name}/{i}.txt": b"%d" % i * (i + 1) for name in ("b", "a", "a-b") for i in range(5)}
COUNT = len(MEMBERS)


@pytest.fixture
def tar(tmp_path):
    return str(write_tar(tmp_path / "data.tar", MEMBERS))


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def rewrite(path, change, meta_change=None):
    """Change the columns and the metadata of an index; its checksums fit again."""
    sections, meta, *_ = file_format.load(locate(path))
    sections = {name: np.array(section) for name, section in sections.items()}
    meta = {key: value for key, value in meta.items() if key != "sections"}
    change(sections)
    if meta_change is not None:
        meta_change(meta)
    os.remove(path)
    file_format.save(locate(path), sections, meta)


def assign(name, row, value, field=None):
    def change(sections):
        (sections[name] if field is None else sections[name][field])[row] = value

    return change


def replace(name, value):
    def change(sections):
        sections[name] = value(sections[name])

    return change


CHANGES = {
    "names first": assign("name_offsets", 0, 1),
    "names last": assign("name_offsets", COUNT, 3),
    "names descend": assign("name_offsets", 4, 2),
    "names beyond": assign("name_offsets", 4, 2**63),
    "names surplus": replace("names", lambda names: np.append(names, names[:8])),
    "labels descend": assign("label_offsets", 3, 0),
    "labels beyond": assign("label_offsets", COUNT, 2**40),
    "labels surplus": replace("label_values", lambda values: np.append(values, 1.0)),
    "order twice": assign("name_order", 0, 3),
    "order beyond": assign("name_order", 0, COUNT),
    "order huge": assign("name_order", 0, 2**64 - 1),
    "shard": assign("entries", 3, 1, "shard"),
    "kind": assign("entries", 3, 2, "kind"),
    "kind unknown": assign("entries", 3, 9, "kind"),
    "offset": assign("entries", 3, 1 << 40, "offset"),
    "offset wraps": assign("entries", 3, 2**64 - 1, "offset"),
    "stored size": assign("entries", 3, 1 << 40, "stored_size"),
    "stored size wraps": assign("entries", 3, 2**64 - 1, "stored_size"),
    "size": assign("entries", 3, 1 << 40, "size"),
    "header": assign("entries", 3, 1 << 40, "header_offset"),
    "index": assign("entries", 3, 2, "index"),
    "no rows": replace("entries", lambda entries: entries[:-1]),
    "no order": replace("name_order", lambda order: order[:-1]),
    "no labels": replace("label_offsets", lambda offsets: offsets[:-1]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_index_wrong_column_is_rebuilt_or_refused(tar, tmp_path, change):
    beside = IndexTable.open(tar).path
    given = str(tmp_path / "given")
    IndexTable.open(tar, given)
    for path in (beside, given):
        rewrite(path, change)
    with pytest.raises(CorruptIndexError, match="given"):
        IndexTable.open(tar, given)
    with Archive(tar) as archive:
        assert {name: bytes(archive[name]) for name in archive} == MEMBERS
        assert archive.table.path == beside
        archive.table.check()


@pytest.mark.parametrize("checksum", [None, "1", 1.5, "missing"])
def test_index_section_without_a_checksum_is_refused(tar, checksum):
    path = IndexTable.open(tar).path
    arrays = []
    with open(path, "rb") as file:
        while file.peek(1):
            arrays.append(np.load(file))
    meta = json.loads(arrays[-1].tobytes())
    meta["sections"][0]["crc32"] = checksum
    if checksum == "missing":
        del meta["sections"][0]["crc32"]
    os.remove(path)
    with open(path, "wb") as file:
        for array in [*arrays[:-1], np.frombuffer(json.dumps(meta).encode(), np.uint8)]:
            np.save(file, array)
    with pytest.raises(CorruptIndexError, match="checksum"):
        IndexTable.load(path, tar)


META_CHANGES = {
    "no size": lambda meta: meta["archives"][0].pop("size"),
    "negative size": lambda meta: meta["archives"][0].update(size=-1),
    "huge size": lambda meta: meta["archives"][0].update(size=2**64),
    "boolean size": lambda meta: meta["archives"][0].update(size=True),
    "no archives": lambda meta: meta.update(archives=[]),
    "parent": lambda meta: meta["archives"][0].update(path="../data.tar"),
    "absolute": lambda meta: meta["archives"][0].update(path="/etc/passwd"),
    "empty path": lambda meta: meta["archives"][0].update(path=""),
    "NUL": lambda meta: meta["archives"][0].update(path="a\0b"),
    "URL": lambda meta: meta["archives"][0].update(path="http://host/a"),
    "directory": lambda meta: meta["containers"][0].update(name="directory"),
}


@pytest.mark.parametrize("change", META_CHANGES.values(), ids=META_CHANGES)
def test_index_wrong_metadata_are_rebuilt_or_refused(tar, tmp_path, change):
    beside = IndexTable.open(tar).path
    given = str(tmp_path / "given")
    IndexTable.open(tar, given)
    for path in (beside, given):
        rewrite(path, lambda sections: None, change)
    with pytest.raises(ImageArchiveError, match="given"):
        IndexTable.open(tar, given)
    with Archive(tar) as archive:
        assert {name: bytes(archive[name]) for name in archive} == MEMBERS


def test_index_no_rows_and_no_archives_is_not_an_empty_archive(tar):
    path = IndexTable.open(tar).path
    names = list(COLUMNS)

    def empty(sections):
        for name in names:
            sections[name] = sections[name][: 1 if name.endswith("offsets") else 0]

    rewrite(path, empty, lambda meta: meta.update(archives=[]))
    assert len(IndexTable.open(tar)) == COUNT


def test_index_surplus_names_of_a_shard_do_not_shift_those_of_later_shards(tmp_path):
    paths = [
        str(write_tar(tmp_path / f"{i}.tar", {f"{name}{i}.txt": b"%d" % i for name in "xyz"}))
        for i in range(3)
    ]
    for path in paths:
        rewrite(IndexTable.open(path).path, replace("names", lambda names: np.append(names, 65)))
    with Archive(paths) as archive:
        assert list(archive) == [f"{name}{i}.txt" for i in range(3) for name in "xyz"]


def test_index_joined_wrong_column_is_built_again(tmp_path):
    paths = [str(write_tar(tmp_path / f"{i}.tar", {f"{i}.txt": b"%d" % i})) for i in range(3)]
    with Archive(paths) as archive:
        joined = archive.table.path
    for name in ("name_offsets", "label_offsets", "name_order"):
        rewrite(joined, assign(name, 0, 2))
        with Archive(paths) as archive:
            assert list(archive) == ["0.txt", "1.txt", "2.txt"]
    rewrite(joined, assign("entries", 2, 1 << 30, "offset"))
    with Archive(paths) as archive:
        assert [bytes(archive[name]) for name in archive] == [b"0", b"1", b"2"]
    rewrite(joined, assign("entries", 2, 1 << 30, "offset"))
    with pytest.raises(CorruptIndexError):
        IndexTable.load(joined)


def test_index_fifo_in_its_place_is_left_alone(tar, tmp_path):
    pipe = tmp_path / "data.idx.npy"
    os.mkfifo(pipe)
    result = []
    thread = threading.Thread(target=lambda: result.append(len(IndexTable.open(tar))), daemon=True)
    thread.start()
    thread.join(20)
    assert result == [COUNT]
    assert pipe.is_fifo()
    with pytest.raises(ImageArchiveError, match="regular file"):
        IndexTable.open(tar, pipe)
    with pytest.raises(ImageArchiveError, match="regular file"):
        IndexTable.open(tar, pipe, overwrite=True)


def npy(descr, shape):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    ("descr", "shape"),
    [("|S0", (2**40,)), ("<U0", (2**40, 3)), ("|V0", (2**62,)), ("<f8", ()), ("<f8", (0,) * 64)],
)
def test_index_empty_elements_are_refused(tar, tmp_path, descr, shape):
    original = tmp_path / "given"
    original.write_bytes(npy(descr, shape))
    beside = IndexTable.open(tar).path
    with open(beside, "r+b") as file:
        data = file.read()
        file.seek(0)
        file.write(npy(descr, shape) + data)
    with pytest.raises(CorruptIndexError, match="given"):
        IndexTable.open(tar, original)
    assert len(IndexTable.open(tar)) == COUNT


@pytest.mark.parametrize(
    "rows",
    [
        [[0, 1e300, 5]], [[0, 512, 2.0**70]], [[0, 512.5, 5]], [[0, 1 << 40, 5]],
        [[0, 512, 1 << 40]], [[0, np.inf, 5]], [[0, np.nan, 5]], [[0, -1, 5]],
    ],
)  # fmt: skip
def test_original_index_wrong_numbers_are_refused(tar, tmp_path, rows):
    np.save(tmp_path / "given.npy", np.array(rows, float))
    with pytest.raises(CorruptIndexError, match="given"):
        IndexTable.open(tar, tmp_path / "given.npy")


def columns_of(count):
    """Return the columns of an index of so many members without a name."""
    entries = np.zeros(count, COLUMNS["entries"])
    entries["index"] = np.arange(count)
    return {
        "entries": entries,
        "names": np.zeros(count, np.uint8),
        "name_offsets": np.arange(count + 1, dtype=np.uint64),
        "name_order": np.arange(count, dtype=np.uint64)[::-1].copy(),
        "label_values": np.zeros(0),
        "label_offsets": np.zeros(count + 1, np.uint64),
    }


def test_load_written_another_file_is_checked(tar):
    table = IndexTable.open(tar)
    location = locate(table.path)
    written = table.write(location)
    loaded = IndexTable.load_written(location, table.files, table.file_signatures, written)
    assert len(loaded) == COUNT
    # As another process may do between writing and loading.
    rewrite(table.path, assign("name_order", 0, COUNT))
    with pytest.raises(CorruptIndexError, match="permutation"):
        IndexTable.load_written(location, table.files, table.file_signatures, written)


def test_columns_are_checked_once_per_state_of_the_file():
    columns = columns_of(10)
    check_columns("once", (1, "state"), columns, [10])
    columns["name_order"][0] = 10
    # What has passed is not looked at again.
    check_columns("once", (1, "state"), columns, [10])
    for path, identity, sizes in (
        ("other", (1, "state"), [10]),
        ("once", (1, "changed"), [10]),
        ("once", (1, "state"), [11]),
    ):
        with pytest.raises(CorruptIndexError, match="permutation"):
            check_columns(path, identity, columns, sizes)


def test_columns_of_many_rows_are_checked_to_the_last(tmp_path):
    # Several threads check more than 2**20 rows.
    count = (1 << 20) + 50
    columns = columns_of(count)
    entries = columns["entries"]
    check_columns("many", (1, "good"), columns, [10])
    for row in (0, (1 << 20) - 1, 1 << 20, count - 1):
        entries["offset"][row] = 11
        with pytest.raises(CorruptIndexError, match=f"row {row} "):
            check_columns("many", (2, row), columns, [10])
        entries["offset"][row] = 0


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def opens_in_a_process(path, before=""):
    """Return the error with which a new process opens an index; empty if there is none."""
    code = f"import sys; {before}from imagearchive import IndexTable; IndexTable.load(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    return done.stderr


@pytest.fixture
def large(tmp_path, home):
    """Write an index that is large enough for a record that it has passed; return its path."""
    path = str(tmp_path / "large.idx.npy")
    container = {"name": "tar", "version": 0, "first_file": 0}
    meta = {"archives": [{"path": "a.tar", "size": 10}], "containers": [container]}
    columns = columns_of((1 << 20) + 1)
    IndexTable(**columns, files=["a.tar"], meta=meta).write(locate(path))
    return path


def damage_large(path):
    """Damage an index in place, and set its time back."""
    status = os.stat(path)
    with open(path, "r+b") as file:
        # In the last column, before the metadata.
        found = file_format.load(locate(path)).sections["name_order"]
        content = file.read()
        file.seek(content.rindex(found.tobytes()))
        file.write(bytes(16))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_large_index_is_checked_once_on_a_machine_for_each_state(tmp_path, large):
    assert opens_in_a_process(large) == ""
    [record] = (tmp_path / "home/imagearchive/index/checked").iterdir()
    damage_large(large)
    assert "name_order is not a permutation" in opens_in_a_process(large)
    assert [record] == list((tmp_path / "home/imagearchive/index/checked").iterdir())


@pytest.fixture
def passed(large):
    """Return the path of a large index that is damaged, and of which a record says it passed."""
    damage_large(large)
    unchecked = (
        "from imagearchive.index import column_checks; "
        "column_checks.is_permutation = lambda _: True; "
    )
    assert opens_in_a_process(large, unchecked) == ""
    assert opens_in_a_process(large) == ""
    return large


def test_large_index_is_checked_where_others_can_write_records(tmp_path, passed):
    (tmp_path / "home/imagearchive/index/checked").chmod(0o777)
    assert "name_order is not a permutation" in opens_in_a_process(passed)


def test_large_index_is_checked_again_after_the_cache_was_cleaned(passed):
    assert main(["cache", "--clean", "--all", "--dry-run"]) == 0
    assert opens_in_a_process(passed) == ""
    assert main(["cache", "--clean", "--all"]) == 0
    assert "name_order is not a permutation" in opens_in_a_process(passed)


def test_large_index_is_opened_where_there_can_be_no_records(tmp_path, large):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/imagearchive").write_bytes(b"")
    assert opens_in_a_process(large) == ""


# --- mutations ----------------------------------------------------------------------------------

VALUES = st.one_of(
    st.sampled_from([0, 1, 2, 15, 16, 255, 512, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]),
    st.integers(0, 2**64 - 1),
)
# Fields that name a place in the archive: another place in it is another's bytes, not a danger.
# So is the method, where the compressed bytes are as many as the content.
PLACES = {"method", "offset", "stored_size", "size", "header_offset"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["path", "size", "name", "end"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def read_everything(path, ipath):
    with Archive(path, ipath) as archive:
        found = []
        for position in range(len(archive)):
            found.append((archive.table.name(position), bytes(archive.read(position))))
            archive.table.labels(position)
            archive.info(position)
        for name, _ in found:
            name in archive  # noqa: B015
        for directory in ("", "a", "b", "a-b"):
            archive.listdir(directory)
        list(archive.glob("**"))
        return found


@pytest.fixture(scope="module", params=["tar", "zip"])
def mutable(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutable")
    write = {"tar": write_tar, "zip": write_zip}[request.param]
    path = str(write(folder / f"data.{request.param}", MEMBERS))
    given = str(folder / "given")
    IndexTable.open(path, given)
    with open(given, "rb") as file:
        return path, given, file.read()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_index_mutated_column_ends_in_an_error_or_in_the_right_bytes(mutable, data):
    path, ipath, content = mutable
    with open(ipath, "wb") as file:
        file.write(content)
    name = data.draw(st.sampled_from(list(COLUMNS)))
    field = data.draw(st.sampled_from(COLUMNS[name].names)) if COLUMNS[name].names else None
    value = data.draw(VALUES)
    place = data.draw(st.integers(0, 10_000))

    def change(sections):
        column = sections[name] if field is None else sections[name][field]
        size = column.dtype.itemsize
        column[place % len(column)] = np.array([value], "<u8").view(column.dtype)[0]
        assert size <= 8

    rewrite(ipath, change)
    try:
        found = read_everything(path, ipath)
    except ImageArchiveError:
        return
    if name in ("names", "name_offsets"):
        assert sorted(content for _, content in found) == sorted(MEMBERS.values())
    elif field not in PLACES:
        assert sorted(found) == sorted(MEMBERS.items())
    else:
        with open(path, "rb") as file:
            archive = file.read()
        for member, content in found:
            assert content == MEMBERS[member] or content in archive


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_index_mutated_metadata_end_in_an_error_or_in_the_right_bytes(mutable, data):
    path, ipath, content = mutable
    with open(ipath, "wb") as file:
        file.write(content)
    key = data.draw(st.sampled_from(["archives", "containers", "directories", "damage", "joined"]))
    inner = data.draw(st.sampled_from([None, "path", "size", "identity", "end", "headers"]))
    value = data.draw(JSON)

    def change(meta):
        if inner is not None and key in ("archives", "containers"):
            meta[key][0][inner] = value
        else:
            meta[key] = value

    rewrite(ipath, lambda sections: None, change)
    try:
        assert dict(read_everything(path, ipath)) == MEMBERS
    except ImageArchiveError:
        pass
