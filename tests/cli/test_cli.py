"""The command line: every example of its page, hostile names through every command, mistakes."""

import contextlib
import errno
import fcntl
import gzip
import io
import json
import logging
import os
import pty
import re
import resource
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import termios
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT

import imagearchive
from imagearchive.archive.verify import verify
from imagearchive.archive.writers import TarWriter
from imagearchive.cli import main
from imagearchive.cli.argument_types import parse_size
from imagearchive.cli.output import escape, format_size, format_time, permissions, text
from imagearchive.storage.limits import Limits

PAGE = ROOT / "docs" / "guides" / "cli.md"
COMMANDS = [
    "index", "ls", "tree", "find", "cat", "info", "verify", "extract", "pack", "convert",
    "process", "completion",
]  # fmt: skip


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A directory to work in, with the files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for folder in ("photos/cat", "photos/dog", "raw/detector/train"):
        os.makedirs(folder)
    Path("photos/cat/1.txt").write_text("a cat\n")
    Path("photos/cat/big.bin").write_bytes(bytes(3072))
    Path("photos/dog/2.txt").write_text("a dog\n")
    images = []
    for number in (0, 1):
        Image.new("RGB", (32, 24), (9 * number, 0, 0)).save(f"raw/detector/train/{number}.jpg")
        images.append(f"{number}.jpg,32,24,x,1,2,10,12")
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    Path("raw/detector/train/_annotations.csv").write_text("\n".join([header, *images, ""]))
    return tmp_path


# What is said to a program: parameter=value, method(), the address of an object.
TO_PROGRAMS = re.compile(r"\b[a-z_]+=(?!'?[*{]|\w+ )|\w\(\)|\bat 0x")


@pytest.fixture
def run(capfdbinary):
    def run(*arguments):
        status = main([os.fspath(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        assert not TO_PROGRAMS.search(err.decode())
        return status, out, err.decode()

    return run


def child(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "imagearchive", *map(os.fspath, arguments)],
        **{
            "env": {**os.environ, "PYTHONWARNINGS": "default"},
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        },
    )


# ---------------------------------------------------------------- the page


def examples():
    """Commands of the page with what they print, in order."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def test_every_example_of_the_page(work, run):
    # The command as it is installed, without relying on where scripts are.
    tool = work / "tools"
    tool.mkdir()
    script = tool / "imagearchive"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m imagearchive "$@"\n')
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tool}:{os.environ['PATH']}"}
    seen = set()
    for command, expected in examples():
        if re.search("[|&>]", command):
            done = subprocess.run(
                ["bash", "-c", command], env=environment, capture_output=True, check=False
            )
            status, output, err = done.returncode, done.stdout, done.stderr
        else:
            # A shell adds nothing to these but the time to start Python.
            status, output, err = run(*shlex.split(command)[1:])
        assert status == 0, (command, err)
        pattern = re.escape(expected).replace(r"\.\.\.", ".*")
        shown = output.decode()
        assert re.fullmatch(pattern, shown), f"{command}\n{shown}\n--- documented:\n{expected}"
        seen.update(re.findall(r"imagearchive (\w+)", command))
    assert seen >= set(COMMANDS)


def test_every_command_has_help(run):
    status, out, _ = run("--help")
    assert status == 0
    for command in COMMANDS:
        assert re.search(rb"^    %b\s" % command.encode(), out, re.MULTILINE), command
        status, text_, _ = run(command, "--help")
        assert status == 0
        assert b"usage: imagearchive " + command.encode() in text_
        assert f"## {command}\n" in PAGE.read_text()
    assert run("--version")[1].startswith(b"imagearchive ")


# ---------------------------------------------------------------- commands


@pytest.fixture
def archive(work):
    with TarWriter("a.tar", mtime=1_600_000_000) as tar:
        tar.add("cat/1.jpg", b"1" * 5000)
        tar.add("cat/2.txt", b"2", mode=0o755)
        tar.add("dog.txt", b"dog")
    return "a.tar"


def test_ls(run, archive):
    assert run("ls", archive)[1] == b"cat/\ndog.txt\n"
    assert run("ls", archive, "cat/2.txt")[1] == b"cat/2.txt\n"
    assert run("ls", archive, "cat", "dog.txt")[1] == b"dog.txt\n\ncat:\n1.jpg\n2.txt\n"
    assert run("ls", archive, "*.txt")[1] == b"dog.txt\n"
    assert run("ls", archive, "**/*.txt")[1] == b"dog.txt\ncat/2.txt\n"
    assert run("ls", "-0", "-R", archive)[1] == b"cat\0dog.txt\0cat/1.jpg\0cat/2.txt\0"
    assert run("ls", "-l", archive, "cat")[1].splitlines() == [
        b"-rw-r--r--         5000 2020-09-13 12:26:40 1.jpg",
        b"-rwxr-xr-x            1 2020-09-13 12:26:40 2.txt",
    ]
    assert b" 4.9K " in run("ls", "-lh", archive, "cat")[1]
    records = json.loads(run("ls", "--json", archive)[1])
    assert records[0] == {"path": "cat", "type": "directory"}
    with imagearchive.open(archive) as opened:
        info = opened.info("dog.txt")
    assert records[1] == {
        "path": "dog.txt", "type": "file", "position": 2, "size": 3, "stored": 3,
        "offset": info.offset, "archive": "a.tar", "mode": 0o644,
        "mtime_ns": 1_600_000_000 * 10**9, "crc": 0,
    }  # fmt: skip
    status, out, err = run("ls", archive, "dog.tx")
    assert (status, out) == (1, b"")
    assert "did you mean 'dog.txt'?" in err


def test_tree(run, archive):
    assert "└── dog.txt".encode() in run("tree", archive)[1]
    assert run("tree", "-d", archive)[1].endswith(b"1 directory, 0 files\n")
    assert b"1.jpg" not in run("tree", "-L", "1", archive)[1]
    assert "├── [ 4.9K]  1.jpg".encode() in run("tree", "-h", archive, "cat")[1]
    assert run("tree", archive, "nope")[0] == 1


def test_find(run, archive):
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
    # As find(1) spells it.
    assert run("find", archive, "-name", "*.txt", "cat", "-type", "f")[1] == b"cat/2.txt\n"
    assert run("find", archive, "-size", "+1", "-size", "-4k")[1] == b"dog.txt\n"
    assert run("find", archive, "-path", "cat/*", "-lh")[1].count(b"\n") == 2
    for wrong in (["--size", "many"], ["--type", "d", "--size", "3"], ["--type", "x"]):
        status, out, err = run("find", archive, *wrong)
        assert (status, out) == (2, b"")
        assert "imagearchive find: " in err


def test_cat(run, work):
    data = np.random.default_rng(0).bytes(3 << 20)
    with TarWriter("b.tar") as tar:
        tar.add("big", data)
        tar.add("small", b"end")
    assert run("cat", "b.tar", "big", "small") == (0, data + b"end", "")
    status, out, err = run("cat", "b.tar", "small", "nope")
    assert (status, out) == (1, b"")
    assert err == "imagearchive: b.tar: no member 'nope'\n"
    with TarWriter("c.tar") as tar:
        for name in ("d/2.txt", "d/1.txt", "d/e/3.txt", "[x]", "x"):
            tar.add(name, name.encode() + b"\n")
    assert run("cat", "c.tar", "d/*.txt", "x")[1] == b"d/1.txt\nd/2.txt\nx\n"
    assert run("cat", "c.tar", "**/3.txt")[1] == b"d/e/3.txt\n"
    assert run("cat", "c.tar", "[x]")[1] == b"[x]\n"
    assert run("cat", "c.tar", "*.png")[0] == 1
    err = run("cat", "c.tar", "d")[2]
    assert err == "imagearchive: c.tar: 'd' is a directory; name a file in it\n"


def test_info(run, archive):
    facts = json.loads(run("info", "--json", archive)[1])
    assert facts["format"] == "tar"
    assert facts["members"] == 3
    assert facts["size"] == 5004
    assert facts["extensions"] == {".txt": 2, ".jpg": 1}
    assert b"4.9K" in run("info", "-h", archive)[1]
    build = json.loads(run("info", "--build", "--json")[1])
    assert isinstance(build["libjpeg-turbo"], bool)
    assert build["numpy"] == np.__version__
    assert run("info")[0] == 2


def test_index(run, archive):
    assert run("index", archive, "--ipath", "other.npy")[1] == b"a.tar: 3 members -> other.npy\n"
    assert len(np.load("other.npy")) == 3
    made = json.loads(run("index", "--json", "--overwrite", archive)[1])
    assert made == [{"archive": "a.tar", "members": 3, "index": "a.idx.npy"}]
    assert run("index", archive, archive, "--ipath", "x.npy")[0] == 2
    shutil.copy("a.tar", "a-0.tar")
    shutil.copy("a.tar", "a-1.tar")
    assert run("index", "a-{0..1}.tar")[1].count(b"3 members") == 2
    assert run("index", "a-?.tar")[1].count(b"3 members") == 2


def test_verify(run, work):
    assert run("convert", "photos", "p.zip", "-q")[0] == 0
    assert run("verify", "p.zip") == (
        0, b"3 members read, 3 checksums compared, 0 decoded, 0 failures\n", "",
    )  # fmt: skip
    raw = bytearray(Path("p.zip").read_bytes())
    raw[raw.index(b"a dog")] ^= 1
    Path("p.zip").write_bytes(raw)
    status, out, _ = run("verify", "-q", "p.zip")
    assert status == 1
    assert re.fullmatch(rb"dog/2\.txt: its checksum is \w+ where the archive says \w+\n", out)
    found = json.loads(run("verify", "--json", "p.zip")[1])
    assert [failure["name"] for failure in found["failures"]] == ["dog/2.txt"]


def test_extract(run, archive):
    assert run("extract", archive, "out") == (0, b"3 files, 4.9K\n", "")
    status, _, err = run("extract", archive, "out")
    assert status == 1
    assert err.startswith("imagearchive: out/")
    assert err.endswith("exists; use --overwrite to replace it or --skip-existing to keep it\n")
    assert run("extract", "--skip-existing", archive, "out")[1].endswith(b"3 left as they were\n")
    assert run("extract", "-f", "-q", archive, "out", "cat") == (0, b"", "")
    assert run("extract", "-f", "--skip-existing", archive, "out")[0] == 2
    assert json.loads(run("extract", archive, "some", "-q", "cat", "--json")[1]) == {
        "files": 2, "bytes": 5001, "skipped": 0, "refused": [],
    }  # fmt: skip


def test_pack(run, work):
    assert run("pack", "photos", "p.tar", "--mtime", "keep")[0] == 0
    with tarfile.open("p.tar") as packed:
        assert packed.getmember("cat/1.txt").mtime == int(os.stat("photos/cat/1.txt").st_mtime)
    status, _, err = run("pack", "photos", "p.tar")
    assert (status, err) == (1, "imagearchive: p.tar exists; use --overwrite to replace it\n")
    assert run("pack", "-f", "--no-index", "--no-sync", "photos", "p.tar")[0] == 0
    assert not Path("p.idx.npy").exists()
    assert run("pack", "photos", "s.tar", "--shard-size", "10k")[1] == b"s-000000.tar\n"
    Path("list").write_bytes(b"photos/dog/2.txt\0photos/cat/1.txt\0")
    assert run("pack", "-0", "list", "l.tar")[0] == 0
    assert run("find", "l.tar")[1] == b"photos/cat/1.txt\nphotos/dog/2.txt\n"
    assert json.loads(run("pack", "photos", "j.tar", "--shards", "2", "--json")[1]) == [
        "j-000000.tar", "j-000001.tar",
    ]  # fmt: skip
    # What is left of a larger set would be read with the new one.
    assert run("pack", "photos", "j.tar", "--shards", "1", "-f") == (
        0,
        b"j-000000.tar\n",
        "imagearchive: warning: j-000001.tar: left of a larger set of shards; a pattern matches "
        "it, too\n",
    )
    for mtime in ("-5", "9000000000"):
        assert run("pack", "photos", f"t{mtime}.tar", "--mtime", mtime)[0] == 0
        with tarfile.open(f"t{mtime}.tar") as packed:
            assert {member.mtime for member in packed} == {int(mtime)}
    for wrong, message in (
        (["nope", "q.tar"], "nope: no such directory, nor a list of files"),
        (["photos", "q.tar", "--shards", "9"], "there are only 3 samples for 9 shards"),
        (["photos", "photos/q.tar"], "put it elsewhere"),
        (["list", "q.tar"], "imagearchive convert"),
    ):
        status, _, err = run("pack", *wrong)
        assert status == 1, wrong
        assert err.startswith("imagearchive: ")
        assert message in err
    for wrong in (
        ["--mtime", "noon"],
        ["--shards", "0"],
        ["--shard-size", "big"],
        ["--shards", "2", "--shard-size", "1M"],
    ):
        assert run("pack", "photos", "q.tar", *wrong)[0] == 2
    for wrong in (["photos", "p.zip"], ["", "q.tar"], ["photos", ""]):
        assert run("pack", *wrong)[0] == 2


def test_convert(run, archive):
    assert run("convert", archive, "b.zip")[1] == b"b.zip: 3 members\n"
    assert run("convert", archive, "folder.d", "--to", "bins", "--splits", "2")[0] == 0
    assert len(imagearchive.SplitDataLoader("folder.d")) == 3
    status, _, err = run("convert", archive, "folder.d", "--to", "bins")
    assert status == 1
    assert "use --overwrite" in err
    assert run("convert", archive, "folder.d", "--to", "bins", "-f", "-q") == (0, b"", "")
    assert run("convert", archive, "c.npz")[0] == 1
    status, _, err = run("convert", archive, "c.rar")
    assert status == 2
    assert "--to" in err
    assert json.loads(run("convert", archive, "d.rar", "--to", "tar", "--json")[1]) == {
        "archive": "d.rar", "members": 3,
    }  # fmt: skip


def test_process(run, work):
    options = ["--raw-dir", "raw", "--output-dir", "done", "--workers", "0", "-q"]
    assert run("process", "--all", "--image-size", "16x12", *options)[0] == 0
    with np.load("done/train_detector.npz") as loaded:
        assert loaded.files
    (report,) = json.loads(run("process", "--detector", "--json", *options)[1])
    assert report["kind"] == "detector"
    assert run("process", "--landmarker", *options)[0] == 1
    for wrong in (
        [], ["--all", "--image-size", "tiny"], ["--all", "--image-size", "0"],
        ["--all", "--train-split", "2"], ["--all", "--train-split", "most"],
        ["--all", "--seed", "-1"], ["--all", "--seed", str(2**32)], ["--all", "--workers", "many"],
    ):  # fmt: skip
        status, _, err = run("process", *wrong, *options)
        assert status == 2, wrong
        assert "usage: imagearchive process" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run, shell, tmp_path):
    status, out, _ = run("completion", shell)
    assert status == 0
    for word in (*COMMANDS, "shard-size", "skip-unsafe"):
        assert word.encode() in out
    if shell == "fish":
        assert b" -l name -o name " in out
        assert b" -s l -l long " in out or b" -l long -s l " in out
    if shutil.which(shell):
        (tmp_path / "script").write_bytes(out)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)
    assert run("completion", "tcsh")[0] == 2


def test_bash_completes(run, tmp_path):
    (tmp_path / "script").write_bytes(run("completion", "bash")[1])
    ask = (
        "source {}; COMP_WORDS=({}); COMP_CWORD={}; _imagearchive 2>/dev/null; "
        'printf "%s\\n" "${{COMPREPLY[@]}}"'
    )

    def complete(*words):
        script = ask.format(tmp_path / "script", " ".join(words), len(words) - 1)
        done = subprocess.run(["bash", "-c", script], capture_output=True, cwd=tmp_path, check=True)
        return done.stdout.decode().split()

    assert complete("imagearchive", "ex") == ["extract"]
    assert complete("imagearchive", "pack", "--sh") == ["--shards", "--shard-size"]
    assert complete("imagearchive", "completion", "z") == ["zsh"]
    assert complete("imagearchive", "ls", "scr") == ["script"]


# ---------------------------------------------------------------- hostile names

HOSTILE = {
    "up": "../evil",
    "absolute": "/abs/evil",
    "long": "l" * 65536,
    "nul": "a\0b",
    "newline": "new\nline",
    "bytes": b"\xff\xfebytes".decode("utf-8", "surrogateescape"),
    "escape": "\x1b[31mred\x07",
    "direction": "gpj.\u202eexe",
    "dash": "-rf",
    "backslash": "back\\slash",
}


def hostile_tar(path, name):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as packed:
        for member, size in ((name, 5), ("good", 4)):
            info = tarfile.TarInfo(member)
            info.size = size
            if "\0" in member:
                # The field of the header would end there.
                info.name, info.pax_headers = "short", {"path": member}
            packed.addfile(info, io.BytesIO(b"x" * size))
    return path


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_hostile_names_through_every_command(run, work, case):
    name = HOSTILE[case]
    before = set(os.listdir(work.parent))
    archive = hostile_tar("h.tar", name)
    with imagearchive.open(archive) as opened:
        (stored,) = (other for other in opened if other != "good")
    raw = stored.encode("utf-8", "surrogateescape")
    shown = text(stored).encode()
    outputs = []
    for command in (
        ["ls"],
        ["ls", "-lR"],
        ["tree"],
        ["find"],
        ["info"],
        ["verify", "--decode"],
        ["index", "-f"],
    ):
        status, out, err = run(*command[:1], archive, *command[1:])
        assert (status, err) == (0, ""), command
        outputs.append(out)
    for out in outputs:
        assert all(byte >= 32 or byte == 10 for byte in out)
        assert "\u202e".encode() not in out
        out.decode()
    assert shown in outputs[3].splitlines()
    ended = shown if case == "nul" else raw
    assert sorted(run("find", "-0", archive)[1].split(b"\0")) == sorted([b"", b"good", ended])
    assert stored in [row["path"] for row in json.loads(run("find", "--json", archive)[1])]
    assert run("cat", archive, "--", stored)[1] == b"xxxxx"
    # What cannot lie below a directory stops everything, unless it may be left out.
    status, out, err = run("extract", archive, "out")
    if case in ("up", "long", "nul"):
        assert status == 1
        assert "nothing was written" in err
        assert "--skip-unsafe" in err
        assert not Path("out").exists()
        status, out, err = run("extract", "--skip-unsafe", archive, "out")
        assert status == 0
        assert err.startswith("imagearchive: not extracted: ")
        assert os.listdir("out") == ["good"]
    else:
        assert status == 0
        with open(os.path.join(b"out", raw), "rb") as file:
            assert file.read() == b"xxxxx"
        assert run("pack", "out", "again.tar")[0] == 0
        assert raw in run("find", "-0", "again.tar")[1].split(b"\0")
    for target in ("b.tar", "b.zip", "bins"):
        status, _, err = run("convert", archive, target)
        refused = case in ("up", "nul") or (case in ("bytes", "long") and target == "b.zip")
        if target == "bins" or not refused:
            assert status == 0, (target, err)
        else:
            assert status == 1
            assert not Path(target).exists()
    assert set(os.listdir(work.parent)) == before
    assert not os.path.lexists("/abs")


@pytest.mark.parametrize(
    "name", ["no\nsuch", "\x1b[31m", "x" * 70000, "../..", "/etc/passwd", "\udcff", "a\0b"]
)
def test_hostile_arguments(run, archive, name):
    # No system passes a NUL on a command line, so none names an archive.
    missing = f"{name}/missing".replace("\0", "")
    for command in (
        ["ls", archive, name], ["tree", archive, name], ["find", archive, name],
        ["cat", archive, name], ["extract", archive, "out", name], ["info", missing],
        ["verify", missing], ["ls", missing], ["convert", missing, "x.tar"],
        ["pack", missing, "x.tar"], ["index", missing],
    ):  # fmt: skip
        status, out, err = run(*command)
        assert status == 1, command
        assert not out
        assert err.startswith("imagearchive: ")
        assert err.count("\n") == 1
        assert "\x1b" not in err
        assert "Traceback" not in err
    assert not Path("out").exists()


# ---------------------------------------------------------------- mistakes, pipes, interrupts


def test_mistakes_give_one_line_and_no_traceback(run, work):
    Path("text").write_text("this is no archive, just text " * 50)
    Path("cut.tar").write_bytes(b"")
    for command in (
        ["ls", "text"],
        ["ls", "missing.tar"],
        ["verify", "text"],
        ["cat", "text", "x"],
    ):
        status, out, err = run(*command)
        assert (status, out) == (1, b"")
        assert err.startswith("imagearchive: ")
        assert command[1] in err
        assert err.count("\n") == 1
    for command in (
        [],
        ["frobnicate"],
        ["ls"],
        ["cat", "x"],
        ["ls", "x", "--nope"],
        ["extract", "x"],
    ):
        status, out, err = run(*command)
        assert (status, out) == (2, b"")
        assert "usage: imagearchive" in err


def test_errors_of_the_system_are_explained(run, work, archive, monkeypatch):
    Path("file").write_text("")
    status, _, err = run("extract", archive, "file/below")
    assert status == 1
    assert err == "imagearchive: file/below: Not a directory\n"
    for command in (
        ["extract", archive, "-"],
        ["convert", archive, "-"],
        ["pack", "photos", "-"],
        ["ls", "-"],
        ["index", archive, "-"],
    ):
        status, _, err = run(*command)
        assert status == 2
        assert "'-': " in err
    for command in (["pack", "photos", "missing/p.tar"], ["convert", archive, "missing/p.tar"]):
        status, _, err = run(*command)
        assert status == 1
        assert err == "imagearchive: missing: no such directory to write 'p.tar' to\n"
    with child("pack", "photos", "p.tar", preexec_fn=partial(limit, resource.RLIMIT_FSIZE)) as one:
        assert one.communicate(timeout=30) == (b"", b"imagearchive: p.tar: File too large\n")
        assert one.returncode == 1
    with child("verify", archive, preexec_fn=partial(limit, resource.RLIMIT_NOFILE)) as one:
        _, err = one.communicate(timeout=30)
        assert one.returncode == 1
        assert re.search(rb"^imagearchive: .+: Too many open files\n$", err, re.MULTILINE)
    assert "p.tar" not in os.listdir(work)

    def fail(*arguments, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("imagearchive.cli.archive_argument.open_archive", fail)
    assert run("ls", archive)[2] == f"imagearchive: {archive}: Input/output error\n"


def limit(what):
    resource.setrlimit(what, (5, 5))


def test_standard_output_that_takes_nothing(work, archive):
    for command in (["ls", archive], ["cat", archive, "dog.txt"], ["info", archive, "--json"]):
        with open("/dev/full", "wb") as full, child(*command, stdout=full) as process:
            _, err = process.communicate(timeout=30)
        assert err == b"imagearchive: standard output: No space left on device\n"
        assert process.returncode == 1


def test_closed_standard_streams(work, archive):
    tool = [sys.executable, "-m", "imagearchive"]
    script = '"$@" {} ; echo $?'

    def shell(redirection, *command):
        return subprocess.run(
            ["bash", "-c", script.format(redirection), "bash", *tool, *command],
            capture_output=True,
            check=False,
            text=True,
        )

    done = shell(">&-", "ls", archive)
    assert (done.stdout, done.stderr) == (
        "1\n",
        "imagearchive: standard output: Bad file descriptor\n",
    )
    assert shell(">&-", "pack", "-q", "photos", "p.tar").stdout == "0\n"
    done = shell("<&-", "pack", "-", "q.tar")
    assert done.stdout == "1\n"
    assert done.stderr.startswith("imagearchive: standard input is closed")
    assert shell("2>&-", "ls", "nope").stdout == "1\n"
    # The archive that is written must not get the number of a closed stream.
    noisy = textwrap.dedent("""
        import os
        from imagearchive import cli
        from imagearchive.archive import pack
        real = pack.TarWriter.complete
        def finish(self):
            os.write(2, b"as a library in C complains")
            real(self)
        pack.TarWriter.complete = finish
        raise SystemExit(cli.main(["pack", "photos", "r.tar"]))
    """)
    tool = [sys.executable, "-c", noisy]
    assert shell("2>&-").stdout == "r.tar\n0\n"
    assert Path("p.tar").read_bytes() == Path("r.tar").read_bytes()


def test_several_archives_that_the_shell_puts_in(run, work):
    assert run("pack", "photos", "s.tar", "--shards", "2", "-q")[0] == 0
    both = ["s-000000.tar", "s-000001.tar"]
    for pattern in ("s-*.tar", "s-*", "s-00000?.tar", "s-{000000..000001}.tar", "{s,s}-*.tar"):
        assert run("ls", pattern)[1] == b"cat/\ndog/\n"
    assert json.loads(run("info", "--json", "s-*.tar")[1])["files"] == both
    status, _, err = run("ls", "t-*.tar")
    assert status == 1
    assert "no such archive, and nothing that matches" in err
    # A file of that very name is no pattern.
    os.rename(both[0], "s-[0].tar")
    assert json.loads(run("info", "--json", "s-[0].tar")[1])["files"] == ["s-[0].tar"]
    os.rename("s-[0].tar", both[0])
    for command, expected in (
        (["ls", *both], 1), (["tree", *both], 1), (["find", *both], 1), (["cat", *both], 1),
        (["extract", *both, "out"], 1), (["info", *both], 2), (["verify", *both], 2),
        (["convert", *both, "x.zip"], 2), (["tree", *both, "cat"], 2),
    ):  # fmt: skip
        status, out, err = run(*command)
        assert (status, out) == (expected, b""), command
        assert "put their pattern in quotes" in err
    assert "quotes" not in run("ls", both[0], "nope")[2]


def test_options_may_stand_anywhere(run, archive):
    assert run("ls", archive, "-l", "cat", "-h") == run("ls", "-lh", archive, "cat")
    assert run("find", archive, "--name", "*.txt", "cat")[1] == b"cat/2.txt\n"
    assert run("extract", archive, "-q", "out", "--skip-existing", "cat", "-f")[0] == 2
    assert run("extract", archive, "-q", "out", "--skip-existing", "cat")[0] == 0
    assert run("ls", "-la", archive)[1] == run("ls", "-l", archive)[1]
    status, _, err = run("ls", archive, "-d", "cat")
    assert status == 2
    assert "imagearchive ls: -d: not understood" in err
    err = run("ls", "-h")[2]
    assert "required: ARCHIVE\n" in err
    assert "imagearchive ls --help" in err
    err = run("tree", "-L", "x", archive)[2]
    assert "'x': give a whole number, at least 1" in err
    assert "\x1b" not in run("ls", archive, "-\x1b[31m")[2]


def test_a_damaged_archive_is_read_in_part_when_asked_to(run, archive):
    raw = Path(archive).read_bytes()
    Path("cut.tar").write_bytes(raw[:-9000])
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
    assert err.count("\n") == 1
    assert err.startswith("imagearchive: warning: ")
    assert run("info", "cut.tar")[0] == 0


def test_limits_of_decoding_can_be_raised(run, work):
    Image.new("L", (50, 40)).save("i.png")
    Path("z.txt.gz").write_bytes(gzip.compress(bytes(80 << 20)))
    Path("list").write_text("i.png\nz.txt.gz\n")
    assert run("pack", "list", "d.tar", "-q")[0] == 0
    status, out, _ = run(
        "verify", "d.tar", "--decode", "--max-pixels", "1999", "--max-size", "1M", "-q"
    )
    assert status == 1
    first, second = out.decode().splitlines()
    assert first.startswith("i.png: an image of 50x40")
    assert "use --max-pixels to raise the limit (now 1999)" in first
    assert second.startswith("z.txt.gz: ")
    assert "use --max-size to raise the limit (now 1048576)" in second
    out = run("verify", "d.tar", "--decode", "--max-ratio", "2", "-q")[1].decode()
    assert "use --max-ratio to raise the limit (now 2" in out
    assert run("verify", "d.tar", "--decode", "--max-ratio", "2000")[0] == 0
    page = " ".join(run("verify", "--help")[1].decode().split())
    assert f"default {Limits.max_pixels}" in page
    assert f"default {Limits.max_size >> 30}GiB" in page
    assert f"default {Limits.max_ratio:.0f}" in page


def test_warnings_are_one_line(run, archive, monkeypatch):
    import warnings

    from imagearchive.cli import inspect_commands

    real = inspect_commands.open_given

    def warned(*arguments, **options):
        warnings.simplefilter("always")
        warnings.warn("mind\nthe gap", RuntimeWarning, stacklevel=1)
        return real(*arguments, **options)

    monkeypatch.setattr(inspect_commands, "open_given", warned)
    assert run("ls", archive)[2] == "imagearchive: warning: mind\\nthe gap\n"

    def logged(*arguments, **options):
        for _ in range(2):
            logging.getLogger("imagearchive.any").warning("\x1b[31m%s", "red")
        return real(*arguments, **options)

    monkeypatch.setattr(inspect_commands, "open_given", logged)
    for _ in range(2):
        assert run("ls", archive)[2] == "imagearchive: warning: \\x1b[31mred\n"
    assert not logging.getLogger("imagearchive").handlers


def test_a_reader_that_goes_away(work):
    with TarWriter("many.tar") as tar:
        for number in range(20000):
            tar.add(f"some/long/directory/name/{number:08d}.jpg", b"")
    with child("find", "many.tar") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize("command", ["pack", "shards", "convert", "bins", "extract", "verify"])
def test_an_interrupt_leaves_nothing_half_written(work, command):
    os.makedirs("many")
    for number in range(300):
        Path(f"many/{number:05d}").write_bytes(bytes(200_000))
    assert main(["pack", "-q", "--no-sync", "many", "many.tar"]) == 0
    before = sorted(os.listdir(work))
    arguments = {
        "pack": ["pack", "many", "out.tar"],
        "shards": ["pack", "many", "out.tar", "--shards", "7"],
        "convert": ["convert", "many.tar", "out.zip"],
        "bins": ["convert", "many.tar", "out"],
        "extract": ["extract", "many.tar", "out"],
        "verify": ["verify", "many.tar"],
    }[command]
    # An interrupt may fall between opening a file and holding it, of which developers are warned.
    with child(*arguments, env={**os.environ}) as process:
        deadline = time.monotonic() + 30
        while sorted(os.listdir(work)) == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
            if command == "verify" and b"/_scan/tar" in read(f"/proc/{process.pid}/maps"):
                break
        process.send_signal(signal.SIGINT)
        # One who is in doubt presses the keys again.
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert err == b""
    # On a fast machine it may have been done before; at its very end, nothing catches the signal.
    assert process.returncode in (0, 130, -signal.SIGINT)
    made = sorted(name for name in os.listdir(work) if name not in before)
    assert not [name for name in made if name.endswith(".part")]
    archives = [name for name in made if name.endswith((".tar", ".zip"))]
    # Whole, or not there.
    total = 0
    for name in archives:
        with imagearchive.open(name) as archive:
            assert not verify(archive).failures
            total += len(archive)
    assert total in (0, 300)
    if command == "extract" and made:
        assert all(os.path.getsize(f"out/{name}") == 200_000 for name in os.listdir("out"))
    if command == "bins" and os.path.exists("out/index.dat"):
        assert len(imagearchive.SplitDataLoader("out")) == 300


def read(path):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(path).read_bytes()
    return b""


def test_an_interrupt_that_numpy_swallows(monkeypatch, capsys):
    def swallowed(*_):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("datetime") from None

    monkeypatch.setattr("imagearchive.cli._run", swallowed)
    assert main([]) == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def ended(*_):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        # A worker got the signal as well, for example, and that is what was noticed.
        return 1

    monkeypatch.setattr("imagearchive.cli._run", ended)
    assert main([]) == 130

    def broken(*_):
        raise ImportError("datetime")

    monkeypatch.setattr("imagearchive.cli._run", broken)
    with pytest.raises(ImportError):
        main([])


def test_an_interrupt_of_imports_waits_for_their_end(work, archive, monkeypatch, capsys):
    import importlib

    real = importlib.import_module
    loaded = []

    def interrupted(name):
        signal.raise_signal(signal.SIGINT)
        loaded.append(real(name).__name__)
        return sys.modules[name]

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["verify", archive]) == 130
    assert loaded[-1] == "imagearchive.archive.verify"
    assert capsys.readouterr() == ("", "")


def test_tidying_up_is_not_interrupted_again(monkeypatch):
    steps = []

    def impatient(*_):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
            steps.append("tidied")
            raise

    monkeypatch.setattr("imagearchive.cli._run", impatient)
    with pytest.raises(KeyboardInterrupt):
        main([])
    assert steps == ["tidied"]
    # The handler of a program that calls this one stays in force.
    monkeypatch.setattr("imagearchive.cli._run", lambda *_: signal.raise_signal(signal.SIGINT) or 0)
    before = signal.signal(signal.SIGINT, lambda *_: steps.append("its own"))
    try:
        assert main([]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == ["tidied", "its own"]
    # Other threads can set none.
    thread = threading.Thread(target=lambda: steps.append(main([])))
    monkeypatch.setattr("imagearchive.cli._run", lambda *_: 0)
    thread.start()
    thread.join()
    assert steps[-1] == 0


def test_progress_only_on_a_terminal(work):
    os.makedirs("many")
    for number in range(600):
        Path(f"many/{number}").write_bytes(b"x")
    with child("pack", "many", "a.tar") as process:
        assert process.communicate(timeout=30) == (b"a.tar\n", b"")
    main_end, side = pty.openpty()
    # A terminal of no columns has no place for a bar.
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with child("pack", "many", "b.tar", stderr=side) as process:
        os.close(side)
        shown = b""
        while process.poll() is None or select.select([main_end], [], [], 0)[0]:
            if select.select([main_end], [], [], 0.05)[0]:
                try:
                    shown += os.read(main_end, 4096)
                except OSError:
                    break
        assert process.stdout.read() == b"b.tar\n"
    os.close(main_end)
    assert b"files" in shown
    with child("pack", "-q", "many", "c.tar") as process:
        assert process.communicate(timeout=30) == (b"", b"")


def test_start_is_light():
    code = (
        "import sys; from imagearchive.cli.parser import build_parser; build_parser(); "
        "from imagearchive.cli import inspect_commands, write_commands; "
        "print([name for name in ('torch', 'matplotlib', 'tqdm', 'dask') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


# ---------------------------------------------------------------- formatting


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain.jpg", "plain.jpg"),
        ("größe 日本", "größe 日本"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x1b[0m", "\\x1b[0m"),
        ("\udcff", "\\xff"),
        ("a\\n", "a\\\\n"),
        ("\u202e", "\\u202e"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_names_take_one_line(name, expected):
    assert text(name) == expected
    assert escape(name) == expected.replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0"), (1023, "1023"), (1024, "1.0K"), (1025, "1.1K"), (10 * 1024, "10K"),
        (10 * 1024 + 1, "11K"), (1023 * 1024, "1023K"), (1024**2 - 1, "1.0M"),
        (5 * 1024**3, "5.0G"), (2**63, "8.0E"), (2**64 - 1, "16E"),
    ],
)  # fmt: skip
def test_human_sizes_are_those_of_ls(size, expected, tmp_path):
    assert format_size(size, True) == expected
    assert format_size(size, False) == str(size)
    if size < 2**40:
        with open(tmp_path / "f", "wb") as file:
            file.truncate(size)
        listed = subprocess.run(["ls", "-lh", tmp_path / "f"], capture_output=True, check=True)
        assert listed.stdout.split()[4].decode() == expected


def test_sizes_are_read():
    for given, expected in (
        ("4096", 4096),
        ("64k", 65536),
        ("1.5M", 1572864),
        ("1GiB", 2**30),
        ("2TB", 2**41),
        ("7b", 7),
    ):
        assert parse_size(given) == expected
    for wrong in ("", "k", "-1", "1x", "1 000"):
        with pytest.raises(Exception, match="no size"):
            parse_size(wrong)


def test_times_and_permissions():
    assert format_time(1_600_000_000 * 10**9) == "2020-09-13 12:26:40"
    assert format_time(0).strip() == "-"
    assert format_time(-(2**63)).strip()
    assert permissions(0o755) == "-rwxr-xr-x"
    assert permissions(0o755, directory=True) == "drwxr-xr-x"
