"""The ZIP writer, with zipfile as its oracle."""

import os
import time
import zipfile

import pytest

import imagearchive
from imagearchive.archive.writers import ZipWriter
from imagearchive.containers.zip.stream import MemberHeader, ZipStream
from imagearchive.errors import OptionTypeError, UnsafePathError


def test_zip_writer_aligns_members_and_is_read_by_zipfile(tmp_path):
    path = str(tmp_path / "a.zip")
    content = {"a": b"1", "größe/b.bin": bytes(3000), "c" * 300: b""}
    with ZipWriter(path) as packed:
        for name, data in content.items():
            packed.add_chunks(name, [data[:1], data[1:]], mtime=1_600_000_000, mode=0o755)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == content
        assert archive.infolist()[0].date_time == (2020, 9, 13, 12, 26, 40)
    with imagearchive.open(path) as archive:
        assert {name: archive[name] for name in archive} == content
        assert all(offset % 64 == 0 for offset in archive.table.entries["offset"].tolist())
    with ZipWriter(tmp_path / "b.zip") as packed, pytest.raises(UnsafePathError, match="UTF-8"):
        packed.add_chunks("\udcff", [b""])


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), b""])
def test_zip_writer_add_takes_bytes_as_tar_writer_does(tmp_path, data):
    with ZipWriter(tmp_path / "a.zip") as packed:
        packed.add("a", data)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("a") == bytes(data)


@pytest.mark.parametrize("data", ["text", [b"chunk"], 5, None])
def test_zip_writer_add_what_is_not_bytes_raises(tmp_path, data):
    with ZipWriter(tmp_path / "a.zip") as packed:
        with pytest.raises(OptionTypeError, match="'a': the data must be bytes-like"):
            packed.add("a", data)
        packed.add("b", b"kept")
    assert imagearchive.open(tmp_path / "a.zip")["b"] == b"kept"


def test_zip_writer_clips_times_to_those_of_zip(tmp_path):
    with ZipWriter(tmp_path / "a.zip") as packed:
        packed.add_chunks("old", [b""], mtime=-5)
        packed.add_chunks("new", [b""], mtime=2**40)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert [info.date_time[0] for info in archive.infolist()] == [1980, 2107]
    assert time.gmtime(4_354_819_200)[0] == 2108


@pytest.mark.parametrize("size", [2**32 - 2, 2**32 - 1, 2**32, 5 * 2**30])
def test_zip_stream_uses_zip64_fields_beyond_their_limit(tmp_path, size):
    path = tmp_path / "a.zip"
    with open(path, "wb") as file:
        stream = ZipStream(file)
        stream.add(b"first", [b"1" * 10])
        # The data of a large member, as a hole.
        header = MemberHeader(b"large", file.tell(), deflated=False)
        header.size = header.stored_size = size
        file.write(header.local())
        file.seek(size, os.SEEK_CUR)
        stream.add_record(header)
        stream.add(b"last", [b"2" * 999], level=1)
        stream.finish()
    assert os.stat(path).st_blocks * 512 < 1 << 20
    with zipfile.ZipFile(path) as archive:
        assert [info.file_size for info in archive.infolist()] == [10, size, 999]
        assert [info.compress_size for info in archive.infolist()][:2] == [10, size]
        assert archive.read("first") == b"1" * 10
        assert archive.read("last") == b"2" * 999
        assert archive.infolist()[2].header_offset > size
    with imagearchive.open(path, storage="pread") as archive:
        assert [archive.info(position).size for position in range(3)] == [10, size, 999]
        assert archive["last"] == b"2" * 999
        assert bytes(archive.member("large").read(size - 10, 10)) == bytes(10)


def test_zip_writer_stores_65536_members(tmp_path):
    with ZipWriter(tmp_path / "a.zip", sync=False) as packed:
        for number in range(65_536):
            packed.add_chunks(f"{number}", [])
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert len(archive.namelist()) == 65_536
