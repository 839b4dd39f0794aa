"""Archives inside archives: names, depth, every kind of nesting, damage, and hostile input."""

import io
import itertools
import multiprocessing
import os
import pickle
import random
import tarfile
import zipfile

import numpy as np
import pytest
from support.archives import files_left, tar_bytes, zip_bytes
from support.files import bytes_read
from support.nested import (
    LARGE,
    PACK,
    SMALL,
    below,
    deep,
    deflated,
    large_members,
    names_of,
    put_members,
    stem,
    write,
)

import imagearchive
from imagearchive import write_split_data
from imagearchive.errors import (
    CorruptArchiveError,
    CorruptIndexError,
    OptionError,
    StaleIndexError,
)
from imagearchive.index import file_format
from imagearchive.index.column_checks import COLUMNS
from imagearchive.storage.location import locate

PAIRS = [
    *itertools.product((".tar", ".zip", "-deflated.zip"), PACK),
    *(
        (outer, inner)
        for outer in PACK
        if outer not in (".tar", ".zip")
        for inner in (".tar", ".tgz")
    ),
]


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_nested_every_pair_of_formats_reads_all_members(tmp_path, outer, inner):
    members = {"one": SMALL, "two": LARGE}
    packed = {f"{name}{inner}": PACK[inner](found) for name, found in members.items()}
    path = write(tmp_path / f"x{outer}", PACK[outer]({**packed, "z.txt": b"plain"}))
    expected = {}
    for name, found in members.items():
        expected |= below(name + stem(inner), found)
    expected["z.txt"] = b"plain"
    for storage in ("mmap", "pread"):
        with imagearchive.open(path, nested=True, storage=storage) as archive:
            assert list(archive) == list(expected)
            order = random.Random(1).sample(list(expected), len(expected))
            assert {name: archive[name] for name in order} == expected
            with archive.open(list(expected)[7]) as file:
                assert file.read() == list(expected.values())[7]


@pytest.mark.parametrize(
    "kinds", [(".tar", ".zip", ".tar.gz"), ("-deflated.zip", ".tar.gz", ".zip")]
)
def test_nested_three_levels_read_all_members(tmp_path, kinds):
    expected, packed = LARGE, LARGE
    for number, kind in enumerate(kinds):
        packed = {f"level{number}{kind}": PACK[kind](packed), f"r{number}.txt": b"%d" % number}
        expected = {
            **below(f"level{number}{stem(kind)}", expected),
            f"r{number}.txt": b"%d" % number,
        }
    path = write(tmp_path / "x.tar", tar_bytes(packed))
    with imagearchive.open(path, nested=True) as archive:
        assert dict(archive) == expected
        assert archive.table.meta["nested"]["deepest"] == 3


def test_nested_tar_in_tar_reads_one_range_of_the_file(tmp_path):
    packed = {f"n{i}.tar": tar_bytes(SMALL) for i in range(3)}
    path = write(tmp_path / "x.tar", tar_bytes(packed))
    whole = path.read_bytes()
    with imagearchive.open(path, nested=True) as archive:
        for name in archive:
            info = archive.info(name)
            assert info.archive == str(path)
            assert whole[info.offset : info.offset + info.size] == archive[name]
        assert set(archive.table.entries["shard"].tolist()) == {0}


def test_nested_zip_in_zip_compares_inner_checksums(tmp_path):
    data = bytearray(zip_bytes({"in.zip": zip_bytes(SMALL)}))
    data[data.index(SMALL["3.jpg"]) + 5] ^= 1
    path = write(tmp_path / "x.zip", data)
    with imagearchive.open(path, nested=True) as archive:
        with pytest.raises(CorruptArchiveError, match=r"in/3\.jpg.*checksum"):
            archive.read("in/3.jpg")
        failures = imagearchive.verify(archive).failures
    assert {failure.name for failure in failures} == {"in/3.jpg", "in.zip"}


def test_nested_verify_compares_the_checksum_of_an_inner_tar(tmp_path):
    data = bytearray(zip_bytes({"in.tar": tar_bytes(SMALL)}))
    data[data.index(SMALL["3.jpg"]) + 5] ^= 1
    path = write(tmp_path / "x.zip", data)
    with imagearchive.open(path, nested=True) as archive:
        report = imagearchive.verify(archive)
    assert [failure.name for failure in report.failures] == ["in.tar"]
    assert report.files == len(SMALL)


@pytest.mark.parametrize("nested", [True, "keep", "auto", 3])
@pytest.mark.parametrize("outer", [".tar", ".zip", ".tgz"])
def test_nested_verify_compares_checksums_on_every_level(tmp_path, nested, outer):
    data = bytearray(zip_bytes({"a.tar": tar_bytes({"b.tar": tar_bytes(SMALL)})}))
    data[data.index(SMALL["3.jpg"]) + 5] ^= 1
    path = write(tmp_path / "x.bin", PACK[outer]({"m.zip": bytes(data)}))
    with imagearchive.open(path, nested=nested) as archive:
        assert len(archive) == len(SMALL)
        files = sorted(os.listdir(tmp_path))
        report = imagearchive.verify(archive)
    name = "m.zip/a.tar" if nested == "keep" else "m/a.tar"
    assert [failure.name for failure in report.failures] == [name]
    assert "checksum" in report.failures[0].message
    assert sorted(os.listdir(tmp_path)) == files


# ---------------------------------------------------------------- names


def test_nested_names_drop_extensions_unless_kept(tmp_path):
    packed = {f"a/x{suffix}": PACK[suffix]({"f": b"1"}) for suffix in (".tar", ".tar.gz", ".zip")}
    one = {
        "b/y.TAR": tar_bytes({"f": b"1"}),
        "b/noext": tar_bytes({"f": b"1"}),
        ".tar": tar_bytes({"f": b"1"}),
    }
    path = write(tmp_path / "x.tar", tar_bytes({**packed, **one}))
    assert names_of(path, True) == [
        # Three archives would be a/x.
        "a/x.tar/f",
        "a/x.tar.gz/f",
        "a/x.zip/f",
        "b/y/f",
        "b/noext/f",
        ".tar/f",
    ]
    assert names_of(path, "keep") == [f"{name}/f" for name in [*packed, *one]]


@pytest.mark.parametrize("other", ["a", "a/b", "a/"])
def test_nested_name_of_another_member_keeps_the_extension(tmp_path, other):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.tar", tar_bytes({"f": b"1"}))
        archive.writestr(other, b"")
    with imagearchive.open(path, nested=True) as opened:
        assert opened["a.tar/f"] == b"1"
        assert opened.exists(other.rstrip("/"))


def test_nested_links_lead_within_their_archive(tmp_path):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        for name, link, kind in (
            ("real", "", tarfile.REGTYPE),
            ("hard", "real", tarfile.LNKTYPE),
            ("soft", "real", tarfile.SYMTYPE),
            ("outside", "../secret", tarfile.SYMTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, 4 if not link else 0
            tar.addfile(info, io.BytesIO(b"data"))
    path = write(tmp_path / "x.tar", tar_bytes({"in.tar": inner.getvalue(), "secret": b"no"}))
    with imagearchive.open(path, nested=True) as archive:
        assert dict(archive) == {
            "in/real": b"data",
            "in/hard": b"data",
            "in/soft": b"data",
            "secret": b"no",
        }
        assert archive.left_out.members[0].name == "in/outside"
        assert archive.left_out.counts == {"outside_link": 1}


def test_nested_empty_archives_are_empty_directories(tmp_path):
    path = write(tmp_path / "x.tar", tar_bytes({"a.zip": zip_bytes({}), "b.tar": tar_bytes(SMALL)}))
    with imagearchive.open(path, nested=True) as archive:
        assert archive.isdir("a")
        assert archive.listdir() == ["a", "b"]
        imagearchive.extract(archive, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "b"]
    assert (tmp_path / "out/b/3.jpg").read_bytes() == SMALL["3.jpg"]


def test_nested_npz_members_are_arrays(tmp_path):
    npz = io.BytesIO()
    np.savez(npz, x=np.arange(5))
    path = write(tmp_path / "x.tar", tar_bytes({"a.npz": npz.getvalue()}))
    with imagearchive.open(path, nested=True) as archive:
        assert list(archive) == ["a/x.npy"]
        view = imagearchive.DecodedView(archive)
        assert view["a/x.npy"].tolist() == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------- how deep


@pytest.mark.parametrize("nested", [False, 0, 1, 2, 3])
def test_nested_number_opens_so_many_levels(tmp_path, nested):
    path = write(tmp_path / "x.tar", deep(4))
    levels = int(nested)
    last = "x.bin" if levels == 3 else "x.tar"
    assert names_of(path, nested) == ["/".join(["x"] * levels + [last])]


def test_nested_beyond_eight_levels_stays_a_file_with_a_warning(tmp_path, caplog):
    path = write(tmp_path / "x.tar", deep(12))
    assert names_of(path, True) == ["x/x/x/x/x/x/x/x/x.tar"]
    assert "deep" in caplog.text


@pytest.mark.parametrize("nested", [9, -1, "yes", 1.5, None])
def test_nested_other_values_are_refused(tmp_path, nested):
    path = write(tmp_path / "x.tar", tar_bytes(SMALL))
    with pytest.raises(OptionError, match="nested must be"):
        imagearchive.open(path, nested=nested)


def test_nested_auto_opens_levels_of_nothing_but_archives(tmp_path):
    mixed = tar_bytes({"s.npz": zip_bytes({"x.npy": b""}), "s.jpg": b"i"})
    path = write(tmp_path / "x.tar", tar_bytes({"a.tar": tar_bytes(SMALL), "b.tar": mixed}))
    assert names_of(path, "auto") == [*(f"a/{name}" for name in SMALL), "b/s.npz", "b/s.jpg"]
    plain = write(tmp_path / "y.tar", tar_bytes({"a.tar": tar_bytes(SMALL), "readme": b""}))
    assert names_of(plain, "auto") == ["a.tar", "readme"]
    assert names_of(plain, True) == [*(f"a/{name}" for name in SMALL), "readme"]


def test_nested_auto_of_plain_archive_saves_no_index_of_its_own(tmp_path):
    path = write(tmp_path / "x.tar", tar_bytes(SMALL))
    assert names_of(path, "auto") == list(SMALL)
    assert sorted(os.listdir(tmp_path)) == ["x.idx.npy", "x.tar"]


def test_nested_directory_is_refused(tmp_path):
    write(tmp_path / "x.tar", tar_bytes(SMALL))
    with pytest.raises(OptionError, match="list or a pattern"):
        imagearchive.open(tmp_path, nested=True)
    assert names_of(tmp_path, "auto") == ["x.tar"]


# ---------------------------------------------------------------- index


def test_nested_index_is_found_again_and_follows_the_archive(tmp_path):
    path = write(tmp_path / "x.tar", tar_bytes({"a.tar": tar_bytes(SMALL)}))
    assert names_of(path, True) == [f"a/{name}" for name in SMALL]
    index = tmp_path / "x.nested.idx.npy"
    saved = index.stat()
    with imagearchive.open(path, nested=True) as archive:
        assert archive.table.path == str(index)
    assert (index.stat().st_ino, index.stat().st_mtime_ns) == (saved.st_ino, saved.st_mtime_ns)
    write(path, tar_bytes({"b.tar": tar_bytes(SMALL), "c": b""}))
    assert names_of(path, True) == [*(f"b/{name}" for name in SMALL), "c"]


def test_nested_ipath_of_another_value_is_refused(tmp_path):
    path = write(tmp_path / "x.tar", tar_bytes({"a.tar": tar_bytes(SMALL), "b": b""}))
    index = tmp_path / "given.npy"
    with imagearchive.open(path, ipath=index, nested=True) as archive:
        assert archive.table.path == str(index)
    assert sorted(os.listdir(tmp_path)) == ["given.npy", "x.tar"]
    for nested in (False, "keep", 1):
        with pytest.raises(StaleIndexError, match="another value of nested"):
            imagearchive.open(path, ipath=index, nested=nested)
    with imagearchive.open(path, ipath=index, nested=True) as archive:
        assert len(archive) == 6


def test_nested_plain_index_serves_auto_of_plain_archive(tmp_path):
    path = write(tmp_path / "x.tar", tar_bytes(SMALL))
    index = tmp_path / "given.npy"
    imagearchive.open(path, ipath=index).close()
    with imagearchive.open(path, ipath=index, nested="auto") as archive:
        assert list(archive) == list(SMALL)


def test_nested_index_beside_archive_of_its_name_is_not_taken(tmp_path):
    write(tmp_path / "x.nested.tar", tar_bytes({"plain": b"1"}))
    write(tmp_path / "x.tar", tar_bytes({"a.tar": tar_bytes(SMALL)}))
    for _ in range(2):
        assert names_of(tmp_path / "x.nested.tar", False) == ["plain"]
        assert names_of(tmp_path / "x.tar", True) == [f"a/{name}" for name in SMALL]


def test_nested_index_is_no_member_of_a_directory(tmp_path):
    path = write(tmp_path / "x.tar", tar_bytes({"a.tar": tar_bytes(SMALL)}))
    names_of(path, "auto")
    assert names_of(tmp_path, False) == ["x.tar"]


@pytest.mark.parametrize(
    "change",
    [
        {"parent": 1},
        {"parent": 5},
        {"parent": -1},
        {"parent": None},
        {"offset": 1 << 40},
        {"offset": 7},
        {"stored_size": 1 << 40},
        {"size": 5},
        {"format": ""},
        {"format": "lzw"},
        {"checkpoints": [0, 5]},
        {"name": 5},
        {"crc": "x"},
        {"crc": 5},
    ],
    ids=str,
)
def test_nested_hostile_index_is_refused(tmp_path, change):
    path = write(
        tmp_path / "x.zip", deflated({"a.tar": tar_bytes(LARGE), "b.tar": tar_bytes(SMALL)})
    )
    with imagearchive.open(path, nested=True) as archive:
        table = archive.table
        sections = {name: getattr(table, name) for name in COLUMNS} | dict(table.extra)
        meta = table.meta
    index = tmp_path / "hostile.npy"
    changed = {**meta["derived"]["1"], **change}
    file_format.save(
        locate(index), sections, {**meta, "derived": {**meta["derived"], "1": changed}}
    )
    with (
        pytest.raises((CorruptIndexError, CorruptArchiveError)),
        imagearchive.open(path, ipath=index, nested=True) as archive,
    ):
        dict(archive)


# ---------------------------------------------------------------- several archives, processes


def test_nested_lists_join_views_of_all_archives(tmp_path):
    paths, expected = [], {}
    for number, kind in enumerate((".tar", "-deflated.zip", ".tar.gz", "-deflated.zip")):
        found = {f"{number}": LARGE, f"{number}b": SMALL}
        packed = {f"{name}{kind}": PACK[kind](one) for name, one in found.items()}
        paths.append(write(tmp_path / f"{number}.zip", deflated(packed)))
        for name, one in found.items():
            expected |= below(name + stem(kind), one)
    for _ in range(2):
        with imagearchive.open([str(path) for path in paths], nested="auto") as archive:
            assert dict(archive) == expected
            assert archive.info(len(archive) - 1).archive == str(paths[-1])
            names = random.Random(0).sample(list(expected), 20)
            assert [archive[name] for name in names] == [expected[name] for name in names]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_nested_archive_is_read_by_workers(tmp_path, method):
    packed = {"a.tar": tar_bytes(LARGE), "b.tgz": PACK[".tgz"](LARGE), "c.zip": deflated(SMALL)}
    path = write(tmp_path / "x.zip", deflated(packed))
    with imagearchive.open(path, nested=True) as archive:
        names = list(archive)[::3]
        expected = [archive[name] for name in names]
        assert [pickle.loads(pickle.dumps(archive))[name] for name in names] == expected
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        workers = [
            context.Process(target=put_members, args=(archive, names, queue)) for _ in range(2)
        ]
        for worker in workers:
            worker.start()
        for _ in workers:
            assert queue.get(timeout=60) == expected
        for worker in workers:
            worker.join()


@pytest.mark.parametrize("nested", [True, "auto"])
def test_nested_more_bins_than_files_can_be_open_are_opened(tmp_path, nested):
    write_split_data(tmp_path / "bins", [tar_bytes({"x": b"%d" % i}) for i in range(60)], splits=60)
    with files_left(30):
        found = names_of(tmp_path / "bins", nested)
    assert len(found) == 60
    with imagearchive.open(tmp_path / "bins", nested=nested) as archive:
        assert {archive[name] for name in found} == {b"%d" % i for i in range(60)}


@pytest.mark.parametrize("inner", [".tgz", "-deflated.zip"])
def test_nested_keep_decompressed_decompresses_each_span_once(tmp_path, inner):
    members = large_members(0)
    packed = {f"{name}{inner}": PACK[inner]({"t.tar": tar_bytes(members)}) for name in "ab"}
    path = write(tmp_path / "x.zip", deflated(packed))
    expected = {}
    for name in "ab":
        expected |= below(f"{name}{stem(inner)}/t", members)
    size = path.stat().st_size
    with imagearchive.open(path, nested=True) as archive:
        archive.keep_decompressed(64 << 20)
        order = random.Random(1).sample(list(expected), len(expected))
        before = bytes_read()
        assert [archive[name] for name in order] == [expected[name] for name in order]
        assert bytes_read() - before < 1.5 * size


def test_nested_many_views_are_opened_a_few_at_a_time(tmp_path):
    packed = {f"{i:03}.tgz": PACK[".tgz"]({"f": b"%d" % i}) for i in range(100)}
    path = write(tmp_path / "x.tar", tar_bytes(packed))
    with imagearchive.open(path, nested=True) as archive:
        order = random.Random(0).sample(range(100), 100)
        assert [archive[f"{i:03}/f"] for i in order] == [b"%d" % i for i in order]
