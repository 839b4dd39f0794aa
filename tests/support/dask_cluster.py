"""A Dask cluster of several processes, whose workers can be killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

CODE = """
import sys
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(
        n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@contextlib.contextmanager
def dask_cluster(folder, environment=None) -> Iterator[str]:
    """Run a cluster of three worker processes; yield the address of its scheduler.

    The workers have further variables in their environment, if any are given.
    """
    (folder / "cluster.py").write_text(CODE)
    with open(folder / "cluster.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(folder / "cluster.py")],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | (environment or {}),
        )
    try:
        address = process.stdout.readline().decode().strip()
        assert address, (folder / "cluster.log").read_text()
        yield address
    finally:
        # Leaves the `with` block, which ends the workers.
        process.communicate(timeout=30)


# Runs a call with an executor that kills one of the workers when it gets its fifth task.
KILLING = """
import os, signal
from concurrent.futures import Executor
from distributed import Client
import imagearchive

class Killing(Executor):
    submitted = 0

    def submit(self, function, /, *args, **kwargs):
        self.submitted += 1
        if self.submitted == 5:
            pids = client.run(os.getpid)
            os.kill(next(iter(pids.values())), signal.SIGKILL)
        return inner.submit(function, *args, **kwargs)

with Client({address!r}) as client:
    inner, executor = client.get_executor(), Killing()
    {call}
    assert executor.submitted >= 5
"""


def run_and_kill_a_worker(address, call, environment=None):
    """Run a call that uses `executor`, while one of the workers is killed; return its output."""
    code = KILLING.format(address=address, call=call)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | (environment or {}),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
