"""TAR headers that contradict themselves, read as `tarfile` and GNU tar read them."""

import subprocess
import tarfile
import zipfile

import pytest
from support import tar_cases as cases

import imagearchive


def header(name, size=0, kind=b"0", linkname=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, linkname
    return info.tobuf(tarfile.USTAR_FORMAT)


def padded(data):
    return data + bytes(-len(data) % 512)


def long_name(kind, size, text):
    return header("././@LongLink", size, kind) + padded(text)


SPARSE = b"".join(
    cases.record(key, value)
    for key, value in (
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"sparse"), (b"GNU.sparse.realsize", b"100"),
    )
)  # fmt: skip
NAME = b"directory/" * 12 + b"name"
ARCHIVES = {
    "name longer than its size": long_name(b"L", 10, NAME) + header("short", 1) + padded(b"x"),
    "name of a block": long_name(b"L", 9, b"n" * 200) + header("short", 1) + padded(b"x"),
    "link longer than its size": header("target", 1) + padded(b"x")
    + long_name(b"K", 3, b"target\0") + header("link", 0, b"2", "tar"),
    "name with a NUL": long_name(b"L", 20, b"abc\0defghijklmnop\0") + header("short"),
    "sparse member of an unknown type": header("p", len(SPARSE), b"x") + padded(SPARSE)
    + header("GNUSparseFile.0/sparse", 513, b"Z") + padded(b"1\n99\n1\n") + padded(b"x")
    + header("next", 1) + padded(b"n"),
}  # fmt: skip


@pytest.mark.parametrize("data", ARCHIVES.values(), ids=ARCHIVES)
def test_tar_disputed_headers_are_read_as_others_read_them(data, tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(data + bytes(1024))
    with tarfile.open(path) as tar:
        expected = {member.name: tar.extractfile(member).read() for member in tar}
    with imagearchive.open(path) as archive:
        assert dict(archive) == expected
    folder = tmp_path / "gnu"
    folder.mkdir()
    subprocess.run(["tar", "-xf", path, "-C", folder], check=True, stderr=subprocess.DEVNULL)
    found = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    assert found == expected


@pytest.mark.parametrize("name", ["/", "//", "./", "/./", "a/.."])
@pytest.mark.parametrize("count", [1, 3])
def test_tar_files_without_a_name_are_left_out_as_by_gnu_tar(name, count, tmp_path, caplog):
    path = tmp_path / "x.tar"
    nameless = (header(name, 1) + padded(b"x")) * count
    path.write_bytes(nameless + header("a", 1) + padded(b"y") + bytes(1024))
    for _ in range(2):
        # The second time, from the index.
        with imagearchive.open(path) as archive:
            assert dict(archive) == {"a": b"y"}
            assert archive.left_out.counts == {"no_name": count}
            assert archive.left_out.members == [(name, "no_name", 0)] * count
    assert caplog.text.count("without a name") == 1
    with imagearchive.open(path) as archive:
        done = imagearchive.extract(archive, tmp_path / "out", skip_unsafe=True)
    assert [one.name for one in done.refused] == [name] * count
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a"]
    assert (tmp_path / "out" / "a").read_bytes() == b"y"


def test_zip_files_without_a_name_are_left_out(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(200):
            archive.writestr(f"{number}/..", b"x")
        archive.writestr("a", b"y")
    with imagearchive.open(path) as archive:
        assert dict(archive) == {"a": b"y"}
        assert archive.left_out.counts == {"no_name": 200}
        assert len(archive.left_out.members) == 100
