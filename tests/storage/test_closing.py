"""`Closable` and `Abortable`: ``with`` blocks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from imagearchive.storage.closing import Abortable, Closable

# Free-threaded Python clears the modules of libraries before the variables of the program, and so
# does any other if something refers to all of them.
KEEP_MODULES = """
import sys, threading
threading.modules = dict(sys.modules)
"""


class Resource(Closable):
    releases = 0

    def close(self) -> None:
        if not self.closed:
            self.releases += 1
        super().close()


def test_closable_with_block_closes_once() -> None:
    with Resource() as resource:
        assert not resource.closed
        resource.close()
    assert resource.closed
    assert resource.releases == 1


def test_closable_with_block_closes_on_error_and_raises_it() -> None:
    resource = Resource()
    with pytest.raises(ZeroDivisionError), resource:
        _ = 1 / 0
    assert resource.closed


class Writer(Abortable):
    def __init__(self) -> None:
        self.ends: list[str] = []

    def close(self) -> None:
        self.ends.append("closed")

    def abort(self) -> None:
        self.ends.append("aborted")


def test_abortable_with_block_closes() -> None:
    with Writer() as writer:
        assert writer.ends == []
    assert writer.ends == ["closed"]


def test_abortable_with_block_aborts_on_error() -> None:
    writer = Writer()
    with pytest.raises(ZeroDivisionError), writer:
        _ = 1 / 0
    assert writer.ends == ["aborted"]


@pytest.mark.parametrize(
    "program",
    [
        """
        from imagearchive import TarWriter
        writer = TarWriter("x.tar")
        writer.add("a", b"a")
        """,
        """
        from imagearchive.storage.temporary import LockedDirectory
        folder = LockedDirectory(".", ".ours-")
        open(folder.file("a"), "w").close()
        """,
    ],
    ids=["writer", "directory"],
)
def test_exit_of_a_program_that_closes_nothing_leaves_nothing(tmp_path: Path, program: str) -> None:
    lines = textwrap.dedent(program) + KEEP_MODULES
    ended = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert os.listdir(tmp_path) == []


def test_exit_releases_the_rest_after_one_that_fails(tmp_path: Path) -> None:
    program = """
    from imagearchive import TarWriter
    from imagearchive.storage.closing import Closable, release_at_exit

    class Failing(Closable):
        def close(self):
            raise OSError("cannot be closed")

    failing = [Failing() for _ in range(20)]
    for one in failing:
        release_at_exit(one)
    writer = TarWriter("x.tar")
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program) + KEEP_MODULES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "cannot be closed" in ended.stderr
    assert os.listdir(tmp_path) == []
