"""Signals that end a command while it runs."""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from support.command_line import start_command
from support.files import unfinished

import imagearchive
from imagearchive.archive.verify import verify
from imagearchive.cli import list_commands, main
from imagearchive.cli.interrupts import Interrupts


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["pack", "shards", "convert", "bins", "extract", "verify"])
def test_interrupt_leaves_nothing_half_written(work, command, signum):
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
    with start_command(*arguments, env={**os.environ}) as process:
        deadline = time.monotonic() + 30
        while sorted(os.listdir(work)) == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
            if command == "verify" and b"/tar/scan" in read_if_there(f"/proc/{process.pid}/maps"):
                break
        process.send_signal(signum)
        # Ctrl-C again, as people do.
        process.send_signal(signum)
        _, err = process.communicate(timeout=30)
    # On a fast machine it may have been done before; at its very end, nothing catches the signal.
    assert process.returncode in (0, 128 + signum, -signum)
    made = sorted(name for name in os.listdir(work) if name not in before)
    parts = [name for name in made if name.endswith(".part")]
    if command == "extract" and parts:
        found = unfinished(work, "out")
        assert (b"files; they are in out." in err) == bool(found)
        assert all(len(data) == 200_000 for data in found.values())
        assert main(["extract", "many.tar", "out"]) == 0
        assert len(os.listdir("out")) == 300
    else:
        assert err == b""
        assert not parts
    archives = [name for name in made if name.endswith((".tar", ".zip"))]
    # Whole, or not there.
    total = 0
    for name in archives:
        with imagearchive.open(name) as archive:
            assert not verify(archive).failures
            total += len(archive)
    assert total in (0, 300)
    if command == "bins" and os.path.exists("out/index.dat"):
        assert len(imagearchive.SplitDataLoader("out")) == 300


def read_if_there(path):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(path).read_bytes()
    return b""


def interrupted_then_import_error(arguments):
    """NumPy does that while it is imported."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("datetime") from None


def interrupted_then_failed(arguments):
    """A worker may get the signal as well, and its failure is what a command sees."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    return 1


def terminated(arguments):
    signal.raise_signal(signal.SIGTERM)


def test_termination_returns_143(archive, monkeypatch):
    monkeypatch.setattr(list_commands, "ls", terminated)
    assert main(["ls", archive]) == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("command", [interrupted_then_import_error, interrupted_then_failed])
def test_interrupt_turned_into_another_failure_returns_130(archive, monkeypatch, command):
    monkeypatch.setattr(list_commands, "ls", command)
    assert main(["ls", archive]) == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_import_error_without_interrupt_is_raised(archive, monkeypatch):
    def broken(arguments):
        raise ImportError("datetime")

    monkeypatch.setattr(list_commands, "ls", broken)
    with pytest.raises(ImportError):
        main(["ls", archive])


def test_interrupt_during_imports_waits_for_their_end(archive, monkeypatch, capsys):
    import importlib

    real = importlib.import_module
    loaded = []

    def interrupted(name):
        signal.raise_signal(signal.SIGINT)
        loaded.append(real(name).__name__)
        return sys.modules[name]

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["verify", archive]) == 130
    assert loaded[-1] == "imagearchive.cli.inspect_commands"
    assert capsys.readouterr() == ("", "")


def test_second_interrupt_does_not_stop_cleanup():
    steps = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
            steps.append("cleaned up")
            raise
    assert steps == ["cleaned up"]
    assert interrupts.status == 130


def test_delayed_interrupt_is_raised_at_the_end_of_the_block():
    steps = []
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.delay():
        signal.raise_signal(signal.SIGINT)
        steps.append("imported")
    assert steps == ["imported"]


def test_signal_handler_of_the_caller_stays(archive, monkeypatch):
    seen = []
    monkeypatch.setattr(list_commands, "ls", lambda _: signal.raise_signal(signal.SIGINT) or 0)
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("its own"))
    try:
        assert main(["ls", archive]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["its own"]


def test_main_runs_in_another_thread(archive):
    # Only the main thread may set signal handlers.
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(main(["ls", archive])))
    thread.start()
    thread.join()
    assert statuses == [0]
