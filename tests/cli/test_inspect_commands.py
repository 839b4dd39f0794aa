"""ls, tree, find, cat, info, and verify."""

import gzip
import json
import re
import resource
import tarfile
import zipfile
from importlib.metadata import metadata, requires
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.archives import zip_bytes
from support.files import make_tar

import imagearchive
from imagearchive import TarWriter
from imagearchive.storage.limits import Limits


def test_ls_lists_files_directories_and_patterns(run, archive):
    assert run("ls", archive)[1] == b"cat/\ndog.txt\n"
    assert run("ls", archive, "cat/2.txt")[1] == b"cat/2.txt\n"
    assert run("ls", archive, "cat", "dog.txt")[1] == b"dog.txt\n\ncat:\n1.jpg\n2.txt\n"
    assert run("ls", archive, "*.txt")[1] == b"dog.txt\n"
    assert run("ls", archive, "**/*.txt")[1] == b"dog.txt\ncat/2.txt\n"
    assert run("ls", "-0", "-R", archive)[1] == b"cat\0dog.txt\0cat/1.jpg\0cat/2.txt\0"


def test_ls_long_prints_permissions_sizes_and_times(run, archive):
    assert run("ls", "-l", archive, "cat")[1].splitlines() == [
        b"-rw-r--r--         5000 2020-09-13 12:26:40 1.jpg",
        b"-rwxr-xr-x            1 2020-09-13 12:26:40 2.txt",
    ]
    assert b" 4.9K " in run("ls", "-lh", archive, "cat")[1]


def test_ls_json_prints_what_info_returns(run, archive):
    records = json.loads(run("ls", "--json", archive)[1])
    assert records[0] == {"path": "cat", "type": "directory"}
    with imagearchive.open(archive) as opened:
        info = opened.info("dog.txt")
    assert records[1] == {
        "path": "dog.txt", "type": "file", "position": 2, "size": 3, "stored": 3,
        "offset": info.offset, "archive": "a.tar", "mode": 0o644,
        "mtime_ns": 1_600_000_000 * 10**9, "crc": 0,
    }  # fmt: skip


def test_ls_missing_name_suggests_the_closest(run, archive):
    status, out, err = run("ls", archive, "dog.tx")
    assert (status, out) == (1, b"")
    assert "did you mean 'dog.txt'?" in err


def test_ls_missing_directory_suggests_the_closest(run, archive):
    status, out, err = run("ls", archive, "cta")
    assert (status, out) == (1, b"")
    assert err.endswith("no member 'cta'; did you mean 'cat'?\n")


@pytest.mark.parametrize("command", ["ls", "index", "view", "report"])
def test_mistyped_path_suggests_the_closest_file(run, archive, command):
    Path(archive).rename("train.tar")
    status, out, err = run(command, "trian.tar")
    assert (status, out) == (1, b"")
    assert err.endswith("trian.tar: no such archive; did you mean 'train.tar'?\n")
    assert run(command, "elsewhere/train.tar")[2].endswith("is the path right?\n")


def test_tree_draws_directories_to_a_level(run, archive):
    assert "└── dog.txt".encode() in run("tree", archive)[1]
    assert run("tree", "-d", archive)[1].endswith(b"1 directory, 0 files\n")
    assert b"1.jpg" not in run("tree", "-L", "1", archive)[1]
    assert "├── [ 4.9K]  1.jpg".encode() in run("tree", "-h", archive, "cat")[1]
    assert run("tree", archive, "nope")[0] == 1


def test_find_filters_by_name_path_size_and_type(run, archive):
    assert run("find", archive)[1] == b"cat/1.jpg\ncat/2.txt\ndog.txt\n"
    assert run("find", archive, "cat", "--name", "*.txt")[1] == b"cat/2.txt\n"
    assert run("find", archive, "--path", "cat/*")[1] == b"cat/1.jpg\ncat/2.txt\n"
    assert run("find", archive, "--size", "+1", "--size=-4")[1] == b"dog.txt\n"
    assert run("find", archive, "--size", "3")[1] == b"dog.txt\n"
    assert run("find", archive, "--type", "d", "-0")[1] == b"cat\0"
    assert json.loads(run("find", archive, "--json", "--size", "3")[1])[0]["path"] == "dog.txt"
    assert json.loads(run("find", archive, "--json", "--name", "nope")[1]) == []
    assert run("find", archive, "-lh", "--name", "1.jpg")[1].endswith(b"cat/1.jpg\n")
    assert run("find", archive, "nope")[0] == 1
    assert run("find", archive, "cat/2.txt")[1] == b"cat/2.txt\n"


def test_find_accepts_options_with_one_dash(run, archive):
    assert run("find", archive, "-name", "*.txt", "cat", "-type", "f")[1] == b"cat/2.txt\n"
    assert run("find", archive, "-size", "+1", "-size", "-4k")[1] == b"dog.txt\n"
    assert run("find", archive, "-path", "cat/*", "-lh")[1].count(b"\n") == 2


def test_find_wrong_usage_exits_with_2(run, archive):
    for wrong in (["--size", "many"], ["--type", "d", "--size", "3"], ["--type", "x"]):
        status, out, err = run("find", archive, *wrong)
        assert (status, out) == (2, b"")
        assert "imagearchive find: " in err


def test_cat_writes_members_or_nothing(run, work):
    data = np.random.default_rng(0).bytes(3 << 20)
    with TarWriter("b.tar") as tar:
        tar.add("big", data)
        tar.add("small", b"end")
    assert run("cat", "b.tar", "big", "small") == (0, data + b"end", "")
    status, out, err = run("cat", "b.tar", "small", "nope")
    assert (status, out) == (1, b"")
    assert err == "imagearchive: b.tar: no member 'nope'\n"


def test_cat_patterns_match_names_that_do_not_exist(run, work):
    with TarWriter("c.tar") as tar:
        for name in ("d/2.txt", "d/1.txt", "d/e/3.txt", "[x]", "x"):
            tar.add(name, name.encode() + b"\n")
    assert run("cat", "c.tar", "d/*.txt", "x")[1] == b"d/1.txt\nd/2.txt\nx\n"
    assert run("cat", "c.tar", "**/3.txt")[1] == b"d/e/3.txt\n"
    assert run("cat", "c.tar", "[x]")[1] == b"[x]\n"
    assert run("cat", "c.tar", "*.png")[0] == 1
    err = run("cat", "c.tar", "d")[2]
    assert err == "imagearchive: c.tar: 'd' is a directory; name a file in it\n"


def test_info_describes_archive(run, archive):
    facts = json.loads(run("info", "--json", archive)[1])
    assert facts["format"] == "tar"
    assert facts["members"] == 3
    assert facts["size"] == 5004
    assert facts["extensions"] == {".txt": 2, ".jpg": 1}
    assert b"4.9K" in run("info", "-h", archive)[1]
    assert run("info")[0] == 2


def test_info_keys_of_json_are_identifiers(run, archive):
    for arguments in ((archive,), ("--build",)):
        facts = json.loads(run("info", "--json", *arguments)[1])
        assert all(key.isidentifier() for key in facts)
    assert b"index size:" in run("info", archive)[1]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_info_of_npz_shows_arrays(run, work, save):
    save("a.npz", images=np.zeros((5, 4, 4, 3), np.uint8), labels=np.arange(5), scale=np.float32(2))
    facts = json.loads(run("info", "--json", "a.npz")[1])
    assert facts["arrays"] == {
        "images": {"dtype": "uint8", "shape": [5, 4, 4, 3]},
        "labels": {"dtype": "int64", "shape": [5]},
        "scale": {"dtype": "float32", "shape": []},
    }
    text = run("info", "a.npz")[1].decode()
    assert "images uint8 (5, 4, 4, 3); labels int64 (5,); scale float32 ()\n" in text


def test_info_of_damaged_array_says_so(run, work):
    with zipfile.ZipFile("a.npz", "w") as packed:
        packed.writestr("bad.npy", b"nothing")
    code, out, _ = run("info", "--json", "a.npz")
    assert code == 0
    assert "bad" in json.loads(out)["arrays"]["bad"]["error"]


def test_info_build_describes_installation(run):
    build = json.loads(run("info", "--build", "--json")[1])
    assert isinstance(build["libjpeg_turbo"], bool)
    assert build["numpy"] == np.__version__
    extras = set(metadata("imagearchive").get_all("Provides-Extra"))
    extras -= {"test", "bench", "docs", "dev"}
    needed = {
        re.split(r"[^\w-]", requirement)[0]
        for requirement in requires("imagearchive")
        if any(f'extra == "{extra}"' in requirement for extra in extras)
    }
    assert set(build["optional_packages"]) == needed


def test_verify_reports_wrong_checksum(run, work):
    assert run("convert", "photos", "p.zip", "-q")[0] == 0
    assert run("verify", "p.zip") == (
        0, b"3 members read, 3 checksums compared, 0 decoded, 0 failures\n", "",
    )  # fmt: skip
    raw = bytearray(Path("p.zip").read_bytes())
    raw[raw.index(b"a dog")] ^= 1
    Path("p.zip").write_bytes(raw)
    status, out, _ = run("verify", "-q", "p.zip")
    assert status == 1
    assert re.fullmatch(rb"dog/2\.txt: its checksum is \w+ but the archive says \w+\n", out)
    found = json.loads(run("verify", "--json", "p.zip")[1])
    assert [failure["name"] for failure in found["failures"]] == ["dog/2.txt"]


def test_verify_limits_can_be_raised(run, work):
    Image.new("L", (50, 40)).save("i.png")
    Path("z.txt.gz").write_bytes(gzip.compress(bytes(80 << 20)))
    Path("list").write_text("i.png\nz.txt.gz\n")
    assert run("pack", "list", "d.tar", "-q")[0] == 0
    status, out, _ = run(
        "verify", "d.tar", "--decode", "--max-pixels", "1999", "--max-size", "1M", "-q"
    )
    assert status == 1
    first, second = out.decode().splitlines()
    assert first.startswith("i.png: the image has 50 x 40 pixels")
    assert "use --max-pixels to raise the limit (now 1999)" in first
    assert second.startswith("z.txt.gz: ")
    assert "use --max-size to raise the limit (now 1048576)" in second
    out = run("verify", "d.tar", "--decode", "--max-ratio", "2", "-q")[1].decode()
    assert "use --max-ratio to raise the limit (now 2" in out
    assert run("verify", "d.tar", "--decode", "--max-ratio", "2000")[0] == 0


def test_verify_help_shows_default_limits(run):
    page = " ".join(run("verify", "--help")[1].decode().split())
    assert f"default {Limits.max_pixels}" in page
    assert f"default {Limits.max_size >> 30}GiB" in page
    assert f"default {Limits.max_ratio:.0f}" in page


@pytest.fixture
def with_pipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_tar("pipe.tar", {"a": b"1", "fifo": (tarfile.FIFOTYPE, "")})
    make_tar("good.tar", {"b.json": b"[" + b"1, " * 99 + b"1]"})


def test_info_and_verify_list_what_is_left_out(run, with_pipe):
    left_out = {
        "count": 1,
        "counts": {"special": 1},
        "members": [{"name": "fifo", "reason": "special", "file": 0}],
    }
    assert json.loads(run("info", "--json", "pipe.tar")[1])["left_out"] == left_out
    assert "left_out" not in json.loads(run("info", "--json", "good.tar")[1])
    assert b"left out:" in run("info", "pipe.tar")[1]
    assert b"special 1: fifo (special)" in run("info", "pipe.tar")[1]
    code, out, _ = run("verify", "pipe.tar")
    assert code == 0
    assert b"fifo: left out or unreadable: a device, FIFO, or other special file" in out
    assert out.endswith(b"0 failures, 1 left out\n")
    assert json.loads(run("verify", "--json", "pipe.tar")[1])["left_out"] == left_out


def test_verify_lists_an_encrypted_member_once(run, work):
    data = bytearray(zip_bytes({"secret.txt": b"x"}))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    (work / "locked.zip").write_bytes(data)
    code, out, _ = run("verify", "locked.zip")
    lines = out.splitlines()
    assert code == 1
    assert lines[0].startswith(b"secret.txt: encrypted; decrypt the archive")
    assert lines[1:] == [b"1 member read, 0 checksums compared, 0 decoded, 1 failure, 1 left out"]


def test_info_and_verify_take_several_archives(run, with_pipe):
    found = json.loads(run("info", "--json", "pipe.tar", "good.tar")[1])
    assert [one["files"] for one in found] == [["pipe.tar"], ["good.tar"]]
    out = run("info", "pipe.tar", "good.tar")[1].decode()
    assert out.startswith("pipe.tar:\n")
    assert "\n\ngood.tar:\n" in out
    found = json.loads(run("verify", "--json", "pipe.tar", "good.tar")[1])
    assert [(one["archive"], one["files"]) for one in found] == [("pipe.tar", 1), ("good.tar", 1)]
    assert b"good.tar: 1 member read" in run("verify", "pipe.tar", "good.tar")[1]
    for command in ("info", "verify"):
        code, _, err = run(command, "--ipath", "x.idx.npy", "pipe.tar", "good.tar")
        assert (code, "one archive" in err) == (2, True)


@pytest.mark.parametrize("command", ["info", "verify", "index"])
def test_commands_of_several_archives_report_what_is_no_archive_and_go_on(run, with_pipe, command):
    with open("notes.txt", "w") as file:
        file.write("not an archive")
    code, out, err = run(command, "notes.txt", "pipe.tar", "missing.tar", "good.tar")
    assert code == 1
    assert b"pipe.tar:" in out
    assert b"good.tar:" in out
    assert b"notes.txt" not in out
    errors = [line for line in err.splitlines() if ": warning: " not in line]
    assert [line.split(":")[1].strip().rpartition("/")[2] for line in errors] == [
        "notes.txt",
        "missing.tar",
    ]
    code, out, _ = run(command, "--json", "notes.txt", "pipe.tar", "missing.tar", "good.tar")
    found = json.loads(out)
    assert code == 1
    assert ["error" in one for one in found] == [True, False, True, False]
    assert [found[0]["archive"], found[2]["archive"]] == ["notes.txt", "missing.tar"]


@pytest.mark.parametrize("command", ["info", "verify", "index"])
def test_commands_of_several_archives_stop_without_descriptors(run, with_pipe, command):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The lowest descriptor that is free is beyond the limit.
    with open("good.tar") as file:
        lowest = file.fileno()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limit[1]))
        code, out, err = run(command, "good.tar", "pipe.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert code == 1
    assert out == b""
    assert err.count("Too many open files") == 1


def test_verify_of_several_archives_fails_if_one_does(run, with_pipe):
    with open("good.tar", "r+b") as file:
        file.truncate(700)
    assert run("verify", "pipe.tar", "good.tar")[0] == 1
    assert run("verify", "good.tar", "pipe.tar")[0] == 1


def test_verify_workers_verify_each_archive_and_go_on(run, with_pipe):
    with open("notes.tar", "w") as file:
        file.write("not an archive")
    code, out, err = run("verify", "--workers", "2", "{notes,pipe,good}.tar")
    assert (code, "notes.tar" in err) == (1, True)
    assert out == run("verify", "notes.tar", "pipe.tar", "good.tar")[1]


def test_verify_max_objects_limits_values_of_json(run, with_pipe):
    assert run("verify", "good.tar", "--decode")[0] == 0
    make_tar("big.tar", {"x.json.gz": gzip.compress(b"[" + b"1," * 9999 + b"1]")})
    assert run("verify", "big.tar", "--decode")[0] == 0
    code, out, _ = run("verify", "big.tar", "--decode", "--max-objects", "1000")
    assert code == 1
    assert b"--max-objects" in out
