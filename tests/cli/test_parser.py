"""Arguments of commands: where options may stand, several archives, damaged ones."""

import gzip
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest


@pytest.fixture
def shards(run, work):
    assert run("pack", "photos", "s.tar", "--shards", "2", "-q")[0] == 0
    return ["s-000000.tar", "s-000001.tar"]


def test_archive_argument_pattern_reads_several_as_one(run, shards):
    for pattern in ("s-*.tar", "s-*", "s-00000?.tar", "s-{000000..000001}.tar", "{s,s}-*.tar"):
        assert run("ls", pattern)[1] == b"cat/\ndog/\n"
    assert json.loads(run("info", "--json", "s-*.tar")[1])["files"] == shards


def test_archive_argument_pattern_without_match_is_an_error(run, work):
    status, _, err = run("ls", "t-*.tar")
    assert status == 1
    assert "no archive matches this pattern" in err


def test_archive_argument_existing_name_is_not_a_pattern(run, archive):
    os.rename(archive, "s-[0].tar")
    assert json.loads(run("info", "--json", "s-[0].tar")[1])["files"] == ["s-[0].tar"]


def test_archive_argument_expanded_by_the_shell_advises_quotes(run, shards):
    for command, expected in (
        (["ls", *shards], 1), (["tree", *shards], 1), (["find", *shards], 1), (["cat", *shards], 1),
        (["extract", *shards, "out"], 1),
        (["convert", *shards, "x.zip"], 2), (["tree", *shards, "cat"], 2),
    ):  # fmt: skip
        status, out, err = run(*command)
        assert (status, out) == (expected, b""), command
        assert "put a pattern in quotes" in err
    assert "quotes" not in run("ls", shards[0], "nope")[2]


def test_options_may_appear_anywhere(run, archive):
    assert run("ls", archive, "-l", "cat", "-h") == run("ls", "-lh", archive, "cat")
    assert run("find", archive, "--name", "*.txt", "cat")[1] == b"cat/2.txt\n"
    assert run("extract", archive, "-q", "out", "--skip-existing", "cat", "-f")[0] == 2
    assert run("extract", archive, "-q", "out", "--skip-existing", "cat")[0] == 0
    assert run("ls", "-la", archive)[1] == run("ls", "-l", archive)[1]


def test_wrong_usage_says_what_is_wrong(run, archive):
    status, _, err = run("ls", archive, "-d", "cat")
    assert status == 2
    assert "imagearchive ls: unrecognized arguments: -d" in err
    err = run("ls", "-h")[2]
    assert "required: ARCHIVE\n" in err
    assert "imagearchive ls --help" in err
    err = run("tree", "-L", "x", archive)[2]
    assert "must be an integer, at least 1, got 'x'" in err
    assert "\x1b" not in run("ls", archive, "-\x1b[31m")[2]


@pytest.mark.parametrize("name", ["cut.zip", "cut.tar.gz"])
def test_partial_is_named_by_the_error_for_a_truncated_archive(run, work, name):
    run("pack", "photos", source := "whole.zip" if name == "cut.zip" else "whole.tar")
    whole = (work / source).read_bytes()
    whole = whole if name == "cut.zip" else gzip.compress(whole)
    (work / name).write_bytes(whole[:-40])
    status, _, err = run("ls", name)
    assert status == 1
    assert "use --partial" in err
    status, out, _ = run("ls", "--partial", name)
    assert (status, out.splitlines()[0]) == (0, b"cat/")


def test_partial_reads_the_intact_part_of_a_damaged_archive(run, archive):
    raw = Path(archive).read_bytes()
    with tarfile.open(archive) as packed:
        end = packed.getmember("dog.txt").offset
    Path("cut.tar").write_bytes(raw[: end + 100])
    for command in (
        ["ls"], ["tree"], ["find"], ["cat", "cat/2.txt"], ["extract", "out"], ["convert", "x.zip"],
        ["index"],
    ):  # fmt: skip
        status, out, err = run(command[0], "cut.tar", *command[1:])
        assert (status, out) == (1, b""), command
        assert "use --partial to read the 2 members" in err
        status, out, err = run(command[0], "--partial", "cut.tar", *command[1:])
        assert status == 0, command
        assert out
        assert err.count("\n") <= 1
    assert sorted(os.listdir("out")) == ["cat"]
    status, out, err = run("verify", "cut.tar")
    assert status == 1
    assert out.count(b"cut.tar") == 1
    assert b"--partial" not in out
    assert err.count("\n") == 1
    assert err.startswith("imagearchive: warning: ")
    assert run("info", "cut.tar")[0] == 0


def test_start_imports_no_heavy_packages():
    code = (
        "import sys; from imagearchive.cli.parser import build_parser; build_parser(); "
        "from imagearchive.cli import inspect_commands, list_commands, write_commands; "
        "print([name for name in ('torch', 'matplotlib', 'tqdm', 'dask') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_ipath_that_cannot_be_used_is_explained(run, shards):
    Path("mine.npy").write_text("not an index")
    for archive, ipath in (
        ("photos", "x.npy"), (shards[0], "photos"), (shards[0], shards[0]), ("s-*.tar", shards[0]),
        ("{photos,s-000000.tar}", "x.npy"), (shards[0], "mine.npy"), (shards[0], "/dev/null/x"),
    ):  # fmt: skip
        status, out, err = run("ls", "--ipath", ipath, archive)
        assert (status, out) == (1, b""), (archive, ipath)
        assert err.startswith("imagearchive: ")
