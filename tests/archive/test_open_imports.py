"""What opening an archive imports, and how often it opens the file."""

import subprocess
import sys
import tarfile

import pytest

PROBE = """
import sys, imagearchive

with imagearchive.open(sys.argv[1]) as archive:
    assert len(archive) == 1
print(*sys.modules)
"""

COMPRESSED = {
    f"imagearchive.storage.{name}"
    for name in ("compressed", "stream_format", "gzip", "bzip2", "xz", "zstd", "deflate", "inflate")
}
NESTED = {"imagearchive.index.nested"}


def modules_of_opening(path):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, path], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.fixture
def plain(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(__file__, "a.py")
    return tmp_path / "a.tar"


def test_open_plain_tar_imports_nothing_for_compressed_or_nested_archives(plain):
    for has_index in (False, True):
        assert plain.with_name("a.idx.npy").exists() is has_index
        assert not (COMPRESSED | NESTED) & modules_of_opening(plain)


def test_open_compressed_tar_imports_compressed_streams(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(__file__, "a.py")
    modules = modules_of_opening(tmp_path / "a.tar.gz")
    assert "imagearchive.storage.gzip" in modules
    assert not NESTED & modules


def test_open_from_nothing_opens_the_archive_three_times(plain):
    # For its format and headers, for the digest of its headers, and for the start of its first
    # member. On a network file system, each is a request.
    script = (
        "import sys\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, arguments: event == 'open' and opened.append(arguments))\n"
        "import imagearchive\n"
        "imagearchive.open('a.tar')\n"
        "print(sum(str(path).endswith('a.tar') for path, *_ in opened))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=plain.parent, capture_output=True, text=True, check=True
    )
    assert 1 <= int(done.stdout) <= 3
