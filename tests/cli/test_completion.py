"""Completion scripts of shells."""

import shutil
import subprocess
import sys

import pytest
from support.command_line import COMMANDS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_has_every_command(run, shell, tmp_path):
    status, out, _ = run("completion", shell)
    assert status == 0
    for word in (*COMMANDS, "shard-size", "skip-unsafe"):
        assert word.encode() in out
    if shutil.which(shell):
        (tmp_path / "script").write_bytes(out)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_completion_unknown_shell_is_wrong_usage(run):
    assert run("completion", "csh")[0] == 2


def test_completion_without_shtab_names_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert run("completion", "bash") == (
        1,
        b"",
        "imagearchive: shell completion needs the package shtab: "
        "pip install 'imagearchive[completion]'\n",
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ex"], ["extract"]),
        (["pack", "--sh"], ["--shards", "--shard-size", "--shuffle"]),
        (["find", "-na"], ["-name"]),
        (["completion", "z"], ["zsh"]),
        (["convert", "--to", "b"], ["bins"]),
        (["ls", "a-fi"], ["a-file.tar"]),
        (["index", "--ipath", "a-fi"], ["a-file.tar"]),
    ],
)
def test_completion_in_bash_completes(run, tmp_path, words, expected):
    (tmp_path / "a-file.tar").touch()
    (tmp_path / "script").write_bytes(run("completion", "bash")[1])
    # Bash calls the function with the command, the current word, and the one before.
    words = ["imagearchive", *words]
    ask = (
        f"source ./script; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        "set -- $(complete -p imagearchive); while [ $1 != -F ]; do shift; done; "
        f'$2 imagearchive {words[-1]} {words[-2]} 2>/dev/null; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout.decode().split() == expected
