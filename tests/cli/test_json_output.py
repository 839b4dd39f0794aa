"""What `--json` prints, for every command that has it."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
from support.command_line import COMMANDS
from support.files import make_tar

# Their keys are names from the archive.
NAMED_BY_DATA = {"extensions", "arrays", "orientations", "labels", "formats", "modes"}

CALLS = {
    "index": ("index", "--json", "a.tar"),
    "ls": ("ls", "--json", "-R", "a.tar"),
    "tree": ("tree", "--json", "a.tar"),
    "find": ("find", "--json", "a.tar"),
    "info": ("info", "--json", "left.tar", "arrays.npz", "a.tar.gz"),
    "verify": ("verify", "--json", "left.tar", "a.tar"),
    "extract": ("extract", "--json", "--skip-unsafe", "left.tar", "out"),
    "pack": ("pack", "--json", "photos", "packed.tar"),
    "convert": ("convert", "--json", "a.tar", "a.zip"),
    "report": ("report", "--json", "raw/detector"),
    "repack": ("repack", "--json", "photos", "again-{}.tar"),
    "process": (
        *("process", "--json", "--detector", "--raw-dir", "raw", "--output-dir", "done"),
        *("--workers", "0", "-q"),
    ),
    "cache": ("cache", "--json"),
}


def keys_of(value):
    """All keys of a JSON value, but those that are names from the archive."""
    if isinstance(value, list):
        for one in value:
            yield from keys_of(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield key
            if key not in NAMED_BY_DATA:
                yield from keys_of(one)


def test_json_keys_of_every_command_are_identifiers(run, archive):
    make_tar("left.tar", {"a.txt": b"1", "pipe": (b"6", ""), "b": b"2"})
    np.savez("arrays.npz", x=np.arange(3))
    Path("a.tar.gz").write_bytes(gzip.compress(Path("a.tar").read_bytes()))
    for name in [*COMMANDS, "cache"]:
        has_json = b"--json" in run(name, "--help")[1]
        assert has_json == (name in CALLS), name
    for call in CALLS.values():
        status, out, err = run(*call)
        assert status == 0, err
        wrong = [key for key in keys_of(json.loads(out)) if not key.isidentifier()]
        assert not wrong, (call, wrong)


def test_tree_json_lists_each_directory_before_its_files(run, archive):
    rows = json.loads(run("tree", "--json", archive)[1])
    assert [(row["path"], row["type"]) for row in rows] == [
        *(("cat", "directory"), ("cat/1.jpg", "file"), ("cat/2.txt", "file"), ("dog.txt", "file")),
    ]
    assert rows[1]["size"] == 5000
    shown = [row["path"] for row in json.loads(run("tree", "--json", "-L", "1", archive)[1])]
    assert shown == ["cat", "dog.txt"]
    assert [row["path"] for row in json.loads(run("tree", "--json", "-d", archive)[1])] == ["cat"]
    assert json.loads(run("tree", "--json", "-d", archive, "cat")[1]) == []


def test_info_names_the_compression_and_the_stored_size(run, archive):
    data = gzip.compress(Path(archive).read_bytes())
    Path("a.tar.gz").write_bytes(data)
    status, out, err = run("info", "a.tar.gz")
    assert (status, err) == (0, "")
    lines = dict(line.split(": ", 1) for line in out.decode().splitlines())
    assert lines["format"].strip() == "tar, compressed with gzip"
    assert lines["stored"].strip() == str(len(data))
    facts = json.loads(run("info", "--json", "a.tar.gz")[1])
    assert (facts["format"], facts["compressed"], facts["stored"]) == ("tar", "gzip", len(data))
    assert json.loads(run("info", "--json", archive)[1])["compressed"] is None


def test_compressed_archive_gives_no_false_warnings(run, archive):
    Path("a.tar.gz").write_bytes(gzip.compress(Path(archive).read_bytes()))
    for call in (
        ("extract", "-q", "a.tar.gz", "out"),
        ("convert", "-q", "a.tar.gz", "b.zip"),
        ("cat", "a.tar.gz", "dog.txt"),
        ("verify", "-q", "a.tar.gz"),
        ("ls", "a.tar.gz"),
    ):
        status, _, err = run(*call)
        assert (status, err) == (0, ""), call
    assert Path("out/dog.txt").read_bytes() == b"dog"


def test_cat_and_convert_say_once_what_is_left_out(run, work):
    for name, call in (
        ("one.tar", ("cat", "one.tar", "a.txt")),
        ("two.tar", ("convert", "-q", "two.tar", "two.zip")),
    ):
        make_tar(name, {"a.txt": b"1", "pipe": (b"6", "")})
        status, _, err = run(*call)
        assert status == 0
        assert err.count("left out") == err.count("\n") == 1
        assert "such as 'pipe'" in err


def test_verify_finds_damage_in_a_compressed_archive(run, archive):
    data = gzip.compress(Path(archive).read_bytes(), 0)
    Path("a.tar.gz").write_bytes(data)
    assert run("verify", "-q", "a.tar.gz")[:2] == (0, b"")
    status = os.stat("a.tar.gz")
    with open("a.tar.gz", "r+b") as file:
        file.seek(data.index(b"1" * 100) + 50)
        file.write(b"2")
    os.utime("a.tar.gz", ns=(status.st_atime_ns, status.st_mtime_ns))
    code, out, _ = run("verify", "-q", "a.tar.gz")
    assert code == 1
    assert b"gzip: incorrect data check" in out
