"""Programs that a test runs in an interpreter of their own."""

from __future__ import annotations

import sys
import textwrap
import time

import psutil


def script(folder, code):
    """Write a program to ``folder/script.py`` and return the command that runs it."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(code))
    return [sys.executable, str(path)]


def is_running(pid):
    """Whether there is such a process, other than one whose exit status nobody collected."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(pid, seconds=60):
    """Wait for a process to end; fails the test if it does not."""
    deadline = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} is still running"
        time.sleep(0.02)
