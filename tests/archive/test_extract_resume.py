"""Extractions that end early, and continue."""

import io
import os
import re
import tarfile

import pytest
from support.files import make_tar, tree

import imagearchive
from imagearchive.archive.extract import extract
from imagearchive.archive.extraction import CHUNK
from imagearchive.archive.writers import TarWriter


class Stop(Exception):
    """Ends an extraction early."""


def extract_partly(archive, target, members=None, count=CHUNK, **options):
    """Extract until at least `count` files are done."""
    done = []

    def progress(step):
        done.append(step)
        if sum(done) >= count:
            raise Stop

    with pytest.raises(Stop):
        extract(archive, target, members, threads=1, progress=progress, **options)


NUMBERED = {f"{i % 7}/{i}": b"%d" % i * 50 for i in range(3 * CHUNK)}


@pytest.mark.parametrize("storage", ["mmap", "pread"])
@pytest.mark.parametrize("mtime", [0, 1_600_000_000])
def test_extract_stopped_early_continues(tmp_path, storage, mtime, caplog):
    with TarWriter(tmp_path / "a.tar", mtime=mtime) as tar:
        for name, data in NUMBERED.items():
            tar.add(name, data)
    with imagearchive.open(tmp_path / "a.tar", storage=storage) as archive:
        extract_partly(archive, tmp_path / "out")
        (record,) = caplog.records
        assert f"out: stopped after {CHUNK} of {3 * CHUNK} files; they are in" in record.message
        assert not (tmp_path / "out").exists()
        (part,) = tmp_path.glob("out.*.part")
        before = {path: path.stat().st_ino for path in part.glob("*/*")}
        # As if the process was killed in the middle of a file, or just before its end.
        torn, *whole = before
        torn.write_bytes(torn.read_bytes()[:-1])
        calls = []
        done = extract(archive, tmp_path / "out", progress=calls.append)
        assert done.resumed == CHUNK - 1
        assert (done.files, done.skipped) == (2 * CHUNK + 1, 0)
        assert sum(calls) == 3 * CHUNK
    assert tree(tmp_path / "out") == NUMBERED
    assert sorted(os.listdir(tmp_path)) == ["a.idx.npy", "a.tar", "out"]
    for path in whole:
        assert (tmp_path / "out" / path.relative_to(part)).stat().st_ino == before[path]


def test_extract_stopped_early_writes_a_file_again_whose_time_is_not_set(tmp_path):
    """The time is set last, so a file with another one may lack data in a hole at its end."""
    path = make_tar(tmp_path / "a.tar", NUMBERED, mtime=5)
    with imagearchive.open(path) as archive:
        extract_partly(archive, tmp_path / "out")
        (torn, *_) = tmp_path.glob("out.*.part/*/*")
        torn.write_bytes(bytes(torn.stat().st_size))
        assert extract(archive, tmp_path / "out").resumed == CHUNK - 1
    assert tree(tmp_path / "out") == NUMBERED


def test_extract_stopped_while_it_counts_earlier_files_says_so(tmp_path, monkeypatch, caplog):
    path = make_tar(tmp_path / "a.tar", NUMBERED)
    stat = os.stat
    checked = []

    def stat_until(name, **options):
        if options.get("dir_fd") is not None:
            checked.append(name)
            if len(checked) == CHUNK // 2:
                raise Stop
        return stat(name, **options)

    with imagearchive.open(path) as archive:
        extract_partly(archive, tmp_path / "out")
        caplog.clear()
        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(os, "stat", stat_until)
            extract(archive, tmp_path / "out")
        (record,) = caplog.records
        assert re.search(r"out: stopped after at least [1-9]\d* of", record.message)
        assert extract(archive, tmp_path / "out").resumed == CHUNK
    assert tree(tmp_path / "out") == NUMBERED


def test_extract_of_other_members_does_not_continue(tmp_path):
    path = make_tar(tmp_path / "a.tar", NUMBERED)
    with imagearchive.open(path) as archive:
        extract_partly(archive, tmp_path / "out")
        extract(archive, tmp_path / "out", [5])
        assert tree(tmp_path / "out") == {archive.name(5): archive.read(5)}
    # What can never be continued is removed, as its target is there.
    assert sorted(os.listdir(tmp_path)) == ["a.idx.npy", "a.tar", "out"]


def test_extract_of_a_changed_archive_does_not_continue(tmp_path):
    path = make_tar(tmp_path / "a.tar", NUMBERED)
    with imagearchive.open(path) as archive:
        extract_partly(archive, tmp_path / "out")
    changed = {name: data[::-1] for name, data in NUMBERED.items()}
    make_tar(path, changed)
    with imagearchive.open(path) as archive:
        assert extract(archive, tmp_path / "out").resumed == 0
    assert tree(tmp_path / "out") == changed


def test_extract_continues_without_unsafe_members(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    content = {"../file": b"1", **NUMBERED}
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    before = (tmp_path / "file").stat().st_ino
    with imagearchive.open(tmp_path / "a.tar") as archive:
        extract_partly(archive, tmp_path / "out", skip_unsafe=True)
        extract(archive, tmp_path / "out", skip_unsafe=True)
    assert tree(tmp_path / "out") == NUMBERED
    assert (tmp_path / "file").stat().st_ino == before


def test_extract_into_an_existing_directory_says_how_to_continue(tmp_path, caplog):
    path = make_tar(tmp_path / "a.tar", NUMBERED)
    out = tmp_path / "out"
    out.mkdir()
    with imagearchive.open(path) as archive:
        extract_partly(archive, out)
        (record,) = caplog.records
        assert "to continue, extract again and skip existing files" in record.message
        (edited, *_) = out.glob("*/*")
        edited.write_bytes(b"edited")
        done = extract(archive, out, existing="skip")
    assert (done.files, done.skipped) == (2 * CHUNK, CHUNK)
    assert edited.read_bytes() == b"edited"
    assert len(tree(out)) == len(NUMBERED)


def test_extract_continues_hard_links(tmp_path):
    """Links are made after the files that they lead to, some of them before the interruption."""
    names = [f"{i:03}" for i in range(CHUNK)]
    links = {f"link-{name}": (tarfile.LNKTYPE, name) for name in names}
    content = {name: name.encode() for name in names}
    path = make_tar(tmp_path / "a.tar", {**content, **links})
    for count in (CHUNK, CHUNK + 1):
        out = tmp_path / f"out{count}"
        with imagearchive.open(path) as archive:
            extract_partly(archive, out, count=count)
            (part,) = tmp_path.glob(f"out{count}.*.part")
            for name in ("link-001", "002", "link-003", "003"):
                if (part / name).exists():
                    os.unlink(part / name)
            done = extract(archive, out)
            assert done.files + done.resumed == 2 * CHUNK
        assert tree(out) == {**content, **{f"link-{name}": content[name] for name in names}}
