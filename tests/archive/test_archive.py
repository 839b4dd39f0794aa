"""One contract for `Archive`, run over every container, and a real file system as oracle."""

import array
import copy
import difflib
import gc
import glob
import io
import json
import mmap
import os
import pickle
import shutil
import threading
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import tar_cases
from support.ar import write_ar
from support.archives import encoded, write_tar

import imagearchive
from imagearchive import Archive, write_split_data
from imagearchive.archive import archive as archive_module
from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    CorruptArchiveError,
    LimitError,
    MemberNotFoundError,
    OptionError,
    OptionTypeError,
    SampleIndexError,
    StaleIndexError,
    UnsupportedMemberError,
)
from imagearchive.storage.local import open_storage
from imagearchive.storage.location import LocalLocation

PICTURE = encoded(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
MEMBERS = {
    "README": b"read me\nplease\n",
    "images/cat/0.png": PICTURE,
    "images/cat/1.jpg": b"x" * 70_000,
    "images/cat-b/a b.png": b"blank",
    "images/dog/é.png": b"accent",
    "images/.hidden/1.png": b"hidden",
    "images/.dot.png": b"dot",
    "labels.json": b'{"a": 1}',
    "deep/er/and/deeper/x.npy": b"",
}


def make_directory(folder, members=MEMBERS):
    for name, data in members.items():
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / "tree"


def make_zip(folder, method):
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in MEMBERS.items():
            archive.writestr(name, data)
    return path


def make_barecat(folder):
    import barecat

    path = folder / "data.barecat"
    with barecat.Barecat(str(path), readonly=False) as archive:
        for name, data in MEMBERS.items():
            archive[name] = data
    return path


def make_shards(folder):
    names = list(MEMBERS)
    for number in range(3):
        write_tar(folder / f"s-{number}.tar", {name: MEMBERS[name] for name in names[number::3]})
    return str(folder / "s-{0..2}.tar")


CONTAINERS = {
    "tar": lambda folder: write_tar(folder / "data.tar", MEMBERS),
    "tar with dots": lambda folder: write_tar(
        folder / "dots.tar", {"./" + name: data for name, data in MEMBERS.items()}
    ),
    "stored zip": lambda folder: make_zip(folder, zipfile.ZIP_STORED),
    "deflated zip": lambda folder: make_zip(folder, zipfile.ZIP_DEFLATED),
    "barecat": make_barecat,
    "unix ar": lambda folder: write_ar(folder / "data.a", MEMBERS),
    "directory": make_directory,
    "shards": make_shards,
    "mixed list": lambda folder: [
        write_tar(folder / "a.tar", dict(list(MEMBERS.items())[:4])),
        make_directory(folder, dict(list(MEMBERS.items())[4:])),
    ],
}


@pytest.fixture(scope="module", params=list(CONTAINERS))
def container(request, tmp_path_factory):
    return CONTAINERS[request.param](tmp_path_factory.mktemp("container"))


@pytest.fixture(params=["mmap", "pread", "memory"])
def archive(request, container):
    with imagearchive.open(container, storage=request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    return str(make_directory(tmp_path_factory.mktemp("extracted")))


# --- mapping ------------------------------------------------------------------------------------


def test_archive_is_a_mapping_of_names_to_bytes(archive):
    assert dict(archive) == MEMBERS
    assert len(archive) == len(MEMBERS)
    assert set(archive.keys()) == set(MEMBERS)
    for name, data in MEMBERS.items():
        assert archive[name] == data
        assert type(archive[name]) is bytes
        assert name in archive
    assert "images" not in archive
    assert 5 not in archive
    assert archive.get("nothing") is None


def test_read_by_position_returns_the_member(archive):
    for position, name in enumerate(archive):
        assert archive.name(position) == name
        assert bytes(archive.read(position)) == MEMBERS[name]
        assert bytes(archive.read(position - len(archive))) == MEMBERS[name]
        assert bytes(archive.read(np.int64(position))) == MEMBERS[name]
        assert archive.position(name) == position
    for position in (len(archive), -len(archive) - 1):
        with pytest.raises(SampleIndexError, match=str(len(archive))):
            archive.read(position)
    for position in (2**70, -(2**70)):
        with pytest.raises(SampleIndexError):
            archive.read(position)
        with pytest.raises(SampleIndexError):
            archive.info(position)
    with pytest.raises(OptionTypeError):
        archive.read(1.5)


@pytest.mark.parametrize("key", [0, None, b"README", Path("README"), 1.5, "\ud800", "R\0"])
def test_archive_key_that_is_not_a_name_is_missing(archive, key):
    assert key not in archive
    assert archive.get(key, "default") == "default"
    with pytest.raises(KeyError):
        archive[key]


def test_archive_lone_surrogate_is_missing(archive):
    assert not archive.exists("images/\ud800")
    assert archive.glob("\ud800") == []
    with pytest.raises(KeyError):
        archive.listdir("\ud800")


def test_missing_name_error_suggests_the_closest(archive):
    with pytest.raises(MemberNotFoundError, match=r"images/cat/0\.png"):
        archive["images/cat/O.png"]
    with pytest.raises(KeyError, match="directory"):
        archive["images/cat"]


def test_read_many_keeps_the_order_of_keys(archive):
    names = list(MEMBERS)
    random = np.random.default_rng(1)
    wanted = [
        names[i] if i % 2 else int(archive.position(names[i])) for i in random.integers(0, 9, 40)
    ]
    got = [bytes(data) for data in archive.read_many(wanted)]
    assert got == [bytes(archive.read(key)) for key in wanted]
    assert archive.read_many([]) == []
    with pytest.raises(OptionTypeError, match="one name"):
        archive.read_many("README")
    with pytest.raises(KeyError):
        archive.read_many(["README", "nothing"])


def test_missing_name_error_searches_only_when_it_is_read(archive, monkeypatch):
    def compared(*args):
        raise RuntimeError("compared")

    with monkeypatch.context() as patch:
        patch.setattr(difflib, "get_close_matches", compared)
        with pytest.raises(KeyError) as missing:
            archive["images/cat/O.png"]
        with pytest.raises(KeyError) as folder:
            archive.listdir("images/cot")
        assert archive.get("images/cat/O.png") is None
        assert "images/cat/O.png" not in archive
    for error, text in ((missing.value, "images/cat/0.png"), (folder.value, "mean 'images/cat'?")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) is MemberNotFoundError
        assert text in str(error) == str(again) == again.args[0]
        assert text in repr(error)


def test_missing_name_error_shortens_long_names(tmp_path):
    names = ["d" * 60_000 + str(number) for number in range(50)]
    archive = Archive(write_tar(tmp_path / "long.tar", dict.fromkeys(names, b"x")))
    assert archive[names[7]] == b"x"
    for read in (archive.__getitem__, archive.listdir):
        for name in (names[0] + "0", "d" * 70_000):
            with pytest.raises(KeyError) as missing:
                read(name)
            assert len(str(missing.value)) < 500
    with pytest.raises(KeyError, match=f"no member '{'d' * 300}'$"):
        archive["d" * 300]


class Recorder:
    """A storage that tells what is asked of it."""

    def __init__(self, storage, calls):
        self.storage, self.calls = storage, calls

    def __getattr__(self, name):
        return getattr(self.storage, name)

    def read(self, offset, size):
        self.calls.append(("read", self.storage.path, offset, size))
        return self.storage.read(offset, size)

    def prefetch(self, offset, size):
        self.calls.append(("prefetch", self.storage.path, offset, size))


@pytest.fixture
def calls(monkeypatch):
    recorded = []
    monkeypatch.setattr(
        LocalLocation,
        "open",
        lambda location, kind="auto": Recorder(open_storage(location.path, kind), recorded),
    )
    return recorded


@pytest.mark.parametrize("kind", ["tar", "deflated zip", "barecat", "shards"])
def test_read_many_reads_in_the_order_of_offsets(tmp_path, calls, kind):
    archive = Archive(CONTAINERS[kind](tmp_path))
    calls.clear()
    wanted = [*reversed(MEMBERS), "README", 3, -1]
    got = archive.read_many(wanted)
    expected = [bytes(archive.read(key)) for key in wanted]
    assert [bytes(data) for data in got] == expected
    reads = [call[1:] for call in calls[: len(wanted)]]
    assert reads == sorted(reads)
    assert [call[1:] for call in calls[len(wanted) :]] != sorted(reads)


@pytest.mark.parametrize("kind", ["tar", "deflated zip", "shards"])
def test_prefetch_requests_the_stored_ranges_without_reading(tmp_path, calls, kind, monkeypatch):
    archive = Archive(CONTAINERS[kind](tmp_path))
    wanted = ["images/cat/1.jpg", "README", 3, -2]
    infos = [archive.info(key) for key in wanted]
    ranges = {(info.archive, info.offset, info.offset + info.stored_size) for info in infos}
    calls.clear()
    archive.prefetch(wanted)
    assert len(calls) == len({info.archive for info in infos}), "neighbors were asked for alone"
    for _, path, offset, size in calls:
        inside = {one for one in ranges if one[0] == path}
        assert (offset, offset + size) == (min(o for _, o, _ in inside), max(e for *_, e in inside))
    calls.clear()
    monkeypatch.setattr("imagearchive.archive.archive.MAX_GAP", -1)
    archive.prefetch(wanted)
    assert {(path, offset, offset + size) for _, path, offset, size in calls} == ranges
    assert len(calls) == len(ranges)
    calls.clear()
    archive.prefetch([])
    assert not calls
    with pytest.raises(KeyError):
        archive.prefetch(["nothing"])


def test_prefetch_opens_no_files_that_cannot_stay_open(tmp_path, calls):
    archives = [Archive(make_directory(tmp_path)), Archive(make_shards(tmp_path), max_open=2)]
    calls.clear()
    for archive in archives:
        archive.prefetch(MEMBERS)
    assert calls == []


@pytest.mark.parametrize("storage", ["pread", "mmap"])
def test_prefetch_advises_the_kernel(tmp_path, monkeypatch, storage):
    told = []

    class Mapping(mmap.mmap):
        def madvise(self, advice, start, length):
            told.append((advice, start, start + length))
            return super().madvise(advice, start, length)

    def fadvise(fd, offset, size, advice):
        told.append((advice, offset, offset + size))

    path = CONTAINERS["tar"](tmp_path)
    with Archive(path) as archive:
        info = archive.info("images/cat/1.jpg")
    monkeypatch.setattr(mmap, "mmap", Mapping)
    monkeypatch.setattr(os, "posix_fadvise", fadvise)
    with Archive(path, storage=storage) as archive:
        archive.prefetch(["images/cat/1.jpg"])
    ((advice, start, stop),) = told
    assert advice == (os.POSIX_FADV_WILLNEED if storage == "pread" else mmap.MADV_WILLNEED)
    assert info.offset - mmap.PAGESIZE < start <= info.offset
    assert stop == info.offset + info.size


def test_info_describes_the_member(archive):
    for position, name in enumerate(archive):
        info = archive.info(name)
        assert (info.name, info.position, info.size) == (name, position, len(MEMBERS[name]))
        assert archive.stat(position) == info
        assert os.path.exists(info.archive)
    assert archive.total_size == sum(map(len, MEMBERS.values()))


# --- file system --------------------------------------------------------------------------------


def test_listdir_and_scandir_match_the_file_system(archive, extracted):
    for folder, _, _ in os.walk(extracted):
        relative = os.path.relpath(folder, extracted).replace(".", "", folder == extracted)
        assert archive.listdir(relative) == sorted(os.listdir(folder))
        entries = {entry.name: entry for entry in archive.scandir(relative)}
        for real in os.scandir(folder):
            entry = entries.pop(real.name)
            assert entry.is_dir() == real.is_dir()
            assert entry.is_file() == real.is_file()
            assert entry.path == os.path.relpath(real.path, extracted)
            if real.is_file():
                assert entry.stat().size == real.stat().st_size
        assert not entries
    assert archive.listdir() == sorted(os.listdir(extracted))
    with pytest.raises(MemberNotFoundError, match="file"):
        archive.listdir("README")
    with pytest.raises(MemberNotFoundError):
        archive.listdir("nothing")


def test_walk_matches_the_file_system(archive, extracted):
    def relative(folder):
        return "" if folder == extracted else os.path.relpath(folder, extracted)

    expected = {
        relative(folder): (sorted(folders), sorted(files))
        for folder, folders, files in os.walk(extracted)
    }
    walked = {folder: (folders, files) for folder, folders, files in archive.walk()}
    assert walked == expected
    assert sorted(archive.dirs()) == sorted(folder for folder in expected if folder)
    assert sorted(archive.files()) == sorted(MEMBERS)
    assert [top for top, _, _ in archive.walk("images/cat")] == ["images/cat"]


@pytest.mark.parametrize(
    "path",
    [
        "README", "./README", "images//cat/0.png", "images/./cat/../dog/é.png", "images/cat/",
        "images", "", ".", "/", "/README", "..", "../README", "images/../../README", "nothing",
        "images/cat/0.png/x", "images/ca", "deep/er", "README/", "images/..",
    ],
)  # fmt: skip
def test_exists_isfile_isdir_match_the_file_system(archive, extracted, path):
    steps = os.path.normpath("./" + path).split("/")
    real = os.path.join(extracted, path.lstrip("/"))
    inside = steps[0] != ".."
    # A trailing slash makes no difference here, where the kernel insists on a directory.
    real = real.rstrip("/")
    assert archive.exists(path) == (inside and os.path.exists(real))
    assert archive.isfile(path) == (inside and os.path.isfile(real))
    assert archive.isdir(path) == (inside and os.path.isdir(real))
    assert (path in archive) == archive.isfile(path)


def test_glob_names_that_begin_with_two_dots_are_found(tmp_path):
    names = ["...", "..x/.h", "..x/f", "..x/g.png", "..y", "a/..b/c"]
    path, extracted = tmp_path / "dots.tar", tmp_path / "extracted"
    path.write_bytes(b"".join(tar_cases.member(name.encode(), b"1") for name in names))
    for name in names:
        (extracted / name).parent.mkdir(parents=True, exist_ok=True)
        (extracted / name).write_bytes(b"1")
    opened = Archive(path)
    for directory in ("", "..x", "./..x", "a", "a/..b", "..x/../..x"):
        assert opened.listdir(directory) == sorted(os.listdir(extracted / directory))
    for pattern in (
        "..x/f", "..x//f", "..x/*", "..x/.*", "..*/f", "*/f", "..x/", "..*", "...", "a/..b/*",
        "./..x/*", "..x/../..x/f", "a/../..x/f", "**",
    ):  # fmt: skip
        expected = sorted(glob.glob(pattern, root_dir=extracted, recursive=True))
        assert sorted(opened.glob(pattern, recursive=True)) == expected, pattern


PATTERNS = st.lists(
    st.sampled_from(
        ["*", "**", "?", "images", "cat", "*.png", "[cd]*", "cat*", ".*", "deep", "er", "x.npy",
         "*/", "README", "[!c]*", "a b.png", "..", ".", "é*", ".hidden", "**a", ""]
    ),
    min_size=1,
    max_size=4,
).map("/".join).filter(lambda pattern: pattern[:1] != "/")  # fmt: skip


@settings(max_examples=300)
@given(PATTERNS, st.booleans(), st.booleans())
def test_glob_matches_python(glob_archive, extracted, pattern, recursive, hidden):
    options = {"recursive": recursive}
    if "include_hidden" in glob.glob.__kwdefaults__:
        options["include_hidden"] = hidden
    else:
        hidden = False
    if any(part == ".." for part in pattern.split("/")):
        # What leads out of the archive does not exist; on disk it leads somewhere.
        depth = 0
        for part in pattern.split("/"):
            depth += {"..": -1, ".": 0, "": 0, "**": -9}.get(part, 1)
            if depth < 0:
                return
    # Python returns some paths twice for patterns with several "**", and missing directories
    # for "missing/**".
    found = set(glob.glob(pattern, root_dir=extracted, **options))
    expected = sorted(path for path in found if os.path.exists(os.path.join(extracted, path)))
    got = sorted(glob_archive.glob(pattern, recursive=recursive, include_hidden=hidden))
    assert got == expected


@pytest.mark.parametrize("pattern", ["images//*", "images//cat", "images//cat//", "images/cat//*"])
def test_glob_keeps_doubled_slashes_as_python_does(glob_archive, extracted, pattern):
    expected = sorted(glob.glob(pattern, root_dir=extracted))
    assert expected
    assert sorted(glob_archive.glob(pattern)) == expected
    assert sorted(glob_archive.iglob(pattern)) == expected


@pytest.fixture(scope="module")
def glob_archive(tmp_path_factory):
    return Archive(write_tar(tmp_path_factory.mktemp("glob") / "g.tar", MEMBERS))


def test_listdir_includes_empty_directories(tmp_path):
    (tmp_path / "tree" / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "full").mkdir()
    (tmp_path / "tree" / "full" / "x").write_bytes(b"1")
    shutil.make_archive(str(tmp_path / "data"), "tar", tmp_path / "tree")
    shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "tree")
    for path in (tmp_path / "tree", tmp_path / "data.tar", tmp_path / "zipped.zip"):
        archive = Archive(path)
        assert archive.listdir() == ["empty", "full"]
        assert archive.listdir("empty") == ["inner"]
        assert archive.isdir("empty/inner")
        assert sorted(archive.dirs()) == ["empty", "empty/inner", "full"]
        assert list(archive) == ["full/x"]


def test_archive_names_outside_the_root_are_only_listed(tmp_path):
    names = ["/../x.png", "ok/1.png", "a/../../y", "../../z", "/abs/path", "//two//slashes", "./."]
    archive = Archive(write_tar(tmp_path / "out.tar", {name: name.encode() for name in names}))
    assert sum(1 for _ in archive.walk()) < 20
    assert set(archive) - {""} == {
        "../x.png", "ok/1.png", "a/../../y", "../../z", "abs/path", "two/slashes",
    }  # fmt: skip
    assert {archive[name] for name in archive if name} == {n.encode() for n in names if n != "./."}
    assert "ok/1.png" in archive.glob("**", recursive=True)
    assert not archive.exists("x.png")
    assert "" not in archive.listdir()
    assert list(archive.dirs())


def test_archive_takes_paths_of_other_types(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a/b": b"1"})
    archive = Archive(os.fsencode(path))
    assert archive.listdir(Path("a")) == ["b"]
    assert archive.isdir(Path("a"))
    assert archive.exists(Path("a/b"))
    assert len(pickle.loads(pickle.dumps(Archive(tmp_path.glob("*.tar"))))) == 1
    with pytest.raises(OptionError, match="mmpa"):
        Archive(path, storage="mmpa")


def test_archive_relative_path_survives_chdir(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", {"a/b": b"1"})
    monkeypatch.chdir(tmp_path)
    archive = Archive("a.tar")
    data = pickle.dumps(archive)
    monkeypatch.chdir("/")
    assert archive["a/b"] == b"1"
    assert pickle.loads(data)["a/b"] == b"1"


def test_unpickle_changed_archive_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a/b": b"1"})
    data = pickle.dumps(Archive(path))
    write_tar(path, {"a/b": b"1", "a/c": b"2"})
    with pytest.raises(StaleIndexError, match="pickled"):
        pickle.loads(data)


def test_read_file_of_a_directory_that_grew_is_refused(tmp_path):
    tree = make_directory(tmp_path)
    archive = Archive(tree)
    (tree / "README").write_bytes(b"longer than it was when listed")
    with pytest.raises(StaleIndexError, match="README"):
        archive["README"]


# --- file objects -------------------------------------------------------------------------------


def test_open_member_works_as_a_file(archive):
    with archive.open("images/cat/0.png") as file:
        assert isinstance(file, io.BufferedIOBase)
        np.testing.assert_array_equal(
            np.asarray(Image.open(file)), np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
        )
    assert json.load(archive.open("labels.json")) == {"a": 1}
    with io.TextIOWrapper(archive.open("README")) as text:
        assert text.readlines() == ["read me\n", "please\n"]
    with pytest.raises(io.UnsupportedOperation):
        archive.open("README").write(b"x")


@pytest.mark.parametrize(
    "use",
    [
        lambda file: file.read(), lambda file: file.read1(), lambda file: file.peek(),
        lambda file: file.readline(), lambda file: file.tell(), lambda file: file.seek(0),
        lambda file: file.readable(), lambda file: file.seekable(), lambda file: next(file),
        lambda file: file.readinto(bytearray(3)), lambda file: file.__enter__(),
    ],
)  # fmt: skip
def test_open_member_closed_file_raises(file_archive, use):
    file = file_archive.open("text")
    with pytest.raises((ValueError, io.UnsupportedOperation), match="closed"):
        with file:
            file.read(10)
        use(file)
    file.close()
    assert file.closed


@pytest.mark.parametrize(
    "buffer",
    [bytearray(100), array.array("I", range(30)), np.zeros((4, 6), np.float32), memoryview(b"")],
)
def test_open_member_readinto_takes_any_buffer(file_archive, buffer):
    expected = io.BytesIO(b"line one\nline two\n" * 4000)
    mine, theirs = (copy.copy(buffer) if len(buffer) else bytearray() for _ in range(2))
    for file, target in ((file_archive.open("text"), mine), (expected, theirs)):
        file.seek(7)
        assert file.readinto(target) == memoryview(buffer).nbytes
    assert bytes(memoryview(mine)) == bytes(memoryview(theirs))


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 90_000)),
        st.tuples(st.just("read1"), st.integers(0, 5000)),
        st.tuples(st.just("readline"), st.integers(-1, 50)),
        st.tuples(st.just("readinto"), st.integers(0, 9000)),
        st.tuples(st.just("seek"), st.integers(-80_000, 80_000), st.integers(0, 2)),
        st.tuples(st.just("tell")),
    ),
    max_size=20,
)


@given(OPERATIONS)
def test_open_member_behaves_as_bytesio(file_archive, operations):
    data = b"line one\nline two\n" * 4000
    file, oracle = file_archive.open("text"), io.BytesIO(data)
    for name, *arguments in operations:
        if name == "read1":
            # How much one system call returns is its own business.
            got = file.read1(*arguments)
            assert oracle.read(len(got)) == got
            assert got or not arguments[0] or file.tell() >= len(data)
            continue
        if name == "readinto":
            mine, theirs = bytearray(arguments[0]), bytearray(arguments[0])
            assert file.readinto(mine) == oracle.readinto(theirs)
            assert mine == theirs
            continue
        try:
            expected = getattr(oracle, name)(*arguments)
        except ValueError:
            with pytest.raises(ValueError, match="seek"):
                getattr(file, name)(*arguments)
            continue
        if name == "seek" and arguments[1] and oracle.tell() == 0:
            # BytesIO stops at the start where a file refuses.
            file.seek(0)
            continue
        assert getattr(file, name)(*arguments) == expected
        assert file.tell() == oracle.tell()


@pytest.fixture(scope="module")
def file_archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    path = folder / "f.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text", b"line one\nline two\n" * 4000)
    return Archive(path)


# --- split bins ---------------------------------------------------------------------------------


def test_archive_of_split_bins_reads_by_position(tmp_path):
    packets = [b"%d" % i * (i % 7) for i in range(50)]
    write_split_data(tmp_path / "bins", packets, splits=4)
    archive = imagearchive.open(tmp_path / "bins")
    assert [bytes(archive.read(i)) for i in range(50)] == packets
    assert [archive[name] for name in sorted(archive)] == packets


# --- life ---------------------------------------------------------------------------------------


def test_close_keeps_views_and_refuses_reads(container):
    archive = Archive(container)
    view = archive.read("README")
    archive.close()
    archive.close()
    assert bytes(view) == MEMBERS["README"]
    assert archive.closed
    with pytest.raises(ClosedError):
        archive.read("README")


def test_unpickle_reopens_the_archive(archive):
    data = pickle.dumps(archive)
    assert len(data) < 1500
    assert dict(pickle.loads(data)) == MEMBERS


def test_archive_is_shared_by_threads(archive):
    failures = []
    names = list(MEMBERS)

    def work(seed):
        random = np.random.default_rng(seed)
        chosen = [names[i] for i in random.integers(0, len(names), 300)]
        failures.extend(name for name in chosen if archive[name] != MEMBERS[name])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_archive_is_shared_by_forked_children(archive):
    archive.read(0)
    children = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            good = all(archive[name] == data for _ in range(30) for name, data in MEMBERS.items())
            os._exit(0 if good else 1)
        children.append(pid)
    assert all(archive[name] == data for _ in range(30) for name, data in MEMBERS.items())
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]


# --- what is asked for wrongly ------------------------------------------------------------------


def test_archive_expands_patterns(tmp_path):
    with pytest.raises(ArchiveNotFoundError, match=r"missing-01\.tar"):
        Archive(str(tmp_path / "missing-{01..03}.tar"))
    with pytest.raises(OptionError, match="range"):
        Archive(str(tmp_path / "x-{9..1}.tar"))
    with pytest.raises(OptionError, match="empty"):
        Archive([])
    with pytest.raises(OptionError, match="100000000 archives"):
        Archive(str(tmp_path / "x-{0000..9999}-{0000..9999}.tar"))
    for digits in (7, 18, 30):
        with pytest.raises((ArchiveNotFoundError, OptionError)):
            Archive(str(tmp_path / ("x-{0..%s}.tar" % ("9" * digits))))
    write_tar(tmp_path / "odd{1..2}.tar", {"a": b"1"})
    assert Archive(tmp_path / "odd{1..2}.tar")["a"] == b"1"
    for name in "xy":
        write_tar(tmp_path / f"{name}-1.tar", {name: b"1"})
    assert set(Archive(str(tmp_path / "{x,y}-{1..1}.tar"))) == {"x", "y"}


def test_read_unsupported_method_is_refused(tmp_path):
    path = tmp_path / "methods.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good", b"good", zipfile.ZIP_DEFLATED)
        archive.writestr("lzma", b"lzma" * 50, zipfile.ZIP_LZMA)
    opened = Archive(path)
    assert opened["good"] == b"good"
    with pytest.raises(UnsupportedMemberError, match=r"methods\.zip.*lzma.*method 14"):
        opened["lzma"]
    with pytest.raises(NotImplementedError):
        opened.open("lzma")


def test_read_damaged_deflated_member_is_refused(tmp_path):
    path = make_zip(tmp_path, zipfile.ZIP_DEFLATED)
    archive = Archive(path)
    info = archive.info("images/cat/1.jpg")
    archive.close()
    data = bytearray(path.read_bytes())
    data[info.offset + info.stored_size // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(CorruptArchiveError, match=r"images/cat/1\.jpg"):
        Archive(path)["images/cat/1.jpg"]


def test_read_member_that_expands_too_much_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    random = np.random.default_rng(0).bytes(1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 20))
        archive.writestr("random", random)
    monkeypatch.setattr(archive_module, "MAX_EXPANDED_READ", (1 << 20) - 1)
    opened = Archive(path)
    assert opened["random"] == random
    with pytest.raises(LimitError, match=r"bomb\.zip: 'zeros': 1048576 bytes, .*open\(\)"):
        opened["zeros"]
    assert opened.open("zeros").read(100) == bytes(100)
    monkeypatch.undo()
    assert opened["zeros"] == bytes(1 << 20)


def test_read_huge_sparse_member_is_refused(tmp_path):
    path = tmp_path / "sparse.tar"
    size = (1 << 40) + 4
    path.write_bytes(
        tar_cases.pax_sparse(b"holes", [(1 << 40, 4)], size, b"data", "1.0") + tar_cases.END
    )
    opened = Archive(path)
    with pytest.raises(LimitError, match=r"sparse\.tar: 'holes': 1099511627780 .*member\(\)"):
        opened["holes"]
    with opened.open("holes") as file:
        assert file.read(5) == bytes(5)
        assert file.seek(-6, io.SEEK_END) == size - 6
        assert file.read() == b"\0\0data"


def test_member_ranges_outside_are_refused(archive):
    for name, data in MEMBERS.items():
        member = archive.member(name)
        assert member.size == len(data)
        assert bytes(member.read(0, len(data))) == data
        for offset, size in ((0, len(data) + 1), (len(data), 1), (-1, 1), (1, len(data)), (0, -1)):
            with pytest.raises(CorruptArchiveError, match="are not within"):
                member.read(offset, size)
        for offset, size in ((0, len(data) + 1), (len(data), 1), (-1, 1)):
            with pytest.raises(CorruptArchiveError, match="are not within"):
                member.readinto(offset, bytearray(size))


def test_read_encrypted_or_multi_disk_member_is_refused(tmp_path):
    path = tmp_path / "parts.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("good", "locked", "elsewhere"):
            archive.writestr(name, name.encode())
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", first + 4)
    third = data.index(b"PK\1\2", second + 4)
    # The flag of encryption in both headers; the number of the part in the directory.
    data[second + 8] |= 1
    data[data.index(b"PK\3\4", 4) + 6] |= 1
    data[third + 34] = 1
    path.write_bytes(data)
    opened = Archive(path)
    assert opened["good"] == b"good"
    for read in (opened.read, opened.open, opened.member, opened.__getitem__):
        with pytest.raises(UnsupportedMemberError, match=r"parts\.zip: 'locked': encrypted"):
            read("locked")
        with pytest.raises(UnsupportedMemberError, match="'elsewhere': is on another part"):
            read("elsewhere")


def test_open_member_rebuilds_damaged_checkpoints(tmp_path, caplog):
    path = tmp_path / "big.zip"
    content = np.random.default_rng(0).integers(0, 9, 5 << 20, np.uint8).tobytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", content)
    with Archive(path) as opened:
        opened.table.add_extra({"checkpoints/0/points": np.zeros(100, np.uint8)})
    for expected in (["they are built again"], []):
        caplog.clear()
        with Archive(path) as opened, opened.open("big") as file:
            file.seek(4 << 20)
            assert file.read(100) == content[4 << 20 :][:100]
            # What was built once is kept in the index.
            assert len(opened.table.extra["checkpoints/0/points"]) > 32 << 10
        assert [text in caplog.text for text in expected] == [True] * len(expected)
        assert bool(caplog.records) == bool(expected)


def test_archive_max_open_keeps_the_most_recent_files(tmp_path, monkeypatch):
    archive = Archive(make_shards(tmp_path), max_open=2, storage="pread")
    opened = []
    monkeypatch.setattr(
        LocalLocation,
        "open",
        lambda location, kind: opened.append(location.path) or open_storage(location.path, kind),
    )
    paths = archive.table.files
    first = {archive.info(name).archive: name for name in MEMBERS}
    for shard in (0, 1, 0, 2, 0, 1):
        name = first[paths[shard]]
        assert archive[name] == MEMBERS[name]
    assert [paths.index(path) for path in opened] == [0, 1, 2, 1]
    with pytest.raises(OptionError, match="max_open must be at least 1, got 0"):
        Archive(paths[0], max_open=0)


def test_archive_in_memory_is_not_read_again(tmp_path):
    for make in (make_shards, make_directory):
        place = make(tmp_path)
        archive = Archive(place, storage="memory", max_open=1)
        for path in [*tmp_path.glob("*.tar"), *filter(Path.is_file, tmp_path.rglob("tree/**/*"))]:
            path.unlink()
        assert dict(archive) == MEMBERS


@pytest.mark.parametrize("storage", ["mmap", "pread"])
def test_archive_files_close_with_their_last_user(tmp_path, storage):
    path = tmp_path / "big.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", bytes(3 << 20))
    paths = make_zip(tmp_path, zipfile.ZIP_STORED), path
    before = len(os.listdir("/dev/fd"))
    gc.disable()
    try:
        for one in paths:
            archive = Archive(one, storage=storage)
            file = archive.open(archive.name(0))
            assert file.read(5)
            with pytest.raises(KeyError):
                archive["nothing"]
            assert len(os.listdir("/dev/fd")) > before
            del archive, file
            assert len(os.listdir("/dev/fd")) == before
    finally:
        gc.enable()


def test_archive_compares_by_identity(container):
    one, other = Archive(container), Archive(container)
    assert one == one  # noqa: PLR0124
    assert one != other
    assert one != dict(one)
    assert len({one, other, one}) == 2
    assert weakref.ref(one)() is one
