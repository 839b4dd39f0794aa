"""Names and arguments that are made to do harm, through every command."""

import json
import os
from pathlib import Path

import pytest
from support.command_line import write_named_tar

import imagearchive
from imagearchive.cli.output import escape_name

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


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_hostile_names_do_no_harm(run, work, case):
    name = HOSTILE[case]
    before = set(os.listdir(work.parent))
    archive = write_named_tar("h.tar", name)
    with imagearchive.open(archive) as opened:
        (stored,) = (other for other in opened if other != "good")
    raw = stored.encode("utf-8", "surrogateescape")
    shown = escape_name(stored).encode()
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
    # A name that cannot be inside a directory stops everything, unless unsafe names are skipped.
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
def test_hostile_arguments_give_one_line(run, archive, name):
    # No system passes a NUL on a command line, so none is in the name of an archive.
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
