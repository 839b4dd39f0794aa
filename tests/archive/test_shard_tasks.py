"""`pack` and `convert` with `executor=`: the same shards, and only those that are missing."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.files import fill, samples, tar_names

import imagearchive
from imagearchive.archive.pack import pack
from imagearchive.errors import IncompleteError, OptionError, OptionTypeError, TargetExistsError


@pytest.fixture
def source(tmp_path):
    """A directory of 20 samples."""
    return fill(tmp_path / "src", samples(20))


def state(paths):
    """What tells whether files were written again."""
    return [(os.stat(path).st_ino, os.stat(path).st_mtime_ns) for path in paths]


@pytest.mark.parametrize("options", [{"shards": 4}, {"shard_size": 12_000}, {"mtime": None}])
@pytest.mark.parametrize("executor", [2, "threads"])
def test_pack_executor_writes_the_same_shards(source, tmp_path, options, executor):
    options = {"shards": 3} | options if "shard_size" not in options else options
    seen = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here = pack(source, tmp_path / "here" / "x.tar", **options)
    with ThreadPoolExecutor(2) as pool:
        chosen = pool if executor == "threads" else executor
        there = pack(
            source, tmp_path / "there" / "x.tar", **options, executor=chosen, progress=seen.append
        )
    assert [os.path.basename(path) for path in there] == [os.path.basename(path) for path in here]
    for ours, theirs in zip(here, there):
        with open(ours, "rb") as one, open(theirs, "rb") as other:
            assert one.read() == other.read()
        assert os.path.exists(theirs.replace(".tar", ".idx.npy"))
    assert sum(seen) == 60


def test_pack_executor_list_of_files(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    order = ["0003.cls", "./0001.jpg", str(source / "0002.cls")]
    made = pack(order, "x.tar", root="src", shards=3, executor=1)
    assert [tar_names(path) for path in made] == [["0003.cls"], ["0001.jpg"], ["0002.cls"]]


def test_pack_executor_without_files_makes_an_empty_archive(tmp_path):
    (tmp_path / "src").mkdir()
    (made,) = pack(tmp_path / "src", tmp_path / "x.tar", shard_size=20_000, executor=1)
    assert tar_names(made) == []


def test_pack_executor_again_writes_only_what_is_missing(source, tmp_path):
    def again():
        return pack(source, tmp_path / "x.tar", shards=5, executor=1, overwrite=True)

    made = again()
    before = state(made)
    os.unlink(made[2])
    os.unlink(made[4].replace(".tar", ".idx.npy"))
    assert again() == made
    after = state(made)
    assert [one == other for one, other in zip(before, after)] == [True, True, False, True, True]
    assert os.path.exists(made[4].replace(".tar", ".idx.npy"))
    # A file of another size, one of another time, and one that is new to its shard.
    (source / "0000.jpg").write_bytes(b"other")
    os.utime(source / "0005.jpg")
    before = after
    assert again() == made
    after = state(made)
    assert [one == other for one, other in zip(before, after)] == [False, False, True, True, True]
    (source / "0012.txt").touch()
    again()
    assert "0012.txt" in tar_names(made[3])


def test_pack_executor_other_archive_is_not_replaced_unless_asked(source, tmp_path):
    imagearchive.pack(source, tmp_path / "other.tar")
    os.rename(tmp_path / "other.tar", tmp_path / "x-000001.tar")
    with pytest.raises(IncompleteError, match=r"1 of 3 shards .*x-000001") as one:
        pack(source, tmp_path / "x.tar", shards=3, executor=2)
    assert isinstance(one.value.failures[0][1], TargetExistsError)
    assert sorted(path.name for path in tmp_path.glob("x-*.tar")) == [
        f"x-00000{number}.tar" for number in range(3)
    ]
    pack(source, tmp_path / "x.tar", shards=3, executor=2, overwrite=True)
    assert len(tar_names(tmp_path / "x-000001.tar")) == 21


def test_pack_executor_failed_shard_is_named_and_the_rest_is_there(source, tmp_path):
    order = sorted(samples(20))
    os.unlink(source / "0010.jpg")
    with pytest.raises(IncompleteError) as caught:
        pack(order, tmp_path / "x.tar", root=source, shards=4, executor=2)
    ((path, error),) = caught.value.failures
    assert path == str(tmp_path / "x-000002.tar")
    assert isinstance(error, FileNotFoundError)
    assert error.filename == str(source / "0010.jpg")
    there = [(tmp_path / f"x-00000{number}.tar").exists() for number in range(4)]
    assert there == [True, True, False, True]
    (source / "0010.jpg").write_bytes(b"whole")
    assert len(pack(order, tmp_path / "x.tar", root=source, shards=4, executor=2)) == 4


def test_pack_executor_wrong_options_are_refused(source, tmp_path):
    with pytest.raises(OptionError, match="say how many with shards or shard_size"):
        pack(source, tmp_path / "x.tar", executor=2)
    with pytest.raises(OptionTypeError, match="executor must be"):
        pack(source, tmp_path / "x.tar", shards=2, executor="2")


# ---------------------------------------------------------------- convert


@pytest.fixture
def archive(source, tmp_path):
    """The files of `source` in two TARs, which are read as one."""
    pack(source, tmp_path / "in.tar", shards=2)
    with imagearchive.open(str(tmp_path / "in-*.tar")) as archive:
        yield archive


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("executor", [None, 2])
def test_convert_shards_hold_whole_samples_in_order(archive, tmp_path, kind, executor):
    seen = []
    count = imagearchive.convert(
        archive, tmp_path / f"out.{kind}", shards=6, executor=executor, progress=seen.append
    )
    assert count == sum(seen) == 60
    names = []
    for number in range(6):
        with imagearchive.open(tmp_path / f"out-{number:06d}.{kind}") as shard:
            assert len(shard) in {9, 12}
            assert all(shard[name] == archive[name] for name in shard)
            names += list(shard)
    assert names == sorted(archive)
    assert len(list(tmp_path.glob("out-*.idx.npy"))) == 6


def test_convert_shards_of_arrays(tmp_path):
    arrays = {f"{number}": np.arange(number) for number in range(5)}
    np.savez(tmp_path / "a.npz", **arrays)
    with imagearchive.open(tmp_path / "a.npz") as archive:
        imagearchive.convert(archive, tmp_path / "out.npz", shards=2, executor=2)
    found = {}
    for number in range(2):
        with np.load(tmp_path / f"out-{number:06d}.npz") as part:
            found |= part
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_convert_shards_again_writes_only_what_is_missing(archive, tmp_path, kind):
    def again():
        imagearchive.convert(archive, tmp_path / f"out.{kind}", shards=3, executor=1)

    made = [tmp_path / f"out-{number:06d}.{kind}" for number in range(3)]
    again()
    before = state(made)
    made[1].unlink()
    again()
    after = state(made)
    assert [one == other for one, other in zip(before, after)] == [True, False, True]
    # The archive is newer than they are.
    os.utime(tmp_path / "in-000000.tar")
    with pytest.raises(IncompleteError, match="3 of 3 shards failed"):
        again()


def test_convert_shards_wrong_options_are_refused(archive, tmp_path):
    with pytest.raises(OptionError, match="say how many with shards"):
        imagearchive.convert(archive, tmp_path / "out.tar", executor=2)
    with pytest.raises(OptionError, match="another kind than bins"):
        imagearchive.convert(archive, tmp_path / "out", "bins", shards=2)
    with pytest.raises(OptionError, match="only 20 samples for 21 shards"):
        imagearchive.convert(archive, tmp_path / "out.tar", shards=21)
