"""index, extract, pack, convert, and process."""

import json
import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import imagearchive


def test_index_several_archives_with_ipath_writes_one_index(run, archive):
    Path("b.tar").write_bytes(Path(archive).read_bytes())
    out = run("index", archive, "b.tar", "--ipath", "x.npy")[1]
    assert out == b"2 archives: 6 members -> x.npy\n"
    assert not Path("b.idx.npy").exists()
    made = json.loads(run("index", "[ab].tar", "--ipath", "x.npy", "--json")[1])
    assert made == [{"archives": 2, "members": 6, "index": "x.npy"}]
    assert run("ls", "--ipath", "x.npy", "{a,b}.tar")[1] == b"cat/\ndog.txt\n"


def test_index_writes_and_reports_index(run, archive):
    assert run("index", archive, "--ipath", "other.npy")[1] == b"a.tar: 3 members -> other.npy\n"
    assert len(np.load("other.npy")) == 3
    made = json.loads(run("index", "--json", "--overwrite", archive)[1])
    assert made == [{"archive": "a.tar", "members": 3, "index": "a.idx.npy"}]


def test_index_pattern_builds_one_index_per_archive(run, archive):
    shutil.copy("a.tar", "a-0.tar")
    shutil.copy("a.tar", "a-1.tar")
    assert run("index", "a-{0..1}.tar")[1].count(b"3 members") == 2
    assert run("index", "a-?.tar")[1].count(b"3 members") == 2


def test_extract_existing_files_need_an_option(run, archive):
    assert run("extract", archive, "out") == (0, b"3 files, 4.9K\n", "")
    status, _, err = run("extract", archive, "out")
    assert status == 1
    assert err.startswith("imagearchive: out/")
    assert err.endswith("exists; use --overwrite to replace it or --skip-existing to keep it\n")
    assert run("extract", "--skip-existing", archive, "out")[1].endswith(b", 3 skipped\n")
    assert run("extract", "-f", "-q", archive, "out", "cat") == (0, b"", "")
    assert run("extract", "-f", "--skip-existing", archive, "out")[0] == 2


def test_extract_json_reports_counts(run, archive):
    assert json.loads(run("extract", archive, "some", "-q", "cat", "--json")[1]) == {
        "files": 2, "bytes": 5001, "skipped": 0, "refused": [], "resumed": 0,
    }  # fmt: skip


def test_pack_keeps_mtime_when_asked(run, work):
    assert run("pack", "photos", "p.tar", "--mtime", "keep")[0] == 0
    with tarfile.open("p.tar") as packed:
        assert packed.getmember("cat/1.txt").mtime == int(os.stat("photos/cat/1.txt").st_mtime)


def test_pack_replaces_only_with_overwrite(run, work):
    assert run("pack", "photos", "p.tar", "-q")[0] == 0
    status, _, err = run("pack", "photos", "p.tar")
    assert (status, err) == (1, "imagearchive: p.tar exists; use --overwrite to replace it\n")
    assert run("pack", "-f", "--no-index", "--no-sync", "photos", "p.tar")[0] == 0
    assert not Path("p.idx.npy").exists()


def test_pack_list_keeps_its_order(run, work):
    Path("list").write_bytes(b"photos/dog/2.txt\0photos/cat/1.txt\0")
    assert run("pack", "-0", "list", "l.tar")[0] == 0
    assert run("find", "l.tar")[1] == b"photos/cat/1.txt\nphotos/dog/2.txt\n"


@pytest.mark.parametrize("target", ["a.tar", "a.zip", "-"])
def test_pack_empty_list_warns_that_the_archive_has_no_members(run, work, target):
    Path("list").write_bytes(b"\n")
    status, _, err = run("pack", "list", target)
    named = "standard output" if target == "-" else target
    assert (status, err) == (
        0,
        f"imagearchive: warning: {named} has no members, because the list of files is empty; pass "
        f"the path of each file\n",
    )


def test_pack_shuffle_follows_the_seed(run, work):
    for seed in ("0", "1", "2", "3"):
        assert run("pack", "photos", f"{seed}.tar", "--shuffle", "--seed", seed)[0] == 0
        imagearchive.pack("photos", "same.tar", shuffle=True, seed=int(seed), overwrite=True)
        assert Path(f"{seed}.tar").read_bytes() == Path("same.tar").read_bytes()
    assert len({Path(f"{seed}.tar").read_bytes() for seed in range(4)}) > 1


def test_pack_extension_chooses_the_format(run, work):
    assert run("pack", "photos", "p.ZIP")[:2] == (0, b"p.ZIP\n")
    with zipfile.ZipFile("p.ZIP") as packed:
        assert "cat/1.txt" in packed.namelist()
    status, _, err = run("pack", "photos", "p.rar")
    assert status == 2
    assert "the name must end with .tar or .zip" in err


def test_pack_shards_are_numbered(run, work):
    assert run("pack", "photos", "s.tar", "--shard-size", "10k")[1] == b"s-000000.tar\n"
    assert json.loads(run("pack", "photos", "j.tar", "--shards", "2", "--json")[1]) == [
        "j-000000.tar", "j-000001.tar",
    ]  # fmt: skip
    # The remains of a larger set would be read with the new one.
    assert run("pack", "photos", "j.tar", "--shards", "1", "-f") == (
        0,
        b"j-000000.tar\n",
        "imagearchive: warning: j-000001.tar: left over from a larger set of shards; a pattern "
        "matches it, too\n",
    )


def test_pack_mtime_may_be_negative_or_large(run, work):
    for mtime in ("-5", "9000000000"):
        assert run("pack", "photos", f"t{mtime}.tar", "--mtime", mtime)[0] == 0
        with tarfile.open(f"t{mtime}.tar") as packed:
            assert {member.mtime for member in packed} == {int(mtime)}


def test_pack_failure_exits_with_1(run, work):
    Path("list").write_bytes(b"photos/dog/2.txt\0photos/cat/1.txt\0")
    for wrong, message in (
        (["nope", "q.tar"], "nope: no such directory or list of files; is the path right?"),
        (["photos", "q.tar", "--shards", "9"], "there are only 3 samples for 9 shards"),
        (["photos", "photos/q.tar"], "write it elsewhere"),
        (["list", "q.tar"], "imagearchive convert"),
    ):
        status, _, err = run("pack", *wrong)
        assert status == 1, wrong
        assert err.startswith("imagearchive: ")
        assert message in err


def test_pack_wrong_usage_exits_with_2(run, work):
    for wrong in (
        ["--mtime", "noon"],
        ["--shards", "0"],
        ["--shard-size", "big"],
        ["--shards", "2", "--shard-size", "1M"],
    ):
        assert run("pack", "photos", "q.tar", *wrong)[0] == 2
    for wrong in (["photos", "p.npz"], ["", "q.tar"], ["photos", ""]):
        assert run("pack", *wrong)[0] == 2


def test_convert_writes_each_format(run, archive):
    assert run("convert", archive, "b.zip")[1] == b"b.zip: 3 members\n"
    assert run("convert", archive, "folder.d", "--to", "bins", "--splits", "2")[0] == 0
    assert len(imagearchive.SplitDataLoader("folder.d")) == 3
    assert json.loads(run("convert", archive, "d.rar", "--to", "tar", "--json")[1]) == {
        "archive": "d.rar", "members": 3,
    }  # fmt: skip


def test_convert_replaces_only_with_overwrite(run, archive):
    assert run("convert", archive, "folder.d", "--to", "bins")[0] == 0
    status, _, err = run("convert", archive, "folder.d", "--to", "bins")
    assert status == 1
    assert "use --overwrite" in err
    assert run("convert", archive, "folder.d", "--to", "bins", "-f", "-q") == (0, b"", "")


def test_convert_impossible_target_is_refused(run, archive):
    assert run("convert", archive, "c.npz")[0] == 1
    status, _, err = run("convert", archive, "c.rar")
    assert status == 2
    assert "--to" in err


PROCESS_OPTIONS = ["--raw-dir", "raw", "--output-dir", "done", "--workers", "0", "-q"]


def test_process_writes_npz_files(run, work):
    assert run("process", "--all", "--image-size", "16x12", *PROCESS_OPTIONS)[0] == 0
    with np.load("done/train_detector.npz") as loaded:
        assert loaded.files
    (report,) = json.loads(run("process", "--detector", "--json", *PROCESS_OPTIONS)[1])
    assert report["kind"] == "detector"
    assert run("process", "--landmarker", *PROCESS_OPTIONS)[0] == 1


def test_process_wrong_usage_exits_with_2(run, work):
    for wrong in (
        [], ["--all", "--image-size", "tiny"], ["--all", "--image-size", "0"],
        ["--all", "--train-split", "2"], ["--all", "--train-split", "most"],
        ["--all", "--seed", "-1"], ["--all", "--seed", str(2**32)], ["--all", "--workers", "many"],
    ):  # fmt: skip
        status, _, err = run("process", *wrong, *PROCESS_OPTIONS)
        assert status == 2, wrong
        assert "usage: imagearchive process" in err


def test_index_workers_report_each_archive_and_go_on_after_a_failure(run, archive):
    for number in range(4):
        shutil.copy(archive, f"s-{number}.tar")
    with open("s-2.tar", "r+b") as file:
        file.truncate(700)
    status, out, err = run("index", "s-*.tar", "--workers", "2")
    assert (status, out.decode().splitlines()) == (
        1,
        [f"s-{number}.tar: 3 members -> s-{number}.idx.npy" for number in (0, 1, 3)],
    )
    assert "s-2.tar" in err
    shutil.copy(archive, "s-2.tar")
    status, out, err = run("index", "s-*.tar", "--workers", "2", "--ipath", "all.npy", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == [{"archives": 4, "members": 12, "index": "all.npy"}]
    assert os.path.exists("s-2.idx.npy")


def test_index_dask_without_a_scheduler_fails(run, archive, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    status, _, err = run("index", archive, "--dask", "tcp://127.0.0.1:1")
    assert status == 1
    assert "pip install 'imagearchive[dask]'" in err


def test_pack_workers_name_the_shards_that_failed(run, work):
    Path("p-000001.tar").write_bytes(b"other")
    arguments = ("pack", "photos", "p.tar", "--shards", "3", "--workers", "2")
    status, out, err = run(*arguments)
    assert (status, out) == (1, b"")
    assert err.splitlines() == [
        f"imagearchive: {work}/p-000001.tar exists; use --overwrite to replace it",
        "imagearchive: 1 of 3 shards failed, the others are done",
    ]
    assert run(*arguments, "--overwrite") == (0, b"p-000000.tar\np-000001.tar\np-000002.tar\n", "")
    assert run("pack", "photos", "p.tar", "--workers", "2")[0] == 2


def test_convert_shards_with_workers(run, archive):
    status, out, _ = run("convert", archive, "b.zip", "--shards", "2", "--workers", "2")
    assert (status, out) == (0, b"b.zip: 3 members in 2 archives\n")
    assert run("find", "b-000000.zip")[1] == b"cat/1.jpg\n"
    status, out, _ = run("convert", archive, "c.tar", "--shards", "3", "--json")
    assert json.loads(out) == {"archive": "c.tar", "shards": 3, "members": 3}
