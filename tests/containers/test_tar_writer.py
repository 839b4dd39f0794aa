"""The TAR writer, with tarfile and GNU tar as oracles."""

import io
import os
import subprocess
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.files import fill

import imagearchive
from imagearchive.archive.writers import TarWriter
from imagearchive.containers.tar.ustar import header
from imagearchive.errors import (
    OptionError,
    OptionTypeError,
)


def gnu_tar(*arguments):
    return subprocess.run(["tar", *arguments], check=True, capture_output=True).stdout


NAMES = [
    "a",
    "b/c.jpg",
    "b/" + "x" * 98,
    "x" * 100,
    "x" * 101,
    "d" * 155 + "/" + "x" * 100,
    "d" * 156 + "/" + "x" * 100,
    "/".join(["deep"] * 60),
    "größe/日本.png",
    "line\nbreak",
    "space and 'quotes'",
    b"\xff\xfe not utf-8".decode("utf-8", "surrogateescape"),
    "y" * 65536,
    "ä" * 300,
]


def test_tar_writer_is_read_by_tarfile_and_gnu_tar(tmp_path):
    path = str(tmp_path / "a.tar")
    content = {name: name.encode("utf-8", "surrogateescape")[:1000] * 3 for name in NAMES}
    with TarWriter(path) as tar:
        for name, data in content.items():
            tar.add(name, data)
        assert len(tar) == len(NAMES)
        assert not os.path.exists(path)
    with tarfile.open(path) as archive:
        assert archive.getnames() == NAMES
        for member in archive:
            assert archive.extractfile(member).read() == content[member.name]
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            assert member.isreg()
    listed = gnu_tar("--quoting-style=literal", "--null", "-tf", path)
    assert listed == b"".join(n.encode("utf-8", "surrogateescape") + b"\n" for n in NAMES)
    with imagearchive.open(path) as archive:
        assert list(archive) == NAMES
        assert {name: archive[name] for name in archive} == content
    assert os.path.getsize(path) % 10240 == 0


@given(
    st.lists(
        st.tuples(
            st.text(
                st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1
            ).filter(lambda name: name not in (".", "..")),
            st.binary(max_size=1500),
        ),
        max_size=8,
    )
)
@settings(max_examples=40)
def test_tar_writer_takes_any_names_and_sizes(tmp_path_factory, members):
    path = str(tmp_path_factory.mktemp("any") / "a.tar")
    with TarWriter(path, index=False, sync=False) as tar:
        for name, data in members:
            tar.add(name, data)
    with tarfile.open(path) as archive:
        found = [(member.name, archive.extractfile(member).read()) for member in archive]
    assert found == members


@given(
    st.binary(min_size=1, max_size=400).filter(lambda name: b"\0" not in name),
    st.integers(0, 2**40),
    st.integers(-(2**35), 2**35),
    st.integers(0, 0o7777),
)
def test_header_is_the_one_of_tarfile(name, size, mtime, mode):
    data = header(name, size, mtime, mode)
    assert len(data) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024)), errors="surrogateescape") as archive:
        member = archive.next()
    # tarfile drops slashes at the end.
    assert member.name.rstrip("/").encode("utf-8", "surrogateescape") == name.rstrip(b"/")
    assert (member.size, member.mtime, member.mode) == (size, mtime, mode)


def test_header_of_a_terabyte_has_a_pax_record():
    data = header(b"big", 1 << 40)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.next().size == 1 << 40


@pytest.mark.parametrize(
    "size", [0, 1, 511, 512, 513, (1 << 20) - 512, 1 << 20, (1 << 20) + 1, 3 << 20]
)
def test_add_file_takes_files_of_any_size(tmp_path, size):
    data = np.random.default_rng(size).bytes(size)
    source = fill(str(tmp_path / "src"), {"f": data})
    path = str(tmp_path / "a.tar")
    with TarWriter(path, index=False) as tar:
        tar.add("first", b"1")
        tar.add_file(os.path.join(source, "f"), "f")
        tar.add("again", data)
        tar.add_chunks("chunks", [data[:100], data[100:]], size)
    with tarfile.open(path) as archive:
        for name in ("f", "again", "chunks"):
            assert archive.extractfile(name).read() == data


def test_tar_writer_records_given_times_and_permissions(tmp_path):
    path = str(tmp_path / "a.tar")
    source = tmp_path / "f"
    source.write_bytes(b"x")
    os.utime(source, (5, 1234.5))
    with TarWriter(path, mtime=7, mode=0o600) as tar:
        tar.add("default", b"")
        tar.add("given", b"", mtime=-9, mode=0o755)
        tar.add_file(source, "kept", keep_mtime=True)
    with tarfile.open(path) as archive:
        found = {member.name: (member.mtime, member.mode) for member in archive}
    assert found == {"default": (7, 0o600), "given": (-9, 0o755), "kept": (1234, 0o600)}


def test_tar_writer_refuses_text(tmp_path):
    with TarWriter(tmp_path / "a.tar") as tar, pytest.raises(OptionTypeError, match="str"):
        tar.add("a", "text")


def test_add_chunks_refuses_another_size_than_announced(tmp_path):
    with (
        pytest.raises(OptionError, match="the chunks have 2 bytes, but size is 3"),
        TarWriter(tmp_path / "a.tar") as tar,
    ):
        tar.add_chunks("a", [b"xy"], 3)
    assert os.listdir(tmp_path) == []


def test_tar_writer_closed_twice_takes_no_members(tmp_path):
    tar = TarWriter(tmp_path / "a.tar")
    tar.close()
    tar.close()
    with pytest.raises(ValueError, match="closed"):
        tar.add("x", bytes(2 << 20))
