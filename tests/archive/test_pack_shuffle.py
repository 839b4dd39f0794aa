"""Packing in random order."""

import os
import random
from itertools import chain
from pathlib import Path

import pytest
from support.files import fill, samples, tar_names

import imagearchive
from imagearchive.archive.pack import pack
from imagearchive.errors import OptionTypeError, UnsupportedMemberError


def test_pack_shuffled_samples_stay_whole_and_keep_their_data(tmp_path):
    files = {f"{folder}/{name}": name.encode() for name in samples(20) for folder in "ab"}
    source = fill(tmp_path / "src", files)
    pack(source, tmp_path / "a.tar", shuffle=True, seed=3)
    names = tar_names(tmp_path / "a.tar")
    assert names != sorted(files)
    assert sorted(names) == sorted(files)
    for first in range(0, len(names), 3):
        assert len({name.split(".")[0] for name in names[first : first + 3]}) == 1
        assert names[first : first + 3] == sorted(names[first : first + 3])
    with imagearchive.open(tmp_path / "a.tar") as archive:
        assert dict(archive) == files


def test_pack_shuffled_order_depends_on_names_and_seed(tmp_path):
    source = fill(tmp_path / "src", samples(20))
    pack(source, tmp_path / "a.tar", shuffle=True, seed=1)
    expected = (tmp_path / "a.tar").read_bytes()
    # A list in any order, even one that tears samples apart, gives what the directory gives.
    mixed = list(samples(20))
    random.Random(0).shuffle(mixed)
    pack(mixed, tmp_path / "b.tar", root=source, shuffle=True, seed=1)
    assert (tmp_path / "b.tar").read_bytes() == expected
    pack(source, tmp_path / "c.tar", shuffle=True, seed=2)
    assert tar_names(tmp_path / "c.tar") != tar_names(tmp_path / "a.tar")
    # The order is a promise: it may not change between releases.
    pack(
        ["1", "2", "3", "4", "5"],
        tmp_path / "d.tar",
        root=fill(tmp_path / "five", dict.fromkeys("12345", b"")),
        shuffle=True,
    )
    assert tar_names(tmp_path / "d.tar") == ["3", "1", "5", "4", "2"]
    for seed in (-1, 1 << 200):
        pack(mixed, tmp_path / f"{seed < 0}.tar", root=source, shuffle=True, seed=seed)
    with pytest.raises(OptionTypeError, match="seed must be an integer"):
        pack(source, tmp_path / "e.tar", shuffle=True, seed="1")


@pytest.mark.parametrize("options", [{"shards": 4}, {"shard_size": 10240}])
def test_pack_shuffled_shards_continue_one_order(tmp_path, options):
    source = fill(tmp_path / "src", samples(20))
    pack(source, tmp_path / "a.tar", shuffle=True)
    made = pack(source, tmp_path / "s.tar", shuffle=True, **options)
    assert list(chain.from_iterable(map(tar_names, made))) == tar_names(tmp_path / "a.tar")
    spread = pack(source, tmp_path / "w.tar", shuffle=True, **options, executor=1)
    assert [Path(one).read_bytes() for one in spread] == [Path(one).read_bytes() for one in made]


def test_pack_shuffled_error_names_the_whole_path(tmp_path):
    source = fill(tmp_path / "src", {"a/1.txt": b"", "a/2.txt": b""})
    os.mkfifo(tmp_path / "src" / "a" / "3.txt")
    with pytest.raises(UnsupportedMemberError, match=r"a/3\.txt"):
        pack(source, tmp_path / "a.tar", shuffle=True)
    os.unlink(tmp_path / "src" / "a" / "3.txt")
    before = len(os.listdir("/proc/self/fd"))
    pack(source, tmp_path / "a.tar", shuffle=True)
    assert len(os.listdir("/proc/self/fd")) == before
