"""What an archive leaves out is counted, logged once, and known to a saved index."""

import gzip
import io
import logging
import os
import stat
import tarfile
import zipfile

import numpy as np
import pytest
from support import tar_cases, zip_cases
from support.archives import write_tar
from support.files import make_tar

import imagearchive
from imagearchive import ImageArchive, IndexTable
from imagearchive.cli import main
from imagearchive.containers.tar.tar_container import TarContainer
from imagearchive.errors import CorruptIndexError, UnsafePathError
from imagearchive.index import file_format
from imagearchive.storage.location import locate

MEMBERS = {
    "a": b"1",
    "pipe": (tarfile.FIFOTYPE, ""),
    "gone": (tarfile.SYMTYPE, "nothing"),
    "out": (tarfile.SYMTYPE, "../a"),
    "round": (tarfile.SYMTYPE, "round"),
    "hard": (tarfile.LNKTYPE, "nothing"),
}
REASONS = {
    "pipe": "special",
    "gone": "dangling_link",
    "out": "outside_link",
    "round": "looping_link",
    "hard": "dangling_link",
}


@pytest.fixture
def path(tmp_path):
    make_tar(tmp_path / "a.tar", MEMBERS)
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        info = tarfile.TarInfo("a")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"2"))
    return tmp_path / "a.tar"


def test_left_out_of_several_archives_is_logged_by_the_first_path(tmp_path, caplog):
    for name in "ab":
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            pipe = tarfile.TarInfo("pipe")
            pipe.type = tarfile.FIFOTYPE
            tar.addfile(pipe)
    paths = [str(tmp_path / f"{name}.tar") for name in "ab"]
    imagearchive.open(paths)
    imagearchive.open(paths[:1])
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [
        f"{paths[0]} and 1 more",
        paths[0],
    ]


def test_left_out_of_a_tar_says_why_also_from_a_saved_index(path):
    for _ in range(2):
        with imagearchive.open(path) as archive:
            assert {one.name: one.reason for one in archive.left_out.members} == {
                **REASONS,
                "a": "replaced",
            }
            assert len(archive.left_out) == 6
            assert archive["a"] == b"2"
            # The second time, from the index.
            assert archive.table.path is not None


def test_left_out_is_logged_once(path, caplog):
    for _ in range(3):
        with imagearchive.open(path):
            pass
    [record] = [one for one in caplog.records if "left out" in one.getMessage()]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{path}: 6 members are left out or cannot be read: ")
    assert "links to nothing in the archive (2)" in record.getMessage()


def test_left_out_of_several_archives_is_joined(path, tmp_path):
    write_tar(tmp_path / "b.tar", {"b": b"1"})
    make_tar(tmp_path / "c.tar", {"c": b"1", "pipe": (tarfile.FIFOTYPE, "")})
    paths = [tmp_path / name for name in ("b.tar", "a.tar", "c.tar")]
    for _ in range(2):
        with imagearchive.open(paths, ipath=tmp_path / "joined.idx.npy") as archive:
            assert archive.left_out.counts["special"] == 2
            files = [one.file for one in archive.left_out.members if one.name == "pipe"]
            assert [archive.table.files[file] for file in files] == [
                *(str(path), str(tmp_path / "c.tar"))
            ]


def test_left_out_of_a_zip_counts_what_cannot_be_read(tmp_path):
    data = zip_cases.build(
        zip_cases.member(b"good", b"1"),
        zip_cases.member(b"secret", b"?" * 13, flags=1, size=1),
        zip_cases.member(b"lzma", b"?" * 12, 14),
        zip_cases.member(b"pipe", b"", attributes=stat.S_IFIFO << 16),
        zip_cases.member(b"link", b"nothing", attributes=(stat.S_IFLNK | 0o777) << 16),
    )
    (tmp_path / "a.zip").write_bytes(data)
    with imagearchive.open(tmp_path / "a.zip") as archive:
        assert archive.left_out.counts == {
            **{"special": 1, "dangling_link": 1},
            **{"encrypted": 1, "unsupported": 1},
        }
        assert list(archive) == ["good", "secret", "lzma"]


def test_left_out_is_empty_for_a_whole_archive(tmp_path):
    write_tar(tmp_path / "a.tar", {"x": b"1", "y/": b""})
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("x", b"1")
    imagearchive.write_split_data(tmp_path / "c", [b"1"], splits=1)
    for name in ("a.tar", "b.zip", "c"):
        with imagearchive.open(tmp_path / name) as archive:
            assert not archive.left_out
            assert archive.left_out.counts == {}


@pytest.mark.parametrize(
    "stored",
    [
        1,
        {},
        {"counts": {"special": -1}, "members": []},
        {"counts": {"special": 1}, "members": [["name", "other", 0]]},
        {"counts": {"special": 1}, "members": [["name", "special", 0]] * 101},
        {"counts": {"special": 1}, "members": [["n" * 2000, "special", 0]]},
        {"counts": {"special": 1}, "members": [["name", ["special"], 0]]},
    ],
)
def test_left_out_that_is_malformed_in_an_index_is_refused(path, tmp_path, stored):
    table = IndexTable.build(path)
    table.meta["left_out"] = stored
    sections = {
        name: getattr(table, name)
        for name in (
            *("entries", "label_values", "label_offsets"),
            *("names", "name_offsets", "name_order"),
        )
    }
    file_format.save(locate(tmp_path / "bad.idx.npy"), sections, table.meta)
    with pytest.raises(CorruptIndexError, match="left out"):
        imagearchive.open(path, ipath=tmp_path / "bad.idx.npy")


def test_verify_reports_what_is_left_out_and_names_in_a_wrong_order(path, tmp_path):
    with imagearchive.open(path) as archive:
        report = imagearchive.verify(archive)
        assert report.left_out.counts == archive.left_out.counts
        assert not report.failures
    write_tar(tmp_path / "b.tar", {"a": b"1", "b": b"2"})
    table = IndexTable.build(tmp_path / "b.tar")
    table.name_order = table.name_order[::-1].copy()
    table.save(tmp_path / "bad.idx.npy")
    with imagearchive.open(tmp_path / "b.tar", ipath=tmp_path / "bad.idx.npy") as archive:
        [failure] = imagearchive.verify(archive).failures
        assert "wrong order" in failure.message


LINKED = {
    "raw/cat/1.png": b"1",
    "raw/cat/deep/2.png": b"2",
    "data/dog/3.png": b"3",
}


def zip_with_links(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in LINKED.items():
            archive.writestr(name, data)
        info = zipfile.ZipInfo("data/cat")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "../raw/cat")
    return path


def tar_with_links(path):
    return make_tar(path, {**LINKED, "data/cat": (tarfile.SYMTYPE, "../raw/cat")})


@pytest.mark.parametrize("write", [zip_with_links, tar_with_links])
def test_linked_directory_of_an_archive_is_a_class(tmp_path, write):
    path = write(tmp_path / "archive")
    for _ in range(2):
        dataset = ImageArchive(path, root="data")
        assert dataset.classes == ["cat", "dog"]
        assert sorted(dataset.samples) == [
            ("data/cat/1.png", 0),
            ("data/cat/deep/2.png", 0),
            ("data/dog/3.png", 1),
        ]
        assert sorted(bytes(dataset.read(i)) for i in range(3)) == [b"1", b"2", b"3"]
        archive = dataset.archive
        assert archive.listdir("data/cat") == ["1.png", "deep"]
        assert archive.glob("data/cat/*") == ["data/cat/1.png", "data/cat/deep"]
        assert [folder for folder, _, _ in archive.walk("data")] == [
            *("data", "data/cat", "data/cat/deep", "data/dog")
        ]
        assert not archive.left_out


def test_linked_directory_of_a_large_archive_has_every_file(tmp_path):
    members = {f"raw/{number:05d}": b"%d" % number for number in range(3000)}
    make_tar(tmp_path / "a.tar", {**members, "l": (tarfile.SYMTYPE, "raw")})
    with imagearchive.open(tmp_path / "a.tar") as archive:
        assert len(archive) == 6000
        order = np.random.default_rng(0).permutation(3000)[:50]
        assert all(archive[f"l/{number:05d}"] == b"%d" % number for number in order)


def test_volume_label_is_silent_and_a_continuation_is_refused(tmp_path, caplog):
    label = tar_cases.member(b"backup", b"", b"V", magic=tar_cases.GNU_MAGIC)
    rest = tar_cases.member(b"half", b"rest", b"M", magic=tar_cases.GNU_MAGIC)
    whole = tar_cases.member(b"a", b"1")
    (tmp_path / "label.tar").write_bytes(label + whole + tar_cases.END)
    with imagearchive.open(tmp_path / "label.tar") as archive:
        assert not archive.left_out
        assert imagearchive.extract(archive, tmp_path / "out").files == 1
    assert not caplog.records
    (tmp_path / "rest.tar").write_bytes(rest + whole + tar_cases.END)
    with imagearchive.open(tmp_path / "rest.tar") as archive:
        assert list(archive) == ["a"]
        assert archive.left_out.counts == {"continuation": 1}
        with pytest.raises(UnsafePathError, match="begins in another volume"):
            imagearchive.extract(archive, tmp_path / "two")
    assert "the rest of a file that begins in another volume (1)" in caplog.text


@pytest.mark.parametrize("compress", [lambda data: data, gzip.compress])
@pytest.mark.parametrize("count", [3, 150])
def test_extract_refuses_every_special_member(tmp_path, caplog, compress, count):
    make_tar(tmp_path / "plain.tar", {
        **{f"pipe{number}": (tarfile.FIFOTYPE, "") for number in range(count)}, "a": b"1",
    })  # fmt: skip
    (tmp_path / "a.tar").write_bytes(compress((tmp_path / "plain.tar").read_bytes()))
    with imagearchive.open(tmp_path / "a.tar") as archive:
        caplog.clear()
        with pytest.raises(UnsafePathError, match=f"{count} members cannot be extracted"):
            imagearchive.extract(archive, tmp_path / "out")
        done = imagearchive.extract(archive, tmp_path / "out", skip_unsafe=True)
        assert sorted(one.name for one in done.refused) == sorted(
            f"pipe{number}" for number in range(count)
        )
        assert done.files == 1
        assert not caplog.records


def test_extract_with_a_nameless_member_refuses_it(tmp_path, capfd):
    write_tar(tmp_path / "a.tar", {"/": b"lost", "a": b"1"})
    said = "'/': a file without a name"
    with imagearchive.open(tmp_path / "a.tar") as archive:
        with pytest.raises(UnsafePathError, match=f"1 member cannot be extracted.*{said}"):
            imagearchive.extract(archive, tmp_path / "out")
        done = imagearchive.extract(archive, tmp_path / "out", skip_unsafe=True)
        assert [one.name for one in done.refused] == ["/"]
    assert os.listdir(tmp_path / "out") == ["a"]
    assert main(["extract", str(tmp_path / "a.tar"), str(tmp_path / "two")]) == 1
    assert not (tmp_path / "two").exists()
    arguments = ["extract", "--skip-unsafe", str(tmp_path / "a.tar"), str(tmp_path / "two")]
    assert main(arguments) == 0
    assert "not extracted: /: a file without a name" in capfd.readouterr().err


def test_extract_without_left_out_members_scans_nothing_again(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", {"x": b"1"})
    with imagearchive.open(tmp_path / "a.tar") as archive:
        monkeypatch.setattr(TarContainer, "scan", lambda *arguments: pytest.fail("scanned again"))
        assert imagearchive.extract(archive, tmp_path / "out").files == 1


def test_damage_is_logged_once_with_its_place(tmp_path, caplog):
    data = zip_cases.build(
        zip_cases.member(b"good", b"1"), zip_cases.member(b"bad", b"123", offset=1)
    )
    (tmp_path / "a.zip").write_bytes(data)
    with imagearchive.open(tmp_path / "a.zip", strict=False) as archive:
        assert list(archive) == ["good"]
    [record] = caplog.records
    assert "damaged (1); such as 'bad'" in record.getMessage()
    assert "at offset 1: " in record.getMessage()
