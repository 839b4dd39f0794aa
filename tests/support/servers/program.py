"""Runs a server program on a free port of 127.0.0.1, and stops it."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Where `tools/install_test_servers.sh` puts the servers that are written in JavaScript.
NODE_SERVERS = Path(sys.prefix, "servers", "node_modules")
START_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0
# Another process may take the free port before the server does.
ATTEMPTS = 3
LOG_TAIL = 4000


@dataclass
class Program:
    """A server that runs: its port, and the file that it logs to."""

    name: str
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log_tail(self) -> str:
        """Return the end of the log, for messages."""
        return self.log.read_text(errors="replace")[-LOG_TAIL:] if self.log.exists() else ""


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def node_command(package: str, script: str) -> list[str]:
    """Return the command that runs a server written in JavaScript."""
    path = NODE_SERVERS / package / script
    node = shutil.which("node")
    if node is None or not path.exists():
        raise RuntimeError(
            f"{path if node else 'node'} is missing; run `make servers` to install the servers "
            "that the tests need"
        )
    return [node, str(path)]


@contextlib.contextmanager
def running(
    name: str,
    command: Callable[[int], Sequence[str]],
    folder: Path,
    *,
    env: dict[str, str] | None = None,
) -> Iterator[Program]:
    """Start a server, wait until it answers, and stop it in the end.

    Parameters
    ----------
    name : str
        For messages.
    command : callable
        Returns the command for a port.
    folder : Path
        The working directory of the server, and of its log.
    env : dict, optional
        Environment variables to add.
    """
    owner = os.getpid()
    for attempt in range(ATTEMPTS):
        server = Program(name, free_port(), folder / f"{name}.log")
        process = _spawn(command(server.port), server.log, folder, env)
        try:
            if not _answers(process, server):
                if attempt < ATTEMPTS - 1:
                    continue
                raise RuntimeError(
                    f"{name} ended with status {process.poll()} or did not answer on port "
                    f"{server.port}; its log ends:\n{server.log_tail()}"
                )
            yield server
            return
        finally:
            # A forked child that leaves this block must not stop the server of its parent.
            if os.getpid() == owner:
                _stop(process)


def _spawn(
    command: Sequence[str], log: Path, folder: Path, env: dict[str, str] | None
) -> subprocess.Popen[bytes]:
    # Where that is possible, the server also ends when the tests are killed.
    setpriv = shutil.which("setpriv")
    prefix = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
    with open(log, "ab") as output:
        return subprocess.Popen(
            [*prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=os.environ | (env or {}),
        )


def _answers(process: subprocess.Popen[bytes], server: Program) -> bool:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            time.sleep(0.02)
        else:
            # The answer may come from another program that took the port.
            return process.poll() is None
        finally:
            connection.close()
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
