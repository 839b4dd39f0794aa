"""The index, info objects, and file objects of `barecat`, compared with the package itself."""

from __future__ import annotations

import inspect
import pickle

import barecat as peer
import barecat.exceptions as peer_exceptions
import numpy as np
import pytest
from support.barecat_archives import write_barecat

import imagearchive
from imagearchive.compat import barecat
from imagearchive.compat.barecat import exceptions

FILE_FIELDS = ("path", "shard", "offset", "size", "crc32c", "mode", "mtime_ns", "mtime_dt", "end")
COUNTS = ("path", "num_subdirs", "num_files", "size_tree", "num_files_tree", "num_entries")
ORDERS = ("ADDRESS", "ADDRESS|DESC", "PATH", "PATH|DESC")
FOLDERS = ("", "deep", "class_001", "deep/a/b/c")


@pytest.fixture
def both(barecat_archive):
    with peer.Barecat(barecat_archive[0]) as theirs, barecat.Barecat(barecat_archive[0]) as ours:
        yield theirs, ours


def order_of(module, text):
    found = None
    for name in text.split("|"):
        one = getattr(module.Order, name)
        found = one if found is None else found | one
    return found


def describe(infos):
    return [
        tuple(getattr(info, name) for name in (FILE_FIELDS if info.isfile() else COUNTS))
        for info in infos
    ]


@pytest.mark.parametrize("text", ORDERS)
def test_index_order_equals_that_of_the_original(both, text):
    theirs, ours = (bc.index for bc in both)
    first, second = order_of(peer, text), order_of(barecat, text)
    assert describe(ours.iter_all_fileinfos(order=second)) == describe(
        theirs.iter_all_fileinfos(order=first)
    )
    assert list(ours.iter_all_filepaths(second, bufsize=7)) == list(
        theirs.iter_all_filepaths(first, bufsize=7)
    )
    for folder in FOLDERS:
        assert describe(ours.list_direct_fileinfos(folder, order=second)) == describe(
            theirs.list_direct_fileinfos(folder, order=first)
        )
        if "PATH" in text:
            assert ours.listdir_names(folder, order=second) == theirs.listdir_names(folder, first)
            assert describe(ours.listdir_infos(folder, second)) == describe(
                theirs.listdir_infos(folder, first)
            )
    if "PATH" in text:
        assert list(ours.iter_all_dirpaths(second)) == list(theirs.iter_all_dirpaths(first))
        assert describe(ours.iter_all_infos(second)) == describe(theirs.iter_all_infos(first))


def test_index_random_order_yields_each_file_once(both):
    _, ours = both
    paths = [info.path for info in ours.index.iter_all_fileinfos(order=barecat.Order.RANDOM)]
    assert sorted(paths) == sorted(ours)
    assert paths != sorted(paths)
    assert {one.path for one in ours.index.iter_all_infos(barecat.Order.RANDOM)} == {
        *ours,
        *ours.dirs(),
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_index_listings_equal_those_of_the_original(both, folder):
    theirs, ours = (bc.index for bc in both)
    assert sorted(ours.iterdir_names(folder)) == sorted(theirs.iterdir_names(folder))
    for method in (
        "iterdir_infos",
        "listdir_infos",
        "iter_direct_fileinfos",
        "iter_subdir_dirinfos",
        "list_direct_fileinfos",
        "list_subdir_dirinfos",
    ):
        found = sorted(describe(getattr(ours, method)(folder)))
        assert found == sorted(describe(getattr(theirs, method)(folder))), method
        directory = ours.lookup_dir(folder)
        if not method.startswith("list_"):
            assert sorted(describe(getattr(ours, method)(directory))) == found
    walked = {
        top.path: (sorted(describe(folders)), sorted(describe(files)))
        for top, folders, files in ours.walk_infos(folder)
    }
    assert walked == {
        top.path: (sorted(describe(folders)), sorted(describe(files)))
        for top, folders, files in theirs.walk_infos(folder)
    }


def test_index_missing_directory_raises_or_is_empty_as_in_the_original(both):
    for module, archive in zip((peer, barecat), both):
        assert archive.index.list_direct_fileinfos("missing") == []
        assert archive.index.list_subdir_dirinfos("missing") == []
        for method in ("iter_direct_fileinfos", "listdir_names", "iterdir_infos", "lookup_dir"):
            with pytest.raises(module.FileNotFoundBarecatError):
                getattr(archive.index, method)("missing")
        with pytest.raises(module.FileNotFoundBarecatError):
            list(archive.index.walk_infos("missing"))
        with pytest.raises(module.FileNotFoundBarecatError):
            archive.index.lookup_files(["top.txt", "missing"])


@pytest.mark.parametrize("only_files", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(
    "pattern", ["*", "**", "**/*", "*/*.jpg", "class_00?/**", "deep/**/x*", "top.txt", "none/*"]
)
def test_index_glob_paths_equal_those_of_the_original(both, pattern, hidden, only_files):
    theirs, ours = (bc.index for bc in both)
    for recursive in (False, True):
        expected = sorted(theirs.glob_paths(pattern, recursive, hidden, only_files))
        if recursive and pattern.endswith("/**"):
            # Python's glob also finds the directory itself.
            assert set(expected) <= set(ours.glob_paths(pattern, recursive, hidden, only_files))
            continue
        assert sorted(ours.glob_paths(pattern, recursive, hidden, only_files)) == expected
        options = {
            "recursive": recursive,
            "include_hidden": hidden,
            "bufsize": 3,
            "only_files": only_files,
        }
        assert sorted(ours.iterglob_paths(pattern, **options)) == expected
        assert sorted(info.path for info in ours.iterglob_infos(pattern, **options)) == expected


def test_index_shards_equal_those_of_the_original(both):
    theirs, ours = both
    assert ours.index.num_used_shards == theirs.index.num_used_shards > 1
    assert describe([ours.index.get_last_file()]) == describe([theirs.index.get_last_file()])
    for number in range(theirs.index.num_used_shards + 1):
        assert ours.logical_shard_end(number) == theirs.logical_shard_end(number)
    for number in range(theirs.index.num_used_shards):
        assert ours.physical_shard_end(number) == theirs.physical_shard_end(number)
    assert ours.total_physical_size_seek == theirs.total_physical_size_seek
    assert ours.total_physical_size_stat == theirs.total_physical_size_stat
    assert ours.total_logical_size == theirs.total_logical_size


def test_physical_size_of_several_archives_counts_the_shards_of_each(tmp_path):
    for name, size in (("a", 10), ("b", 1000)):
        write_barecat(str(tmp_path / f"{name}.barecat"), {name: bytes(size)})
    with barecat.open(str(tmp_path / "{a,b}.barecat")) as archive:
        assert archive.total_physical_size_stat == archive.total_logical_size == 1010


def test_infos_are_dictionaries_and_survive_pickling(both):
    theirs, ours = both
    mine, other = ours.index.lookup_file("top.txt"), theirs.index.lookup_file("top.txt")
    kept = {name: value for name, value in other.asdict().items() if name not in ("uid", "gid")}
    assert mine.asdict() == {**kept, "uid": None, "gid": None}
    assert pickle.loads(pickle.dumps(mine)) == mine
    folder = pickle.loads(pickle.dumps(ours.index.lookup_dir("deep")))
    assert describe([folder]) == describe([theirs.index.lookup_dir("deep")])
    made = barecat.BarecatFileInfo(path="/./top.txt")
    assert (made.path, ours.read(made)) == ("top.txt", ours["top.txt"])
    assert barecat.BarecatDirInfo(path="/a/./b/").path == "a/b"


def test_index_opens_a_path(barecat_archive):
    path, files = barecat_archive
    with barecat.Index(path) as index, peer.Index(path) as theirs:
        assert len(index) == len(theirs) == len(files)
        assert {info.path for info in index} == set(files)
        assert "top.txt" in index
    with pytest.warns(DeprecationWarning, match="read_index"):
        assert barecat.read_index(path) == peer.read_index(path)


@pytest.mark.parametrize("quick", [False, True])
def test_verify_integrity_finds_damage_as_the_original_does(barecat_copy, quick):
    path, _ = barecat_copy
    with barecat.Barecat(path) as ours, peer.Barecat(path) as theirs:
        assert ours.verify_integrity(quick) is theirs.verify_integrity(quick) is True
        last = theirs.index.get_last_file()
    with open(f"{path}-shard-{last.shard:05d}", "r+b") as file:
        file.seek(last.offset)
        byte = file.read(1)
        file.seek(last.offset)
        file.write(bytes([byte[0] ^ 1]))
    with barecat.Barecat(path) as ours, peer.Barecat(path) as theirs:
        assert ours.verify_integrity(quick) is theirs.verify_integrity(quick) is False


def test_open_returns_the_file_object_of_the_original(both):
    for module, archive in zip((peer, barecat), both):
        with archive.open("top.txt", "rb") as file:
            data = archive["top.txt"]
            assert isinstance(file, module.BarecatReadOnlyFileObject)
            assert (len(file), file.size) == (len(data), len(data))
            assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
            assert file.seek(2) == 2
            assert file.readall() == data[2:]
            with pytest.raises(OSError, match="writ"):
                file.write(b"x")
    assert both[1].read("top.txt", size=None) == both[0]["top.txt"]
    assert both[1].read("top.txt", 2, None) == both[0].read("top.txt", 2)


def test_mapping_methods_return_iterators_as_in_the_original(both):
    theirs, ours = both
    assert next(ours.keys()) in theirs
    assert next(ours.items()) == next(iter(theirs.items()))
    assert next(ours.values()) == next(theirs.values())
    assert ours.setdefault("top.txt", b"other") == theirs.setdefault("top.txt", b"other")
    with pytest.raises(PermissionError):
        theirs.setdefault("new", b"")
    with pytest.raises(PermissionError, match=r"no 'new'.*get\(\)"):
        ours.setdefault("new", b"")


def test_module_functions_read_archives(barecat_archive, tmp_path):
    path, files = barecat_archive
    with barecat.open(path) as archive:
        assert dict(archive) == files
    with pytest.raises(barecat.NotOfferedError, match="TarWriter"):
        barecat.open(path, "w+")
    reader = barecat.get_cached_reader(path, auto_codec=False)
    assert reader is barecat.get_cached_reader(path, auto_codec=False)
    with pytest.raises(barecat.NotOfferedError, match="DecodedView"):
        barecat.get_cached_reader(path)
    assert barecat.exists(path)
    assert not barecat.exists(tmp_path / "missing.barecat")
    barecat.extract(path, tmp_path / "out")
    assert (tmp_path / "out" / "top.txt").read_bytes() == files["top.txt"]


def test_decoded_view_takes_the_arguments_of_the_original():
    values = {"a.json": b"[1]", "b.up": b"TEXT", "c.what": b"?"}
    for view in (peer.DecodedView(dict(values)), barecat.DecodedView(values)):
        view.register_codec([".up"], str.encode, lambda data: bytes(data).decode(), nonfinal=False)
        assert (view["a.json"], view["b.up"]) == ([1], "TEXT")
        with pytest.raises(ValueError, match=r"codec|\.what"):
            view["c.what"]


def test_every_public_name_of_the_original_exists():
    assert [name for name in peer.__all__ if not hasattr(barecat, name)] == ["__version__"]
    named = [name for name in vars(peer_exceptions) if name.endswith("Error")]
    assert [name for name in named if not hasattr(exceptions, name)] == []


@pytest.mark.parametrize("name", ["Barecat", "Index", "DecodedView"])
def test_every_method_of_the_original_exists(name):
    theirs, ours = getattr(peer, name), getattr(barecat, name)
    methods = {one for one, _ in inspect.getmembers(theirs) if not one.startswith("_")}
    internal = {
        "ALL_CODECS",
        "attached_database",
        "check_merge_conflicts",
        "no_foreign_keys",
        "no_triggers",
        "raise_if_append_only",
        "raise_if_readonly",
    }
    assert sorted(methods - internal - set(dir(ours))) == []


@pytest.mark.parametrize(
    ("name", "arguments", "instead"),
    [
        ("add", ("new",), "TarWriter"),
        ("add_by_path", ("file",), "imagearchive.pack"),
        ("remove", ("top.txt",), "TarWriter"),
        ("rmtree", ("deep",), "TarWriter"),
        ("rename", ("top.txt", "x"), "TarWriter"),
        ("mkdir", ("x",), "TarWriter"),
        ("defrag", (), "imagearchive.convert"),
        ("merge_from_other_barecat", ("other",), "list of archives"),
        ("register_codec", ([".x"], None, None), "DecodedView"),
        ("__setitem__", ("x", b""), "TarWriter"),
        ("__delitem__", ("top.txt",), "TarWriter"),
    ],
)
def test_writing_method_raises_one_line_that_names_our_way(both, name, arguments, instead):
    with pytest.raises(barecat.NotOfferedError) as caught:
        getattr(both[1], name)(*arguments)
    message = str(caught.value)
    assert name in message
    assert instead in message
    assert "\n" not in message
    assert isinstance(caught.value, PermissionError)


def test_functions_that_write_raise_one_line_that_names_our_way(both):
    for function in (barecat.merge, barecat.archive2barecat, barecat.write_index, barecat.Sharder):
        with pytest.raises(barecat.NotOfferedError, match="imagearchive"):
            function("a", "b")
    with pytest.raises(barecat.NotOfferedError, match="lookup"):
        both[1].index.fetch_one("SELECT 1")
    with pytest.raises(barecat.NotOfferedError, match="TarWriter"):
        barecat.Index("any", readonly=False)
    with pytest.raises(barecat.NotOfferedError, match="physical_shard_end"):
        _ = both[1].shard_size_limit


def test_index_of_a_tar_counts_directories(tmp_path):
    for name, data in {"a/b/1": b"12", "a/2": b"345", "3": b""}.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    imagearchive.pack(tmp_path / "in", tmp_path / "x.tar")
    with barecat.Barecat(tmp_path / "x.tar") as ours:
        assert describe([ours.index.lookup_dir("")])[0][1:] == (1, 1, 5, 3, 2)
        assert describe([ours.index.lookup_dir("a")])[0][1:] == (1, 1, 5, 2, 2)
        addresses = [
            info.offset for info in ours.index.iter_all_fileinfos(order=barecat.Order.ADDRESS)
        ]
        assert addresses == sorted(addresses)
        assert np.all(np.diff(addresses) > 0)
        assert ours.verify_integrity()


def test_index_of_an_empty_archive_has_no_last_file(tmp_path):
    with peer.Barecat(str(tmp_path / "e.barecat"), readonly=False):
        pass
    with barecat.Barecat(tmp_path / "e.barecat") as ours:
        with pytest.raises(LookupError):
            ours.index.get_last_file()
        assert ours.verify_integrity(quick=True)
        assert (ours.index.num_used_shards, ours.index.glob_paths("**", recursive=True)) == (
            0,
            [""],
        )
