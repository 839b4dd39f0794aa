"""The page about the command line: every example runs and prints what the page shows."""

import os
import re
import shlex
import signal
import subprocess
import sys

from support.command_line import COMMANDS, start_command
from support.paths import ROOT

PAGE = ROOT / "docs" / "guides" / "cli.md"


def examples():
    """Commands of the page with what they print, in order."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def run_until_interrupted(command, environment):
    """Run a command that goes on until Ctrl-C, which follows its first line of output."""
    with start_command(*shlex.split(command)[1:], env=environment) as process:
        output = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=30)
    return process.returncode, output + rest, err.decode()


def test_documented_examples_print_what_the_page_shows(work, run):
    # The installed command, wherever the environment keeps its scripts.
    tool = work / "tools"
    tool.mkdir()
    script = tool / "imagearchive"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m imagearchive "$@"\n')
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tool}:{os.environ['PATH']}"}
    seen = set()
    for command, expected in examples():
        if command.startswith("imagearchive view "):
            status, output, err = run_until_interrupted(command, environment)
        elif re.search("[|&>]", command):
            done = subprocess.run(
                ["bash", "-c", command], env=environment, capture_output=True, check=False
            )
            status, output, err = done.returncode, done.stdout, done.stderr
        else:
            # These need no shell; running them in this process saves starting Python.
            status, output, err = run(*shlex.split(command)[1:])
        assert status == 0, (command, err)
        pattern = re.escape(expected).replace(r"\.\.\.", ".*")
        shown = output.decode()
        assert re.fullmatch(pattern, shown), f"{command}\n{shown}\n--- documented:\n{expected}"
        seen.update(re.findall(r"imagearchive (\w+)", command))
    assert seen >= set(COMMANDS)


def test_documented_commands_have_help(run):
    status, out, _ = run("--help")
    assert status == 0
    for command in COMMANDS:
        assert re.search(rb"^    %b\s" % command.encode(), out, re.MULTILINE), command
        status, shown, _ = run(command, "--help")
        assert status == 0
        assert b"usage: imagearchive " + command.encode() in shown
        assert f"## {command}\n" in PAGE.read_text()
    assert run("--version")[1].startswith(b"imagearchive ")
